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
WAKE_SECONDS = 0.5
"""How often a wait looks whether Ctrl-C was pressed."""

Answer = Callable[[BoardDetail, BoardAsk], None]


def follow(
    client: SyncClient, workflow: str, after: int, screen: Screen, answer: Answer | None, *, end: bool = True
) -> BoardDetail:
    """The workflow as it stands at its end. `answer` is called once for every ask that is open, inside `screen.aside`.

    Raises CairnError when the system stays away for a minute.
    """
    asked: set[str] = set()
    detail = _read(client, workflow, after)
    screen.detail(detail)
    pause = 0.0
    batches = _batches(client.events(after, workflow=workflow, follow=True))
    while True:
        for ask in detail.asks:
            if answer and ask.open and ask.ask not in asked:
                asked.add(ask.ask)
                current, one = detail, ask
                screen.aside(lambda current=current, one=one: answer(current, one))  # type: ignore[misc]
        if end and detail.workflow.status in ENDED:
            return detail
        time.sleep(pause)
        batch = next(batches)
        screen.events(batch)
        begun = time.monotonic()
        detail = _read(client, workflow, int(batch[-1]["sequence"]))
        pause = min((time.monotonic() - begun) * BOARD_SHARE, LONGEST_PAUSE_SECONDS)
        screen.detail(detail)


def _read(client: SyncClient, workflow: str, position: int) -> BoardDetail:
    return msgspec.convert(client.workflow(workflow, position), BoardDetail)


def _batches(events: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """What has come since the last time, never empty. A thread reads, so that Ctrl-C is noticed while nothing comes."""
    arrived: queue.Queue[dict[str, Any] | BaseException] = queue.Queue(10_000)

    def read() -> None:
        try:
            for event in events:
                arrived.put(event)
        except Exception as error:  # noqa: BLE001 handed to the thread that waits for it
            arrived.put(error)

    threading.Thread(target=read, daemon=True, name="events").start()
    while True:
        batch: list[dict[str, Any]] = []
        wait = WAKE_SECONDS
        while True:
            try:
                one = arrived.get(timeout=wait)
            except queue.Empty:
                if batch:
                    break
                continue
            if isinstance(one, BaseException):
                raise one
            batch.append(one)
            wait = TOGETHER_SECONDS
            if len(batch) == arrived.maxsize:
                break
        yield batch
