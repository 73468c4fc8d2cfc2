"""Git through the doors that agents use, on real repositories.

It is long because every case is a photograph before and after, and they share the same few owners' repositories.
"""

import asyncio
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairn.git import GitError, MergeConflict
from cairn.repository import Repository
from cairn.workspace import Workspace

AUTHOR = "scripted <scripted@agents.test>"
TRAILERS = {"Cairn-Workflow": "momentum", "Cairn-Task": "indicators"}


def sh(repository: Path, *words: str) -> str:
    """git as the user runs it, from the command line."""
    return subprocess.run(["git", "-C", repository, *words], check=True, capture_output=True, text=True).stdout


def fingerprint(repository: Path) -> tuple[str, ...]:
    """All of the user's that must stay as it is; what Cairn may write is left out."""
    refs = [line for line in sh(repository, "show-ref", "--head").splitlines() if "ai/generated" not in line]
    git_dir = repository / ".git"
    files = [git_dir / name for name in ("index", "HEAD", "config", "logs/HEAD")]
    files += [file for file in sorted(repository.rglob("*")) if file.is_file() and git_dir not in file.parents]
    hashes = [f"{file} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files]
    status = sh(repository, "--no-optional-locks", "status", "--porcelain=v2", "--branch")
    return (status, *(line for line in refs if "refs/cairn/" not in line), *hashes)


@pytest.fixture
async def ours(tmp_path: Path) -> Repository:
    return await Repository.create(tmp_path / "ours.git")


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's repository that is dirty and staged, whose hooks fail, and who signs all commits with a broken key."""
    home, path = tmp_path / "home", tmp_path / "user's repo"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("GIT_CONFIG_GLOBAL", raising=False)
    path.mkdir()
    sh(path, "init", "-q", "-b", "main")
    (home / ".gitconfig").write_text("[user]\n name = The User\n email = user@home.test\n")
    (path / "tracked").write_text("one\n")
    (path / ".gitignore").write_text("*.log\n")
    sh(path, "add", ".")
    sh(path, "commit", "-qm", "first")
    sh(path, "branch", "feature")
    (path / "tracked").write_text("two\n")
    (path / "staged").write_text("staged\n")
    sh(path, "add", "staged")
    (path / "untracked").write_text("mine\n")
    for hook in ("pre-commit", "commit-msg", "post-checkout", "reference-transaction", "pre-merge-commit"):
        script = path / ".git" / "hooks" / hook
        script.write_text(f"#!/bin/sh\ntouch {home}/hook-ran\nexit 1\n")
        script.chmod(0o755)
    with (home / ".gitconfig").open("a") as file:
        file.write("[commit]\n gpgsign = true\n[gpg]\n program = /bin/false\n[core]\n autocrlf = true\n")
    yield path
    assert not (home / "hook-ran").exists()


async def commit(repository: Repository, base: str, folder: Path, **files: str) -> str:
    async with repository.workspace(bases=[base], folder=folder) as workspace:
        for name, text in files.items():
            (workspace.path / name).write_text(text)
        made = await workspace.commit("Work", author=AUTHOR, trailers={})
    assert made
    return made


async def test_nothing_of_the_users_is_touched_by_an_attempt(users: Path, tmp_path: Path) -> None:
    before = fingerprint(users)
    repository = await Repository.open(users)
    base = await repository.head()
    left, right = [await commit(repository, base, tmp_path / "w", **{name: name}) for name in ("left", "right")]
    async with repository.workspace(bases=[left, right], folder=tmp_path / "w") as workspace:
        assert (workspace.path / "tracked").read_bytes() == b"one\n"
        (workspace.path / "ignored.log").write_text("noise")
        (workspace.path / "new").write_text("new\n")
        made = await workspace.commit("Add new", author=AUTHOR, trailers=TRAILERS)
    assert made
    assert await repository.keep("momentum", "new", "run/1", made) == f"refs/cairn/momentum/new/run%2f1.{made[:16]}"
    assert await repository.set_branch("momentum", "new", made) == "ai/generated/momentum/new"
    assert await repository.prune() == ()
    assert fingerprint(users) == before
    assert sh(users, "rev-parse", "ai/generated/momentum/new").strip() == made
    assert sh(users, "worktree", "list", "--porcelain").count("worktree ") == 1
    assert sh(users, "log", "-1", "--format=%an|%ae|%cn|%ce|%G?", made).strip() == (
        "scripted|scripted@agents.test|scripted|scripted@agents.test|N"
    )
    assert await repository.changed_files(base, made) == ("left", "new", "right")
    assert list((tmp_path / "w").iterdir()) == []
    sh(users, "fsck", "--strict")


async def test_the_environment_of_a_git_hook_does_not_lead_elsewhere(
    users: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = sh(users, "rev-parse", "HEAD").strip()
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    repository = await Repository.open(users)
    assert await repository.head() == head
    assert await commit(repository, head, tmp_path / "w", file="text")


async def test_a_filter_of_the_repository_is_found_where_the_user_has_installed_it(
    users: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "home/.local/bin"
    tools.mkdir(parents=True)
    (tools / "shout").write_text("#!/bin/sh\ntr a-z A-Z\n")
    (tools / "shout").chmod(0o755)
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:{tools}")
    (users / ".git/info/attributes").write_text("* filter=shout\n")
    for name, value in (("clean", "cat"), ("smudge", "shout"), ("required", "true")):
        sh(users, "config", f"filter.shout.{name}", value)
    repository = await Repository.open(users)
    async with repository.workspace(bases=[await repository.head()], folder=tmp_path / "w") as space:
        assert (space.path / "tracked").read_text() == "ONE\n"


async def test_a_commit_kept_outlives_a_collection_and_an_unkept_one_does_not(ours: Repository, tmp_path: Path) -> None:
    base = await ours.import_folder(None, message="Start", ref="refs/cairn/w/+base")
    kept, lost = [await commit(ours, base, tmp_path / "w", file=text) for text in ("kept", "lost")]
    await ours.keep("w", "t", "1", kept)
    sh(ours.path, "gc", "--quiet", "--prune=now")
    assert await ours.commit_of(kept) == kept
    with pytest.raises(GitError, match="names no commit"):
        await ours.commit_of(lost)


async def test_two_commits_of_one_run_are_both_kept(ours: Repository, tmp_path: Path) -> None:
    base = await ours.import_folder(None, message="Start", ref="refs/cairn/w/+base")
    believed, late = [await commit(ours, base, tmp_path / "w", file=text) for text in ("believed", "late")]
    for made in (believed, late):
        await ours.keep("w", "t", "1", made)
    sh(ours.path, "gc", "--quiet", "--prune=now")
    assert await ours.missing([believed, late, "0" * 40, f"{base}^{{tree}}"]) == ["0" * 40, f"{base}^{{tree}}"]


async def test_a_repository_takes_all_over_from_another_and_says_what_is_damaged(
    ours: Repository, tmp_path: Path
) -> None:
    base = await ours.import_folder(None, message="Start", ref="refs/cairn/w/+base")
    made = await commit(ours, base, tmp_path / "w", file="text", **{".gitmodules": "[submodule\n"})
    await ours.keep("w", "t", "1", made)
    copy = await Repository.create(tmp_path / "copy.git")
    await copy.take_over(ours.path)
    assert sh(copy.path, "for-each-ref") == sh(ours.path, "for-each-ref") != ""
    await copy.set_branches({("w", "t"): made, ("w", "gone"): base})
    await copy.set_branches({("other", "t"): made}, spared=["w"])
    assert "ai/generated/w/gone" in sh(copy.path, "for-each-ref")
    await copy.set_branches({("w", "t"): base, ("w", "new one"): made})
    branches = sh(copy.path, "for-each-ref", "--format=%(objectname) %(refname:short)", "refs/heads/")
    assert branches == f"{made} ai/generated/w/new%20one\n{base} ai/generated/w/t\n"
    blob = sh(ours.path, "rev-parse", f"{made}:file").strip()
    (ours.path / "objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(GitError, match=blob):
        await (await Repository.create(tmp_path / "another.git")).take_over(ours.path)


async def test_runs_whose_names_look_alike_as_refs_are_kept_apart(ours: Repository) -> None:
    base = await ours.import_folder(None, message="Start", ref="refs/cairn/w/+base")
    names = ("a/b", "a%2fb", "a..b", ".a", "a.", "a.lock", "a b", "ä", "indicators.fix1", "@{", "~^:?*[\\")
    refs = {await ours.keep("w", "t", name, base) for name in names}
    assert len(refs) == len(names)
    assert f"refs/cairn/w/t/indicators.fix1.{base[:16]}" in refs


async def test_create_is_idempotent_even_when_many_do_it_at_once(tmp_path: Path) -> None:
    made = await asyncio.gather(*(Repository.create(tmp_path / "deep" / "er.git") for _ in range(8)))
    assert {repository.path for repository in made} == {tmp_path / "deep" / "er.git"}
    with pytest.raises(GitError, match="no commit to start from"):
        await made[0].head()


async def test_opening_what_is_no_repository_says_so_and_how_to_mend_it(users: Path, tmp_path: Path) -> None:
    (users / "inside").mkdir()
    for path in (tmp_path, tmp_path / "absent", users / "inside"):
        with pytest.raises(GitError, match=r"not the top folder of a Git repository .* git init"):
            await Repository.open(path)


async def test_a_home_in_the_repositorys_configuration_is_found_and_nothing_else_of_it(
    users: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    (home / ".config/git").mkdir(parents=True)
    (home / ".config/git/ignore").write_text("global\n")
    (home / "mine").write_text("local\n")
    sh(users, "config", "core.excludesFile", "~/mine")
    repository = await Repository.open(users)
    start = await repository.head()
    for unignored in (set[str](), {"local"}):
        async with repository.workspace(bases=[start], folder=tmp_path / "w") as workspace:
            for name in ("global", "local"):
                (workspace.path / name).touch()
            made = await workspace.commit("text", author=AUTHOR, trailers=TRAILERS)
        assert made and set(await repository.changed_files(start, made)) == {"global"} | unignored
        sh(users, "config", "core.excludesFile", "")


async def test_a_repository_whose_path_has_a_line_break_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GitError, match="line break"):
        await Repository.create(tmp_path / "two\nlines.git")


async def test_open_takes_bare_repositories_linked_worktrees_and_symlinks(users: Path, tmp_path: Path) -> None:
    head = sh(users, "rev-parse", "HEAD").strip()
    sh(tmp_path, "clone", "-q", "--bare", str(users), "bare")
    sh(users, "-c", "core.hooksPath=/dev/null", "worktree", "add", "-q", str(tmp_path / "linked"), "feature")
    (tmp_path / "link").symlink_to(users)
    for name in ("bare", "linked", "link"):
        repository = await Repository.open(tmp_path / name)
        assert await repository.head() == head
        assert await commit(repository, head, tmp_path / "w", file="text")


async def test_the_same_folder_gives_the_same_commit_and_a_changed_one_another(
    ours: Repository, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "file").write_text("text")
    other = await Repository.create(tmp_path / "other.git")
    first = [await r.import_folder(folder, message="Start", ref="refs/cairn/w/+base") for r in (ours, ours, other)]
    assert len(set(first)) == 1
    (folder / "deep" / "file").write_text("TEXT")
    changed = await ours.import_folder(folder, message="Start", ref="refs/cairn/w/+base")
    assert changed != first[0]
    assert await ours.commit_of("refs/cairn/w/+base") == changed
    assert sh(ours.path, "rev-list", "--count", changed).strip() == "1"


async def test_an_import_takes_the_files_as_they_are(ours: Repository, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    weird = ["a b", "ü 漢", "new\nline", 'quo"te', "back\\slash", "tab\t", "-dash", "ignored.log", "crlf.txt", "…"]
    for name in [*weird, "deep/er/file", ".git/config", "sub/.git/HEAD", "sub/x", "deep/__pycache__/x.pyc"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"line\r\n" + name.encode())
    (folder / ".gitignore").write_text("*.log\n")
    (folder / ".gitattributes").write_text("*.txt text eol=lf\n")
    (folder / "run").write_text("#!/bin/sh\n")
    (folder / "run").chmod(0o755)
    (folder / "huge").write_bytes(os.urandom(5_000_000))
    (folder / "outside").symlink_to("/nowhere/at all")
    (folder / "to-deep").symlink_to("deep")
    (folder / "empty").touch()
    made = await ours.import_folder(folder, message="Start\n\nwith a body", ref="refs/cairn/w/+base")
    async with ours.workspace(bases=[made], folder=tmp_path / "w") as workspace:
        got = {str(p.relative_to(workspace.path)) for p in workspace.path.rglob("*") if p.is_symlink() or p.is_file()}
        plain = [*weird, "deep/er/file", "sub/x", "run", "huge", "empty", ".gitignore", ".gitattributes"]
        assert got == {*plain, "outside", "to-deep", ".git"}
        assert os.readlink(workspace.path / "outside") == "/nowhere/at all"
        assert (workspace.path / "huge").read_bytes() == (folder / "huge").read_bytes()
        assert os.access(workspace.path / "run", os.X_OK)
        assert not os.access(workspace.path / "empty", os.X_OK) or os.geteuid() == 0
    blob = subprocess.run(["git", "-C", ours.path, "show", f"{made}:crlf.txt"], check=True, capture_output=True).stdout
    assert blob == (folder / "crlf.txt").read_bytes()
    sh(ours.path, "fsck", "--strict")


async def test_an_import_refuses_what_it_cannot_hold(ours: Repository, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "folder" / "pipe")
    with pytest.raises(GitError, match="pipe: neither a file"):
        await ours.import_folder(tmp_path / "folder", message="Start", ref="refs/cairn/w/+base")
    with pytest.raises(GitError, match=r"cannot import .*absent"):
        await ours.import_folder(tmp_path / "absent", message="Start", ref="refs/cairn/w/+base")
    with pytest.raises(GitError, match="only refs under refs/cairn/"):
        await ours.import_folder(None, message="Start", ref="refs/heads/main")
    assert sh(ours.path, "for-each-ref") == ""


async def test_weird_names_big_files_and_links_survive_a_commit(ours: Repository, tmp_path: Path) -> None:
    base = await ours.import_folder(None, message="Start", ref="refs/cairn/w/+base")
    names = ("a b", "ü 漢", "new\nline", ":(exclude)x", "-dash")
    async with ours.workspace(bases=[base], folder=tmp_path / "w x") as workspace:
        for name in names:
            (workspace.path / name).write_text(name)
        (workspace.path / os.fsdecode(b"not-utf8-\xff")).write_text("bytes")
        (workspace.path / "huge").write_bytes(b"x" * 5_000_000)
        (workspace.path / "link").symlink_to("/etc/passwd")
        (workspace.path / "__pycache__").mkdir()
        (workspace.path / "__pycache__" / "x.pyc").write_text("noise")
        made = await workspace.commit("Weird", author=AUTHOR, trailers={})
    assert made
    assert set(await ours.changed_files(base, made)) == {*names, "not-utf8-\\xff", "huge", "link"}
    assert sh(ours.path, "show", f"{made}:link") == "/etc/passwd"
    assert len(await ours.diff(base, made, 1000)) < 1100
    assert (await ours.diff(base, made, 1000)).endswith("\n... cut after 1000 bytes ...\n")
    assert "cut after" not in await ours.diff(base, made, 6_000_000)
    with pytest.raises(GitError):
        await ours.diff(base, "0" * 40, 1000)


async def test_a_workspace_without_changes_makes_no_commit(ours: Repository, tmp_path: Path) -> None:
    base = await ours.import_folder(None, message="Start", ref="refs/cairn/w/+base")
    async with ours.workspace(bases=[base], folder=tmp_path / "w") as workspace:
        assert workspace.base == base
        assert await workspace.commit("Nothing", author=AUTHOR, trailers={}) is None
        (workspace.path / "file").write_text("text")
        first = await workspace.commit("One", author=AUTHOR, trailers={})
        assert await workspace.commit("Nothing more", author=AUTHOR, trailers={}) is None
        (workspace.path / "file").unlink()
        second = await workspace.commit("Two", author=AUTHOR, trailers={})
    assert first
    assert second
    assert sh(ours.path, "rev-list", second).split() == [second, first, base]


async def test_what_an_agent_did_with_git_itself_ends_in_the_one_commit(users: Path, tmp_path: Path) -> None:
    repository = await Repository.open(users)
    base = await repository.head()
    async with repository.workspace(bases=[base], folder=tmp_path / "w") as workspace:
        (workspace.path / "by-hand").write_text("text")
        sh(workspace.path, "add", ".")
        quiet = ("-c", "core.hooksPath=/dev/null", "-c", "commit.gpgsign=false")
        sh(workspace.path, *quiet, "commit", "-qm", "agent's own")
        (workspace.path / ".git").unlink()
        (workspace.path / "later").write_text("text")
        made = await workspace.commit("All", author="a bare name", trailers={})
    assert made
    assert sh(users, "rev-list", "--parents", "-1", made).split() == [made, base]
    assert await repository.changed_files(base, made) == ("by-hand", "later")
    assert sh(users, "log", "-1", "--format=%an <%ae>", made) == "a bare name <cairn@localhost>\n"


@pytest.mark.parametrize("committed", [False, True])
async def test_a_repository_inside_a_workspace_is_refused_by_name(
    ours: Repository, tmp_path: Path, committed: bool
) -> None:
    base = await ours.import_folder(None, message="Start", ref="refs/cairn/w/+base")
    async with ours.workspace(bases=[base], folder=tmp_path / "w") as workspace:
        inner = workspace.path / "inner"
        inner.mkdir()
        sh(inner, "init", "-q")
        (inner / "file").write_text("text")
        if committed:
            sh(inner, "add", ".")
            sh(inner, "-c", "user.name=x", "-c", "user.email=x", "commit", "-qm", "inner")
        with pytest.raises(GitError, match="inner"):
            await workspace.commit("Work", author=AUTHOR, trailers={})
        shutil.rmtree(inner / ".git")
        made = await workspace.commit("Work", author=AUTHOR, trailers={})
    assert made
    assert await ours.changed_files(base, made) == ("inner/file",)


@pytest.mark.parametrize(
    "message",
    [
        "Add RSI",
        "Add RSI\n\nLonger words.\n\nSigned-off-by: somebody",
        "Add RSI\n\nCairn-Task: forged\n---\nnot a patch",
        "Add RSI\n\nCairn-Task: forged\n# ------------------------ >8 ------------------------\nhidden",
        "Add\0 RSI \ud800\n\n# Title\nCairn-Task: forged",
        " \n",
    ],
)
async def test_git_reads_exactly_our_trailers_whatever_the_message(
    ours: Repository, tmp_path: Path, message: str
) -> None:
    base = await ours.import_folder(None, message="Start", ref="refs/cairn/w/+base")
    async with ours.workspace(bases=[base], folder=tmp_path / "w") as workspace:
        (workspace.path / "file").write_text("text")
        trailers = {**TRAILERS, "Cairn-Agent": "two\nlines: x"}
        made = await workspace.commit(message, author=AUTHOR, trailers=trailers)
        with pytest.raises(GitError, match="trailer's name"):
            await workspace.commit("Work", author=AUTHOR, trailers={"No good": "x"})
    assert made
    body = sh(ours.path, "log", "-1", "--format=%B", made)
    parse = ["git", "interpret-trailers", "--parse"]
    parsed = subprocess.run(parse, input=body, check=True, capture_output=True, text=True).stdout
    assert parsed == "Cairn-Workflow: momentum\nCairn-Task: indicators\nCairn-Agent: two lines: x\n"
    assert sh(ours.path, "log", "-1", "--format=%(trailers:only)", made).strip() == parsed.strip()


async def test_a_patch_applies_whole_or_not_at_all(ours: Repository, tmp_path: Path) -> None:
    base = await ours.import_folder(None, message="Start", ref="refs/cairn/w/+base")
    one = await commit(ours, base, tmp_path / "w", file="trailing space \n", other="x\n")
    patch = tmp_path / "the patch"
    patch.write_text(await ours.diff(base, one, 10_000))
    async with ours.workspace(bases=[base], folder=tmp_path / "w") as workspace:
        await workspace.apply(patch)
        assert (workspace.path / "file").read_text() == "trailing space \n"
    async with ours.workspace(bases=[base], folder=tmp_path / "w") as workspace:
        (workspace.path / "other").write_text("in the way")
        with pytest.raises(GitError, match="other: already exists"):
            await workspace.apply(patch)
        assert not (workspace.path / "file").exists()
        patch.write_text("--- a/../out\n+++ b/../out\n@@ -0,0 +1 @@\n+x\n")
        with pytest.raises(GitError, match="invalid path"):
            await workspace.apply(patch)


async def test_dependencies_are_merged_into_the_base_the_same_way_every_time(ours: Repository, tmp_path: Path) -> None:
    base = await ours.import_folder(None, message="Start", ref="refs/cairn/w/+base")
    left, right = [await commit(ours, base, tmp_path / "w", **{name: name}) for name in ("left", "right")]
    starts = set()
    for _ in range(2):
        async with ours.workspace(bases=[base, left, right, left], folder=tmp_path / "w") as workspace:
            assert sorted(os.listdir(workspace.path)) == [".git", "left", "right"]
            starts.add(workspace.base)
    assert len(starts) == 1
    merged = starts.pop()
    assert sh(ours.path, "log", "-1", "--format=%P|%an", merged).strip() == f"{left} {right}|Cairn"
    async with ours.workspace(bases=[merged, right], folder=tmp_path / "w") as workspace:
        assert workspace.base == merged
    async with ours.workspace(bases=[base, left], folder=tmp_path / "w") as workspace:
        assert workspace.base == left


async def test_what_was_done_since_is_told_against_all_bases_and_cut_with_a_word(
    ours: Repository, tmp_path: Path
) -> None:
    base = await ours.import_folder(None, message="import", ref="refs/cairn/w/base")
    one = await commit(ours, base, tmp_path, one="1\n", both="here\n")
    two = await commit(ours, base, tmp_path, two="2\n", both="there\n")
    assert await ours.done_since([one], one, 1_000) == ""
    async with ours.workspace(bases=(one, two), folder=tmp_path / "worktrees", marked=True) as space:
        (space.path / "three").write_text("3\n" * 1_000)
        done = await space.commit("more", author=AUTHOR, trailers=TRAILERS)
    assert done
    told = await ours.done_since([one, two], done, 1_000)
    assert "+++ b/three" in told and "b/one" not in told and "b/two" not in told, (
        "what it started from was done by others"
    )
    assert told.endswith("... cut after 1000 bytes ...\n")


async def test_a_merge_is_dated_by_what_it_merges_not_by_the_clock(
    ours: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = await ours.import_folder(None, message="Start", ref="refs/cairn/w/+base")
    sides = []
    for name, seconds in (("left", 1600000000), ("right", 1600000001)):
        monkeypatch.setenv("GIT_COMMITTER_DATE", f"@{seconds} +0000")
        who = ("-c", "user.name=x", "-c", "user.email=x")
        sides.append(sh(ours.path, *who, "commit-tree", f"{base}^{{tree}}", "-p", base, "-m", name).strip())
    async with ours.workspace(bases=sides, folder=tmp_path / "w") as workspace:
        assert sh(ours.path, "log", "-1", "--format=%ct %at", workspace.base) == "1600000001 1600000001\n"


@pytest.mark.parametrize("lock", ["refs/cairn/w/t/1.{base:.16}.lock", "config.lock"])
async def test_a_lock_that_another_process_holds_is_waited_for(ours: Repository, lock: str) -> None:
    base = await ours.import_folder(None, message="Start", ref="refs/cairn/w/+base")
    held = ours.path / lock.format(base=base)
    held.parent.mkdir(parents=True, exist_ok=True)
    held.touch()
    asyncio.get_running_loop().call_later(0.5, held.unlink)
    await Repository.create(ours.path)
    await ours.keep("w", "t", "1", base)
    assert not held.exists()


async def test_a_conflict_names_its_files_and_leaves_nothing(ours: Repository, tmp_path: Path) -> None:
    base = await ours.import_folder(None, message="Start", ref="refs/cairn/w/+base")
    left, right = [
        await commit(ours, base, tmp_path / "w", **{"a b": text, "new\nline": text, "same": "same"})
        for text in ("left", "right")
    ]
    with pytest.raises(MergeConflict) as caught:
        async with ours.workspace(bases=[left, right], folder=tmp_path / "w"):
            pytest.fail("there is nothing to work on")
    assert caught.value.files == ("a b", "new\nline")
    stranger = await ours.import_folder(tmp_path, message="Other", ref="refs/cairn/w/+other")
    with pytest.raises(GitError, match="share no history"):
        async with ours.workspace(bases=[left, stranger], folder=tmp_path / "w"):
            pytest.fail("there is nothing to work on")
    with pytest.raises(GitError, match="at least one"):
        async with ours.workspace(bases=[], folder=tmp_path / "w"):
            pytest.fail("there is nothing to work on")
    assert list((tmp_path / "w").iterdir()) == []


@pytest.mark.parametrize("taken", ["ai", "ai/generated/momentum", "ai/generated/momentum/rsi/deeper"])
async def test_a_branch_whose_name_is_in_the_way_is_named_and_left_alone(users: Path, taken: str) -> None:
    sh(users, "-c", "core.hooksPath=/dev/null", "branch", taken)
    repository = await Repository.open(users)
    head = await repository.head()
    with pytest.raises(GitError, match=f"{taken} exists, and one cannot lie inside the other"):
        await repository.set_branch("momentum", "rsi", head)
    assert sh(users, "rev-parse", taken).strip() == head


async def test_a_branch_moves_unless_somebody_has_it_checked_out(users: Path, tmp_path: Path) -> None:
    repository = await Repository.open(users)
    head = await repository.head()
    one, two = [await commit(repository, head, tmp_path / "w", file=text) for text in ("one", "two")]
    await repository.set_branch("momentum", "rsi", one)
    await repository.set_branch("momentum", "rsi", two)
    assert await repository.commit_of("ai/generated/momentum/rsi") == two
    quiet = ("-c", "core.hooksPath=/dev/null")
    sh(users, *quiet, "worktree", "add", "-q", str(tmp_path / "looking"), "ai/generated/momentum/rsi")
    with pytest.raises(GitError, match=r"checked out in .*looking"):
        await repository.set_branch("momentum", "rsi", one)
    await repository.set_branch("momentum", "rsi", two)
    assert sh(tmp_path / "looking", "status", "--porcelain") == ""
    with pytest.raises(GitError, match="nonexistent object"):
        await repository.set_branch("momentum", "sma", "0123456789" * 4)


async def test_eight_workspaces_at_once_in_each_of_two_processes(ours: Repository, tmp_path: Path) -> None:
    base = await ours.import_folder(None, message="Start", ref="refs/cairn/w/+base")
    script = """if True:
        import asyncio, sys
        from pathlib import Path
        from cairn.repository import Repository
        async def one(repository, name):
            async with repository.workspace(bases=[sys.argv[2]], folder=Path(sys.argv[3])) as workspace:
                (workspace.path / name).write_text(name)
                made = await workspace.commit(name, author="a <b>", trailers={})
            await repository.keep("w", name, "1", made)
            await repository.set_branch("w", name, made)
            await repository.keep("w", "same", "1", made)
        async def main():
            repository = await Repository.open(Path(sys.argv[1]))
            await asyncio.gather(*(one(repository, f"{sys.argv[4]}-{n}") for n in range(8)))
            await repository.prune()
        asyncio.run(main())
    """
    words = [sys.executable, "-c", script, str(ours.path), base, str(tmp_path / "w")]
    running = [await asyncio.create_subprocess_exec(*words, name) for name in ("a", "b")]
    assert [await process.wait() for process in running] == [0, 0]
    branches = sh(ours.path, "for-each-ref", "--format=%(refname:lstrip=5) %(subject)", "refs/heads/ai").splitlines()
    assert sorted(branches) == sorted(f"{p}-{n} {p}-{n}" for p in "ab" for n in range(8))
    assert list((tmp_path / "w").iterdir()) == []
    assert list((ours.path / "worktrees").iterdir()) == []


async def test_prune_removes_what_a_killed_process_left_and_nothing_that_is_in_use(users: Path, tmp_path: Path) -> None:
    before = fingerprint(users)
    quiet = ("-c", "core.hooksPath=/dev/null")
    sh(users, *quiet, "worktree", "add", "-q", "--detach", str(tmp_path / "their own"))
    shutil.rmtree(tmp_path / "their own")
    repository = await Repository.open(users)
    script = """if True:
        import asyncio, sys
        from pathlib import Path
        from cairn.repository import Repository
        async def main():
            repository = await Repository.open(Path(sys.argv[1]))
            async with repository.workspace(bases=["HEAD"], folder=Path(sys.argv[2])) as workspace:
                (workspace.path / "half").write_text("done")
                print(workspace.path, flush=True)
                await asyncio.Event().wait()
        asyncio.run(main())
    """
    pipe = asyncio.subprocess.PIPE
    words = (sys.executable, "-c", script, str(users), str(tmp_path / "w"))
    process = await asyncio.create_subprocess_exec(*words, stdout=pipe)
    try:
        assert process.stdout
        stale = Path((await process.stdout.readline()).decode().rstrip())
        async with repository.workspace(bases=["HEAD"], folder=tmp_path / "w") as workspace:
            assert await repository.prune() == ()
            process.send_signal(signal.SIGKILL)
            await process.communicate()
            (stale / ".git").write_text("damaged")
            assert (stale / "half").exists()
            assert await repository.prune() == (stale,)
            assert not stale.exists()
            assert (workspace.path / "tracked").exists()
            assert "their own" in sh(users, "worktree", "list")
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert await repository.prune() == ()
    assert sh(users, "worktree", "list").count("\n") == 2
    assert fingerprint(users) == before


async def test_a_cancelled_or_failing_attempt_leaves_no_worktree(ours: Repository, tmp_path: Path) -> None:
    base = await ours.import_folder(None, message="Start", ref="refs/cairn/w/+base")
    inside = asyncio.Event()

    async def hang() -> None:
        async with ours.workspace(bases=[base], folder=tmp_path / "w") as workspace:
            (workspace.path / "locked").mkdir()
            (workspace.path / "locked" / "file").touch()
            (workspace.path / "locked").chmod(0o500)
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hang())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for turns in range(40):  # cancelled at ever later points of setting up, many at a time
        tasks = [asyncio.create_task(hang()) for _ in range(3)]
        await asyncio.sleep(turns * 0.001)
        for task in tasks:
            task.cancel()
        done, hanging = await asyncio.wait(tasks, timeout=20)
        assert not hanging
        assert all(task.cancelled() for task in done)
    assert list((tmp_path / "w").iterdir()) == []
    assert list((ours.path / "worktrees").iterdir()) == []
    assert list((ours.path / "cairn" / "worktrees").iterdir()) == []


@pytest.fixture
def somebodys() -> Iterator[Path]:
    """A folder of the user who runs this test; for root of another, whom it is until the end: root may do anything."""
    folder, root = Path(tempfile.mkdtemp(prefix="cairn-git-")), os.geteuid() == 0
    if root:
        shutil.chown(folder, "nobody")
        os.seteuid(folder.stat().st_uid)
    yield folder
    if root:
        os.seteuid(0)
    shutil.rmtree(folder)


async def test_a_worktree_goes_whatever_an_attempt_has_closed_in_it(somebodys: Path) -> None:
    ours = await Repository.create(somebodys / "ours.git")
    base = await ours.import_folder(None, message="Start", ref="refs/cairn/w/+base")
    async with ours.workspace(bases=[base], folder=somebodys / "w") as workspace:
        for mode in (0o000, 0o300, 0o400):
            inner = workspace.path / f"{mode:o}" / "inner"
            inner.mkdir(parents=True)
            (inner / "file").touch()
            inner.chmod(mode)
            inner.parent.chmod(mode)
    assert list((somebodys / "w").iterdir()) == []


async def test_a_worktree_goes_however_deep_an_attempt_has_nested_it(ours: Repository, tmp_path: Path) -> None:
    base = await ours.import_folder(None, message="Start", ref="refs/cairn/w/+base")
    async with ours.workspace(bases=[base], folder=tmp_path / "w") as workspace:
        here = os.open(workspace.path, os.O_RDONLY)
        for _ in range(3_000):
            os.mkdir("d", dir_fd=here)
            inner = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = inner
        os.close(here)
    assert list((tmp_path / "w").iterdir()) == []
    assert await ours.prune() == ()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can work on another user's repository")
async def test_root_leaves_another_users_repository_usable_by_that_user(users: Path, tmp_path: Path) -> None:
    subprocess.run(["chown", "-R", "nobody:nogroup", users], check=True)
    repository = await Repository.open(users)
    made = await commit(repository, await repository.head(), tmp_path / "w", file="text")
    await repository.keep("momentum", "rsi", "1", made)
    await repository.set_branch("momentum", "rsi", made)
    foreign = subprocess.run(["find", users, "!", "-user", "nobody"], check=True, capture_output=True, text=True)
    assert foreign.stdout == ""


async def test_a_workspace_and_a_repository_say_where_they_are(ours: Repository, tmp_path: Path) -> None:
    base = await ours.import_folder(None, message="Start", ref="refs/cairn/w/+base")
    assert ours.path == tmp_path / "ours.git"
    async with ours.workspace(bases=["refs/cairn/w/+base"], folder=tmp_path / "w") as workspace:
        assert isinstance(workspace, Workspace)
        assert workspace.path.parent == tmp_path / "w"
        assert workspace.base == base
