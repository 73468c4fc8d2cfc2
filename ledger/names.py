"""What the things of a tenant are called in Postgres. A role has the name of the schema that it works in."""

import re
from collections.abc import Iterable

TENANT = re.compile(r"[a-z][a-z0-9_]{0,40}")
TENANT_RULE = "a letter, then at most 40 of a-z, 0-9 and _"
PREFIX = "cairn_"


def schema_of(tenant: str) -> str:
    """The schema that holds a tenant's ledger. ValueError for a name that is none."""
    if not TENANT.fullmatch(tenant):
        raise ValueError(f"tenant {tenant!r}: {TENANT_RULE}")
    return f"{PREFIX}{tenant}"


def views_of(tenant: str) -> str:
    """The schema that holds its views. No tenant's own schema can have this name."""
    return f"cairnviews_{schema_of(tenant).removeprefix(PREFIX)}"


def tenants_of(schemas: Iterable[str]) -> list[str]:
    """The tenants whose ledgers these schemas are. One that somebody put aside under a name of his own is no tenant's."""
    names = (schema.removeprefix(PREFIX) for schema in schemas)
    return [name for name in names if TENANT.fullmatch(name)]
