"""One event as one line, for watching without a terminal and for `cairn events`. Pure."""

from datetime import UTC, datetime
from typing import Any

from ops.cli.text import commit, line

NEWS_WIDTH = 110


def happened(event: dict[str, Any]) -> str:
    """Position, time, type, what it is about and what is new; from the CloudEvent as the API gives it."""
    at = datetime.fromisoformat(event["time"]).astimezone().strftime("%H:%M:%S")
    data: dict[str, Any] = event.get("data") or {}
    workflow = event.get("subject", "").partition("/")[2].partition("/")[0]
    about = "/".join(part for part in (workflow, data.get("task")) if part)
    start = f"{int(event['sequence']):>6}  {at}  {line(short(event['type'])):<21}  {line(about):<24}  "
    return (start + line(_news(data), NEWS_WIDTH)).rstrip()


def short(kind: str) -> str:
    """`cairn.task.dispatched.v1` is `task.dispatched`; what is short already stays."""
    parts = kind.split(".")
    return ".".join(parts[1:-1]) if parts[0] == "cairn" else kind


def _news(data: dict[str, Any]) -> str:
    failure, result = data.get("failure") or {}, data.get("result") or {}
    told = {
        "previous_epoch": f"goes on after position {data.get('position')} in epoch {data.get('epoch')}",
        "checked_events": f"{'whole up to' if data.get('ok') else 'broken at'} position {data.get('position')}",
        "role": f"to {data.get('role')}",
        "agent": f"by {data.get('agent')}",
        "by": f"by {data.get('by')}",
        "priority": f"priority {data.get('priority')}",
        "passed": "tests passed" if data.get("passed") else "tests failed",
        "branch": f"branch {_id(data.get('branch'))}",
        "failure": f"{failure.get('type')}: {failure.get('message')}",
        "result": " ".join(part for part in (commit(result.get("commit")), result.get("summary")) if part),
        "ask": f"{data.get('ask')}: {data.get('kind') or data.get('choice') or data.get('why') or 'no answer'}",
        "because": f"because {data.get('because')}",
        "reason": f"{data.get('reason')}",
    }
    news = [str(text) for name, text in told.items() if data.get(name) is not None]
    if data.get("run"):
        news.insert(0, str(data["run"]))
    elif "due" in data and "attempt" in data:
        due = datetime.fromtimestamp(data["due"], UTC).astimezone()
        news.insert(0, f"attempt {data.get('attempt')} at {due:%H:%M:%S}")
    return "  ".join(news)


def _id(branch: Any) -> str:
    return str(branch.get("id")) if isinstance(branch, dict) else str(branch)
