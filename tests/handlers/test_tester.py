"""What the tester hands in: receipts that a report can carry, whatever the tests print."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from cairn.task import Failed, FailedCase, Tally, Task
from cairn.task import Test as Check  # pytest takes any Test... for a suite
from domain.outcome import RECEIPTS_BYTES
from gateway.sandbox.process import Process
from handlers.agents import tester as module

CONTROL = "head -c 20000 /dev/zero | tr '\\000' '\\001'"
"""Each byte takes six in JSON."""


async def test_many_tests_that_print_much_share_the_room_of_a_report() -> None:
    agent = module.tester(Process(namespaces=False))
    assert agent._handler is not None
    tests = [Check(CONTROL)] * 8
    receipts = await agent._handler(Task("w", "a", "a/1", 1, "tester", 1, 30.0, 30.0, "verify", tests=tuple(tests)))
    assert len(msgspec.json.encode(receipts)) <= RECEIPTS_BYTES
    assert all(receipt.output_bytes == 20_000 and receipt.output for receipt in receipts)


async def test_a_task_of_work_is_told_to_ask_somebody_else() -> None:
    agent = module.tester(Process(namespaces=False))
    assert agent._handler is not None
    with pytest.raises(Failed, match=r"task a asks for work.*another agent_role") as failed:
        await agent._handler(Task("w", "a", "a/1", 1, "tester", 1, 30.0, 30.0))
    assert failed.value.type == "spec_mismatch"


@pytest.fixture
def work() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cairn-") as folder:  # pytest's own is closed to the user of a sandbox
        yield Path(folder)


async def test_the_report_that_a_test_leaves_is_part_of_its_receipt(work: Path) -> None:
    agent = module.tester(Process(namespaces=False))
    assert agent._handler is not None
    (work / "r.xml").write_text("<testsuite><testcase name='left'/></testsuite>")
    case = "<testsuite><testcase name='t'><failure>it said no</failure></testcase></testsuite>"
    tests = (Check(f'echo "{case}" > r.xml; exit 1', junit="r.xml"), Check("true", junit="none.xml"), Check("true"))
    task = Task("w", "a", "a/1", 1, "tester", 1, 30.0, 30.0, "verify", tests=tests, path=work)
    first, *others = await agent._handler(task)
    assert first.report == Tally(1, 1, 0, 0, (FailedCase("t", "it said no"),))
    assert [receipt.report for receipt in others] == [None, None]
    assert "sha256:" in first.runtime


async def test_the_coverage_that_a_test_leaves_is_part_of_its_receipt_and_why_there_is_none(work: Path) -> None:
    agent = module.tester(Process(namespaces=False))
    assert agent._handler is not None
    summary = {"covered_lines": 3, "num_statements": 4}
    told = json.dumps({"totals": summary, "files": {"a.py": {"summary": summary}}})
    (work / "left.json").write_text(told)
    tests = (
        Check(f"echo '{told}' > c.json; exit 1", coverage="c.json"), Check("true", coverage="left.json"), Check("true"),
    )  # fmt: skip
    task = Task("w", "a", "a/1", 1, "tester", 1, 30.0, 30.0, "verify", tests=tests, path=work)
    receipts = await agent._handler(task)
    assert [receipt.coverage for receipt in receipts] == [75.0, None, None]
    assert [receipt.uncovered for receipt in receipts] == ["", "left.json: it is not there", ""]
