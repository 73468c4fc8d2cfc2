"""The figures in report.md are the ones that the prices give, computed here a second time and another way."""

import csv
import json
import math
from pathlib import Path

import pytest
from momentum import report
from momentum.strategy import positions

ROOT = Path(__file__).parent.parent


def closes() -> list[float]:
    with (ROOT / "prices.csv").open() as file:
        return [float(row["close"]) for row in csv.DictReader(file)]


def row(name: str) -> list[float]:
    """Return, drawdown, exposure (fractions) and trades of one line of the table."""
    line = next(line for line in (ROOT / "report.md").read_text().splitlines() if line.startswith(f"| {name} |"))
    total, drawdown, exposure, trades = (cell.strip() for cell in line.strip("|").split("|")[1:])
    return [*(float(cell.rstrip("%")) / 100 for cell in (total, drawdown, exposure)), int(trades)]


def test_the_report_is_what_the_script_writes_today():
    assert (ROOT / "report.md").read_text() == report.render()


def test_buy_and_hold_is_last_over_first():
    cost = json.loads((ROOT / "research.json").read_text())["cost"]
    expected = closes()[-1] / closes()[0] * (1 - cost) - 1
    assert row("Buy and hold")[0] == pytest.approx(expected, abs=0.0005)
    assert row("Buy and hold")[2:] == [1, 1]


def test_the_strategy_s_return_is_the_product_of_the_days_it_held():
    research = json.loads((ROOT / "research.json").read_text())
    held, prices = positions(closes(), research), closes()
    trades = sum(a != b for a, b in zip([0, *held], held))
    logs = [math.log(prices[day + 1] / prices[day]) for day in range(len(prices) - 1) if held[day]]
    expected = math.exp(sum(logs)) * (1 - research["cost"]) ** trades - 1
    assert row("Trend with RSI filter")[0] == pytest.approx(expected, abs=0.0005)
    assert row("Trend with RSI filter")[3] == trades


def test_the_report_says_what_it_does_not_prove():
    assert "## Limits" in (ROOT / "report.md").read_text()
