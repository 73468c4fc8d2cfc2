"""The examples as a stranger runs them: from nothing, through the command line, with nothing played but what says so."""

import re
from pathlib import Path

from cairn.git import IDENTITY

from .desk import desk, git, kinds
from .stage import Json, is_a

EXAMPLES = Path(__file__).parents[2] / "examples"
MOMENTUM, HELLO = EXAMPLES / "momentum", EXAMPLES / "hello-exec"
TASKS = {"research", "indicators", "indicators.fix1", "strategy", "backtest", "report"}
SHA256 = re.compile(r"[0-9a-f]{64}")


def test_momentum_from_nothing_to_a_report_that_a_branch_made_possible() -> None:
    with desk(up=False, CAIRN_SANDBOX="auto") as one:
        data = one.folder
        done = one.cairn("run", MOMENTUM / "plan.json", "--scripted", MOMENTUM / "script", "--yes")
        one.until(lambda: not one.left(), f"all that the run started has ended, but {one.left()}", 10)
        assert not (data / "up.json").exists()
        repository = one.artifacts
        _summary_says(done.out, repository)

        one.start()
        assert "indicators.fix1" in one.cairn("show", "momentum").out
        events = one.events("--workflow", "momentum")
        _failed_for_real_and_was_mended(events)
        _was_approved_by_somebody(events)
        _in_git_as_in_the_ledger(repository, events)
        one.intact()


def _summary_says(out: str, repository: Path) -> None:
    rows = re.findall(r"^(\w*) +(.*)$", out, re.MULTILINE)
    said = dict(rows)
    assert said["workflow"] == "momentum (Momentum study)" and said["status"] == "completed"
    assert said["tasks"] == "5 of 5 tasks completed, 1 debug branch"
    assert said["attempts"] == "6 of work, 6 runs of tests, 1 failed"
    assert "test_failure" in said["failed"] and "mended by indicators.fix1" in said["failed"]
    assert re.search(r"report before_dispatch: approved by \S+: --yes", said["asked"])
    commits = {text.split("ai/generated/momentum/")[1] for name, text in rows if name == "commit"}
    assert commits == TASKS
    assert said["positions"].startswith("1 to ")
    assert said["next"].startswith("cairn up, "), "nothing is up any more: what is said to come next would fail"
    assert ("", "cairn show momentum") in rows and ("", "cairn events --workflow momentum") in rows
    look = re.search(r"git -C (\S+) log --stat (\S+)", out)
    assert look and look[1] == str(repository)
    assert "report.md" in git(Path(look[1]), "log", "--stat", "-1", look[2])


def _failed_for_real_and_was_mended(events: list[Json]) -> None:
    one_task = [event for event in events if str(event["data"].get("task", "")).startswith("indicators")]
    assert kinds(one_task) == [
        "task.dispatched", "task.started", "task.reported",
        "task.dispatched", "task.started", "task.verified", "task.attempt_failed", "task.branched",
        "task.dispatched", "task.started", "task.completed", "task.reported",
        "task.dispatched", "task.started", "task.verified", "task.completed",
    ]  # fmt: skip
    first, second = (event["data"] for event in one_task if is_a(event, "task.verified"))
    assert not first.get("passed", False) and second["passed"]
    [failing], [passing] = first["receipts"], second["receipts"]
    assert failing["exit_code"] == 1 and passing["exit_code"] == 0
    assert "At index 1 diff: 70.08 != 66.32" in failing["output"]
    assert one_task[6]["data"]["failure"]["type"] == "test_failure"
    branch = one_task[7]["data"]["branch"]
    assert (branch["id"], branch["agent_role"], branch["parent_id"]) == ("indicators.fix1", "debugger", "indicators")
    assert one_task[8]["data"]["role"] == "debugger"
    assert "66.32" in one_task[8]["data"]["debug"]["receipts"][0]["output"], "the debugger is not shown what failed"
    for event in events:
        for receipt in event["data"].get("receipts", []):
            assert receipt["isolation"], receipt
            assert SHA256.fullmatch(receipt["output_sha256"]) and receipt["output_bytes"] > 0
    freed = [event for event in events if is_a(event, "task.dispatched")]
    freed = [event for event in freed if event["causationid"] == one_task[-1]["causationid"]]
    assert [event["data"]["task"] for event in freed] == ["strategy", "backtest"], "they were not freed at once"


