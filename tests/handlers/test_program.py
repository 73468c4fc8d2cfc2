"""Any program is an agent: what it is given, what it may print, and that nothing of it is left."""

import asyncio
import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cairn.task import Asked, Failed, Finding, Result, Task, Usage
from handlers.agents import program as module
from handlers.agents.program import program

SECONDS = 20.0
ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}


async def run(cmd: str, folder: Path, **task: Any) -> Result:
    agent = program("coder", cmd, environment=ENVIRONMENT)
    assert agent._handler is not None
    given = Task("w", "a", "a/1", 1, "coder", 1, 30.0, 30.0, path=folder, **task)
    async with asyncio.timeout(SECONDS):
        result = await agent._handler(given)
    assert isinstance(result, Result)
    return result


async def failure(cmd: str, folder: Path, **task: Any) -> Failed:
    with pytest.raises(Failed) as failed:
        await run(cmd, folder, **task)
    return failed.value


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def gone(pid: int) -> None:
    async with asyncio.timeout(SECONDS):
        while alive(pid):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("out", "result"),
    [
        ("", Result()),
        ("one\ntwo\n\n", Result(summary="two")),
        ('thinking\n{"summary": "done", "data": {"n": [1]}}', Result(summary="done", data={"n": [1]})),
        ('{"summary": "done", "commit": "forged", "files": ["x"], "else": 1}', Result(summary="done")),
        (
            '{"findings": [{"kind": "security", "severity": "high", "message": "a key", "path": "a.py", "line": 3}]}',
            Result(findings=(Finding("security", "high", "a key", "a.py", 3),)),
        ),
        ("[1, 2]", Result(summary="[1, 2]")),
        ("x" * 2000, Result(summary="x" * 500)),
    ],
)
async def test_the_last_line_is_the_result(tmp_path: Path, out: str, result: Result) -> None:
    (tmp_path / "out").write_text(out)
    assert await run("cat out", tmp_path) == result


async def test_output_that_is_no_text_is_a_summary_with_marks(tmp_path: Path) -> None:
    assert await run(r"printf 'a\377b'", tmp_path) == Result(summary="a\ufffdb")


@pytest.mark.parametrize("last", ['{"summary": 5}', "{oops", '{"data": 1e999}', '{"a":' * 2000])
async def test_a_last_line_that_only_looks_like_a_result_is_an_invalid_one(tmp_path: Path, last: str) -> None:
    (tmp_path / "out").write_text(last)
    assert (await failure("cat out", tmp_path)).type == "invalid_result"


async def test_a_last_line_that_asks_asks_a_person(tmp_path: Path) -> None:
    asks = {"question": "Which?", "options": ["red", "blue"], "default": "red"}
    (tmp_path / "out").write_text(json.dumps({"ask": asks}))
    with pytest.raises(Asked) as asked:
        await run("cat out", tmp_path)
    assert (asked.value.question, asked.value.options, asked.value.default) == ("Which?", ("red", "blue"), "red")
    assert asked.value.due_seconds is None


@pytest.mark.parametrize(
    "last", ['{"ask": "why?"}', '{"ask": {"options": []}}', '{"ask": {"question": "?", "who": []}}']
)
async def test_a_last_line_that_asks_for_nothing_is_an_invalid_one(tmp_path: Path, last: str) -> None:
    (tmp_path / "out").write_text(last)
    assert (await failure("cat out", tmp_path)).type == "invalid_result"


async def test_a_line_of_five_megabytes_is_passed_over_or_refused_and_costs_little(tmp_path: Path) -> None:
    long = "head -c 5000000 /dev/zero | tr '\\0' x"
    assert await run(f"{long}; echo; echo done", tmp_path) == Result(summary="done")
    found = await failure(long, tmp_path)
    assert found.type == "invalid_result" and str(module.KEPT_BYTES) in str(found)
    assert (await failure(f"printf '{{'; {long}", tmp_path)).type == "invalid_result"


