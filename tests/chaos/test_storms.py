"""Nothing that was answered is lost, both logs are equal, every reader saw it all: after any storm.

More of them than the suite has time for: `make chaos`, which is `python -m tests.chaos.test_storms COUNT [FIRST_SEED]`.
"""

import asyncio
import sys
import time
from collections import Counter

import pytest

from tests.chaos.storm import servers, story

SEEDS = 20
SHARES = 4
SHARE = SEEDS // SHARES


@pytest.mark.parametrize("share", range(SHARES))
async def test_a_ledger_comes_whole_out_of_a_storm(share: int) -> None:
    async with servers() as (running, folder):
        for seed in range(share, SEEDS, SHARES):
            print(f"seed {seed}", flush=True)
            await story(seed, running, folder)


async def chaos(count: int, first: int = 0) -> None:
    faults: Counter[str] = Counter()
    for start in range(first, first + count, SHARE):
        async with servers() as (running, folder):  # NATS sets room aside for each tenant's stream
            for seed in range(start, min(start + SHARE, first + count)):
                began = time.monotonic()
                storm = await story(seed, running, folder)
                faults += storm.faults
                print(f"seed {seed}: whole after {time.monotonic() - began:.1f} s, {dict(storm.faults)}", flush=True)
    print(f"{count} storms, {faults.total()} faults, 0 losses: {dict(faults)}")


if __name__ == "__main__":
    asyncio.run(chaos(*map(int, sys.argv[1:])))
