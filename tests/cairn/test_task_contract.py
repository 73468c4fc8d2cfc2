"""The public structs are written a second time, so that agents need nothing of ours: both say the same, field by field."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cairn import agent
from cairn import task as public
from domain import events, notes, outcome, plan, usage
from ledger.codec import encode
from ops.golden import sample

PAIRS = [
    (public.Finding, outcome.Finding),
    (public.Result, outcome.Result),
    (public.FailedCase, outcome.FailedCase),
    (public.Tally, outcome.Tally),
    (public.Receipt, outcome.Receipt),
    (public.Failure, outcome.Failure),
    (public.Test, plan.Test),
    (public.Debug, events.Debug),
    (public.Answered, events.Answered),
    (public.Usage, usage.Spent),
    (public.Budget, plan.Budget),
]
OF_THE_SDK = {"position", "traceparent", "path", "diff"}
OF_THE_LEDGER = {"due"}


def names(struct: type[msgspec.Struct]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(struct)}


def optional(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """The fields that may be left out, with what they are then."""
    defaults = {}
    for field in msgspec.structs.fields(struct):
        if not field.required:
            made = field.default_factory
            defaults[field.name] = field.default if made is msgspec.NODEFAULT else made()
    return defaults


def plain(value: Any) -> Any:
    """With every field, default or not: structs of both sides leave out defaults as they like."""
    if isinstance(value, msgspec.Struct):
        return {name: plain(getattr(value, name)) for name in names(type(value))}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return {key: plain(one) for key, one in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
@pytest.mark.parametrize("full", [True, False])
def test_one_is_read_as_the_other_both_ways(
    theirs: type[msgspec.Struct], ours: type[msgspec.Struct], full: bool
) -> None:
    assert names(theirs) == names(ours)
    assert optional(theirs) == optional(ours)
    said = sample(ours, full=full)
    heard = msgspec.json.decode(msgspec.json.encode(said), type=theirs)
    for name in names(ours):
        assert plain(getattr(heard, name)) == plain(getattr(said, name)), name
    assert msgspec.json.decode(msgspec.json.encode(heard), type=ours) == said


@pytest.mark.parametrize("full", [True, False])
def test_a_task_is_all_that_its_dispatch_says(full: bool) -> None:
    dispatched = sample(events.TaskDispatched, full=full)
    task = msgspec.json.decode(encode(dispatched), type=public.Task)
    assert names(public.Task) - OF_THE_SDK == names(events.TaskDispatched) - OF_THE_LEDGER
    for name in names(public.Task) - OF_THE_SDK:
        assert plain(getattr(task, name)) == plain(getattr(dispatched, name)), name
    assert (task.position, task.traceparent, task.path) == (0, None, None)


def test_what_a_program_reads_on_its_standard_input_is_the_whole_task() -> None:
    dispatched = sample(events.TaskDispatched, full=True)
    task = msgspec.json.decode(encode(dispatched), type=public.Task)
    task.position, task.traceparent, task.path = 7, "00-ab-cd-01", Path("/work")
    assert msgspec.json.decode(task.to_json(), type=public.Task, dec_hook=lambda kind, text: kind(text)) == task
    assert json.loads(task.to_json()).keys() == names(public.Task)


def test_both_sides_have_the_same_limits() -> None:
    assert (agent.RESULT_BYTES, agent.FINDINGS) == (outcome.RESULT_BYTES, outcome.FINDINGS)
    ours = notes.NOTE_KEY, notes.NOTES, notes.NOTE_BYTES
    assert ours == (public.NOTE_KEY, public.NOTES, public.NOTE_BYTES)