@pytest.mark.parametrize(
    ("cmd", "said"),
    [
        ("echo first >&2; echo why >&2; exit 7", "ended with exit code 7: why"),
        ("exit 1", "ended with exit code 1: no word on standard error"),
        ("kill -SEGV $$", "was killed by signal 11"),
        ("no-such-program-anywhere", "ended with exit code 127"),
    ],
)
async def test_an_exit_code_fails_the_attempt_with_the_reason_it_gave(tmp_path: Path, cmd: str, said: str) -> None:
    found = await failure(cmd, tmp_path)
    assert said in str(found) and found.type == "agent_error"


async def test_it_is_given_the_task_and_its_folder_and_no_more(tmp_path: Path) -> None:
    await run('cat > stdin; printf %s "$CAIRN_TASK" > variable; env > env; pwd > pwd', tmp_path, title="Tïtle")
    given = json.loads((tmp_path / "stdin").read_text())
    assert given["title"] == "Tïtle" and given["path"] == str(tmp_path)
    assert json.loads((tmp_path / "variable").read_text()) == given
    names = {line.partition("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    assert names - {"PWD", "SHLVL", "_", "OLDPWD"} == {"CAIRN_TASK", "CAIRN_NOTES", *ENVIRONMENT}
    assert (tmp_path / "pwd").read_text().strip() == str(tmp_path)


async def test_a_large_task_comes_on_standard_input_alone(tmp_path: Path) -> None:
    await run('cat > stdin; printf "%s" "${CAIRN_TASK-absent}" > variable', tmp_path, description="x" * 3_000_000)
    assert (tmp_path / "variable").read_text() == "absent"
    assert len(json.loads((tmp_path / "stdin").read_text())["description"]) == 3_000_000


async def test_a_program_that_reads_nothing_is_fine(tmp_path: Path) -> None:
    assert await run("echo done", tmp_path, description="x" * 3_000_000) == Result(summary="done")


async def test_what_it_left_in_the_background_ends_with_it(tmp_path: Path) -> None:
    assert await run("sleep 60 & echo $! > pid; echo done", tmp_path) == Result(summary="done")
    await gone(int((tmp_path / "pid").read_text()))


async def test_a_daemon_that_holds_the_pipes_is_not_waited_for(tmp_path: Path) -> None:
    began = time.monotonic()
    result = await run(
        "setsid sh -c 'echo $$ > pid; exec sleep 60' & while ! test -s pid; do :; done; echo done", tmp_path
    )
    assert result == Result(summary="done")
    assert time.monotonic() - began < module.LINGER_SECONDS + 3
    os.kill(int((tmp_path / "pid").read_text()), 9)


async def test_one_that_is_cancelled_ends_with_all_it_started(tmp_path: Path) -> None:
    running = asyncio.create_task(run("trap '' TERM INT; sleep 60 & echo $! > pid; wait", tmp_path))
    async with asyncio.timeout(SECONDS):
        while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip()):
            await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await gone(int((tmp_path / "pid").read_text()))


KILLED = """
import asyncio, os, sys
from pathlib import Path
from cairn.task import Task
from handlers.agents.program import program

agent = program("coder", sys.argv[1], environment={"PATH": os.environ["PATH"]})
asyncio.run(agent._handler(Task("w", "a", "a/1", 1, "coder", 1, 30.0, 30.0, path=Path(sys.argv[2]))))
"""


@pytest.mark.parametrize("when", ["at work", "as it starts"])
async def test_kill_9_of_the_agent_ends_its_program_and_all_it_started(tmp_path: Path, when: str) -> None:
    cmd = "trap '' TERM INT HUP; cat > given; (sleep 60 & echo $! > inner; wait) & echo $$ > outer; sleep 60; true"
    agent = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, cmd, str(tmp_path))
    written = [tmp_path / "outer", tmp_path / "inner"] if when == "at work" else [tmp_path / "given"]
    async with asyncio.timeout(SECONDS):
        while not all(file.exists() and (when == "as it starts" or file.read_text().strip()) for file in written):
            await asyncio.sleep(0.001)
    agent.kill()
    await agent.wait()
    if when == "at work":
        assert json.loads((tmp_path / "given").read_text())["run"] == "a/1"
    async with asyncio.timeout(SECONDS):
        while [pid for pid in Path("/proc").glob("[0-9]*") if works_in(pid, tmp_path)]:
            await asyncio.sleep(0.01)


