"""The benchmark measures: it never judges, so all that is asked of it here is that it runs and says what it saw."""

import json
import subprocess
import sys
from pathlib import Path

from ops.bench.usage import cpu_seconds, memory_mb
from ops.views import VIEWS


def test_a_small_shape_is_carried_out_and_its_figures_printed() -> None:
    before = set(Path("/tmp").glob("cairn-bench-*"))
    command = [sys.executable, "-m", "cairn", "bench", "tasks", "--workflows", "2", "--tasks", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert (figures["workflows"], figures["tasks"]) == (2, 3)
    assert figures["events"] == 2 * (1 + 3 * 3 + 1)
    assert figures["tasks_per_s"] > 0
    assert figures["assignment_ms"]["p99"] >= figures["assignment_ms"]["p50"] > 0
    assert set(figures["cpu_us_per_task"]) == {"server", "agent", "postgres", "nats"}
    assert set(Path("/tmp").glob("cairn-bench-*")) <= before


def test_usage_counts_a_process_and_what_it_started() -> None:
    busy = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    child = subprocess.Popen([sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout
    child.stdout.readline()
    used = cpu_seconds(child.pid)
    assert used["own"] >= 0.25  # the kernel counts in ticks of 10 ms
    assert memory_mb(child.pid) > 1
    child.communicate(b"\n")


def test_runs_that_fail_are_tried_again_or_mended_until_nothing_is_left_standing() -> None:
    command = [sys.executable, "-m", "cairn", "bench", "failures", "--workflows", "3", "--tasks", "20"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    figures = json.loads(done.stdout)
    assert (figures["tasks"], figures["stuck"]) == (60, 0)
    assert figures["failed_runs"] >= figures["retries"] > 0 and figures["branches"] > 0
    assert sum(figures["ended"].values()) == 3


def test_each_view_is_rebuilt_from_a_small_ledger() -> None:
    command = [sys.executable, "-m", "cairn", "bench", "projections", "--events", "500"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    _, *figures = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["bench"] for one in figures] == ["read and decode", *(f"rebuild {view}" for view in VIEWS)]
    assert all(one["events"] >= 500 and one["events_per_s"] > 0 for one in figures)


def test_the_gateway_is_measured_part_by_part() -> None:
    small = ["--rates", "200", "--seconds", "1", "--tasks", "60", "--clients", "5", "--workflows", "2", "--turns", "1"]
    command = [sys.executable, "-m", "cairn", "bench", "gateway", "-o", "json", "--events", "900", *small]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    _, latency, workflow, index, *pages, clients = map(json.loads, done.stdout.splitlines())
    assert latency["seen"] >= latency["paced_per_s"] * 0.7 and latency["follower_p99_ms"] > 0 < latency["board_p99_ms"]
    assert workflow["tasks"] == 60 and workflow["p99_ms"] >= workflow["p50_ms"] > 0
    assert index["events"] >= 900
    found = {page["filter"]: page["events"] for page in pages}
    assert found["nothing"] > found["a workflow"] > found["a task of a workflow"] > 0 < found["all at once"]
    assert found["a word nobody said"] == found["what never is together"] == 0
    assert clients["clients"] == clients["connected_at_the_end"] == 5
    assert clients["ratio_median"] > 0 and clients["memory_mb"]["at_the_end"] > 0
