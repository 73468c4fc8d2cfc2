"""What goes wrong becomes a problem document (RFC 9457): the one place where errors meet HTTP status codes.

`code` is stable and for programs, `detail` for people; `errors` names each bad place by a JSON pointer into the body
(or the name of a query parameter or header), with a hint where there is one. `request_id` and, in a trace, `trace_id`
are those of the log (`gateway/trail.py`).
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus

import msgspec
import psycopg
import structlog
from aiohttp import web
from structlog.contextvars import get_contextvars

from domain.acts import InvalidTasks
from domain.errors import Conflict, Full, NotFound, Refused
from domain.validate import InvalidPlan, Problem
from ledger.errors import LedgerClosed, LedgerUnavailable, NotRecordable, WrongVersion
from projections.standing import Halted

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CONTENT_TYPE = "application/problem+json"
AGAIN_SECONDS = 1
"""When to ask again after a fault that passes by itself."""
FULL_SECONDS = 5
"""When to ask again for room that comes as others end."""

CODES = {
    "bad_request": "what came is no request that can be read",
    "malformed_request": "what came over the connection is no HTTP",
    "invalid_json": "the body is not JSON",
    "invalid_body": "the body cannot be read, or is not what it should be: `errors` says where",
    "unauthorized": "no token, or not the one that is asked for",
    "host_not_allowed": "the Host is none under which this server may be asked",
    "origin_not_allowed": "a page of another site asks",
    "not_found": "there is no such thing, or no such path",
    "method_not_allowed": "the path has other methods: `Allow` names them",
    "not_acceptable": "it does not come in any media type that is accepted",
    "request_timeout": "the body took too long to come",
    "conflict": "it contradicts what is recorded: look again, then decide",
    "refused": "the rules say no to it as things stand now",
    "position_unknown": "the ledger has not reached the position to go on after",
    "content_too_large": "the body is larger than any may be",
    "unsupported_media_type": "the body is no JSON by its Content-Type",
    "expectation_failed": "an `Expect` that nobody knows",
    "invalid_parameter": "a parameter of the query, or a header, is not what it should be",
    "invalid_plan": "the plan has problems: `errors` says where",
    "invalid_tasks": "the tasks have problems: `errors` says where",
    "not_recordable": "an event of it could not be kept: too large, or no Unicode",
    "idempotency_key_reused": "this Idempotency-Key was used for another command",
    "full": "there is room for no more workflows just now",
    "internal_error": "a fault of the server; its log says where",
    "ledger_unavailable": "Postgres does not answer; nothing is known to be recorded",
    "view_behind": "the view has not reached the position that was asked for",
    "view_halted": "the view stands still at an event that it cannot take in: `/readyz?verbose` says which",
    "contention": "others kept changing it meanwhile: ask again",
    "too_many_streams": "as many follow the events as may: ask again",
    "nats_away": "NATS lets nobody in just now",
}
"""Every code there is, and what it says. They are stable: a new meaning gets a new code."""

log = structlog.get_logger(__name__)


class BadPlace(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing wrong with a request; `pointer` is into its body, `parameter` a query parameter or a header."""

    detail: str
    pointer: str | None = None
    parameter: str | None = None
    hint: str | None = None


class Unacceptable(Exception):
    """The request is wrong in itself, whatever the state of the system."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        errors: Sequence[BadPlace] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.errors, self.headers = tuple(errors), headers or {}


class ProblemDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """What went wrong (RFC 9457). `code` is stable and for programs, `detail` for people; `errors` are the bad places."""

    title: str
    status: int
    code: str
    detail: str
    errors: tuple[BadPlace, ...] = ()
    request_id: str | None = None
    trace_id: str | None = None


def places(found: Sequence[Problem], under: str = "") -> tuple[BadPlace, ...]:
    """A plan's problems, the plan being at the pointer `under`."""
    return tuple(BadPlace(one.message, under + one.pointer, hint=one.hint) for one in found)


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers for whatever the handlers raise; what nobody foresaw is logged, answered with 500, and ends no one else."""
    try:
        return await handler(request)
    except Exception as error:
        wrong = understood(error)
        if wrong is None:
            log.exception("http.fault", method=request.method, path=request.path)
            why = f"a fault of this server ({type(error).__name__}); its log says where"
            wrong = Unacceptable(500, "internal_error", why)
        return answer(wrong)


def understood(error: Exception) -> Unacceptable | None:
    """What is to be answered; None for what nobody foresaw."""
    again = {"Retry-After": str(AGAIN_SECONDS)}
    match error:
        case Unacceptable():
            return error
        case InvalidTasks(problems=found):
            return Unacceptable(422, "invalid_tasks", f"{found[0]!s}; nothing was recorded", places(found))
        case InvalidPlan(problems=found):
            count = f"{len(found)} problem{'s' if len(found) > 1 else ''}"
            return Unacceptable(
                422, "invalid_plan", f"the plan has {count}; nothing was recorded", places(found, "/plan")
            )
        case NotFound():
            return Unacceptable(404, "not_found", str(error))
        case Full():
            return Unacceptable(429, "full", str(error), headers={"Retry-After": str(FULL_SECONDS)})
        case Conflict():
            return Unacceptable(409, "conflict", str(error))
        case Refused():
            return Unacceptable(409, "refused", str(error))
        case NotRecordable():
            return Unacceptable(422, "not_recordable", str(error))
        case LedgerUnavailable() | LedgerClosed() | psycopg.OperationalError():
            return Unacceptable(503, "ledger_unavailable", str(error).strip(), headers=again)
        case psycopg.errors.UndefinedTable():
            return Unacceptable(503, "view_behind", "the view is being made: ask again", headers=again)
        case Halted():
            return Unacceptable(503, "view_halted", str(error))
        case WrongVersion():
            return Unacceptable(503, "contention", f"others kept changing it meanwhile: {error}", headers=again)
        case web.HTTPException(status=status, reason=reason, headers=headers) if status >= 400:
            kept = {"Allow": headers["Allow"]} if "Allow" in headers else None
            return Unacceptable(status, _code(status), error.text or reason, headers=kept)
    return None


def _code(status: int) -> str:
    return HTTPStatus(status).phrase.lower().replace(" ", "_")


def answer(wrong: Unacceptable) -> web.Response:
    bound = get_contextvars()
    document = ProblemDocument(
        HTTPStatus(wrong.status).phrase, wrong.status, wrong.code, wrong.detail, wrong.errors,
        bound.get("request_id"), bound.get("trace_id"),
    )  # fmt: skip
    return web.Response(
        body=msgspec.json.encode(document), status=wrong.status, content_type=CONTENT_TYPE, headers=wrong.headers
    )
