"""A JUnit report as the tester reads it: whoever wrote it, it is read as far as it can be believed, and hurts nobody."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cairn.task import FailedCase
from domain.failures import classify
from handlers.agents import junit, report

ROOM = 8_192


def read(folder: Path, text: str | bytes, characters: int = ROOM):
    (folder / "r.xml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return junit.read(folder, "r.xml", characters)


def test_a_report_of_pytest_tells_how_the_tests_ended_and_why(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\ndef test_a(): pass\ndef test_b(): assert 1 == 2\n@pytest.mark.skip\ndef test_c(): pass\n"
        "@pytest.fixture\ndef broken(): import no_such_package_here\ndef test_d(broken): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=out/r.xml", "test_it.py"]
    bare = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    subprocess.run([*command, "--rootdir", str(tmp_path)], cwd=tmp_path, env=bare, capture_output=True, check=False)
    tally = junit.read(tmp_path, "out/r.xml", ROOM)
    assert tally is not None
    assert (tally.tests, tally.failures, tally.errors, tally.skipped) == (4, 1, 1, 1)
    assert [case.name for case in tally.failed] == ["test_it.test_b", "test_it.test_d"]
    assert "assert 1 == 2" in tally.failed[0].message
    assert classify(1, False, "", told=[case.message for case in tally.failed]) == "missing_dependency"


def test_nested_suites_are_counted_by_their_cases(tmp_path: Path) -> None:
    case = '<testcase classname="m" name="t"><failure message="no">why</failure></testcase>'
    tally = read(
        tmp_path, f'<testsuites tests="9"><testsuite tests="9"><testsuite>{case}</testsuite></testsuite></testsuites>'
    )
    assert tally is not None
    assert (tally.tests, tally.failures, tally.failed) == (1, 1, (FailedCase("m.t", "no\nwhy"),))


LAUGHS = "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(9))


@pytest.mark.parametrize(
    "text",
    [
        f'<?xml version="1.0"?>\n<!-- <a> -->\n<!DOCTYPE x [<!ENTITY l0 "ha">{LAUGHS}]><testsuite>&l9;</testsuite>',
        '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/hostname">]><testsuite><testcase name="&e;"/></testsuite>',
        '<?xml version="1.0" encoding="utf-16"?><testsuite/>'.encode("utf-16"),
        "<testsuite>",
        "no xml",
        b"\xff\xfe\x00",
        "",
    ],
    ids=["laughs", "outside", "utf-16", "cut off", "text", "bytes", "empty"],
)
def test_what_is_no_plain_report_is_none(tmp_path: Path, text: str | bytes) -> None:
    assert read(tmp_path, text) is None


def test_a_report_may_quote_a_document_type_and_be_nested_deep(tmp_path: Path) -> None:
    quoted = "<testcase name='t'><failure><![CDATA[<!DOCTYPE html>]]></failure></testcase>"
    tally = read(tmp_path, f"<testsuite>{quoted}{'<a>' * 50_000}{'</a>' * 50_000}</testsuite>")
    assert tally is not None
    assert tally.failed == (FailedCase("t", "<!DOCTYPE html>"),)


def test_only_the_first_failed_tests_are_named_as_far_as_there_is_room(tmp_path: Path) -> None:
    cases = "".join(f"<testcase name='t{n}'><error>{'x' * 5_000}</error></testcase>" for n in range(100))
    tally = read(tmp_path, f"<testsuite>{cases}</testsuite>", 3_500)
    assert tally is not None
    assert tally.errors == 100
    assert [case.name for case in tally.failed] == ["t0", "t1", "t2"]


def test_no_link_pipe_or_folder_is_read(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "r.xml").write_text("<testsuite/>")
    work = tmp_path / "work"
    work.mkdir()
    (work / "link.xml").symlink_to(outside / "r.xml")
    (work / "out").symlink_to(outside)
    os.mkfifo(work / "pipe.xml")
    (work / "folder.xml").mkdir()
    for path in ("link.xml", "out/r.xml", "pipe.xml", "folder.xml", "missing.xml"):
        report.discard(work, path)
        assert junit.read(work, path, ROOM) is None, path
    assert (outside / "r.xml").exists(), "what a link leads to was removed"


def test_a_report_from_before_is_discarded(tmp_path: Path) -> None:
    (tmp_path / "r.xml").write_text("<testsuite/>")
    report.discard(tmp_path, "r.xml")
    assert junit.read(tmp_path, "r.xml", ROOM) is None


def test_one_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MOST_BYTES", 10)
    assert read(tmp_path, "<testsuite/>") is None
