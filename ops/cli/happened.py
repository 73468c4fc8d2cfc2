"""One event as one line, for watching without a terminal and for `cairn events`. Pure."""

from datetime import datetime
from typing import Any

from ops.cli.text import commit, line

WIDTH = 160


def happened(event: dict[str, Any]) -> str:
    """Position, time, workflow, type, what it is about and what is new; from the CloudEvent as the API gives it."""
    at = datetime.fromisoformat(event["time"]).astimezone().strftime("%H:%M:%S")
    workflow = event.get("subject", "").removeprefix("workflow/").partition("/")[0]
    data: dict[str, Any] = event.get("data") or {}
    about = data.get("task") or data.get("workflow") or ""
    return line(
        f"{int(event['sequence']):>6}  {at}  {workflow}  {short(event['type']):<22} {about}  {_news(data)}", WIDTH
    ).rstrip()


def short(kind: str) -> str:
    """`cairn.task.dispatched.v1` is `task.dispatched`; what is short already stays."""
    parts = kind.split(".")
    return ".".join(parts[1:-1]) if parts[0] == "cairn" else kind


def _news(data: dict[str, Any]) -> str:
    failure, result = data.get("failure") or {}, data.get("result") or {}
    told = {
        "role": f"to {data.get('role')}",
        "agent": f"by {data.get('agent')}",
        "passed": "tests passed" if data.get("passed") else "tests failed",
        "branch": f"branch {_id(data.get('branch'))}",
        "failure": f"{failure.get('type')}: {failure.get('message')}",
        "result": " ".join(part for part in (commit(result.get("commit")), result.get("summary")) if part),
        "ask": f"{data.get('ask')}: {data.get('kind') or ('approved' if data.get('approved') else 'refused')}",
        "because": f"because {data.get('because')}",
        "reason": f"{data.get('reason')}",
    }
    run = data.get("run", "")
    return "  ".join([*([run] if run else []), *(text for name, text in told.items() if data.get(name) is not None)])


def _id(branch: Any) -> str:
    return str(branch.get("id")) if isinstance(branch, dict) else str(branch)
