"""A person's key erased: nothing of theirs can be read anywhere, everything else as before, and history verifies."""

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import msgspec
import psycopg
import pytest
from cryptography.exceptions import InvalidTag
from eventsourcing.application import AggregateNotFoundError, Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import MapperDeserialisationError, ProgrammingError, StoredEvent, Tracking
from eventsourcing.projection import Projection, ProjectionRunner
from eventsourcing.utils import get_topic

from ledger.eventsourcing.cipher import SubjectCipher
from ledger.eventsourcing.recorders import LedgerTrackingRecorder
from ledger.eventsourcing.subjects import Erased, KeyErased, SubjectMapper, about
from ledger.foreign import Foreign
from ledger.ledger import Ledger
from ledger.names import schema_of

Database = psycopg.Connection[tuple[object, ...]]
SECRET = "Ada of Lovelace, 12 St James's Square"


class Customer(Aggregate):
    def __init__(self, name: str) -> None:
        self.name = name

    @event("Moved")
    def move(self, address: str) -> None:
        self.address = address


class Order(Aggregate):
    def __init__(self, customer: str, item: str) -> None:
        self.customer = customer
        self.item = item


class Shop(Application[UUID]):
    is_snapshotting_enabled = True

    @property
    def cipher(self) -> SubjectCipher:
        assert isinstance(self.mapper.cipher, SubjectCipher)
        return self.mapper.cipher


class ByCustomer(SubjectMapper):
    """An order is its customer's data."""

    def subject(self, domain_event: object) -> str:
        state = vars(domain_event)
        return str(state.get("customer") or state.get("state", {}).get("customer") or state["originator_id"])


@pytest.fixture
def env(es_env: dict[str, str]) -> dict[str, str]:
    return {**es_env, "COMPRESSOR_TOPIC": "zlib", "CIPHER_TOPIC": "ledger.eventsourcing.cipher:SubjectCipher"}


@pytest.fixture
def shop(env: dict[str, str]) -> Iterator[Shop]:
    with Shop(env) as shop:
        yield shop


@pytest.fixture
def database(postgres_url: str, tenant: str) -> Iterator[Database]:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("SELECT set_config('search_path', %s, false)", (schema_of(tenant),))
        yield connection


def customer(shop: Shop, name: str) -> UUID:
    new = Customer(name)
    new.move(SECRET)
    shop.save(new)
    shop.take_snapshot(new.id)
    return new.id


def everything(database: Database) -> bytes:
    """All that is there of a tenant: every value of every table as bytes, the key table as a backup copies it and as
    its files hold it, and the planner's samples."""
    found: list[bytes] = []
    tables = database.execute(
        "SELECT table_name FROM information_schema.tables"
        " WHERE table_schema = current_schema() AND table_type = 'BASE TABLE'"
    ).fetchall()
    assert {("es_keys",), ("es_snapshots",), ("events",)} <= {*tables}
    for (table,) in tables:
        for row in database.execute(f'SELECT * FROM "{table}"', binary=True):  # type: ignore[arg-type]
            found += [value if isinstance(value, bytes) else str(value).encode() for value in row]
    states = [row[0] for row in database.execute("SELECT state FROM events", binary=True)]
    found += [msgspec.json.decode(state, type=Foreign).payload for state in states]  # type: ignore[arg-type]
    with database.cursor().copy("COPY es_keys TO STDOUT") as copied:
        found += [bytes(row) for row in copied]
    samples = database.execute("SELECT s::text FROM pg_stats s WHERE schemaname = current_schema()").fetchall()
    found += [str(sample).encode() for (sample,) in samples]
    database.execute("CHECKPOINT")
    for relation in ("es_keys", "es_keys_pkey", "es_keys_subject_key"):
        file = "SELECT pg_read_binary_file(pg_relation_filepath(%s::regclass))"
        found += [row[0] for row in database.execute(file, (relation,), binary=True)]  # type: ignore[misc]
    return b"\n".join(found)


def holds(found: bytes, key: bytes) -> bool:
    return any(form in found for form in (key, key.hex().encode(), base64.b64encode(key)))


async def test_an_erased_person_cannot_be_read_and_history_still_verifies(
    shop: Shop, ledger: Ledger, database: Database
) -> None:
    ada, bob = customer(shop, "Ada"), customer(shop, "Bob")
    key = shop.cipher._key_of(str(ada))[1]
    database.execute("ANALYZE")
    assert holds(everything(database), key)
    head = await ledger.head()
    stored = shop.recorder.select_events(ada)

    assert shop.cipher.erase(str(ada))

    with pytest.raises(AggregateNotFoundError):
        shop.repository.get(ada)
    with pytest.raises(KeyErased):
        shop.cipher.decrypt(stored[0].state)
    after = everything(database)
    assert not holds(after, key) and SECRET.encode() not in after
    assert shop.repository.get(bob).address == SECRET
    assert shop.recorder.select_events(ada) == stored
    assert (await ledger.head(), (await ledger.verify()).events) == (head, 4)
    assert not shop.cipher.erase(str(ada))


