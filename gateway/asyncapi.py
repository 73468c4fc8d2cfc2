"""What goes over NATS as AsyncAPI 3.0: every event under its subject, and how agents and the system speak."""

import re
from typing import Any, NamedTuple, get_args

from domain.claims import QueueEvent
from domain.events import AgentEvent, LedgerEvent, TaskDispatched, WorkflowEvent
from gateway.schemas import Schema, components
from handlers.identity import NAME, ROLE
from handlers.reports import Report, Verdict
from handlers.roster import Beat, Description, Goodbye, Notice, Pulse, Seat, TurnedAway
from ledger.announce import CONTENT_TYPE, CloudEvent, subject_of
from ledger.stream import stream_name

ABOUT = f"""Everything that happens is an event under `cairn.<tenant>.evt.>`, a CloudEvent in structured JSON whose `sequence`
is its position in the ledger and in the JetStream stream `{stream_name("<tenant>", 0)[:-1]}<epoch>`. One that is too large for
a message has no `data`: `dataref` says where it is. A dispatch is an event too, offered to the agents of its role."""

PARAMETERS = {
    "tenant": "Whose ledger it is.",
    "id": "The workflow, the agent, or the tenant.",
    "role": f"A role: {ROLE}.",
    "capabilities": "What the task takes besides, sorted and joined: gpu+python.",
    "agent": f"The name of an agent: {NAME}.",
}
KINDS = {"workflow": WorkflowEvent, "queue": QueueEvent, "agent": AgentEvent, "ledger": LedgerEvent}
"""Of each kind of stream what it can hold."""


class Said(NamedTuple):
    """What is said on a subject, or `heard` there, and the `answers` that it may get; `said` is None for no content."""

    name: str
    subject: str
    said: Any
    summary: str
    heard: bool = False
    answers: tuple[Any, ...] = ()


def _events() -> list[Said]:
    found = []
    for kind, union in KINDS.items():
        for event in get_args(union) or (union,):
            tag, stream = event.__struct_config__.tag, f"{kind}-{{id}}"
            words = " ".join((event.__doc__ or f"{kind.capitalize()} {tag}.").partition("\n\n")[0].split())
            role = "{role}" if event is TaskDispatched else None
            found.append(Said(tag, subject_of("{tenant}", stream, tag, role), event, words))
            if role:
                needing = subject_of("{tenant}", stream, tag, f"{role}.{{capabilities}}")
                found.append(
                    Said(f"{tag}.capabilities", needing, event, "The same, of a task that takes capabilities.")
                )
    return found


def _spoken() -> list[Said]:
    def by(verb: str) -> str:
        return f"cairn.{{tenant}}.{verb}.{{role}}.{{agent}}"

    return [
        Said("reports", by("in"), list[Report], "Reports of an agent on its runs.", heard=True),
        Said("verdicts", "cairn.{tenant}.verdict.{agent}", list[Verdict], "What became of an agent's reports."),
        Said("join", by("join"), Description, "An agent asks for work.", True, (Seat, TurnedAway)),
        Said("beat", by("beat"), Beat, "An agent lives, and holds these leases.", True, (Pulse,)),
        Said("leave", by("leave"), None, "An agent says goodbye.", True, (Goodbye,)),
        Said("tell", "cairn.{tenant}.tell.{agent}", Notice, "What an agent has to know at once."),
    ]


def document() -> Schema:
    """The AsyncAPI document: one channel for each type of event, and those on which agents speak and are spoken to."""
    everything = [*_events(), *_spoken()]
    heard = [one.said for one in everything if one.heard and one.said]
    told = [one.said for one in everything if not one.heard] + [kind for one in everything for kind in one.answers]
    told = list(dict.fromkeys([CloudEvent, *told]))
    found, schemas = components(heard, told)
    refs = dict(zip([*heard, *told], found, strict=True))
    channels: dict[str, Schema] = {}
    operations: dict[str, Schema] = {}
    messages: dict[str, Schema] = {}
    for one in everything:
        messages[one.name] = _message(one, refs)
        channels[one.name] = _channel(one.subject, [one.name], one.summary)
        operation: Schema = {
            "action": "receive" if one.heard else "send",
            "channel": {"$ref": f"#/channels/{one.name}"},
            "summary": one.summary,
            "messages": [{"$ref": f"#/channels/{one.name}/messages/{one.name}"}],
        }
        if one.answers:
            names = [f"{one.name}.{kind.__name__}" for kind in one.answers]
            messages |= {
                name: {"contentType": "application/json", "payload": refs[kind]}
                for name, kind in zip(names, one.answers, strict=True)
            }
            channels[f"{one.name}.answer"] = _channel(None, names, "The subject that whoever asks has named.")
            operation["reply"] = {
                "channel": {"$ref": f"#/channels/{one.name}.answer"},
                "messages": [{"$ref": f"#/channels/{one.name}.answer/messages/{name}"} for name in names],
            }
        operations[one.name] = operation
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Cairn", "version": "v1", "description": ABOUT, "license": {"name": "Apache-2.0"}},
        "defaultContentType": "application/json",
        "servers": {"nats": {"host": "127.0.0.1:4222", "protocol": "nats", "description": "As `NATS_URL` says."}},
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": schemas},
    }


def _channel(subject: str | None, messages: list[str], summary: str) -> Schema:
    names = re.findall(r"{(\w+)}", subject or "")
    return {
        "address": subject,
        "summary": summary,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        "parameters": {name: {"description": PARAMETERS[name]} for name in names},
    }


def _message(one: Said, refs: dict[Any, Schema]) -> Schema:
    if one.said is None:
        return {"summary": one.summary, "payload": {"type": "string", "maxLength": 0}}
    tag = getattr(one.said, "__struct_config__", None) and one.said.__struct_config__.tag
    if not tag:
        return {"summary": one.summary, "payload": refs[one.said]}
    about = {"type": {"const": f"cairn.{tag}.v1"}, "data": refs[one.said]}
    return {
        "name": f"cairn.{tag}.v1",
        "summary": one.summary,
        "contentType": CONTENT_TYPE,
        "headers": {
            "type": "object",
            "properties": {
                "Nats-Msg-Id": {"type": "string", "description": "`<epoch>-<position>`"},
                "traceparent": {"type": "string"},
            },
        },
        "payload": {"allOf": [refs[CloudEvent], {"type": "object", "properties": about}]},
    }
