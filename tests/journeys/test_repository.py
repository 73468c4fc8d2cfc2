"""`cairn run plan --repo PATH`: work on a person's own repository, of which nothing but our branches may change."""

import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from .desk import Desk, desk, git, kinds
from .stage import Json, is_a

WRITES = """#!/bin/sh
# Every task adds a file of its own name, a line to the common file, and what it found.
set -eu
name=$(python3 -c 'import json, os; print(json.loads(os.environ["CAIRN_TASK"])["task"])')
ls > "$name.txt"
python3 - "$name" <<'END'
import json, os, sys
task = json.loads(os.environ["CAIRN_TASK"])
if task["inputs"].get("shared"):
    open("shared.txt", "w").write(f"as {sys.argv[1]} has it\\n")
END
echo '{"summary": "wrote"}'
"""
MENDS = """#!/bin/sh
# What two branches made of one file lies here with git's marks; both are kept, then the work itself is done.
set -eu
python3 - <<'END'
import json, os
task = json.loads(os.environ["CAIRN_TASK"])
assert task["debug"]["reason"] == "merge_conflict", task["debug"]
assert "shared.txt" in task["debug"]["instructions"], task["debug"]
lines = open("shared.txt").read().splitlines()
assert any(line.startswith("<<<<<<<") for line in lines), lines
kept = [line for line in lines if line[:7] not in ("<<<<<<<", "=======", ">>>>>>>")]
open("shared.txt", "w").write("".join(f"{line}\\n" for line in kept))
open("c.txt", "w").write("after both\\n")
END
echo '{"summary": "kept both"}'
"""


@pytest.fixture(scope="module")
def person() -> Iterator[Desk]:
    """Somebody with a system that is up, and agents that are shell scripts."""
    with desk() as one:
        writes, mends = one.program("writes", WRITES), one.program("mends", MENDS)
        one.begin_cairn("coder", "agent", "--role", "coder", "--exec", writes, "--capacity", "2")
        one.begin_cairn("debugger", "agent", "--role", "debugger", "--exec", mends)
        yield one
        one.intact()


@pytest.fixture
def repository(person: Desk) -> Path:
    """A repository in the middle of its owner's work: staged, changed, new and ignored files, a stash, and hooks that
    tell of every call."""
    path = Path(tempfile.mkdtemp(prefix="repo of ada ", dir=person.at))
    git(person.at, "init", "-q", "-b", "main", str(path))
    for setting in ("user.name=Ada", "user.email=ada@example.invalid", "commit.gpgsign=false"):
        git(path, "config", *setting.split("=", 1))
    (path / "kept.txt").write_text("committed\n")
    (path / "changed.txt").write_text("committed\n")
    (path / "shared.txt").write_text("as it was\n")
    (path / ".gitignore").write_text("ignored.txt\n")
    git(path, "add", ".")
    git(path, "commit", "-q", "-m", "first")
    git(path, "tag", "v1")
    git(path, "branch", "other")
    (path / "changed.txt").write_text("stashed\n")
    git(path, "stash", "-q")
    (path / "staged.txt").write_text("staged\n")
    git(path, "add", "staged.txt")
    (path / "changed.txt").write_text("not staged\n")
    (path / "new.txt").write_text("not known to git\n")
    (path / "ignored.txt").write_text("ignored\n")
    for hook in ("pre-commit", "commit-msg", "post-commit", "post-checkout", "post-merge", "reference-transaction",
                 "post-index-change", "prepare-commit-msg"):  # fmt: skip
        file = path / ".git" / "hooks" / hook
        file.write_text(f"#!/bin/sh\necho {hook} >> {path}.hooks\nexit 1\n")
        file.chmod(0o755)
    return path


def photograph(path: Path) -> Json:
    """All that is the owner's: files with their times, index, refs, reflogs, configuration, what hooks told."""
    files = {
        str(file.relative_to(path)): (sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns)
        for file in sorted(path.rglob("*"))
        if file.is_file() and ".git" not in file.relative_to(path).parts
    }
    inside = {
        name: (path / ".git" / name).read_bytes()
        for name in ("index", "HEAD", "config", "logs/HEAD", "logs/refs/heads/main", "logs/refs/stash", "ORIG_HEAD")
        if (path / ".git" / name).exists()
    }
    refs = [
        line
        for line in git(path, "for-each-ref", "--format=%(objectname) %(refname)").splitlines()
        if not re.search(r" refs/(heads/ai/generated|cairn)/", line)
    ]
    worktrees = git(path, "worktree", "list", "--porcelain").count("worktree ")
    told = Path(f"{path}.hooks")
    return {
        "files": files, "inside": inside, "refs": refs, "worktrees": worktrees,
        "hooks": told.read_text() if told.exists() else "",
    }  # fmt: skip


