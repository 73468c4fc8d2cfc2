"""Asks a person on the terminal, or answers in their name where they said so before."""

import sys

from cairn.calls import Conflict
from cairn.sync import SyncClient
from ops.cli.question import answer_command, question
from ops.cli.stop import WAITING, Stop
from ops.cli.text import line, say
from projections.board_rows import BoardAsk, BoardDetail

YES = "--yes"


class Asker:
    """Called for every ask that opens. `yes` gives all approvals; for the rest, and without it, a person on a `terminal`
    is asked, or Stop raised."""

    def __init__(self, client: SyncClient, *, yes: bool, terminal: bool) -> None:
        self._client, self._yes, self._terminal = client, yes, terminal

    def __call__(self, detail: BoardDetail, ask: BoardAsk) -> None:
        workflow = detail.workflow.workflow
        for text in question(workflow, ask):
            say(text)
        approval = ask.kind in ("before_dispatch", "before_completion")
        if self._yes and approval:
            self._answer(workflow, ask, "approve", YES)
        elif self._terminal and approval:
            self._prompt(workflow, ask)
        elif self._terminal:
            self._choose(workflow, ask)
        else:
            unsaid = "--yes gives approvals only" if self._yes else "--yes was not given"
            why = f"there is no terminal to ask at, and {unsaid}; the workflow goes on meanwhile"
            raise Stop(WAITING, f"{workflow} waits for a person: {ask.ask}", why, answer_command(workflow, ask))

    def _prompt(self, workflow: str, ask: BoardAsk) -> None:
        while (said := _read("approve? [y]es, [n]o, [l]ater: ")) not in ("y", "yes", "n", "no", "l", "later"):
            if said is None:
                said = "later"
                break
        if said in ("l", "later"):
            say(f"not answered; later: {answer_command(workflow, ask)}")
            return
        choice = "approve" if said in ("y", "yes") else "reject"
        self._answer(workflow, ask, choice, _read("why? (Enter for no reason) ", lower=False) or "")

    def _choose(self, workflow: str, ask: BoardAsk) -> None:
        """An edit takes more than a line: it is left to `cairn answer`."""
        options = [option for option in ask.options if ask.kind != "escalation" or option != "edit"]
        prompt = f"{', '.join(options)}, or Enter for later: " if options else "your answer, or Enter for later: "
        while (said := _read(line(prompt) + " ", lower=False)) and options and said not in options:
            say(f"{line(said)} is none of them")
        if not said:
            say(f"not answered; later: {answer_command(workflow, ask)}")
            return
        role, instructions = None, None
        if ask.kind == "escalation" and said == "reassign":
            role = _read("to which role? ", lower=False)
        if ask.kind == "escalation" and said in ("retry", "reassign"):
            instructions = _read("what is to be done differently? (Enter for nothing) ", lower=False)
        why = _read("why? (Enter for no reason) ", lower=False) or ""
        self._answer(workflow, ask, said, why, instructions or "", role)

    def _answer(
        self, workflow: str, ask: BoardAsk, choice: str, because: str, instructions: str = "", role: str | None = None
    ) -> None:
        try:
            self._client.answer(
                workflow, ask.ask, choice=choice, shown=ask.shown, because=because, instructions=instructions, role=role
            )
        except Conflict as error:
            say(f"{ask.ask} was not answered: {line(str(error))}")
        else:
            done = {"approve": "approved", "reject": "refused"}.get(choice, f"{line(choice)}:")
            say(f"{done} {ask.ask}{f', because {because}' if because else ''}")


def _read(prompt: str, *, lower: bool = True) -> str | None:
    """What was typed; None at the end of the input."""
    print(prompt, end="", file=sys.stderr, flush=True)
    typed = sys.stdin.readline()
    if not typed:
        return None
    return typed.strip().lower() if lower else typed.strip()