def works_in(process: Path, folder: Path) -> bool:
    try:
        return (process / "cwd").readlink() == folder and alive(int(process.name))
    except OSError:
        return False


async def test_without_a_repository_it_works_in_a_folder_that_is_gone_afterwards() -> None:
    agent = program("coder", "touch here; pwd", environment=ENVIRONMENT)
    assert agent._handler is not None
    result = await agent._handler(Task("w", "a", "a/1", 1, "coder", 1, 30.0, 30.0))
    assert result.summary and not Path(result.summary).exists()


async def test_many_at_once_leave_no_descriptor_behind(tmp_path: Path) -> None:
    await run("true", tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    await asyncio.gather(*(run("echo done", tmp_path) for _ in range(30)))
    await asyncio.sleep(0)
    assert len(os.listdir("/proc/self/fd")) <= before


async def test_what_it_says_it_used_goes_with_its_outcome_good_or_bad(tmp_path: Path) -> None:
    line = json.dumps({"summary": "done", "usage": {"model": "m", "input_total": 7, "output": 3, "cost_usd": 0.5}})
    for end in ("", "; exit 3"):
        agent = program("coder", f"echo '{line}'{end}", environment=ENVIRONMENT)
        task = Task("w", "a", "a/1", 1, "coder", 1, 30.0, 30.0, path=tmp_path)
        assert agent._handler is not None
        with suppress(Failed):
            await agent._handler(task)
        assert task.usage == Usage(model="m", input_total=7, output=3, cost_usd=0.5)


async def test_a_usage_that_cannot_be_is_an_invalid_result(tmp_path: Path) -> None:
    for usage in ({"output": -1}, {"output": "many"}, {"input_total": 1, "cache_read": 2}):
        found = await failure(f"echo '{json.dumps({'usage': usage})}'", tmp_path)
        assert found.type == "invalid_result"


@pytest.mark.parametrize("end", ["", "; exit 3", "; sleep 600"])
async def test_its_notes_are_read_from_a_file_and_taken_back_however_it_ends(tmp_path: Path, end: str) -> None:
    cmd = f"""cp "$CAIRN_NOTES" given; printf '{{"old": 1, "new": [2]}}' > "$CAIRN_NOTES"; touch noted{end}"""
    agent = program("coder", cmd, environment=ENVIRONMENT)
    task = Task("w", "a", "a/1", 1, "coder", 1, 30.0, 30.0, path=tmp_path, notes={"old": 1})
    assert agent._handler is not None
    work = asyncio.create_task(agent._handler(task))  # type: ignore[arg-type]
    async with asyncio.timeout(SECONDS):
        while not (tmp_path / "noted").exists():
            await asyncio.sleep(0.01)
        if "sleep" in end:
            work.cancel()
        await asyncio.wait([work])
    assert json.loads((tmp_path / "given").read_text()) == {"old": 1}
    assert task.notes == {"old": 1, "new": [2]}
    assert work.cancelled() or "sleep" not in end


async def test_a_scratchpad_that_is_none_fails_work_that_went_well_and_no_other(tmp_path: Path) -> None:
    found = await failure('echo "[1]" > "$CAIRN_NOTES"', tmp_path)
    assert found.type == "invalid_result" and "CAIRN_NOTES" in str(found)
    assert (await failure('echo "[1]" > "$CAIRN_NOTES"; exit 3', tmp_path)).type == "agent_error"
