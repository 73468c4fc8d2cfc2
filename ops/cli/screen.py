"""What is seen while a workflow runs: a live board on a terminal, a line per event elsewhere. Both on stderr; on stdout JSON."""

import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console, Group
from rich.live import Live

from ops.cli.board import board
from ops.cli.happened import happened
from ops.cli.rows import json_line
from ops.cli.text import say
from projections.board_rows import BoardDetail

REFRESH_PER_SECOND = 4


class Screen(Protocol):
    history: bool
    """Whether it wants to be told what had happened before it was there."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def events(self, events: Sequence[dict[str, Any]]) -> None:
        """These have happened."""
        ...

    def detail(self, detail: BoardDetail) -> None:
        """This is how the workflow stands now."""
        ...

    def aside(self, talk: Callable[[], None]) -> None:
        """Runs what talks to the person, with the screen out of its way."""
        ...


class Lines:
    """A line per event."""

    history = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def events(self, events: Sequence[dict[str, Any]]) -> None:
        for event in events:
            say(happened(event))

    def detail(self, detail: BoardDetail) -> None:
        pass

    def aside(self, talk: Callable[[], None]) -> None:
        talk()


class JsonLines(Lines):
    """A line of JSON per event, for programs: on stdout."""

    def events(self, events: Sequence[dict[str, Any]]) -> None:
        for event in events:
            print(json_line(event), flush=True)


class LiveBoard:
    """The board, drawn again four times a second so that clocks move."""

    history = False

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._detail: BoardDetail | None = None
        self._live = self._new()

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def events(self, events: Sequence[dict[str, Any]]) -> None:
        pass

    def detail(self, detail: BoardDetail) -> None:
        self._detail = detail
        self._live.refresh()

    def aside(self, talk: Callable[[], None]) -> None:
        self._live.stop()
        talk()
        self._live = self._new()
        self._live.start()

    def _new(self) -> Live:
        return Live(
            console=self._console, get_renderable=self._draw, refresh_per_second=REFRESH_PER_SECOND,
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip

    def _draw(self) -> Group:
        if self._detail is None:
            return Group()
        return Group(*board(self._detail, datetime.now(UTC), self._console.width, self._console.height - 1))


def screen(terminal: bool) -> Screen:
    return LiveBoard() if terminal else Lines()


class _Out(Console):
    def on_broken_pipe(self) -> None:
        raise  # rich calls this while it handles a BrokenPipeError, and would exit with 1


def out() -> Console:
    """Stdout. NO_COLOR is respected, and what is no terminal gets plain text."""
    return _Out(file=sys.stdout)
