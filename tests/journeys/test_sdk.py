"""What users write with the public package: agents as processes of their own, both clients, from threads and loops."""

import asyncio
import inspect
import signal
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import cairn.agent
import cairn.client
from cairn import Agent, Client, Conflict, Invalid, NotFound, SyncClient, Unreachable

from .desk import Desk, desk, git, kinds
from .stage import Json, is_a

ASKED = """
import asyncio
from cairn import Agent, Failed, Result, Task

agent = Agent("writer", name="ann", capacity=4)

@agent.task
async def work(task: Task):
    match task.inputs.get("does"):
        case "not as specified":
            raise Failed("the specification contradicts itself", type="spec_mismatch", detail="line 3 and line 7")
        case "own word":
            raise Failed("I do not feel like it", type="boredom")
        case "person's word":
            raise Failed("I refuse", type="refused")
        case "break":
            return {}["nothing"]
        case "number":
            return 42
        case "too slow":
            await asyncio.sleep(60)
        case "text":
            return "a text is a summary"
        case "nothing":
            return None
    return Result(summary="done", data={"seen": {name: it.data for name, it in task.dependencies.items()}})

agent.run()
"""
MENDS = """
from cairn import Agent, Result, Task

agent = Agent("architect", name="bob")

@agent.task
async def mend(task: Task) -> Result:
    debug = task.debug
    (task.path / "decided.txt").write_text(f"{debug.parent} {debug.reason}: {debug.instructions}\\n")
    return Result(summary="decided")

agent.run()
"""


def task(name: str, *needs: str, does: str = "", **more: Any) -> Json:
    """A task for ann."""
    return {"id": name, "agent_role": "writer", "dependencies": needs, "inputs": {"does": does}, **more}


def example(module: ModuleType) -> str:
    """The program in a module's docstring, up to where the prose goes on."""
    lines = inspect.cleandoc(module.__doc__ or "").splitlines()[2:]
    ends = len(lines)
    if lines[0].startswith(" "):
        ends = next(n for n, line in enumerate(lines) if line and not line.startswith(" "))
    return textwrap.dedent("\n".join(lines[:ends]))


@pytest.fixture(scope="module")
def person() -> Iterator[Desk]:
    """A user with a system that is up, two agents of theirs, and folders that are called as ours are."""
    with desk() as one:
        for name in ("handlers", "domain", "ops"):
            (one.at / name).mkdir()
            (one.at / name / "__init__.py").write_text("raise SystemExit('taken for a package of ours')\n")
        one.program("ann.py", ASKED)
        one.program("bob.py", MENDS)
        one.begin("ann", sys.executable, "ann.py")
        one.begin("bob", sys.executable, "bob.py")
        yield one
        one.intact()


def outcome(person: Desk, plan: Json) -> list[Json]:
    """All that happened to a plan, carried out on an empty repository."""
    workflow = person.submit(plan)
    person.client.wait(workflow, timeout=30)
    return list(person.client.events(workflow=workflow))


def failures(events: list[Json]) -> list[Json]:
    return [event["data"]["failure"] for event in events if is_a(event, "task.attempt_failed")]


def test_the_agent_of_the_documentation_works_as_it_stands_there(person: Desk) -> None:
    person.program("documented.py", "from cairn import Agent, Result, Task\n" + example(cairn.agent))
    person.begin("documented", sys.executable, "documented.py")
    events = outcome(person, {"id": "documented", "tasks": [{"id": "a", "agent_role": "coder"}]})
    [done] = [event["data"] for event in events if is_a(event, "task.completed")]
    assert done["agent"].startswith("coder-")
    assert done["result"]["summary"] == "said hello" and done["result"]["files"] == ["hello.txt"]
    assert git(person.artifacts, "show", "ai/generated/documented/a:hello.txt") == "hello"
    assert person.ended("documented", signal.SIGINT) == 0


def test_the_client_of_the_documentation_works_as_it_stands_there(person: Desk) -> None:
    person.plan("plan", task("a"))
    body = textwrap.indent(example(cairn.client), "    ").replace("...", "print(event['type'], flush=True)")
    person.program(
        "client.py",
        f"import asyncio\nfrom pathlib import Path\nfrom cairn import Client\n"
        f"async def main():\n{body}\nasyncio.run(main())\n",
    )
    person.begin("client", sys.executable, "client.py")
    person.until(lambda: "cairn.workflow.completed.v1" in person.log("client"), "it has seen the end")
    person.ended("client", signal.SIGTERM)


def test_a_failure_with_a_class_goes_where_the_plan_routes_that_class(person: Desk) -> None:
    routed = task("a", does="not as specified", failure_routing={"spec_mismatch": "architect"})
    events = outcome(person, {"id": "routed", "tasks": [routed, task("b", "a")]})
    assert kinds(events)[-1] == "workflow.completed"
    [failed] = failures(events)
    assert failed == {
        "type": "spec_mismatch", "message": "the specification contradicts itself", "detail": "line 3 and line 7",
    }  # fmt: skip
    [branched] = [event["data"] for event in events if is_a(event, "task.branched")]
    assert branched["branch"]["agent_role"] == "architect"
    [mended] = [event["data"] for event in events if is_a(event, "task.completed", task="a")]
    assert mended["agent"] == "bob"
    text = git(person.artifacts, "show", "ai/generated/routed/a:decided.txt")
    assert text == "a spec_mismatch: the specification contradicts itself\n"


