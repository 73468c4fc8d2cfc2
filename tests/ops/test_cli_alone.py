"""`cairn run` where nothing is up: it starts a system of its own, and leaves nothing behind that it should not."""

import json
import os
import re
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cli_home import WAIT_SECONDS, Home, ended, new_home, on_terminal, told, until
from terminal import plain


@pytest.fixture
def home() -> Iterator[Home]:
    made = new_home()
    yield made
    if (made.data / "up.json").exists():  # a test failed half-way
        os.kill(json.loads((made.data / "up.json").read_text())["pid"], signal.SIGTERM)
    until(lambda: not made.runs())
    shutil.rmtree(made.folder)


def test_a_run_alone_starts_a_system_asks_on_the_terminal_and_stops_all_it_started(home: Home) -> None:
    script = home.folder / "script/a"
    script.mkdir(parents=True)
    (script / "1.patch").write_text("--- /dev/null\n+++ b/a.txt\n@@ -0,0 +1 @@\n+hello\n")
    tests = {"tests": [{"cmd": "grep -qx hello a.txt"}]}
    plan = home.plan("alone", {"id": "a", "approval": ["before_dispatch"], "acceptance_criteria": tests})
    answers = [("[l]ater: ", "what?\n"), ("[l]ater: ", "y\n"), ("no reason) ", "I looked\n")]
    code, seen = on_terminal(home, ["run", plan, "--scripted", "script"], answers)
    seen = plain(seen)
    assert code == 0, seen
    assert "starting the system in" in seen and "alone asks a person about task a" in seen
    assert "waits for a person: ask-1" in seen and "1/1 completed" in seen, "the board was not drawn"
    assert "approve? [y]es, [n]o, [l]ater:" in seen and "a before_dispatch: approved by" in seen and "I looked" in seen
    assert re.search(r"status +completed", seen) and re.search(r"commit +\w{10}  ai/generated/alone/a", seen)
    assert not home.runs() and not (home.data / "up.json").exists()
    assert not home.agents(), "an agent outlived the run"


def test_a_run_alone_that_needs_a_person_leaves_its_system_and_agents_running(home: Home) -> None:
    script = home.folder / "script/a"
    script.mkdir(parents=True)
    (script / "1.patch").write_text("--- /dev/null\n+++ b/a.txt\n@@ -0,0 +1 @@\n+hello\n")
    done = home.cairn("run", home.plan("person", {"id": "a", "approval": ["before_dispatch"]}), "--scripted", "script")
    assert done.returncode == 5 and "cairn approve person ask-1" in done.stderr
    stop = re.search(r"stop the system: kill (\d+)", done.stderr)
    assert stop and home.agents()
    assert home.cairn("approve", "person", "ask-1").returncode == 0
    assert home.cairn("watch", "person").returncode == 0
    os.kill(int(stop[1]), signal.SIGTERM)
    until(lambda: not home.runs() and not home.agents())


def test_a_run_that_is_interrupted_stops_its_system_and_the_next_up_carries_on(home: Home) -> None:
    run = home.start("run", home.plan("broken", {"id": "a"}))
    told(run, "task.dispatched")
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=WAIT_SECONDS)
    assert run.returncode == 130 and "broken goes on where it was at the next `cairn up`" in said
    assert not home.runs()
    up = home.start("up")
    told(up, "stop ")
    agent = home.start("agent", "--role", "coder", "--exec", "agents/coder.sh")
    assert home.cairn("watch", "broken").returncode == 0
    up.kill()  # its servers end with it, its address stays behind
    up.communicate()
    until(lambda: not home.runs())
    assert (home.data / "up.json").exists()
    gone = home.cairn("ls")
    assert gone.returncode == 6 and "cairn up" in gone.stderr
    detached = home.cairn("run", "--detach", home.plan("after", {"id": "a"}))
    assert detached.returncode == 0 and detached.stdout == "after\n"
    assert home.cairn("watch", "after").returncode == 0, "the agent did not come back to the system"
    stop = re.search(r"stop the system: kill (\d+)", detached.stderr)
    assert stop
    os.kill(int(stop[1]), signal.SIGTERM)
    until(lambda: not home.runs() and not (home.data / "up.json").exists())
    assert ended(agent) == 0


def test_a_system_that_cannot_start_says_why_and_leaves_nothing(home: Home) -> None:
    home.data.mkdir()
    (home.data / "layout").write_text("999\n")
    done = home.cairn("run", home.plan("never", {"id": "a"}))
    assert done.returncode == 1 and "made by another version" in done.stderr and "fix: " in done.stderr
    (home.data / "layout").unlink()
    home.environment["DATABASE_URL"] = "postgresql://nobody@127.0.0.1:9/none"
    done = home.cairn("run", "never.json")
    assert done.returncode == 1 and "the system did not start" in done.stderr and "up.log" in done.stderr


def test_a_run_starts_a_system_where_another_program_took_the_port_of_one_that_was_killed(home: Home) -> None:
    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(int(self.headers["Authorization"].removeprefix("Bearer ")))

        def log_message(self, *_: object) -> None:
            pass

    home.data.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as stranger:
        threading.Thread(target=stranger.serve_forever, daemon=True).start()
        left = {"pid": 1, "url": f"http://127.0.0.1:{stranger.server_port}", "nats_url": "nats://127.0.0.1:9"}
        for status in ("401", "404"):  # as another Cairn answers, and as a server of something else does
            (home.data / "up.json").write_text(json.dumps({**left, "token": status}))
            plan = home.plan(f"run-{status}", {"id": "a", "approval": ["before_dispatch"]})
            done = home.cairn("run", plan)
            stop = re.search(r"stop the system: kill (\d+)", done.stderr)
            assert done.returncode == 5 and stop, done.stderr
            os.kill(int(stop[1]), signal.SIGTERM)
            until(lambda: not home.runs())
        home.environment["CAIRN_TOKEN"] = "403"
        (home.data / "up.json").write_text(json.dumps({**left, "token": "200"}))
        assert home.cairn("run", plan).returncode == 6, "a token that was named is not passed over"
        (home.data / "up.json").unlink()
        stranger.shutdown()


def test_ctrl_c_ends_a_start_that_still_waits_for_a_server(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://nobody@127.0.0.1:{silent.getsockname()[1]}/none"
        up = home.start("up", DATABASE_URL=url)
        with silent.accept()[0]:  # now it waits for an answer that does not come
            assert ended(up, signal.SIGINT) == 130
    until(lambda: not home.runs())


def test_two_runs_at_once_share_one_system_that_lives_as_long_as_either_needs_it(home: Home) -> None:
    agent = home.start("agent", "--role", "coder", "--exec", "agents/coder.sh")
    slow = home.plan("slow", {"id": "a", "approval": ["before_dispatch"]})
    quick = home.plan("quick", {"id": "a"}, *({"id": f"b{n}", "dependencies": ["a"]} for n in range(8)))
    runs = [home.start("run", slow), home.start("run", quick)]
    said = [run.communicate(timeout=WAIT_SECONDS) for run in runs]
    assert [run.returncode for run in runs] == [5, 0], said
    stop = re.search(r"stop the system: kill (\d+)", said[0][1] + said[1][1])
    assert stop, said
    assert home.cairn("approve", "slow", "ask-1").returncode == 0
    assert home.cairn("watch", "slow").returncode == 0
    os.kill(int(stop[1]), signal.SIGTERM)
    until(lambda: not home.runs())
    assert ended(agent, signal.SIGINT) == 0
