"""When the strategy is in the market (1) and when it is not (0)."""

import csv
import json
from pathlib import Path

from momentum.strategy import positions

ROOT = Path(__file__).parent.parent
SMALL = {"sma_fast": 2, "sma_slow": 4, "rsi_period": 3, "rsi_entry": 55, "rsi_exit": 45}


def closes() -> list[float]:
    with (ROOT / "prices.csv").open() as file:
        return [float(row["close"]) for row in csv.DictReader(file)]


def research() -> dict[str, float]:
    return json.loads((ROOT / "research.json").read_text())


def test_it_stays_out_until_every_indicator_is_known():
    held = positions(closes(), research())
    assert len(held) == len(closes())
    assert set(held[: research()["sma_slow"] - 1]) == {0}


def test_it_buys_a_rise_and_leaves_a_fall():
    assert positions([10, 11, 12, 13, 14, 15, 9, 5, 4], SMALL) == [0, 0, 0, 1, 1, 1, 0, 0, 0]


def test_it_never_buys_a_fall():
    assert positions([20, 19, 18, 17, 16, 15], SMALL) == [0] * 6


def test_between_entry_and_exit_it_keeps_what_it_has():
    tight, loose = {**SMALL, "rsi_entry": 95, "rsi_exit": 94}, {**SMALL, "rsi_entry": 95, "rsi_exit": 45}
    wobble = [10, 11, 12, 13, 14, 13.8, 14.5, 15]
    assert positions(wobble, tight)[5] == 0
    assert positions(wobble, loose)[5] == 1


def test_the_future_does_not_change_the_past():
    series = closes()
    crash = series[:150] + [price / 2 for price in series[150:]]
    assert positions(series, research())[:150] == positions(crash, research())[:150]


def test_on_the_study_s_prices_it_is_sometimes_in_and_sometimes_out():
    assert set(positions(closes(), research())) == {0, 1}