def _was_approved_by_somebody(events: list[Json]) -> None:
    [opened] = [event for event in events if is_a(event, "ask.opened")]
    [answered] = [event for event in events if is_a(event, "ask.answered")]
    assert answered["data"]["choice"] == "approve" and answered["data"]["because"] == "--yes"
    assert answered["data"]["by"] and answered["data"]["by"] in answered["actor"]
    dispatched = next(event for event in events if is_a(event, "task.dispatched", task="report"))
    assert opened["sequence"] < answered["sequence"] < dispatched["sequence"]


def _in_git_as_in_the_ledger(repository: Path, events: list[Json]) -> None:
    branches = git(repository, "for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads").split()
    assert set(branches) == {f"ai/generated/momentum/{task}" for task in TASKS}
    works = {
        event["data"]["task"]: event
        for event in events
        if is_a(event, "task.dispatched") and not event["data"]["run"].partition("/")[2].startswith("verify")
    }
    read = "--format=%an%n%(trailers:only,unfold)"
    for task in TASKS - {"indicators"}:
        who, *lines = git(repository, "log", "-1", read, f"ai/generated/momentum/{task}").split("\n")
        trailers = dict(line.split(": ", 1) for line in lines if line)
        assert who == trailers["Cairn-Agent"] and who.startswith("scripted-")
        assert trailers["Cairn-Workflow"] == "momentum" and trailers["Cairn-Task"] == task
        assert trailers["Cairn-Attempt"] == "1"
        assert trailers["Cairn-Position"] == str(int(works[task]["sequence"])), "not the position of its dispatch"
    final = "ai/generated/momentum/report"
    assert "report.md" in git(repository, "show", "--stat", final)
    assert git(repository, "show", f"{final}:report.md").startswith("# ")
    merge = git(repository, "log", "-1", "--format=%an <%ae>%n%P", f"{final}~1").split("\n")
    parents = {
        git(repository, "rev-parse", f"ai/generated/momentum/{task}").strip() for task in ("strategy", "backtest")
    }
    assert merge[0] == IDENTITY and set(merge[1].split()) == parents, "the report does not rest on both branches"


def test_hello_exec_is_carried_out_by_shell_scripts_and_the_retry_is_seen() -> None:
    with desk(CAIRN_SANDBOX="auto") as one:
        for role in ("writer", "translator", "coder"):
            one.begin_cairn(role, "agent", "--role", role, "--exec", HELLO / "agents" / f"{role}.sh")
        done = one.cairn("run", HELLO / "plan.json")
        assert re.search(r"^failed +translate/1 by translator-\S+: agent_error: .*ended with exit code 75: "
                         r"the dictionary is lent out.*; tried again as translate/2: completed$",
                         done.out, re.MULTILINE), done.out  # fmt: skip
        events = one.events("--workflow", "hello-exec")
        translate = kinds([event for event in events if event["data"].get("task") == "translate"])
        assert translate[:6] == [
            "task.dispatched", "task.started", "task.attempt_failed", "task.retry_scheduled",
            "task.dispatched", "task.started",
        ]  # fmt: skip
        [failed] = [event for event in events if is_a(event, "task.attempt_failed")]
        [retry] = [event for event in events if is_a(event, "task.retry_scheduled")]
        assert failed["data"]["failure"]["detail"] == "the dictionary is lent out, try again shortly"
        assert retry["data"]["attempt"] == 2
        shown = one.cairn("show", "hello-exec").out
        assert "translate/1" in shown and "translate/2" in shown and "lent out" in shown
        final = "ai/generated/hello-exec/check"
        files = git(one.artifacts, "ls-tree", "-r", "--name-only", final).split()
        assert files == ["README.md", "check.sh", "greetings/en.txt", "greetings/fr.txt", "greetings/nl.txt"]
        one.intact()