def test_branches_appear_and_nothing_of_the_owners_is_touched(person: Desk, repository: Path) -> None:
    before = photograph(repository)
    head = git(repository, "rev-parse", "HEAD").strip()
    tests = {"tests": [{"cmd": "test -s c.txt && test -s a.txt && test -s b.txt && test -s kept.txt"}]}
    plan = person.plan(
        "owned", {"id": "a"}, {"id": "b"}, {"id": "c", "dependencies": ["a", "b"], "acceptance_criteria": tests}
    )
    done = person.cairn("run", plan, "--repo", os.path.relpath(repository, person.at))
    assert photograph(repository) == before
    assert f"git -C {shlex.quote(str(repository))} log --stat ai/generated/owned/c" in done.out

    made = git(repository, "for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads/ai").split()
    assert made == [f"ai/generated/owned/{task}" for task in "abc"]
    for task in "ab":
        assert git(repository, "rev-parse", f"ai/generated/owned/{task}~1").strip() == head, "not from the owner's HEAD"
    parents = git(repository, "rev-parse", "ai/generated/owned/c~1^1", "ai/generated/owned/c~1^2").split()
    assert parents == git(repository, "rev-parse", "ai/generated/owned/a", "ai/generated/owned/b").split()
    seen = git(repository, "show", "ai/generated/owned/c:c.txt").split()
    assert {"a.txt", "b.txt", "kept.txt"} <= set(seen)
    assert not {"staged.txt", "new.txt", "ignored.txt"} & set(seen), "an agent saw what the owner had not committed"
    assert git(repository, "show", "ai/generated/owned/c:changed.txt") == "committed\n"

    git(repository, "-c", "core.hooksPath=/dev/null", "commit", "-q", "-m", "the owner goes on")
    git(repository, "-c", "core.hooksPath=/dev/null", "merge", "-q", "--no-edit", "ai/generated/owned/c")
    assert (repository / "c.txt").exists() and (repository / "changed.txt").read_text() == "not staged\n"


def conflicting(**routing: str) -> list[Json]:
    both = [{"id": name, "inputs": {"shared": True}} for name in ("a", "b")]
    tests = {
        "tests": [
            {"cmd": "grep -qx 'as a has it' shared.txt && grep -qx 'as b has it' shared.txt && ! grep '<<<' shared.txt"}
        ]
    }
    task = {"id": "c", "dependencies": ["a", "b"], "acceptance_criteria": tests, "failure_routing": routing}
    return [*both, {**task, "max_attempts": 2, "retry": {"initial_seconds": 0.1}}]


def test_a_merge_conflict_goes_to_whom_the_plan_names_with_the_marks_in_the_files(
    person: Desk, repository: Path
) -> None:
    before = photograph(repository)
    person.cairn("run", person.plan("routed", *conflicting(merge_conflict="debugger")), "--repo", repository)
    events = [event for event in person.events("--workflow", "routed") if event["data"].get("task", "")[:1] == "c"]
    assert kinds(events) == [
        "task.dispatched", "task.started", "task.attempt_failed", "task.branched",
        "task.dispatched", "task.started", "task.completed", "task.reported",
        "task.dispatched", "task.started", "task.verified", "task.completed",
    ]  # fmt: skip
    failure = events[2]["data"]["failure"]
    assert failure["type"] == "merge_conflict" and "shared.txt" in failure["message"]
    assert photograph(repository) == before
    mended = "ai/generated/routed/c"
    assert git(repository, "show", f"{mended}:shared.txt") == "as a has it\nas b has it\n"
    for task in "ab":
        git(repository, "merge-base", "--is-ancestor", f"ai/generated/routed/{task}", mended)


def test_a_merge_conflict_that_nobody_mends_is_tried_again_and_fails_by_its_name(
    person: Desk, repository: Path
) -> None:
    before = photograph(repository)
    done = person.cairn(
        "run", person.plan("unrouted", *conflicting(), escalation={"due_seconds": 0}), "--repo", repository, expect=1
    )
    assert "merge_conflict" in done.out and "shared.txt" in done.out
    failed = [event for event in person.events("--workflow", "unrouted") if is_a(event, "task.attempt_failed")]
    assert [event["data"]["failure"]["type"] for event in failed] == ["merge_conflict"] * 2
    assert photograph(repository) == before
    tasks = {task["task"]: task["status"] for task in person.show("unrouted")["tasks"]}
    assert tasks == {"a": "completed", "b": "completed", "c": "failed"}


def test_what_is_no_repository_or_has_no_commit_is_refused_before_anything_is_recorded(person: Desk) -> None:
    head = len(person.events())
    plan = person.plan("nowhere", {"id": "a"})
    (person.at / "folder").mkdir()
    git(person.at, "init", "-q", "empty")
    for place, why in (("folder", "git init"), ("empty", "make a first commit"), ("absent", "not the top folder")):
        told = person.cairn("run", plan, "--repo", place, expect=2)
        assert why in told.err and not told.out
    assert len(person.events()) == head
