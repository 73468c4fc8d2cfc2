"""The rules of the queue, as sentences."""

from line import NOW, ONE_CODER, Line, task, workflow

from domain.claims import (
    WORKFLOWS,
    ClaimGranted,
    FreeClaim,
    Limits,
    PauseDispatch,
    PlaceClaim,
    Regrant,
    ResumeDispatch,
    RolePaused,
    RoleResumed,
    TenantPaused,
    TenantResumed,
)
from domain.queue import HEAD_START, Ramp


def test_what_nobody_holds_is_granted_at_once_and_what_is_held_is_waited_for() -> None:
    a, b = task("a", "repo:x"), task("b", "repo:x")
    line = Line().place(a, b, task("c", "repo:y"))
    assert line.granted == ["w/a/1", "w/c/1"]
    assert line.free(a) == ["w/b/1"]


def test_a_claim_takes_all_it_needs_or_nothing() -> None:
    a, both, other = task("a", "x"), task("both", "x", "y"), task("other", "y")
    line = Line().place(a, both)
    assert line.state.taken.get("resource:y") is None
    line.place(other)
    assert line.granted == ["w/a/1"], "whoever comes later does not take what an earlier one waits for"
    assert line.free(a) == ["w/both/1"]
    assert line.free(both) == ["w/other/1"]


def test_a_role_has_its_slots_and_no_other_role_is_bound_by_them() -> None:
    line = Line(Limits(role_slots={"coder": 2})).place(*(task(f"c{n}") for n in range(3)), task("r", role="reviewer"))
    assert line.granted == ["w/c0/1", "w/c1/1", "w/r/1"]
    assert line.free(task("c1")) == ["w/c2/1"]


def test_workflows_run_at_most_so_many_at_once_in_their_order() -> None:
    line = Line(Limits(max_workflows=2)).place(*map(workflow, "abcd"))
    assert line.granted == ["a", "b"]
    assert line.state.waiting_workflows == 2
    assert [line.free(workflow("b")), line.free(workflow("a"))] == [["c"], ["d"]]


def test_the_urgent_go_first_and_of_the_same_urgency_who_came_first() -> None:
    line = Line(ONE_CODER).place(task("now"), task("a"), task("b"), task("urgent", priority=1))
    order = []
    holder = task("now")
    while freed := line.free(holder):
        order += freed
        holder = line.state.claims[freed[0]].claim
    assert order == ["w/urgent/1", "w/a/1", "w/b/1"]


def test_nobody_is_overtaken_by_more_than_the_head_start_of_the_urgent() -> None:
    line = Line(ONE_CODER).place(task("now"), task("patient"))
    holder, overtaken = task("now"), 0
    for number in range(2 * HEAD_START):
        line.place(task(f"u{number}", priority=1))
        (granted,) = line.free(holder)
        if granted == "w/patient/1":
            break
        holder, overtaken = line.state.claims[granted].claim, overtaken + 1
    assert 0 < overtaken <= HEAD_START


def test_a_claim_that_is_withdrawn_makes_room_for_those_behind_it() -> None:
    a, both, other = task("a", "x"), task("both", "x", "y"), task("other", "y")
    line = Line().place(a, both, other)
    assert line.free(both) == ["w/other/1"]


def test_the_same_claim_again_and_the_end_of_none_change_nothing() -> None:
    line = Line().place(task("a"))
    assert line.do(PlaceClaim, claim=task("a")) == []
    assert line.do(FreeClaim, claim="w/ghost/1") == []


def test_higher_limits_are_granted_when_they_are_told() -> None:
    line = Line(ONE_CODER).place(task("a"), task("b"), task("c"))
    line.limits = Limits(role_slots={"coder": 2})
    assert line.do(Regrant) == [ClaimGranted(claim="w/b/1", workflow="w", task="b", run="b/1")]
    line.limits = ONE_CODER
    assert line.free(task("a")) == [], "what was granted under other limits stays granted"
    assert line.free(task("b")) == ["w/c/1"]


def test_a_role_that_is_paused_is_granted_nothing_until_it_is_resumed() -> None:
    line = Line()
    assert line.do(PauseDispatch, role="coder", by="pat", reason="incident") == [
        RolePaused(role="coder", by="pat", reason="incident")
    ]
    assert line.do(PauseDispatch, role="coder", by="sam") == []
    line.place(task("a"), task("b", role="writer"))
    assert line.granted == ["w/b/1"]
    assert line.state.holds_back("coder")
    assert not line.state.holds_back("writer")
    resumed, granted = line.do(ResumeDispatch, role="coder", by="pat", rate=30.0)
    assert resumed == RoleResumed(role="coder", at=NOW, by="pat", rate=30.0)
    assert granted == ClaimGranted(claim="w/a/1", workflow="w", task="a", run="a/1")
    assert line.state.ramps == {"coder": Ramp(30.0, NOW)}
    assert line.do(ResumeDispatch, role="coder", by="pat", rate=30.0) == []


def test_who_waits_for_a_role_that_is_paused_keeps_nobody_else_waiting_and_has_its_turn_again_later() -> None:
    first, coder, writer = task("first", "x"), task("a", "x"), task("b", "x", role="writer")
    line = Line().place(first, coder, writer)
    line.do(PauseDispatch, role="coder", by="pat")
    line.place(task("late", "x", role="writer"))
    assert line.free(first) == ["w/b/1"]
    line.do(ResumeDispatch, role="coder", by="pat")
    assert line.free(writer) == ["w/a/1"]


def test_a_pause_lets_those_begin_who_waited_only_behind_the_role() -> None:
    line = Line().place(task("first", "x"), task("wide", "x", "y"), task("b", "y", role="writer"))
    paused, granted = line.do(PauseDispatch, role="coder", by="pat")
    assert isinstance(paused, RolePaused)
    assert granted == ClaimGranted(claim="w/b/1", workflow="w", task="b", run="b/1")


def test_a_tenant_that_is_paused_begins_nothing_at_all() -> None:
    line = Line(Limits(max_workflows=1))
    assert line.do(PauseDispatch, by="pat") == [TenantPaused(by="pat")]
    line.place(workflow("w"), task("a"))
    assert line.granted == []
    resumed, *granted = line.do(ResumeDispatch, by="pat")
    assert resumed == TenantResumed(at=NOW, by="pat")
    assert len(granted) == 2
    assert line.do(ResumeDispatch, by="pat") == []


def test_the_need_of_a_workflow_is_none_that_a_task_can_have() -> None:
    assert workflow("w").needs == (WORKFLOWS,)
    assert task("a", "workflows", role="workflows").needs == ("role:workflows", "resource:workflows")


def test_who_is_withdrawn_while_its_role_is_paused_makes_room_for_nobody() -> None:
    line = Line()
    line.do(PauseDispatch, role="coder", by="pat")
    line.do(PlaceClaim, claim=task("holder", "x", role="tester"))
    line.do(PlaceClaim, claim=task("paused", "x"))
    line.do(PlaceClaim, claim=task("next", "x", role="tester"))
    freed = line.do(FreeClaim, claim=task("paused", "x").id)
    assert not any(isinstance(event, ClaimGranted) for event in freed)
