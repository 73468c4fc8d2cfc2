"""SMA and RSI, against values known from elsewhere.

RSI is J. Welles Wilder's ("New Concepts in Technical Trading Systems", 1978): the first average gain and loss are
plain means of the first `period` changes; each later one is (previous * (period - 1) + current) / period.
PUBLISHED is the 14-day worked example of the RSI article in the StockCharts ChartSchool (spreadsheet cs-rsi: daily
closes of QQQQ to four decimals, RSI to two). THREE_DAYS was worked out by hand, in fractions.
"""

import pytest
from momentum.indicators import rsi, sma

CLOSES = [
    44.3389, 44.0902, 44.1497, 43.6124, 44.3278, 44.8264, 45.0955, 45.4245, 45.8433, 46.0826, 45.8931,
    46.0328, 45.6140, 46.2820, 46.2820, 46.0028, 46.0328, 46.4116, 46.2222, 45.6439, 46.2122, 46.2521,
    45.7137, 46.4515, 45.7835, 45.3548, 44.0288, 44.1783, 44.2181, 44.5672, 43.4205, 42.6628, 43.1314,
]  # fmt: skip
PUBLISHED = [
    70.53, 66.32, 66.55, 69.41, 66.36, 57.97, 62.93, 63.26, 56.06, 62.38,
    54.71, 50.42, 39.99, 41.46, 41.87, 45.46, 37.30, 33.08, 37.77,
]  # fmt: skip

# Changes +1, -1/2, +1, -1/2, +1: RS is 4, then 8/5, then 17/5.
THREE_DAYS = ([10, 11, 10.5, 11.5, 11, 12], [None, None, None, 80, 800 / 13, 850 / 11])


def test_sma_is_the_mean_of_the_last_values():
    assert sma([1, 2, 3, 4, 10], 3) == [None, None, 2, 3, pytest.approx(17 / 3)]


def test_sma_of_one_day_is_the_series_itself():
    assert sma([3.5, 1.25, 2], 1) == [3.5, 1.25, 2]


def test_sma_of_a_short_series_is_unknown_everywhere():
    assert sma([1, 2], 3) == [None, None]
    assert sma([], 3) == []


def test_rsi_is_unknown_until_there_are_enough_changes():
    values = rsi(CLOSES, 14)
    assert len(values) == len(CLOSES)
    assert values[:14] == [None] * 14
    assert rsi(CLOSES[:14], 14) == [None] * 14


def test_the_first_rsi_is_the_published_one():
    assert rsi(CLOSES, 14)[14] == pytest.approx(70.53, abs=0.005)


def test_every_rsi_is_the_published_one():
    assert [round(value, 2) for value in rsi(CLOSES, 14)[14:]] == PUBLISHED


def test_rsi_over_three_days_is_what_the_hand_computes():
    closes, expected = THREE_DAYS
    assert rsi(closes, 3) == [None if value is None else pytest.approx(value) for value in expected]


def test_rsi_is_100_when_nothing_fell_0_when_nothing_rose_and_50_when_nothing_moved():
    assert rsi([1, 2, 3, 4, 5], 3)[3:] == [100, 100]
    assert rsi([5, 4, 3, 2, 1], 3)[3:] == [0, 0]
    assert rsi([7, 7, 7, 7, 7], 3)[3:] == [50, 50]


@pytest.mark.parametrize("indicator", [sma, rsi])
@pytest.mark.parametrize("period", [0, -1])
def test_a_period_below_one_is_refused(indicator, period):
    with pytest.raises(ValueError, match="period"):
        indicator([1, 2, 3], period)
