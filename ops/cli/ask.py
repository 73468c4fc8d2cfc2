"""Asks a person on the terminal, or answers in their name where they said so before."""

import sys

from cairn.calls import Conflict
from cairn.sync import SyncClient
from ops.cli.report import answer_command, question
from ops.cli.stop import WAITING, Stop
from ops.cli.text import line, say
from projections.board_rows import BoardAsk, BoardDetail

YES = "--yes"


class Asker:
    """Called for every ask that opens. `yes` approves all; else a person on a `terminal` is asked, or Stop raised."""

    def __init__(self, client: SyncClient, *, yes: bool, terminal: bool) -> None:
        self._client, self._yes, self._terminal = client, yes, terminal

    def __call__(self, detail: BoardDetail, ask: BoardAsk) -> None:
        workflow = detail.workflow.workflow
        for text in question(workflow, ask):
            say(text)
        if self._yes:
            self._answer(workflow, ask, True, YES)
        elif self._terminal:
            self._prompt(workflow, ask)
        else:
            why = "there is no terminal to ask at, and --yes was not given; the workflow goes on meanwhile"
            raise Stop(WAITING, f"{workflow} waits for a person: {ask.ask}", why, answer_command(workflow, ask.ask))

    def _prompt(self, workflow: str, ask: BoardAsk) -> None:
        while (said := _read("approve? [y]es, [n]o, [l]ater: ")) not in ("y", "yes", "n", "no", "l", "later"):
            if said is None:
                said = "later"
                break
        if said in ("l", "later"):
            say(f"not answered; later: {answer_command(workflow, ask.ask)}")
            return
        approved = said in ("y", "yes")
        self._answer(workflow, ask, approved, _read("why? (Enter for no reason) ", lower=False) or "")

    def _answer(self, workflow: str, ask: BoardAsk, approved: bool, because: str) -> None:
        try:
            self._client.answer(workflow, ask.ask, approved=approved, shown=ask.shown, because=because)
        except Conflict as error:
            say(f"{ask.ask} was decided elsewhere meanwhile: {line(str(error))}")
        else:
            say(f"{'approved' if approved else 'refused'} {ask.ask}{f', because {because}' if because else ''}")


def _read(prompt: str, *, lower: bool = True) -> str | None:
    """What was typed; None at the end of the input."""
    print(prompt, end="", file=sys.stderr, flush=True)
    typed = sys.stdin.readline()
    if not typed:
        return None
    return typed.strip().lower() if lower else typed.strip()
