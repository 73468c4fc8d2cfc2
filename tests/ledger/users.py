"""Postgres users of the ledger's tests."""

from ledger.postgres import Connection


def login(url: str, user: str) -> str:
    """The URL for another user: the session's Postgres trusts who reaches its socket."""
    return url.replace("//postgres@", f"//{user}@")


async def user_of(connection: Connection) -> str:
    row = await (await connection.execute("SELECT current_user")).fetchone()
    assert row is not None
    return str(row[0])
