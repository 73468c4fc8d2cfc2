"""The research is done when the parameters are complete, sane and argued for."""

import json
from pathlib import Path

ROOT = Path(__file__).parent.parent
NAMES = {"sma_fast", "sma_slow", "rsi_period", "rsi_entry", "rsi_exit", "cost", "capital"}


def parameters() -> dict[str, float]:
    return json.loads((ROOT / "research.json").read_text())


def test_every_parameter_is_given_and_no_other():
    assert set(parameters()) == NAMES


def test_the_fast_average_is_faster_and_both_fit_in_the_data():
    rows = len((ROOT / "prices.csv").read_text().splitlines()) - 1
    assert 1 < parameters()["sma_fast"] < parameters()["sma_slow"] < rows / 2


def test_the_filter_leaves_lower_than_it_enters():
    assert 0 < parameters()["rsi_exit"] < parameters()["rsi_entry"] < 100


def test_costs_are_a_fraction_of_the_trade():
    assert 0 < parameters()["cost"] < 0.02


def test_the_notes_argue_for_every_parameter_and_name_their_sources():
    notes = (ROOT / "docs" / "research.md").read_text()
    assert "## Sources" in notes
    assert [name for name in sorted(NAMES) if f"`{name}`" not in notes] == []
