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
    "watch": "one workflow, or all, live",
    "events": "what happened, in order",
    "approve": "answer what a workflow asks a person",
    "cancel": "end a workflow",
    "agent": "an agent of one role: any program, the tester, or a script",
    "audit": "whether what happened is still what was recorded",
    "ledger": "the two logs: compare them, make the one on NATS anew",
    "archive": "move closed parts of the ledger into compressed files; they stay readable",
    "tenant": "ledgers side by side on the same servers: make one, list them",
    "doctor": "what could keep Cairn from running here, and what to do about it",
    "config": "the settings, and where each comes from",
    "bench": "how fast it is here",
    "version": "the version of this program",
}
EVERYWHERE = """\
Everywhere:
  --data-dir PATH  where the system keeps everything (CAIRN_DATA_DIR)
  --debug          the traceback of an error
  -h, --help       this, or the options of a command
"""
FOOTER = (
    "Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 conflict, 5 waiting for a person, 6 backend unreachable.\n"
)


def main(arguments: Sequence[str]) -> int:
    """Runs one command; its exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview(), end="")
        return 0
    if arguments[0] == "--version":
        arguments = ["version"]
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # it is where the caller has closed it
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    from ops.cli.call import call

    return call(list(arguments))


def overview() -> str:
    """What `cairn --help` prints."""
    listed = "".join(f"  {name:<10}{text}\n" for name, text in COMMANDS.items())
    return (
        "Cairn: the control tower and flight recorder for teams of AI agents.\n\n"
        f"Usage: cairn COMMAND [OPTIONS]\n\nCommands:\n{listed}\n{EVERYWHERE}\n{FOOTER}"
    )
