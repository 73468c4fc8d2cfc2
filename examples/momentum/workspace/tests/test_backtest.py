"""The arithmetic of the backtest, on series short enough for a pocket calculator."""

import pytest
from momentum.backtest import buy_and_hold, run, trend


def test_a_position_earns_the_next_day_s_return():
    assert run([100, 110, 99, 108.9], [1, 0, 1, 1], cost=0, capital=1000).equity == pytest.approx(
        [1000, 1100, 1100, 1210]
    )


def test_no_position_earns_nothing():
    result = run([100, 120, 90], [0, 0, 0], cost=0.01, capital=1000)
    assert result.equity == [1000, 1000, 1000]
    assert (result.trades, result.total_return, result.max_drawdown, result.exposure) == (0, 0, 0, 0)


def test_every_change_of_position_pays_its_cost():
    result = run([100, 100, 100, 100], [0, 1, 0, 0], cost=0.01, capital=1000)
    assert result.trades == 2
    assert result.equity == pytest.approx([1000, 990, 980.1, 980.1])


def test_drawdown_is_the_deepest_fall_from_a_peak():
    result = run([100, 150, 75, 120, 90], [1] * 5, cost=0, capital=1)
    assert result.max_drawdown == pytest.approx(0.5)
    assert result.total_return == pytest.approx(-0.1)


def test_exposure_is_the_share_of_days_held():
    assert run([1, 1, 1, 1], [0, 1, 1, 0], cost=0, capital=1).exposure == 0.5


def test_buy_and_hold_buys_once():
    assert buy_and_hold([5, 6, 7]) == [1, 1, 1]


def test_the_trend_benchmark_holds_above_the_average():
    assert trend([1, 2, 3, 4, 1, 1], 3) == [0, 0, 1, 1, 0, 0]


def test_prices_and_positions_must_match():
    with pytest.raises(ValueError, match="3 closes, 2 positions"):
        run([1, 2, 3], [0, 1], cost=0, capital=1)
