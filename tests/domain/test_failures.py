"""A receipt, read by its evidence. The outputs are what the tools really print."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from domain.failures import FAILURE_TYPES, SIGNS, classify

CASES = [
    ("sandbox", 137, "Killed\n"),
    ("sandbox", -9, ""),
    ("sandbox", 153, "File size limit exceeded\n"),
    ("sandbox", 125, "docker: Error response from daemon: No such image: cairn\n"),
    ("sandbox", 1, "bwrap: Can't mount proc on /newroot/proc: Operation not permitted\n"),
    ("sandbox", 1, "E   MemoryError\n"),
    ("sandbox", 2, "sh: 1: Cannot fork: Resource temporarily unavailable\n"),
    ("sandbox", 1, "E   OSError: [Errno 28] No space left on device\n"),
    ("sandbox", 1, "E   socket.gaierror: [Errno -3] Temporary failure in name resolution\n"),
    ("missing_dependency", 127, "sh: 1: pytset: not found\n"),
    ("missing_dependency", 1, "./run.sh: line 3: jq: command not found\n"),
    ("missing_dependency", 2, "make: *** [Makefile:2: test] Error 127\n"),
    ("missing_dependency", 2, "E   ModuleNotFoundError: No module named 'numpy'\n=== 1 error in 0.10s ===\n"),
    ("missing_dependency", 1, "ImportError: libGL.so.1: cannot open shared object file: No such file or directory\n"),
    ("missing_dependency", 1, "/usr/bin/python: No module named pytest\n"),
    ("missing_dependency", 1, "node:internal/modules\nError: Cannot find module 'express'\n"),
    ("spec_mismatch", 2, "E   ImportError: cannot import name 'rsi' from 'indicators' (indicators.py)\n"),
    ("spec_mismatch", 1, "E       AttributeError: module 'indicators' has no attribute 'rsi'\n"),
    ("spec_mismatch", 1, "E   AttributeError: partially initialized module 'a' has no attribute 'b'\n"),
    ("spec_mismatch", 1, "E       TypeError: rsi() got an unexpected keyword argument 'window'\n"),
    ("spec_mismatch", 1, "E       TypeError: rsi() missing 1 required positional argument: 'window'\n"),
    ("spec_mismatch", 4, "ERROR: file or directory not found: tests/test_rsi.py\n"),
    ("spec_mismatch", 5, "no tests ran in 0.01s\n"),
    ("implementation_bug", 139, "Segmentation fault\n"),
    ("implementation_bug", 126, "sh: 1: ./run.sh: Permission denied\n"),
    ("implementation_bug", 2, 'E     File "a.py", line 1\nE       x = = 1\nE   SyntaxError: invalid syntax\n'),
    ("implementation_bug", 1, "Traceback (most recent call last):\n  ...\nNameError: name 'x' is not defined\n"),
    ("implementation_bug", 1, "E       TypeError: unsupported operand type(s) for +: 'int' and 'str'\n"),
    ("implementation_bug", 1, "E       json.decoder.JSONDecodeError: Expecting value\n"),
    ("implementation_bug", 1, "FAILED t.py::test_a - ZeroDivisionError: division by zero\n"),
    ("implementation_bug", 1, "\x1b[1m\x1b[31mE   ZeroDivisionError: division by zero\x1b[0m\n"),
    ("implementation_bug", 1, "main.c:3:9: error: expected ';'\n"),
    ("test_failure", 1, "E       assert 55.0 == 70.0\nFAILED t.py::test_rsi - assert 55.0 == 70.0\n"),
    ("test_failure", 1, "E       AssertionError: TypeError: is only mentioned here\n"),
    ("test_failure", 1, "E       Failed: DID NOT RAISE <class 'TypeError'>\n"),
    ("test_failure", 1, "we expect a TypeError: here\n"),
    ("test_failure", 3, ""),
]


@pytest.mark.parametrize(("kind", "exit_code", "output"), CASES)
def test_a_receipt_is_read_by_its_evidence(kind: str, exit_code: int, output: str):
    assert classify(exit_code, False, output) == kind


def test_running_out_of_time_outweighs_whatever_was_printed():
    assert classify(None, True, "E   NameError: name 'x' is not defined\n") == "timeout"
    assert classify(137, True, "") == "timeout"


def test_a_command_that_never_started_is_the_sandboxs_fault():
    assert classify(None, False, "") == "sandbox"


def test_a_pass_cannot_be_classified():
    with pytest.raises(ValueError, match="exit code 0 is a pass"):
        classify(0, False, "")


def test_the_signs_of_a_plan_are_read_before_ours():
    error = "E   ModuleNotFoundError: No module named 'licensed'\n"
    signs = [("sandbox", "No module named 'licensed'", ()), ("spec_mismatch", "", (3,)), ("budget", "quota", (1, 2))]
    assert classify(1, False, error, signs=signs) == "sandbox"
    assert classify(3, False, "", signs=signs) == "spec_mismatch"
    assert classify(1, False, "out of quota", signs=signs) == "budget"
    assert classify(4, False, "out of quota", signs=signs) == "test_failure"
    assert classify(None, True, error, signs=signs) == "timeout"


def test_what_the_report_says_is_read_like_what_was_printed():
    told = ["collection failure\nE   ModuleNotFoundError: No module named 'numpy'"]
    assert classify(1, False, "", told=told) == "missing_dependency"
    assert classify(1, False, "", told=["assert 1 == 2"]) == "test_failure"


def test_a_command_that_took_all_its_time_ran_out_of_it():
    assert classify(1, False, "", seconds=30.0, limit_seconds=30.0) == "timeout"
    assert classify(1, False, "", seconds=29.0, limit_seconds=30.0) == "test_failure"
    assert classify(124, False, "") == "timeout"


def test_the_cause_outweighs_what_follows_from_it():
    both = "E   ModuleNotFoundError: No module named 'numpy'\nE   assert 1 == 2\nE   NameError: name 'x'\n"
    assert classify(1, False, both) == "missing_dependency"
    assert classify(1, False, "E   assert 1 == 2\nE   NameError: name 'x'\n") == "implementation_bug"


def test_every_sign_decides_some_case_and_names_a_known_type():
    first = {next((n for n, sign in enumerate(SIGNS) if sign.fits(code, out)), None) for _, code, out in CASES}
    assert set(range(len(SIGNS))) - first == set()
    assert {sign.type for sign in SIGNS} <= set(FAILURE_TYPES)


@pytest.mark.parametrize(
    "tile", ["FAILED - ", " ", "AttributeError: module '", "a.", "A", "1:", "E ", "make \n", "\x1b["]
)
def test_hostile_output_cannot_stall_the_classifier(tile: str):
    # A backtracking pattern would take minutes here: the suite itself would hang.
    assert classify(1, False, tile * (65_536 // len(tile))) in FAILURE_TYPES


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("test_failure", "def test_it(): assert 1 == 2"),
        ("implementation_bug", "def test_it(): undefined"),
        ("implementation_bug", "def test_it(:"),
        ("missing_dependency", "import no_such_package_here"),
        ("spec_mismatch", "from math import no_such_name"),
        ("spec_mismatch", "import math\ndef test_it(): math.no_such_name"),
    ],
)
def test_what_pytest_really_prints_is_understood(kind: str, body: str, tmp_path: Path):
    (tmp_path / "test_it.py").write_text(body)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "test_it.py"]
    bare = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # ours are most of what a start costs
    run = subprocess.run(command, cwd=tmp_path, env=bare, capture_output=True, text=True, check=False)
    assert classify(run.returncode, False, run.stdout + run.stderr) == kind
