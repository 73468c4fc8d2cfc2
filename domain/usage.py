"""What an attempt has used up, and what that costs by the prices that a workflow was started with.

None is *unknown*: nobody has said it. It is never taken for 0, and a sum with an unknown part is unknown.
"""

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

CostSource = Literal["reported", "computed", "unknown"]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Usd = Annotated[float, Meta(ge=0, le=1e12)]

_DATED = re.compile(r"[-@](?:\d{8}|\d{4}-\d{2}-\d{2})\Z")


class Spent(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """In an agent's words. `input_total` counts all tokens read, those from a cache (`cache_read`) and those put into
    one (`cache_write`) among them; `turns` are answers of the model; `cost_usd` is what the provider says."""

    model: str | None = None
    turns: Count | None = None
    input_total: Count | None = None
    cache_read: Count | None = None
    cache_write: Count | None = None
    output: Count | None = None
    cost_usd: Usd | None = None

    @property
    def tokens(self) -> int | None:
        """Read and written together."""
        return None if self.input_total is None or self.output is None else self.input_total + self.output


class Usage(Spent, frozen=True, omit_defaults=True, kw_only=True):
    """What an attempt has used: `seconds` from its start to its end, which we measure, and what its agent says."""

    seconds: float
    cost_source: CostSource = "unknown"

    @property
    def told(self) -> Spent:
        """As much of it as the agent has said."""
        said = {name: getattr(self, name) for name in Spent.__struct_fields__}
        return Spent(**said if self.cost_source == "reported" else said | {"cost_usd": None})


class Price(msgspec.Struct, frozen=True, array_like=True):
    """US dollars per million tokens."""

    input: float
    output: float
    cache_read: float
    cache_write: float


class Prices(msgspec.Struct, frozen=True):
    """The table of a day: `date` as 2026-03-21, models by name, without the date that providers end names with."""

    date: str
    models: dict[str, Price]

    def of(self, model: str) -> Price | None:
        return self.models.get(model) or self.models.get(_DATED.sub("", model))


def usage(spent: Spent | None, seconds: float, prices: Prices | None) -> Usage:
    """What an attempt of so many seconds has used; its cost from the prices if the agent did not say it."""
    seconds = round(max(seconds, 0.0), 3)
    if spent is None:
        return Usage(seconds=seconds)
    told: dict[str, Any] = msgspec.structs.asdict(spent)
    source: CostSource = "reported" if told.get("cost_usd") is not None else "unknown"
    if source == "unknown" and (cost := computed_usd(spent, prices)) is not None:
        told["cost_usd"], source = cost, "computed"
    return Usage(**told, seconds=seconds, cost_source=source)


def computed_usd(spent: Spent, prices: Prices | None) -> float | None:
    """None unless the model has a price and all tokens are known; of a cache that nobody mentions nothing was used."""
    price = prices.of(spent.model) if prices and spent.model else None
    if price is None or spent.input_total is None or spent.output is None:
        return None
    read, written = spent.cache_read or 0, spent.cache_write or 0
    plain = spent.input_total - read - written
    cost = plain * price.input + read * price.cache_read + written * price.cache_write + spent.output * price.output
    return round(cost / 1e6, 9)
