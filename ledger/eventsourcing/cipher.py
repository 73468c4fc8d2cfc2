"""A key for every person: erase the key, and what was recorded of that person cannot be read, while the ledger stands
as it was. `CIPHER_TOPIC=ledger.eventsourcing.cipher:SubjectCipher`; needs the extra `eventsourcing` (`cryptography`).

States are encrypted with AES-256-GCM (after the COMPRESSOR_TOPIC's compressor, if there is one) under the key of their
subject (`subjects.py`), and only then enter the digest: `verify` needs no key, and erasing one changes no event.

*Gone with `erase`*: the states of the subject's events and snapshots, in Postgres, JetStream, segment files and
backups, wherever they were copied to; the key in the table, its files and all later backups of it; which events the
subject had, if subject and aggregate have different ids.
*Not gone*: streams, types (topics), versions, times, actors; ids, wherever the application uses them in the clear; what
running programs have in memory (aggregate caches, views they made); keys in backups and archived WAL of *before*: let
these expire, keep them apart from the events', and erase again after going back to one. Views hold plaintext: delete
there too.
What is recorded of a subject after its erasure gets a new key. What was being recorded at that moment may be lost.
"""

from os import urandom
from uuid import UUID, uuid4

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from eventsourcing.persistence import Cipher
from eventsourcing.utils import Environment

from ledger.eventsourcing.store import Store
from ledger.eventsourcing.subjects import KeyErased, present_subject
from ledger.sql import SQL

KEY_BITS = 256
ID_BYTES, NONCE_BYTES = 16, 12


class SubjectCipher(Cipher):
    """A ciphertext is the key's id, a nonce, and what AES-GCM makes of the plaintext, with the id authenticated.

    Keys are not kept in memory, so an erasure holds at once and everywhere: one short read for every event.
    """

    def __init__(self, environment: Environment) -> None:
        self._store = Store.of(environment)

    def close(self) -> None:
        self._store.close()

    def encrypt(self, plaintext: bytes) -> bytes:
        """ProgrammingError outside of `about`."""
        key_id, key = self._key_of(present_subject())
        nonce = urandom(NONCE_BYTES)
        return key_id.bytes + nonce + AESGCM(key).encrypt(nonce, plaintext, key_id.bytes)

    def decrypt(self, ciphertext: bytes) -> bytes:
        """KeyErased if there is no such key any more; cryptography.exceptions.InvalidTag if this was tampered with."""
        key_id, nonce = ciphertext[:ID_BYTES], ciphertext[ID_BYTES : ID_BYTES + NONCE_BYTES]
        found = self._store.rows("es_key", id=UUID(bytes=key_id))
        if not found:
            raise KeyErased(f"key {UUID(bytes=key_id)} was erased, or these are another tenant's data")
        return AESGCM(found[0][0]).decrypt(nonce, ciphertext[ID_BYTES + NONCE_BYTES :], key_id)

    def erase(self, subject: str) -> bool:
        """Destroys the subject's key; whether it had one. Has to be done by the owner of the table."""
        with self._store.connection() as connection:
            erased = connection.execute(SQL["es_erase"], {"subject": subject}).rowcount == 1
            connection.execute(SQL["es_scrub"])
        return erased

    def _key_of(self, subject: str) -> tuple[UUID, bytes]:
        while not (found := self._store.rows("es_key_of", subject=subject)):
            new = {"id": uuid4(), "subject": subject, "key": AESGCM.generate_key(KEY_BITS)}
            with self._store.connection() as connection:
                connection.execute(SQL["es_new_key"], new)
        return found[0][0], found[0][1]