@pytest.mark.parametrize(
    ("does", "type", "message"),
    [
        ("own word", "agent_error", "(boredom) I do not feel like it"),
        ("person's word", "agent_error", "(refused) I refuse"),
        ("break", "agent_error", "KeyError: 'nothing'"),
        ("number", "invalid_result", "not int"),
        ("too slow", "timeout", "longer than 1 s"),
    ],
)
def test_what_an_agent_does_wrong_ends_its_attempt_with_a_class(
    person: Desk, does: str, type: str, message: str
) -> None:
    name = does.replace(" ", "-").replace("'", "")
    once = task("a", does=does, max_attempts=1, timeout_seconds=1)
    [failed] = failures(outcome(person, {"id": name, "tasks": [once], "escalation": {"due_seconds": 0}}))
    assert failed["type"] == type and message in failed["message"]
    if does == "break":
        assert "Traceback" in failed["detail"] and "ann.py" in failed["detail"]


def test_what_an_agent_returns_reaches_the_tasks_after_it(person: Desk) -> None:
    tasks = [task("a", does="text"), task("b", does="nothing"), task("c", "a", "b"), task("d", "c")]
    events = outcome(person, {"id": "handed-on", "tasks": tasks})
    results = {event["data"]["task"]: event["data"]["result"] for event in events if is_a(event, "task.completed")}
    assert results["a"]["summary"] == "a text is a summary" and not results["b"].get("summary")
    assert results["d"]["data"] == {"seen": {"c": {"seen": {"a": None, "b": None}}}}


async def test_the_asynchronous_client_follows_what_it_submits(person: Desk) -> None:
    plan = person.plan("followed", task("a"), task("b", "a"))
    async with Client(person.connection(), actor="a loop") as client:
        run = await client.submit(plan)
        seen = []
        async for event in client.events(run.position, workflow=run.workflow, follow=True):
            seen.append(event)
            if is_a(event, "workflow.completed"):
                break
        assert seen == [event async for event in client.events(run.position, workflow=run.workflow)]
        started = [event async for event in client.events(workflow=run.workflow, type="workflow.started")]
        assert "a loop" in started[0]["actor"]
        many = await asyncio.gather(*(client.submit({"id": f"many-{n}", "tasks": [task("a")]}) for n in range(8)))
        ended = await asyncio.gather(*(client.wait(one.workflow, timeout=30) for one in many))
        assert {detail["workflow"]["status"] for detail in ended} == {"completed"}
        with pytest.raises(NotFound):
            await client.workflow("nowhere")
        with pytest.raises(Invalid) as bad:
            await client.submit({"id": "bad", "tasks": [{"id": "a", "dependencies": ["b"]}]})
        assert [problem["pointer"] for problem in bad.value.problems] == ["/plan/tasks/0/dependencies/0"]
        # The client that waits, called in the middle of a running loop.
        detail = SyncClient(person.connection()).wait(many[0].workflow, timeout=5)
        assert detail["workflow"]["workflow"] == many[0].workflow


def test_one_client_serves_threads_with_and_without_a_loop_of_their_own(person: Desk) -> None:
    client = SyncClient(person.connection(), actor="many threads")

    def plain(n: int) -> str:
        run = client.submit({"id": f"thread-{n}", "tasks": [task("a")]}, key=f"key-{n // 2}")
        return str(client.wait(run.workflow, timeout=30)["workflow"]["workflow"])

    def in_a_loop(n: int) -> str:
        async def main() -> str:
            await asyncio.sleep(0)
            return plain(n)

        return asyncio.run(main())

    with ThreadPoolExecutor(8) as threads:
        alone = list(threads.map(plain, range(0, 8, 2)))
        looped = list(threads.map(in_a_loop, range(8, 16, 2)))
    assert sorted(alone + looped) == sorted(f"thread-{n}" for n in range(0, 16, 2))
    again = client.submit({"id": "thread-0", "tasks": [task("a")]}, key="key-0")
    assert again.workflow == "thread-0", "the same key gave another answer"


def test_a_program_decides_what_people_are_asked_and_only_once(person: Desk) -> None:
    client = person.client
    run = client.submit({"id": "asked", "tasks": [task("a", approval=["before_dispatch"])]})
    [ask] = client.workflow(run.workflow, run.position)["asks"]
    with pytest.raises(Conflict):
        client.answer("asked", ask["ask"], choice="approve", shown="0" * 64)
    answers: list[object] = []

    def answer() -> None:
        try:
            answers.append(client.answer("asked", ask["ask"], choice="approve", shown=ask["shown"], because="a rule"))
        except Conflict as refused:
            answers.append(refused)

    threads = [threading.Thread(target=answer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.wait("asked", timeout=30)["workflow"]["status"] == "completed"
    [answered] = client.events(workflow="asked", type="ask.answered")
    assert answered["data"]["because"] == "a rule" and "tester of journeys" in answered["actor"]
    assert len(answers) == 4


def test_an_agent_without_a_handler_and_a_client_without_a_system_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAIRN_DATA_DIR", str(tmp_path))
    with pytest.raises(TypeError, match=r"decorate one with @agent\.task"):
        Agent("coder").run()
    with pytest.raises(Unreachable, match="cairn up"):
        SyncClient()
    with pytest.raises(Unreachable, match="cairn up"):
        Client()