@pytest.mark.parametrize("encrypted", [True, False])
def test_only_without_the_cipher_is_the_plaintext_found_in_a_table(
    env: dict[str, str], database: Database, encrypted: bool
) -> None:
    with Shop({**env, "COMPRESSOR_TOPIC": "", **({} if encrypted else {"CIPHER_TOPIC": ""})}) as shop:
        assert shop.repository.get(customer(shop, "Ada")).address == SECRET
    assert (SECRET.encode() in everything(database)) is not encrypted


def test_an_erasure_by_another_process_holds_at_once(shop: Shop, env: dict[str, str]) -> None:
    ada = customer(shop, "Ada")
    assert shop.repository.get(ada).address == SECRET
    with Shop(env) as elsewhere:
        elsewhere.cipher.erase(str(ada))
    with pytest.raises(AggregateNotFoundError):
        shop.repository.get(ada)


def test_who_comes_back_has_a_new_key_and_the_old_data_stays_unreadable(shop: Shop) -> None:
    ada = customer(shop, "Ada")
    old = shop.recorder.select_events(ada)[0]
    shop.cipher.erase(str(ada))
    with about(str(ada)):
        assert shop.cipher.decrypt(shop.cipher.encrypt(b"hello again")) == b"hello again"
    with pytest.raises(KeyErased):
        shop.cipher.decrypt(old.state)


def test_a_subject_may_be_another_than_the_aggregate(env: dict[str, str]) -> None:
    with Shop({**env, "MAPPER_TOPIC": get_topic(ByCustomer)}) as shop:
        orders = [Order("customer-7", SECRET), Order("customer-7", "book"), Order("customer-8", "pen")]
        for order in orders:
            shop.save(order)
            shop.take_snapshot(order.id)
        shop.cipher.erase("customer-7")
        for order in orders[:2]:
            with pytest.raises(AggregateNotFoundError):
                shop.repository.get(order.id)
        assert shop.repository.get(orders[2].id).item == "pen"


class Moves(LedgerTrackingRecorder): ...


class MovesOfCustomers(Projection[Moves]):
    """Counts nothing: it has to get past what was erased, and to be told."""

    name = "moves"
    seen: list[object]

    def process_event(self, domain_event: object, tracking: Tracking) -> None:
        self.seen.append(domain_event)
        self.view.insert_tracking(tracking)


def test_a_projection_is_told_of_what_was_erased_and_goes_on(shop: Shop, env: dict[str, str]) -> None:
    ada, bob = customer(shop, "Ada"), customer(shop, "Bob")
    shop.cipher.erase(str(ada))
    MovesOfCustomers.seen = []
    with ProjectionRunner(
        application_class=Shop, projection_class=MovesOfCustomers, view_class=Moves, env=env
    ) as runner:
        runner.wait(shop.recorder.max_notification_id(), timeout=20)
    assert [isinstance(seen, Erased) for seen in MovesOfCustomers.seen] == [True, True, False, False]
    assert MovesOfCustomers.seen[1] == Erased(ada, 2, get_topic(Customer.Moved))  # type: ignore[attr-defined]
    assert shop.repository.get(bob).name == "Bob"


def test_what_was_tampered_with_is_not_taken_for_erased(shop: Shop) -> None:
    ada = customer(shop, "Ada")
    event = shop.recorder.select_events(ada)[0]
    changed = StoredEvent(ada, 1, event.topic, event.state[:-1] + bytes([event.state[-1] ^ 1]))
    with pytest.raises(InvalidTag):
        shop.cipher.decrypt(changed.state)
    with pytest.raises(MapperDeserialisationError):
        shop.mapper.to_domain_event(changed)


def test_a_mapper_that_does_not_say_whose_data_it_is_is_refused(shop: Shop) -> None:
    with pytest.raises(ProgrammingError, match="about"):
        shop.cipher.encrypt(b"whose?")


def test_writers_that_meet_at_a_new_subject_agree_on_its_key(shop: Shop) -> None:
    subject = str(uuid4())
    with ThreadPoolExecutor(8) as threads:
        keys = {*threads.map(lambda _: shop.cipher._key_of(subject), range(32))}
    assert len(keys) == 1
