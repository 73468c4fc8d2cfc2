"""The command line. Data goes to stdout, the rest to stderr; what the exit codes mean stands in `ops.cli.stop`.

Each command is a module of this folder with a `command`, imported when it is called for. The list below answers
`cairn --help` alone, so that it does not wait for any import.
"""

import sys
from collections.abc import Sequence

COMMANDS = {
    "run": "carry out a plan and watch it; starts the system if none is up",
    "up": "start the system here, until Ctrl-C",
    "validate": "name every problem of a plan",
    "ls": "the workflows, newest first",
    "show": "one workflow: its tasks, attempts, failures, asks, commits",
    "timeline": "one workflow as a Gantt chart: what each task waited on, and for how long",
    "search": "full text over what was planned, said, asked, and went wrong",
    "watch": "one workflow, or all, live",
    "events": "what happened, in order",
    "asks": "what people are asked, and what it is about",
    "answer": "answer an ask: an approval, a question, more budget, what to do where everything was tried",
    "approve": "give or refuse an approval",
    "pause": "dispatch nothing new: of a workflow, to a role, or at all",
    "resume": "go on after a pause, at once or gradually",
    "cancel": "end a workflow, or one task of it",
    "retry": "begin the next attempt of a task now",
    "skip": "do without a task",
    "edit": "change a task that is not under way",
    "add": "more tasks for a workflow that runs",
    "split": "a task into parts",
    "prioritise": "how urgent a task is",
    "budget": "add to a budget, so that what waits for it goes on",
    "spend": "what was spent, and what it cost to have a task done",
    "quality": "how good the work was: what passed, what was found, how much of it was tested",
    "queue": "who waits for a place, a slot or a resource, and who has it",
    "agent": "an agent of one role: any program, the tester, or a script",
    "agents": "who works here; drain one, or let one in from elsewhere",
    "letters": "what came from agents and could not be read, and why",
    "audit": "whether what happened is still what was recorded",
    "ledger": "the two logs: compare them, make the one on NATS anew",
    "projections": "the views: how far each is, and building one again from the ledger",
    "archive": "move closed parts of the ledger into compressed files; they stay readable",
    "tenant": "ledgers side by side on the same servers: make one, list them",
    "backup": "all that cannot be made again, into a folder, while everything runs",
    "restore": "a backup, into a fresh data directory",
    "doctor": "what could keep Cairn from running here, and what to do about it",
    "config": "the settings, and where each comes from",
    "bench": "how fast it is here",
    "version": "the version of this program",
}
ACTS = ("cancel", "retry", "skip", "edit", "add", "split", "prioritise")
"""Those that live together, in `ops.cli.acts`, each under its own name."""
DATA_DIR, DEBUG = "--data-dir", "--debug"
EVERYWHERE = f"""\
Before or after a command:
  {DATA_DIR} PATH  where the system keeps everything (CAIRN_DATA_DIR), for all that use one
  {DEBUG}          all that is decided and done, in the log; the traceback of an error
  -h, --help       this, or the options of a command
"""
FOOTER = (
    "Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 conflict, 5 waiting for a person, 6 backend unreachable.\n"
)
QUIET_SIGNAL_EXIT = 141
"""What a shell shows for a program that ended because nobody read its output any more."""


def main(arguments: Sequence[str]) -> int:
    """Runs one command; its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # it is where the caller has closed it
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        code, lost = _run(command_first(arguments)), list[OSError]()
    except OSError as error:
        code, lost = 1, [error]
    lost += [error for error in (unwritten("stdout"), unwritten("stderr")) if error]
    if any(isinstance(error, BrokenPipeError) for error in lost):
        return QUIET_SIGNAL_EXIT
    if lost and sys.stderr is not None:
        print(f"cairn: the output cannot be written: {lost[0].strerror}", file=sys.stderr)
    return code or int(bool(lost))


def command_first(arguments: Sequence[str]) -> list[str]:
    """The same call with the options that stand before its command behind all others."""
    words = 0
    while words < len(arguments) and arguments[words].partition("=")[0] in (DATA_DIR, DEBUG):
        words += 2 if arguments[words] == DATA_DIR else 1
    return [*arguments[words:], *arguments[:words]]


def unwritten(name: str) -> OSError | None:
    """Why `stdout` or `stderr` cannot be written, if so. It is closed then: Python would complain of it at the end."""
    try:
        if (stream := getattr(sys, name)) is not None:
            stream.flush()
    except OSError as error:
        setattr(sys, name, None)
        return error
    return None


def _run(arguments: list[str]) -> int:
    if not arguments or arguments == [DEBUG] or arguments[0] in ("-h", "--help", "help"):
        print(overview(), end="")
        return 0
    if arguments[0] == "--version":
        arguments = ["version", *arguments[1:]]
    from ops.cli.call import call

    return call(arguments)


def overview() -> str:
    """What `cairn --help` prints."""
    listed = "".join(f"  {name:<12}{text}\n" for name, text in COMMANDS.items())
    return (
        "Cairn: the control tower and flight recorder for teams of AI agents.\n\n"
        f"Usage: cairn COMMAND [OPTIONS]\n\nCommands:\n{listed}\n{EVERYWHERE}\n{FOOTER}"
    )
