"""Follows one workflow to its end: what happens comes from the event stream, how it stands from the board."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from cairn.calls import ENDED
from cairn.sync import SyncClient
from ops.cli.screen import Screen
from projections.board_rows import BoardAsk, BoardDetail

TOGETHER_SECONDS = 0.05
"""Events that come so close to each other are shown at once."""
BOARD_SHARE = 3
"""Reading the board takes at most one part in so many of the time: a large one is read less often."""
LONGEST_PAUSE_SECONDS = 2.0
LOST_SECONDS = 1.0
"""How long nothing comes before we look whether anything can."""

Answer = Callable[[BoardDetail, BoardAsk], None]
Lost = Callable[[], Exception | None]


def follow(
    client: SyncClient, workflow: str, position: int, screen: Screen, answer: Answer, lost: Lost = lambda: None
) -> BoardDetail:
    """The workflow, which is known to be there at `position`, as it stands at its end.

    `answer` is called once for every ask that is open, inside `screen.aside`. Raises CairnError when the system stays
    away for a minute, or at once what `lost` says of it.
    """
    asked: set[str] = set()
    detail = _read(client, workflow, position)
    screen.detail(detail)
    pause = 0.0
    after = 0 if screen.history else detail.workflow.last
    batches = _batches(client.events(after, workflow=workflow, follow=True), lost)
    while True:
        for ask in detail.asks:
            if ask.open and ask.ask not in asked:
                asked.add(ask.ask)
                current, one = detail, ask
                screen.aside(lambda current=current, one=one: answer(current, one))  # type: ignore[misc]
        if detail.workflow.status in ENDED and after >= detail.workflow.last:
            return detail
        time.sleep(pause)
        batch = next(batches)
        screen.events(batch)
        begun = time.monotonic()
        after = int(batch[-1]["sequence"])
        detail = _read(client, workflow, after)
        pause = min((time.monotonic() - begun) * BOARD_SHARE, LONGEST_PAUSE_SECONDS)
        screen.detail(detail)


def _read(client: SyncClient, workflow: str, position: int) -> BoardDetail:
    return msgspec.convert(client.workflow(workflow, position), BoardDetail)


def _batches(events: Iterator[dict[str, Any]], lost: Lost) -> Iterator[list[dict[str, Any]]]:
    """What has come since the last time, never empty. A thread reads, so that Ctrl-C is noticed while nothing comes."""
    arrived: queue.Queue[dict[str, Any] | Exception] = queue.Queue(10_000)

    def read() -> None:
        try:
            for event in events:
                arrived.put(event)
        except Exception as error:  # noqa: BLE001 handed to the thread that waits for it
            arrived.put(error)

    threading.Thread(target=read, daemon=True, name="events").start()
    while True:
        try:
            found = [arrived.get(timeout=LOST_SECONDS)]
        except queue.Empty:
            if error := lost():
                raise error from None
            continue
        time.sleep(TOGETHER_SECONDS)
        found += [arrived.get_nowait() for _ in range(arrived.qsize())]
        batch = [one for one in found if isinstance(one, dict)]
        if batch:
            yield batch
        for one in found:
            if isinstance(one, Exception):
                raise one
