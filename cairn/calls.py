"""What both clients share: the calls of the HTTP API, and what their answers mean.

A call is data; how it travels is the client's matter. Every command carries an idempotency key, so that one whose
answer was lost can be sent again: it is carried out once. The file is long because every call of the interface is a function here.
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, cast
from urllib.parse import quote, urlencode
from uuid import uuid4

import msgspec

from cairn.config import Connection, connection

API = "/api/v1"
NDJSON = "application/x-ndjson"
PAGE_EVENTS = 1_000
ANSWER_SECONDS = 90.0
"""Longer than the system itself waits for a Postgres that is away."""
CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 45.0
"""A stream that does not even ping for so long is dead; pings come every 15 s."""
AGAIN_SECONDS = (0.1, 0.3, 1.0)
"""The waits before a call is made again."""
FOLLOW_SECONDS = 60.0
"""How long a stream that worked once is asked for again."""
FOLLOW_AGAIN_SECONDS = 0.5
TRY_AGAIN = (429, 503)
ENDED = ("completed", "failed", "cancelled", "timed_out")
"""The statuses of a workflow to which nothing will happen any more."""

Json = dict[str, Any]
PlanLike = Mapping[str, Any] | bytes | Path
"""A plan as Python values, as the bytes of its JSON, or as the path of its file."""

_NEXT = re.compile(r'<([^>]*)>;\s*rel="next"')


class Wanted(TypedDict, total=False):
    """Which events: all that is given has to hold.

    `type` is one or several, separated by commas, each may be a pattern as `task.*`; `since` <= time < `to`; `q` are words
    that all stand in an event's texts.
    """

    type: str | None
    workflow: str | None
    task: str | None
    agent: str | None
    actor: str | None
    correlation: str | None
    causation: str | None
    since: datetime | None
    to: datetime | None
    q: str | None


class CairnError(Exception):
    """The system did not do as asked. `code` is stable, `detail` says why, `status` is the HTTP one (0: no answer).

    `problems` holds what is wrong with the request, each `{"detail", "pointer"?, "parameter"?, "hint"?}`; pointers are
    JSON pointers into the request's body, where a submitted plan is under `/plan`.
    """

    def __init__(self, code: str, status: int, detail: str, problems: tuple[dict[str, str], ...] = ()) -> None:
        super().__init__(detail)
        self.code, self.status, self.detail, self.problems = code, status, detail, problems


class NotFound(CairnError):
    """There is no such workflow or ask."""


class Conflict(CairnError):
    """The rules say no to it as things stand now: look again, then decide."""


class Invalid(CairnError):
    """The request is wrong in itself; `problems` says where."""


class Unauthorized(CairnError):
    """The token is not the one that the running system asks for."""


class Unreachable(CairnError):
    """Nobody answers, or what the system needs is away. The detail names the command that helps."""


class Submitted(msgspec.Struct, frozen=True):
    """The workflow that a plan was started as. A view of at least `position` shows it."""

    workflow: str
    position: int


class Call(NamedTuple):
    method: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = {}


def where(given: Connection | None) -> Connection:
    """The system to speak to. Unreachable if nothing says where it is."""
    try:
        return given or connection()
    except ConnectionError as error:
        raise Unreachable("not_running", 0, str(error)) from None


def standing(where: Connection, actor: str | None) -> dict[str, str]:
    """The headers of every call. ValueError for a name that cannot be sent."""
    if actor is not None and not (actor.isprintable() and len(actor.strip()) > 0 and len(actor) <= 100):
        raise ValueError(f"actor {actor!r}: 1 to 100 printable characters")
    token = {"Authorization": f"Bearer {where.token}"} if where.token else {}
    return token | ({"X-Cairn-Actor": actor} if actor else {})


def submit(plan: PlanLike, id: str | None, repository: str | None, base: str | None, key: str | None) -> Call:
    """Invalid, before anything is sent, if the plan is no JSON at all."""
    raw = _raw(plan)
    try:
        msgspec.json.decode(raw, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        place = {"pointer": "/plan", "detail": f"not JSON: {error}", "hint": "`cairn validate` says where"}
        raise Invalid("invalid_plan", 0, f"the plan is not JSON: {error}", (place,)) from None
    body: Json = {"plan": msgspec.Raw(raw), "id": id, "repository": repository, "base": base}
    return _command(f"{API}/workflows", {name: value for name, value in body.items() if value is not None}, key)


def validate(plan: PlanLike) -> Call:
    return Call("POST", f"{API}/plans/validate", _raw(plan), {"Content-Type": "application/json"})


def act(id: str, verb: str, reason: str, task: str | None = None, **said: Any) -> Call:
    """An act on a workflow, or on a `task` of it; `said` is what its body holds besides the reason."""
    about = "" if task is None else f"/tasks/{quote(task, safe='')}"
    return _command(f"{API}/workflows/{quote(id, safe='')}{about}/{verb}", {"reason": reason, **said})


def asks(workflow: str | None, state: str, limit: int, after: int, at_least: int | None) -> Call:
    path = _query(f"{API}/asks", workflow=workflow, state=state, limit=limit, after=after, at_least=at_least)
    return Call("GET", path)


def answer(
    id: str, ask: str, choice: str, shown: str, because: str, instructions: str, role: str | None, edit: Json | None
) -> Call:
    path = f"{API}/workflows/{quote(id, safe='')}/asks/{quote(ask, safe='')}/answer"
    said: Json = {"choice": choice, "shown": shown, "because": because, "instructions": instructions}
    said |= {name: value for name, value in {"role": role, "edit": edit}.items() if value is not None}
    return _command(path, said)


def raise_budget(id: str, scope: str, because: str, amount: Mapping[str, float]) -> Call:
    body = {"scope": scope, "amount": dict(amount), "because": because}
    return _command(f"{API}/workflows/{quote(id, safe='')}/budget", body)


def pause_dispatch(role: str | None, reason: str) -> Call:
    return _command(f"{API}/pause", {"role": role, "reason": reason})


def resume_dispatch(role: str | None, rate: float | None, reason: str) -> Call:
    return _command(f"{API}/resume", {"role": role, "rate": rate, "reason": reason})


def agents() -> Call:
    return Call("GET", f"{API}/agents")


def admit(agent: str, role: str, capabilities: Sequence[str]) -> Call:
    return _command(f"{API}/agents/{quote(agent, safe='')}/admit", {"role": role, "capabilities": capabilities})


def drain(agent: str, reason: str) -> Call:
    return _command(f"{API}/agents/{quote(agent, safe='')}/drain", {"reason": reason})


def workflows(limit: int, status: str | None, at_least: int | None) -> Call:
    return Call("GET", _query(f"{API}/workflows", limit=limit, status=status, at_least=at_least))


def tasks(id: str, after: str | None, limit: int, at_least: int | None) -> Call:
    path = _query(f"{API}/workflows/{quote(id, safe='')}/tasks", after=after, limit=limit, at_least=at_least)
    return Call("GET", path)


def workflow(id: str, at_least: int | None) -> Call:
    return Call("GET", _query(f"{API}/workflows/{quote(id, safe='')}", at_least=at_least))


def timeline(id: str, after: int, at_least: int | None) -> Call:
    path = _query(f"{API}/workflows/{quote(id, safe='')}/timeline", limit=1_000, after=after, at_least=at_least)
    return Call("GET", path)


def search(words: str, limit: int, after: str | None, at_least: int | None) -> Call:
    return Call("GET", _query(f"{API}/search", q=words, limit=limit, after=after, at_least=at_least))


def events(after: int, wanted: Wanted, newest_first: bool) -> Call:
    """The first page of those after a position; of those before it, if not 0, where the newest come first."""
    at = {"order": "desc", "after": after or None} if newest_first else {"after": after}
    return Call("GET", _query(f"{API}/events", **at, limit=PAGE_EVENTS, **_asked(wanted)), headers={"Accept": NDJSON})


def stream(after: int, wanted: Wanted) -> Call:
    """Those after a position, and all to come."""
    path = _query(f"{API}/events/stream", after=after, **_asked(wanted))
    return Call("GET", path, headers={"Accept": NDJSON})


def _asked(wanted: Wanted) -> dict[str, str | None]:
    """ValueError for a time without a time zone."""
    asked: dict[str, Any] = {"from" if name == "since" else name: value for name, value in wanted.items()}
    for name in ("from", "to"):
        if (moment := asked.get(name)) is not None:
            if moment.tzinfo is None:
                raise ValueError(f"{moment} has no time zone: datetime.now(UTC) has one")
            asked[name] = moment.isoformat()
    return asked


def event(position: int) -> Call:
    return Call("GET", f"{API}/events/{position}")


def next_page(link: str | None) -> Call | None:
    """The call that a Link header tells to make next."""
    found = _NEXT.search(link or "")
    return Call("GET", found[1], headers={"Accept": NDJSON}) if found else None


def sums(view: str, by: Sequence[str], at_least: int | None, only: Mapping[str, str | None]) -> Call:
    named = {{"since": "from", "until": "to"}.get(name, name): value for name, value in only.items()}
    return Call("GET", _query(f"{API}/{view}", by=",".join(by), at_least=at_least, **named))


QUEUE = Call("GET", f"{API}/queue")
VERSION = Call("GET", "/version")
READY = Call("GET", "/readyz?verbose=1")


def decoded(status: int, body: bytes) -> Json:
    """The answer; CairnError if it says that something went wrong."""
    if status >= 300:
        raise error_of(status, body)
    try:
        return cast(Json, msgspec.json.decode(body))
    except msgspec.DecodeError:
        raise CairnError("no_json", status, f"no answer of Cairn's: {body[:80]!r}") from None


def events_of(body: bytes) -> Iterator[Json]:
    """The events of a page."""
    return (msgspec.json.decode(line) for line in body.splitlines() if line)


def position_of(event: Json) -> int:
    return int(event["sequence"])


def has_ended(detail: Json) -> bool:
    return detail["workflow"]["status"] in ENDED


def ends(event: Json) -> bool:
    """Whether it is a workflow's last event."""
    return str(event["type"]).split(".")[1:3] in [["workflow", status] for status in ENDED]


