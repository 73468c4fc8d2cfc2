"""A state read back is the state that was kept, and whatever is wrong with a snapshot, the events decide."""

import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import msgspec
import psycopg
import pytest
from appends import until
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.commands import StartWorkflow
from domain.events import WorkflowEvent
from domain.plan import Task
from domain.state import Workflow, evolve, replay
from ledger import snapshots
from ledger.append import Append, NewEvent
from ledger.ledger import Ledger
from ledger.recorded import Recorded
from ledger.snapshots import FOLDING, code_of
from tests.domain.test_histories import FATES, MOVES, Move, Witness, lived, plans
from tests.spec import completed, start

STREAM = "workflow-w"
ROOT = Path(__file__).parents[2]


def folded(recorded: list[Recorded], onto: Workflow | None = None) -> Workflow:
    return replay([one.event for one in recorded], onto)  # type: ignore[misc]


def copied(state: Workflow) -> Workflow:
    return msgspec.json.decode(snapshots._encode(state), type=Workflow)


async def begun(ledger: Ledger) -> list[Recorded]:
    """A stream of a few events."""
    witness = Witness()
    for command in (start(Task("a"), Task("b", dependencies=("a",))), completed("a/1", 1), completed("b/1", 2)):
        witness.see(command)
    return await ledger.append(Append(STREAM, 0, [NewEvent(one, uuid4(), "ann") for one in witness.events]))


async def kept(ledger: Ledger, recorded: list[Recorded]) -> Workflow:
    """Keeps a snapshot after the last of these events."""
    state = folded(recorded)
    ledger.snapshots.offer(recorded[-1], state)
    await until(lambda: not ledger.snapshots._waiting)
    return state


async def alter(url: str, tenant: str, change: str) -> None:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await connection.execute(f"SET search_path = cairn_{tenant}")
        assert (await connection.execute(change)).rowcount == 1


@settings(max_examples=60, deadline=None)
@given(plan=plans(), moves=st.lists(MOVES, max_size=20), fate=FATES)
def test_a_snapshot_after_any_event_and_the_rest_fold_to_what_all_events_do(
    plan: StartWorkflow, moves: list[Move], fate: list[int]
) -> None:
    witness = lived(plan, moves, fate)
    stored = msgspec.json.decode(msgspec.json.encode(witness.events), type=list[WorkflowEvent])
    state = Workflow()
    for count, event in enumerate(stored):
        assert replay(stored[count:], copied(state)) == witness.state, f"a snapshot after {count} events"
        evolve(state, event)
    assert copied(state) == witness.state


async def test_a_stream_is_loaded_from_its_snapshot_and_what_came_after(ledger: Ledger) -> None:
    recorded = await begun(ledger)
    assert await ledger.snapshots.load(STREAM, Workflow) == (None, recorded)
    half = await kept(ledger, recorded[:3])
    state, rest = await ledger.snapshots.load(STREAM, Workflow)
    assert (state, rest) == (half, recorded[2:])
    assert folded(rest[1:], state) == folded(recorded)
    assert await ledger.snapshots.load("workflow-none", Workflow) == (None, [])


async def test_a_snapshot_is_replaced_by_newer_ones_only(ledger: Ledger) -> None:
    recorded = await begun(ledger)
    whole = await kept(ledger, recorded)
    await kept(ledger, recorded[:2])
    assert await ledger.snapshots.load(STREAM, Workflow) == (whole, recorded[-1:])


async def test_a_snapshot_by_other_code_is_passed_over_and_replaced(
    ledger: Ledger, postgres_url: str, tenant: str
) -> None:
    recorded = await begun(ledger)
    await kept(ledger, recorded)
    await alter(postgres_url, tenant, "UPDATE snapshots SET code = 'of yesterday', version = version + 1")
    assert await ledger.snapshots.load(STREAM, Workflow) == (None, recorded)
    half = await kept(ledger, recorded[:3])
    assert await ledger.snapshots.load(STREAM, Workflow) == (half, recorded[2:])


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM snapshots",
        "UPDATE snapshots SET state = 'no JSON'",
        """UPDATE snapshots SET state = '{"tasks": 7}'""",
        """UPDATE snapshots SET state = set_byte(state, 9 + position('"tasks":{"'::bytea IN state), 255)""",
        "UPDATE snapshots SET digest = sha256(digest)",
        "UPDATE snapshots SET version = version + 9",
        "UPDATE snapshots SET version = version - 1",
    ],
)
async def test_whatever_is_wrong_with_a_snapshot_the_events_decide(
    ledger: Ledger, postgres_url: str, tenant: str, change: str
) -> None:
    recorded = await begun(ledger)
    await kept(ledger, recorded[:3])
    await alter(postgres_url, tenant, change)
    assert await ledger.snapshots.load(STREAM, Workflow) == (None, recorded)


async def test_a_snapshot_that_cannot_be_written_is_lost_and_the_next_one_is_not(
    ledger: Ledger, postgres_url: str, tenant: str
) -> None:
    recorded = await begun(ledger)
    async with await psycopg.AsyncConnection.connect(postgres_url) as connection:
        await connection.execute(f"LOCK TABLE cairn_{tenant}.snapshots")
        await kept(ledger, recorded)
    assert await ledger.snapshots.load(STREAM, Workflow) == (None, recorded)
    whole = await kept(ledger, recorded)
    assert await ledger.snapshots.load(STREAM, Workflow) == (whole, recorded[-1:])


async def test_snapshots_that_wait_do_not_pile_up(ledger: Ledger) -> None:
    recorded = await begun(ledger)
    for number in range(100):
        ledger.snapshots.offer(msgspec.structs.replace(recorded[-1], stream=f"workflow-w{number}"), folded(recorded))
    assert len(ledger.snapshots._waiting) == snapshots.WAITING


def test_another_fold_is_other_code(tmp_path: Path) -> None:
    same = [tmp_path / str(number) for number, _ in enumerate(FOLDING)]
    for copy, file in zip(same, FOLDING, strict=True):
        copy.write_bytes(file.read_bytes())
    assert code_of(same) == code_of()
    state = same[[file.name for file in FOLDING].index("state.py")]
    changed = state.read_text().replace("task.failures += 1", "task.failures += 2")
    assert changed != state.read_text()
    state.write_text(changed)
    assert code_of(same) != code_of()


def test_the_code_of_a_snapshot_is_all_that_reads_and_folds_events() -> None:
    script = "import sys, ledger.codec; print(*(it.__file__ for n, it in sys.modules.items() if n[:7] == 'domain.'))"
    used = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    files = {Path(file) for file in used.stdout.split()}
    assert ROOT / "domain" / "events.py" in files
    folding = set(FOLDING)
    assert files <= folding
    assert {ROOT / "domain" / "state.py", ROOT / "ledger" / "codec.py", ROOT / "ledger" / "upcast.py"} <= folding
