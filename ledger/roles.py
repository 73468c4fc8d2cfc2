"""The two roles of a tenant, which all its connections act as: one appends and reads, the other keeps the views.

Both cannot log in, and are named as the schemas they work in; what they may do stands in `rights.sql`. `migrate` makes
them if the connecting user may make roles, and every connection turns into one of them before its first statement.

*Protected*: a defect or an injected statement of ours can change nothing that was recorded, drop nothing, and see no
other tenant. *Not protected* from whoever holds such a session and means harm: `RESET ROLE` gives it back the rights of
the user that logged in. Where that matters, DATABASE_URL names a user who is a member of these roles and nothing else,
and an owner has applied the migrations before (`cairn tenant create`). An owner can take triggers off his own tables,
and a superuser can do anything: `verify` shows it afterwards.

Without the roles (the user may not make them, and nobody else has) everything works with the rights of that user, and
only the triggers stand in the way; `lacking` says what to run.
"""

from pathlib import Path
from typing import LiteralString, NamedTuple

from psycopg import sql

from ledger.names import schema_of, views_of
from ledger.postgres import Connection
from ledger.rows import one
from ledger.sql import SQL

RIGHTS: LiteralString = (Path(__file__).parent / "rights.sql").read_text(encoding="utf-8")


class _Standing(NamedTuple):
    missing: list[str]
    usable: bool
    rights: bool
    may_create: bool

    @property
    def improvable(self) -> bool:
        """Whether this user could do something about what lacks."""
        return self.may_create if self.missing else self.usable and not self.rights


async def complete(connection: Connection, tenant: str) -> bool:
    """Whether `establish` would have nothing to do."""
    return not (await _standing(connection, tenant)).improvable


async def establish(connection: Connection, tenant: str) -> None:
    """Makes the roles if this user may, and gives them their rights; in a transaction, as the schemas' owner."""
    standing = await _standing(connection, tenant)
    if standing.missing and standing.may_create:
        for name in standing.missing:
            await connection.execute("SELECT make_role(%s)", (name,))
        standing = await _standing(connection, tenant)
    if standing.usable and not standing.missing:
        names = {"ledger": sql.Identifier(schema_of(tenant)), "views": sql.Identifier(views_of(tenant))}
        await connection.execute(sql.SQL(RIGHTS).format(**names))


async def lacking(connection: Connection, tenant: str) -> tuple[str, str]:
    """What is wrong with the roles, and the SQL that mends it; two empty texts if nothing is. Any connection will do."""
    standing, roles = await _standing(connection, tenant), (schema_of(tenant), views_of(tenant))
    user = sql.Identifier((await one(await connection.execute("SELECT session_user")))[0]).as_string(connection)
    grant = f"GRANT {', '.join(roles)} TO {user};"
    if standing.missing and not standing.may_create:
        makes = " ".join(f"CREATE ROLE {name} NOLOGIN;" for name in standing.missing)
        why = f"{user} may not make the roles {', '.join(standing.missing)}: it works with more rights than it needs"
        return why, f"{makes} {grant}"
    if not standing.missing and not standing.usable:
        return f"{user} is no member of {' and '.join(roles)}", grant
    found = await (await connection.execute(SQL["changeable"], {"schema": roles[0]})).fetchone()
    if found is not None and found[0]:
        takes = f"ALTER SCHEMA {roles[0]} OWNER TO {user}; REVOKE ALL ON {roles[0]}.events FROM {roles[0]};"
        return f"the role {roles[0]} may change events: it owns them, or was given too much", takes
    return "", ""


async def _standing(connection: Connection, tenant: str) -> _Standing:
    names = {"roles": [schema_of(tenant), views_of(tenant)], "schema": schema_of(tenant)}
    return _Standing(*await one(await connection.execute(SQL["roles"], names)))
