"""Writes prices.csv: 250 synthetic daily closes in five regimes, the same ones every time."""

import csv
import random
from datetime import date, timedelta
from pathlib import Path

SEED = 1978
START = date(2024, 1, 2)
# (trading days, mean daily return, daily volatility)
REGIMES = [(55, 0.0006, 0.009), (60, 0.0032, 0.010), (45, -0.0030, 0.014), (30, 0.0000, 0.012), (60, 0.0024, 0.009)]


def closes() -> list[float]:
    """The closing prices, in currency units, rounded to cents."""
    dice, price, prices = random.Random(SEED), 100.0, []
    for days, drift, volatility in REGIMES:
        for _ in range(days):
            prices.append(round(price, 2))
            price *= 1 + dice.gauss(drift, volatility)
    return prices


def trading_days(count: int) -> list[date]:
    """The first `count` weekdays from START."""
    days = (START + timedelta(n) for n in range(2 * count))
    return [day for day in days if day.weekday() < 5][:count]


if __name__ == "__main__":
    prices = closes()
    with Path(__file__).with_name("prices.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["date", "close"])
        writer.writerows((day.isoformat(), f"{close:.2f}") for day, close in zip(trading_days(250), prices))
