"""One call of the program: from its arguments to an exit code, every error told as what, why and how to mend it."""

import sys
import traceback
from contextlib import suppress

from cyclopts import App, CycloptsError, Parameter

from ops.cli import ACTS, COMMANDS, DEBUG, place, stop, unwritten
from ops.cli.stop import Stop

STDIN = "/dev/stdin"
"""What `-` means: a lone hyphen would be taken for an option."""


def call(arguments: list[str]) -> int:
    """Runs the command named first. The traceback of what went wrong is shown only with `--debug`.

    Raises OSError when what it printed could not be written."""
    debug = DEBUG in arguments
    place.DEBUG.set(debug)
    rest = [STDIN if argument == "-" else argument for argument in arguments if argument != DEBUG]
    try:
        code = _app()(rest, exit_on_error=False, print_error=False, result_action="return_value")
        return code if isinstance(code, int) else stop.OK
    except KeyboardInterrupt:
        return stop.INTERRUPTED
    except Exception as error:  # the end of the program: whatever it is becomes a text and a code
        if isinstance(error, BrokenPipeError) or (isinstance(error, OSError) and unwritten("stdout")):
            raise
        if debug:
            traceback.print_exc()
        stopped = explained(error, rest)
        if text := stopped.text():
            with suppress(OSError):  # the exit code says it too
                print(text, file=sys.stderr)
        return stopped.code


def explained(error: BaseException, arguments: list[str]) -> Stop:
    """Any error as a Stop; what nobody foresaw says so."""
    module, text = type(error).__module__.split(".")[0], str(error).strip()
    match error:
        case Stop():
            return error
        case BaseExceptionGroup():
            return explained(error.exceptions[0], arguments)
        case CycloptsError():
            return Stop(stop.USAGE, _sentence(text), fix=f"cairn {_named(arguments)}--help")
        case PermissionError() | FileNotFoundError() | IsADirectoryError() | NotADirectoryError():
            return Stop(stop.FAILED, f"{error.filename}: {error.strerror}", fix="cairn doctor")
        case UnicodeEncodeError():
            return Stop(stop.USAGE, f"{error.object!a} is not UTF-8", fix="give it another name")
    if module in ("cairn", "ops", "ledger", "gateway", "handlers", "projections"):
        return _ours(error, text, arguments)
    if module == "psycopg":  # its errors are no OSErrors; what is wrong with a statement of ours is a defect
        from psycopg import OperationalError

        if isinstance(error, OperationalError):
            return Stop(stop.UNREACHABLE, f"Postgres: {text}", fix="correct DATABASE_URL; cairn doctor tries it")
    if isinstance(error, OSError):  # a connection that was refused, a port that is taken, a disk that is full
        code = stop.UNREACHABLE if isinstance(error, ConnectionError | TimeoutError) else stop.FAILED
        return Stop(code, text or type(error).__name__, fix="cairn doctor")
    why = "nobody foresaw this; it is a defect of Cairn"
    return Stop(stop.FAILED, f"{type(error).__name__}: {text}", why, f"report it with what `{DEBUG}` prints")


def _ours(error: BaseException, text: str, arguments: list[str]) -> Stop:
    from cairn.calls import CairnError, Conflict, Invalid, NotFound, Unauthorized, Unreachable
    from ledger.errors import LedgerUnavailable, NoLedger
    from ops.embedded import AlreadyRunning
    from ops.settings import SettingsInvalid

    match error:
        case SettingsInvalid():
            return Stop(stop.USAGE, text, fix="cairn config show")
        case AlreadyRunning():
            return Stop(stop.CONFLICT, text)
        case NoLedger():
            return Stop(stop.NOT_FOUND, text, fix="cairn config show")
        case LedgerUnavailable():
            return Stop(stop.UNREACHABLE, text, fix="cairn doctor")
        case NotFound():
            return Stop(stop.NOT_FOUND, text, fix="cairn ls")
        case Conflict():
            about = " ".join(arguments[1:2]) if arguments[0] in ("approve", "answer", *ACTS) else ""
            about = about.partition("/")[0]
            return Stop(stop.CONFLICT, text, fix=f"cairn show {about}" if about else "cairn ls")
        case Invalid():
            places = (
                f"\n  {one.get('pointer') or one.get('parameter', '')}: {one['detail']}" for one in error.problems
            )
            return Stop(stop.USAGE, text + "".join(places), fix=f"cairn {_named(arguments)}--help")
        case Unauthorized():
            why = "the token is not the running system's: it is of CAIRN_TOKEN, or of a system here that was killed"
            return Stop(stop.UNREACHABLE, text, why, "unset CAIRN_TOKEN if it is set, else: cairn up")
        case Unreachable():
            return Stop(stop.UNREACHABLE, text, fix="cairn up")
        case CairnError(status=429):
            return Stop(stop.CONFLICT, text, fix="cairn ls; or set CAIRN_MAX_QUEUED higher and start it again")
        case CairnError():
            return Stop(stop.FAILED, text, fix="cairn doctor")
    return Stop(stop.FAILED, text or type(error).__name__, fix="" if "fix:" in text else "cairn doctor")


def _app() -> App:
    plain = Parameter(negative=(), show_default=False)
    app = App(name="cairn", version_flags=(), help_format="plaintext", default_parameter=plain)
    for name in COMMANDS:
        app.command(f"ops.cli.acts:{name}" if name in ACTS else f"ops.cli.{name}:command", name=name)
    return app


def _named(arguments: list[str]) -> str:
    return f"{arguments[0]} " if arguments and arguments[0] in COMMANDS else ""


def _sentence(text: str) -> str:
    return text[:1].lower() + text[1:] if text else "these arguments make no sense"
