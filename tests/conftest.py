"""Real servers for every test: one Postgres and one NATS per session, a fresh tenant per test."""

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ops.embedded import Embedded
from ops.embedded.nats import Nats
from tests.cluster import fast_disk, with_cluster

LONGEST = (
    "journeys/test_faults.py",
    "chaos/test_storms.py",
    "journeys/test_*.py",
    "ops/test_*.py",
    "projections/test_views.py",
    "test_*.py",
)

# What a shell starts in the background ignores SIGINT, and hands that on; the programs under test are to hear it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A fresh data directory that root's Postgres user can reach too (pytest's own `tmp_path` is closed to it)."""
    folder = _open_folder()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def small_disk(data_dir: Path) -> Iterator[Path]:
    """A disk of 260 MiB of its own."""
    disk = data_dir / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=260m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small disk needs the right to mount: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a Postgres that lives as long as the test session."""
    yield from (servers.database_url for servers in _running(nats_url="nats://unused"))


@pytest.fixture(scope="session")
def nats_url() -> Iterator[str]:
    """The URL of a NATS with JetStream that lives as long as the test session."""
    yield from (servers.nats_url for servers in _running(database_url="postgresql://unused"))


@pytest.fixture
async def own_nats(data_dir: Path) -> AsyncIterator[Nats]:
    """A NATS of the test's own, to be hurt."""
    (data_dir / "log").mkdir()
    server = Nats(data_dir, print)
    await server.start()
    yield server
    if server.child.pid:
        os.kill(server.child.pid, signal.SIGCONT)
    await server.stop()


@pytest.fixture
def tenant() -> str:
    """A name nothing has been stored under yet."""
    return f"t{secrets.token_hex(4)}"


def _running(*, database_url: str | None = None, nats_url: str | None = None) -> Iterator[Embedded]:
    folder = _open_folder(fast_disk())
    if not database_url:
        with_cluster(folder)
    servers = Embedded(folder, database_url=database_url, nats_url=nats_url)
    try:
        asyncio.run(servers.start())
        yield servers
    finally:
        asyncio.run(servers.stop())
        shutil.rmtree(folder)


def _open_folder(disk: Path | None = None) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="cairn-test-", dir=disk))
    folder.chmod(0o711)
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: what is left for the end is short, and no worker waits for another."""
    items.sort(key=lambda item: next((n for n, name in enumerate(LONGEST) if item.path.match(name)), len(LONGEST)))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-skips", action="store_true", help="fail if a test was skipped because this machine lacks something"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Skips(config.getoption("--no-skips")))


class _Skips:
    """Collects the reasons of skipped tests. One that begins with `by design` no installation would change."""

    def __init__(self, forbidden: bool) -> None:
        self._forbidden = forbidden
        self._missing: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and isinstance(report.longrepr, tuple):
            reason = report.longrepr[2].removeprefix("Skipped: ")
            if not reason.startswith("by design"):
                self._missing.append(f"{report.nodeid}: {reason}")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._forbidden and self._missing and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for line in self._missing if self._forbidden else []:
            terminalreporter.write_line(f"skipped, and must not be here: {line}", red=True)