def error_of(status: int, body: bytes) -> CairnError:
    """What a problem document says, or a status without one."""
    try:
        problem = msgspec.json.decode(body)
        code, detail, errors = problem["code"], problem["detail"], tuple(problem.get("errors", ()))
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        code, detail, errors = f"http_{status}", f"HTTP {status}: {body[:200].decode(errors='replace')}", ()
    match status:
        case 401 | 403:
            return Unauthorized(code, status, detail, errors)
        case 404:
            return NotFound(code, status, detail, errors)
        case 409:
            return Conflict(code, status, detail, errors)
        case 502 | 503 | 504:
            return Unreachable(code, status, f"{detail} (`cairn doctor` says what is wrong)", errors)
        case _ if 400 <= status < 500 and status != 429:
            return Invalid(code, status, detail, errors)
    return CairnError(code, status, detail, errors)


def unreachable(url: str, error: BaseException) -> Unreachable:
    said = str(error) or type(error).__name__
    return Unreachable(
        "unreachable", 0, f"nobody answers at {url} ({said}): start it with `cairn up`, or look with `cairn doctor`"
    )


def _raw(plan: PlanLike) -> bytes:
    match plan:
        case bytes():
            return plan
        case Path():
            return plan.read_bytes()
    return msgspec.json.encode(plan)


def _command(path: str, body: Json, key: str | None = None) -> Call:
    headers = {"Content-Type": "application/json", "Idempotency-Key": key or str(uuid4())}
    return Call("POST", path, msgspec.json.encode(body), headers | _in_trace())


def _in_trace() -> dict[str, str]:
    """The caller's span, which the command's is to be a child of. Whoever has not imported OpenTelemetry is in none."""
    if "opentelemetry.trace" not in sys.modules:
        return {}
    from cairn.trace import outgoing

    return outgoing()


def _query(path: str, **given: str | int | None) -> str:
    query = urlencode({name: value for name, value in given.items() if value is not None})
    return f"{path}?{query}" if query else path
