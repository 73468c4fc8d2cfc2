"""A coverage report as the tester reads it: what it says of its lines, or why it says nothing."""

import json
import sys
from pathlib import Path

import pytest
from test_junit import LAUGHS

from handlers.agents import coverage, report

HEAD = '<?xml version="1.0" ?>\n<!DOCTYPE coverage SYSTEM "http://cobertura.sourceforge.net/xml/coverage-04.dtd">\n'


def lines(*hits: int) -> str:
    return "".join(f'<line number="{n}" hits="{hit}"/>' for n, hit in enumerate(hits, 1))


def cobertura(rate: object, *files: str, head: str = HEAD) -> str:
    classes = "".join(
        f'<class name="c{n}" filename="{n}.py" line-rate="1"><methods><method><lines>{lines(0, 0)}</lines></method>'
        f"</methods><lines>{one}</lines></class>"
        for n, one in enumerate(files)
    )
    return f'{head}<coverage line-rate="{rate}"><packages><package><classes>{classes}</classes></package></packages></coverage>'


def of_json(covered: int, statements: int, **files: tuple[int, int]) -> str:
    summary = {"covered_lines": covered, "num_statements": statements, "percent_covered": 99.0}
    each = {name: {"summary": {"covered_lines": c, "num_statements": s}} for name, (c, s) in files.items()}
    return json.dumps({"meta": {"version": "7.6"}, "totals": summary, "files": each})


def read(folder: Path, text: str | bytes) -> float:
    (folder / "c").write_bytes(text if isinstance(text, bytes) else text.encode())
    return coverage.read(folder, "c")


def test_lines_that_ran_are_counted_from_what_both_forms_say_of_each(tmp_path: Path) -> None:
    assert read(tmp_path, cobertura(0.6, lines(3, 0, 1), lines(1, 0))) == 60.0
    assert read(tmp_path, cobertura(0.6667, lines(1, 0, 1), head="")) == 66.67
    assert read(tmp_path, cobertura(1.0, lines(1, 0) + lines(0, 2))) == 100.0, "a line that stands there twice is one"
    assert read(tmp_path, of_json(5, 8, **{"a.py": (2, 4), "b.py": (3, 4)})) == 62.5
    assert read(tmp_path, cobertura(0, lines(0))) == 0.0


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (cobertura(1.0, lines(1, 0)), "its line-rate is 1, and 1 of its 2 lines have hits"),
        (cobertura(2, lines(1)), "lies between 0 and 1"),
        (cobertura("nan", lines(1)), "lies between 0 and 1"),
        (cobertura("much", lines(1)), "no coverage report"),
        (cobertura(1, '<line number="1" hits="-4"/>'), "hit -4 times"),
        (cobertura(1, '<line number="1"/>'), "no coverage report"),
        (cobertura(1), "no lines"),
        (cobertura(1, lines(1))[:-9], "no XML"),
        ("<testsuite/>", "its first element is no `coverage`"),
        (f'<!DOCTYPE coverage [<!ENTITY l0 "ha">{LAUGHS}]><coverage line-rate="1">&l9;</coverage>', "document type"),
        (f'{HEAD}<coverage line-rate="1">&e;</coverage>', "no XML"),
        (of_json(9, 8, **{"a.py": (9, 8)}), "more lines are covered than there are"),
        (of_json(8, 8, **{"a.py": (1, 8)}), "not the sums"),
        (of_json(0, 0), "no lines"),
        (of_json(-1, 8), "no coverage report"),
        ('{"totals": {"percent_covered": 100}}', "no coverage report"),
        ("{" + '"a":{' * 100_000, "no coverage report"),
        (b"\xff\xfe", "not UTF-8"),
        ("", "no XML"),
    ],
)
def test_a_report_that_lies_or_is_broken_says_nothing_and_why(tmp_path: Path, text: str | bytes, why: str) -> None:
    with pytest.raises(report.Unreadable, match=why):
        read(tmp_path, text)


def test_one_that_is_missing_or_no_file_says_nothing(tmp_path: Path) -> None:
    with pytest.raises(report.Unreadable, match="not there"):
        coverage.read(tmp_path, "c")
    (tmp_path / "c").symlink_to(sys.executable)
    with pytest.raises(report.Unreadable, match="cannot be read"):
        coverage.read(tmp_path, "c")
