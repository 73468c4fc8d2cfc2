"""The coverage report that a test leaves in its folder: Cobertura XML, or the JSON of `coverage json`.

What it says of its lines is counted again, and its sums have to agree with that: a report that contradicts itself says
nothing. Branches are left out, whoever counts them.
"""

from fractions import Fraction
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from handlers.agents import report

APART_PERCENT = 1.0
"""Tools round, and some count a line that stands in two classes twice."""
Lines = Annotated[int, Meta(ge=0, le=2**53)]


def read(folder: Path, path: str) -> float:
    """The percentage of lines that ran, rounded to hundredths. Raises report.Unreadable, which says why there is none."""
    text = report.text(folder, path)
    try:
        covered, lines = _of_json(text) if text.lstrip("\ufeff \t\r\n").startswith("{") else _of_xml(text)
    except (ValueError, RecursionError) as error:
        raise report.Unreadable(f"it is no coverage report: {error}") from None
    if not lines:
        raise report.Unreadable("it knows of no lines")
    return round(float(Fraction(100 * covered, lines)), 2)


class _Summary(msgspec.Struct):
    covered_lines: Lines
    num_statements: Lines


class _File(msgspec.Struct):
    summary: _Summary


class _Json(msgspec.Struct):
    """`coverage json`, as much of it as is asked for."""

    totals: _Summary
    files: dict[str, _File]


def _of_json(text: str) -> tuple[int, int]:
    told = msgspec.json.decode(text, type=_Json)
    of_files = [file.summary for file in told.files.values()]
    if any(one.covered_lines > one.num_statements for one in (told.totals, *of_files)):
        raise ValueError("more lines are covered than there are")
    sums = sum(one.covered_lines for one in of_files), sum(one.num_statements for one in of_files)
    if sums != (told.totals.covered_lines, told.totals.num_statements):
        raise ValueError("its totals are not the sums of its files")
    return sums


def _of_xml(text: str) -> tuple[int, int]:
    counted = _Cobertura()
    report.parse(text, counted)
    if counted.rate is None:
        raise ValueError("its first element is no `coverage` with a `line-rate`")
    covered = sum(hit for file in counted.lines.values() for hit in file.values())
    lines = sum(map(len, counted.lines.values()))
    if lines and abs(100 * covered / lines - 100 * counted.rate) > APART_PERCENT:
        raise ValueError(f"its line-rate is {counted.rate:g}, and {covered} of its {lines} lines have hits")
    return covered, lines


class _Cobertura:
    """A parser's target: of each file its lines, and whether they were hit. Lines of methods stand in the class, too."""

    def __init__(self) -> None:
        self.rate: float | None = None
        self.lines: dict[str, dict[int, bool]] = {}
        self._path: list[str] = []
        self._file: dict[int, bool] = {}

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        name = report.local(tag)
        if not self._path and name == "coverage":
            rate = float(attributes.get("line-rate", ""))
            if not 0 <= rate <= 1:
                raise ValueError(f"a line-rate lies between 0 and 1, this one is {rate:g}")
            self.rate = rate
        elif name == "class":
            self._file = self.lines.setdefault(attributes.get("filename", ""), {})
        elif name == "line" and self._path[-2:] == ["class", "lines"]:
            number, hits = int(attributes.get("number", "")), int(attributes.get("hits", ""))
            if hits < 0:
                raise ValueError(f"line {number} was hit {hits} times")
            self._file[number] = self._file.get(number, False) or hits > 0
        self._path.append(name)

    def end(self, _: str) -> None:
        self._path.pop()

    def close(self) -> None:
        """Nothing is built."""
