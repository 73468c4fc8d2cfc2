"""What a command printed: all of it hashed and counted, its beginning and its end kept."""

import hashlib


class Capture:
    """Takes output in pieces, in memory of `limit` bytes: a quarter for the head, the rest for the tail."""

    def __init__(self, limit: int) -> None:
        self._head_limit = limit // 4
        self._tail_limit = limit - self._head_limit
        self._head = bytearray()
        self._tail = bytearray()
        self._hash = hashlib.sha256()
        self.total = 0

    def feed(self, chunk: bytes) -> None:
        """Adds what was printed next."""
        self._hash.update(chunk)
        self.total += len(chunk)
        room = self._head_limit - len(self._head)
        self._head += chunk[:room]
        self._tail += chunk[room:]
        if len(self._tail) > self._tail_limit:
            del self._tail[: -self._tail_limit or None]

    @property
    def sha256(self) -> str:
        """Hex digest of everything fed, kept or not."""
        return self._hash.hexdigest()

    @property
    def text(self) -> str:
        """Head and tail, "... N bytes cut ..." between them; undecodable bytes and NULs become U+FFFD."""
        cut = self.total - len(self._head) - len(self._tail)
        if cut:
            return f"{_decoded(self._head)}\n... {cut} bytes cut ...\n{_decoded(self._tail)}"
        return _decoded(self._head + self._tail)


def _decoded(part: bytearray) -> str:
    # Postgres refuses NUL in jsonb, and this text is read there.
    return part.decode(errors="replace").replace("\x00", "\ufffd")
