"""The command line without a system: help, bad input, exit codes, and what it costs to start."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ops.cli import COMMANDS
from ops.cli.agent import resolved
from ops.cli.call import explained
from ops.cli.rows import table
from ops.cli.run import roles
from ops.cli.text import clean, line, took
from ops.cli.up import six_lines
from ops.serve import Up
from ops.settings import Settings, load

ROOT = Path(__file__).parents[2]
PLAN = ROOT / "examples/momentum/plan.json"


def cairn(*arguments: str | Path, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """One real call; the environment holds nothing but what is given."""
    return subprocess.run(
        [sys.executable, "-m", "cairn", *map(str, arguments)], cwd=ROOT, input=stdin, text=True, capture_output=True,
        timeout=60, env={"PATH": "/usr/bin:/bin", **environment},
    )  # fmt: skip


def test_help_names_every_command_and_every_exit_code() -> None:
    done = cairn("--help")
    assert done.returncode == 0 and not done.stderr
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    assert "5 waiting for a person, 6 backend unreachable" in done.stdout
    assert cairn().stdout == done.stdout


def test_help_imports_nothing_but_the_standard_library() -> None:
    probe = "import sys; from ops.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, text=True, capture_output=True, check=True)
    assert not {"cyclopts", "rich", "msgspec", "asyncio", "aiohttp", "cairn.client"} & set(done.stderr.split())


@pytest.mark.parametrize("name", [*COMMANDS])
def test_every_command_has_help_of_its_own(name: str) -> None:
    done = cairn(name, "--help")
    assert done.returncode == 0 and f"Usage: cairn {name}" in done.stdout and not done.stderr


def test_the_version_is_that_of_the_package() -> None:
    assert cairn("version").stdout.startswith("cairn 0.1.0 ")
    assert cairn("--version").stdout == cairn("version").stdout


def test_an_unknown_command_or_option_is_a_usage_error_that_names_the_nearest() -> None:
    command, option = cairn("vaildate", PLAN), cairn("run", "--scriptd", "x", PLAN)
    assert command.returncode == option.returncode == 2
    assert 'Did you mean "validate"?' in command.stderr and "fix: cairn --help" in command.stderr
    assert "Did you mean --scripted?" in option.stderr and "fix: cairn run --help" in option.stderr
    assert "Traceback" not in command.stderr + option.stderr


def test_a_valid_plan_is_said_to_be_valid() -> None:
    assert cairn("validate", PLAN).returncode == 0
    assert json.loads(cairn("validate", PLAN, "-o", "json").stdout) == {"valid": True, "problems": []}


def test_every_problem_of_a_plan_is_named_with_its_pointer_and_nothing_is_started(data_dir: Path) -> None:
    plan = {
        "id": "p",
        "tasks": [{"id": "a", "dependencies": ["b"]}, {"id": "b", "dependencies": ["a"], "agnet_role": 1}],
    }
    for command in ("validate", "run"):
        done = cairn(command, "-", stdin=json.dumps(plan), CAIRN_DATA_DIR=str(data_dir))
        assert done.returncode == 2 and not done.stdout
        assert '#/tasks/1/agnet_role: unknown field "agnet_role" (did you mean "agent_role"?)' in done.stderr
        assert "cycle in dependencies: a -> b -> a" in done.stderr
        assert "2 problems; nothing was recorded" in done.stderr
    assert not [*data_dir.iterdir()]
    found = json.loads(cairn("validate", "-", "-o", "json", stdin=json.dumps(plan)).stdout)
    assert not found["valid"] and {one["pointer"] for one in found["problems"]} >= {"/tasks/1/agnet_role"}


def test_a_plan_that_is_not_there_is_a_usage_error() -> None:
    done = cairn("validate", "nowhere.json")
    assert done.returncode == 2 and "nowhere.json cannot be read: No such file" in done.stderr


@pytest.mark.parametrize("command", [["ls"], ["show", "x"], ["watch", "x"], ["events"], ["approve", "x", "ask-1"],
                                     ["cancel", "x"]])  # fmt: skip
def test_what_needs_a_system_says_how_to_start_one(command: list[str], data_dir: Path) -> None:
    done = cairn(*command, "--data-dir", str(data_dir))
    assert done.returncode == 6 and not done.stdout
    assert f"nothing is up in {data_dir}" in done.stderr and f"fix: cairn up --data-dir {data_dir}" in done.stderr


def test_a_system_that_was_killed_is_unreachable(data_dir: Path) -> None:
    left = {"pid": 1, "url": "http://127.0.0.1:9", "token": "t", "nats_url": "nats://127.0.0.1:9", "tenant": "main"}
    (data_dir / "up.json").write_text(json.dumps(left))
    done = cairn("ls", CAIRN_DATA_DIR=str(data_dir))
    assert done.returncode == 6 and "nobody answers at http://127.0.0.1:9" in done.stderr and "cairn up" in done.stderr


def test_config_shows_values_with_their_origin_and_no_secret(data_dir: Path) -> None:
    given = {"NATS_URL": "nats://me:hush@example.org:4222", "CAIRN_LEASE_SECONDS": "5"}
    rows = json.loads(cairn("config", "show", "-o", "json", "--data-dir", data_dir, **given).stdout)
    shown = {row["setting"]: (row["value"], row["from"]) for row in rows}
    assert shown["nats_url"] == ("nats://***@example.org:4222", "NATS_URL")
    assert shown["lease_seconds"] == ("5.0", "CAIRN_LEASE_SECONDS")
    assert shown["data_dir"] == (str(data_dir), "--data-dir")
    assert "hush" not in cairn("config", "show", **given).stdout


def test_a_bad_setting_is_a_usage_error() -> None:
    done = cairn("ls", CAIRN_LISTEN="nowhere")
    assert done.returncode == 2 and "listen (from CAIRN_LISTEN): must be host:port" in done.stderr


def test_the_doctor_says_of_every_line_how_it_is_and_what_to_do(data_dir: Path) -> None:
    environment = {"CAIRN_DATA_DIR": str(data_dir), "CAIRN_LISTEN": "127.0.0.1:0"}
    found = json.loads(cairn("doctor", "-o", "json", **environment).stdout)
    assert {one["status"] for one in found} <= {"ok", "warn", "fail"} and "Postgres" in {one["what"] for one in found}
    assert all(one["fix"] for one in found if one["status"] != "ok")
    broken = cairn("doctor", **environment, DATABASE_URL="postgresql://nobody@127.0.0.1:9/none")
    assert broken.returncode == 1 and "FAIL  Postgres" in broken.stdout and "fix: " in broken.stdout


@pytest.mark.parametrize(("arguments", "said"), [
    (["--role", "coder"], "nothing says how the role coder works"),
    (["--role", "coder", "--exec", "true", "--scripted", "."], "both given"),
    (["--role", "coder", "--scripted", "nowhere"], "is no folder"),
    (["--role", "coder", "--role", "writer", "--exec", "true"], "more than one --role"),
    (["--role", "coder", "--exec", " "], "--exec is empty"),
    (["--role", "tester", "--exec", "true"], "the role tester is built in"),
    (["--role", "coder", "--role", "tester", "--scripted", "."], "the role tester is built in"),
    (["--role", "Bad Role", "--exec", "true"], "role 'Bad Role'"),
    (["--role", "coder", "--exec", "true", "--name", "a/b"], "name 'a/b'"),
    (["--role", "coder", "--exec", "true", "--capacity", "0"], "capacity 0"),
])  # fmt: skip
def test_an_agent_has_to_know_how_to_work(arguments: list[str], said: str) -> None:
    done = cairn("agent", *arguments)
    assert done.returncode == 2 and said in done.stderr and "fix: " in done.stderr


@pytest.mark.parametrize("name", ["../up", "two\nlines", "Upper", "a.lock", ""])
def test_a_workflow_cannot_be_called_what_is_no_id(name: str, data_dir: Path) -> None:
    done = cairn("run", PLAN, "--id", name, "--data-dir", data_dir)
    assert done.returncode == 2 and f"--id {name!r}: " in done.stderr
    assert list(data_dir.iterdir()) == []


def test_a_postgres_that_cannot_be_had_is_unreachable_and_no_defect(data_dir: Path) -> None:
    done = cairn("up", "--testers", "0", "--data-dir", data_dir, DATABASE_URL="postgresql://me@127.0.0.1:9/d")
    assert done.returncode == 6 and "Connection refused" in done.stderr and "DATABASE_URL" in done.stderr
    assert "defect" not in done.stderr


@pytest.mark.parametrize("arguments", [["show", "a\udcff"], ["up", "--data-dir", "/tmp/a\udcff"]])
def test_what_is_no_text_is_a_usage_error(arguments: list[str], data_dir: Path) -> None:
    left = {"pid": 1, "url": "http://127.0.0.1:9", "token": "t", "nats_url": "nats://127.0.0.1:9", "tenant": "main"}
    (data_dir / "up.json").write_text(json.dumps(left))
    done = cairn(*arguments, CAIRN_DATA_DIR=str(data_dir))
    assert done.returncode == 2 and "\\udcff" in done.stderr and "defect" not in done.stderr


def test_a_relative_program_is_found_from_the_folder_the_agent_was_started_in(tmp_path: Path) -> None:
    (tmp_path / "my agents").mkdir()
    (tmp_path / "my agents/a.sh").touch()
    (tmp_path / "a.sh").touch()
    assert resolved("./a.sh --fast 'x y'", tmp_path) == f"{tmp_path}/a.sh --fast 'x y'"
    assert resolved("'my agents/a.sh' 1", tmp_path) == f"'{tmp_path}/my agents/a.sh' 1"
    for untouched in ("a.sh", "./none.sh", "/bin/sh a.sh", "python -m x", "'unbalanced"):
        assert resolved(untouched, tmp_path) == untouched


def test_a_script_plays_every_role_but_the_tester() -> None:
    from domain.validate import parse

    assert roles(parse(PLAN.read_bytes())) == ["coder", "debugger", "researcher", "writer"]


def test_six_lines_tell_where_the_system_is_and_no_secret() -> None:
    settings: Settings = load({"data_dir": "/data"}, {}, Path("/"))
    where = Up(7, "http://127.0.0.1:8700", "tok", "nats://u:hush@127.0.0.1:4222", "postgresql://u:pw@h/d", "main", "/r")
    lines = six_lines(where, settings, "bubblewrap, no network")
    assert len(lines) == 6 and "kill 7" in lines[-1] and "bubblewrap" in lines[4]
    assert not any(secret in text for text in lines for secret in ("hush", "tok", ":pw@"))


def test_what_agents_say_cannot_move_the_cursor_or_hide_text() -> None:
    assert clean("a\x1b[2Jb\x07\r\x9b\u202e") == "a\\x1b[2Jb\\x07\\x0d\\x9b\\u202e"
    assert clean("two\nlines\tand tab") == "two\nlines\tand tab"
    assert line(" a\n b\tc ") == "a b c" and line("abcdef", 4) == "abc…"


def test_durations_and_tables_are_as_people_read_them() -> None:
    assert [took(s) for s in (-1, 0.44, 42, 185, 7_800)] == ["0.0 s", "0.4 s", "42 s", "3 m 05 s", "2 h 10 m"]
    assert table(["A", "B"], [["xyz", "1"], ["", "22"]]) == ["A    B", "xyz  1", "     22"]


def test_what_nobody_foresaw_says_so_and_shows_no_traceback() -> None:
    stopped = explained(ZeroDivisionError("division by zero"), ["ls"])
    assert stopped.code == 1 and "a defect of Cairn" in stopped.text() and "--debug" in stopped.text()


def test_a_traceback_is_shown_with_debug_only(data_dir: Path) -> None:
    (data_dir / "up.json").write_text("{")
    assert "Traceback" not in cairn("ls", "--data-dir", str(data_dir)).stderr
    assert "Traceback" in cairn("ls", "--debug", "--data-dir", str(data_dir)).stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_output_is_no_error(closed: str) -> None:
    call = f'"{sys.executable}" -m cairn config show {closed}'
    done = subprocess.run(call, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr


def test_a_locale_that_is_not_utf8_leads_to_the_same_system(data_dir: Path) -> None:
    folder = data_dir / "ü"
    folder.mkdir()
    left = {"pid": 1, "url": "http://127.0.0.1:9", "repository": str(folder)}
    (folder / "up.json").write_text(json.dumps(left, ensure_ascii=False), "utf-8")
    ascii = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = cairn("ls", CAIRN_DATA_DIR=str(folder), **ascii)
    assert done.returncode == 6 and "nobody answers at http://127.0.0.1:9" in done.stderr


@pytest.mark.parametrize("words", ["--help", "version", "config show", "config show -o json"])
def test_output_that_nobody_reads_any_more_ends_it_without_a_word(words: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-m", "cairn", *words.split()], cwd=ROOT, stdout=writing,
                          stderr=subprocess.PIPE, text=True)  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("words", ["--help", "version", "config show", "run --help"])
def test_output_that_cannot_be_written_is_one_line_of_error(words: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "cairn", *words.split()], cwd=ROOT, stdout=full,
                              stderr=subprocess.PIPE, text=True, env={"PATH": "/usr/bin:/bin"})  # fmt: skip
    told = "cairn: the output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, told)


def test_an_error_that_nobody_can_be_told_of_keeps_its_exit_code() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "cairn", "validate", "nowhere.json"], cwd=ROOT, stderr=full)
    assert done.returncode == 2


def test_a_settings_file_is_utf8_whatever_the_locale(data_dir: Path) -> None:
    (data_dir / "cairn.toml").write_text('tenant = "x"  # für uns\n', "utf-8")
    ascii = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = cairn("config", "show", CAIRN_CONFIG=str(data_dir / "cairn.toml"), **ascii)
    assert done.returncode == 0 and re.search("tenant +x +", done.stdout), done.stderr


def test_the_options_of_everywhere_may_stand_before_the_command_too(data_dir: Path) -> None:
    for words in (["--data-dir", data_dir, "show", "x"], [f"--data-dir={data_dir}", "--debug", "show", "x"]):
        done = cairn(*words)
        assert done.returncode == 6 and f"nothing is up in {data_dir}" in done.stderr
    assert cairn("--data-dir", data_dir, "--help").stdout == cairn("--help").stdout
    assert cairn("--debug").stdout == cairn("--help").stdout
    bare = cairn("--data-dir")
    assert bare.returncode == 2 and "--data-dir" in bare.stderr


def test_the_version_is_given_to_programs_too() -> None:
    told = json.loads(cairn("version", "-o", "json").stdout)
    assert told.keys() == {"name", "version", "python"}
    assert cairn("version").stdout == f"{told['name']} {told['version']} (Python {told['python']})\n"
