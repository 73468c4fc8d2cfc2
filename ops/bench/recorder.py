"""The Postgres recorder of the `eventsourcing` library on the same server: appends a second of one event each."""

import threading
import time
from importlib.util import find_spec
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import uuid4

from ops.bench.writers import EVENT

SECONDS = 2.0


def recorder_rates(dsn: str, writers: tuple[int, ...]) -> dict[int, int] | None:
    """Events a second by number of threads; None where the library is not installed."""
    if find_spec("eventsourcing") is None:
        return None
    from eventsourcing.persistence import StoredEvent
    from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore

    from ledger.codec import encode, tag_of

    url = urlsplit(dsn)
    host = url.hostname or parse_qs(url.query).get("host", [""])[0]
    store = PostgresDatastore(
        dbname=url.path.lstrip("/") or "postgres", host=host, port=str(url.port or 5432),
        user=unquote(url.username or "postgres"), password=unquote(url.password or ""),
        pool_size=max(writers), max_overflow=max(writers),
    )  # fmt: skip
    recorder = PostgresApplicationRecorder(store, events_table_name="others")
    recorder.create_table()
    state, tag, rates = encode(EVENT), tag_of(EVENT), {}
    for many in writers:
        counts = [0] * many
        until = time.perf_counter() + SECONDS

        def write(number: int, counts: list[int] = counts, until: float = until) -> None:
            while time.perf_counter() < until:
                recorder.insert_events([StoredEvent(uuid4(), 0, tag, state)])
                counts[number] += 1

        threads = [threading.Thread(target=write, args=(number,)) for number in range(many)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        rates[many] = round(sum(counts) / SECONDS)
    store.close()
    return rates
