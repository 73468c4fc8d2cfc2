"""What an operator can set, in one frozen struct, read once: flag > environment > `cairn.toml` > default.

`cairn.toml` lies in the working directory, or where CAIRN_CONFIG points. A path in it is relative to it; elsewhere, to
the working directory. DATABASE_URL and NATS_URL have no prefix, every other variable is CAIRN_<NAME>; an empty variable
is an unset one. A secret can be given as a file: <VARIABLE>_FILE. This is the one module that reads the environment.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from cairn.config import default_data_dir
from domain.plan import ID_PATTERN
from ledger.names import TENANT, TENANT_RULE

SECRETS = ("database_url", "nats_url")
POSTGRES = ("postgresql", "postgres")
_SECRET_VARIABLE = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|OTLP_(TRACES_)?HEADERS)$")
CONFIG_VARIABLE = "CAIRN_CONFIG"


class SettingsInvalid(Exception):
    """A setting has an unknown name or an impossible value; the message names it, its source, and the fix."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings. `origins` says for each where its value came from, in words."""

    data_dir: Path
    database_url: str | None = None  # None: the embedded Postgres
    nats_url: str | None = None  # None: the embedded NATS
    listen: str = "127.0.0.1:8700"
    tenant: str = "main"
    sandbox: Literal["auto", "docker", "bubblewrap", "process"] = "auto"
    sandbox_image: str = "cairn-sandbox:latest"
    lease_seconds: float = 30.0
    prices: Path | None = None  # None: those that come with Cairn
    max_workflows: int | None = None  # that run at once; None: any number
    max_queued: int = 1_000  # workflows that wait for their place; more are refused
    role_slots: dict[str, int] = {}  # tasks of a role that are worked on at once; a role that is not named: any number
    audit_hours: float = 24.0  # how often the ledger's digests are computed again; 0: never
    sla_seconds: int = 120  # in which workflows are to complete: what the metrics compare with
    max_streams: int = 2_000  # clients that follow the events at once; more are told to come back
    log_level: str = "info"  # of everything, and after commas of components, as info,ledger.relay=debug
    origins: dict[str, str] = {}

    def __post_init__(self) -> None:
        _demand(
            self.database_url is None or urlsplit(self.database_url).scheme in POSTGRES,
            "database_url",
            "must be postgresql://...",
        )
        _demand(
            self.nats_url is None or urlsplit(self.nats_url).scheme in ("nats", "tls", "ws", "wss"),
            "nats_url",
            "must be nats://... or tls://...",
        )
        host, _, port = self.listen.rpartition(":")
        _demand(bool(host) and port.isdigit() and int(port) < 65_536, "listen", "must be host:port, as 127.0.0.1:8700")
        _demand(bool(TENANT.fullmatch(self.tenant)), "tenant", f"must be {TENANT_RULE}")
        _demand(self.max_workflows is None or self.max_workflows > 0, "max_workflows", "must be 1 or more")
        _demand(self.max_queued >= 0, "max_queued", "must be 0 or more")
        _demand(self.max_streams > 0, "max_streams", "must be 1 or more")
        slots = self.role_slots.items()
        named = all(re.search(ID_PATTERN, role) and count > 0 for role, count in slots)
        _demand(named, "role_slots", "must name roles, each with 1 or more, as coder=2,reviewer=1")
        levels_of(self.log_level)
        _demand(0 <= self.audit_hours <= 8_760, "audit_hours", "must be between 0 (never) and 8760 hours")
        _demand(0 < self.sla_seconds <= 86_400, "sla_seconds", "must be 1 to 86400 whole seconds")
        _demand(0 < self.lease_seconds <= 86_400, "lease_seconds", "must be between 0 and 86400 seconds")

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self.shown().items())})"

    @property
    def archive(self) -> Path:
        """The folder with the events that are no longer in Postgres."""
        return self.data_dir / "archive"

    @property
    def artifacts(self) -> Path:
        """The bare repository of the tenant's work: two tenants may have workflows of one name."""
        return self.data_dir / ("artifacts.git" if self.tenant == "main" else f"artifacts-{self.tenant}.git")

    def shown(self) -> dict[str, str]:
        """Every setting as text a person may see: credentials are masked, None is 'embedded'."""
        values = {name: getattr(self, name) for name in NAMES}
        return {name: _masked(value) if name in SECRETS else _spelled(value) for name, value in values.items()}


OURS = ("cairn", "domain", "gateway", "handlers", "ledger", "ops", "projections")
"""Our packages, which are the components that lines of the log come from, with their modules."""
LEVELS = ("debug", "info", "warning", "error")


def levels_of(text: str) -> tuple[str, dict[str, str]]:
    """The level of everything, and those of components. ValueError for what is none."""
    default, named = "info", dict[str, str]()
    for part in text.split(","):
        component, given, level = (word.strip() for word in part.rpartition("="))
        _demand(level in LEVELS, "log_level", f"must be {', '.join(LEVELS)}, as info,ledger.relay=debug")
        if given:
            top = component.partition(".")[0]
            there = top not in OURS or find_spec(top) is None or find_spec(component) is not None
            _demand(bool(component) and there, "log_level", f"names no component {component!r}")
            named[component] = level
        else:
            default = level
    return default, named


NAMES = tuple(name for name in Settings.__struct_fields__ if name != "origins")
_FILES = tuple(f"{name.upper()}_FILE" for name in SECRETS)
VARIABLES = {name: name.upper() if name in SECRETS else f"CAIRN_{name.upper()}" for name in NAMES}


def read(flags: Mapping[str, Any]) -> Settings:
    """The settings of this process. `flags` by field name, None meaning not given. Raises `SettingsInvalid`."""
    return load(flags, os.environ, Path.cwd())


def load(flags: Mapping[str, Any], environ: Mapping[str, str], cwd: Path) -> Settings:
    """Settings from these sources only, `cwd` being an absolute path. Raises `SettingsInvalid`."""
    values: dict[str, Any] = {"data_dir": default_data_dir()}
    origins = dict.fromkeys(NAMES, "default")
    for layer in (_from_file(environ, cwd), _from_environment(environ, cwd), _from_flags(flags, cwd)):
        for name, (value, origin) in layer.items():
            values[name], origins[name] = value, origin
    try:
        return msgspec.convert(values | {"origins": origins}, Settings, strict=False)
    except msgspec.ValidationError as error:
        # A wrong type ends in "at `$.name`", a rule of ours begins with the name.
        text, _, where = str(error).partition(" - at `$.")
        name = where.rstrip("`").partition("[")[0] or text.partition(" ")[0]
        shown = "" if name in SECRETS else f", not {values[name]!r}"
        raise SettingsInvalid(f"{name} (from {origins[name]}): {text.removeprefix(f'{name} ')}{shown}") from error


def secrets(*urls: str | None) -> set[str]:
    """What this process knows and nobody may read in a log: what its environment calls a secret, and who it is in `urls`."""
    found = {value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name)}
    for parts in (urlsplit(url) for url in urls if url):
        token = parts.username if parts.password is None and parts.scheme not in POSTGRES else None
        given = [parts.password or "", token or "", *parse_qs(parts.query).get("password", [])]
        found.update(*((one, unquote(one)) for one in given))
    return found


def child_environment(settings: Settings) -> dict[str, str]:
    """What our own child processes inherit: the environment, with these settings in it."""
    given = {name: getattr(settings, name) for name in NAMES}
    inherited = {name: value for name, value in os.environ.items() if name not in _FILES}
    return {**inherited, **{VARIABLES[name]: _spelled(value) for name, value in given.items() if value is not None}}


def _from_file(environ: Mapping[str, str], cwd: Path) -> dict[str, tuple[Any, str]]:
    named = environ.get(CONFIG_VARIABLE)
    file = cwd / (named or "cairn.toml")
    if not named and not file.exists():
        return {}
    try:
        content = tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsInvalid(f"{file} cannot be read: {error}") from error
    for name in content:
        _demand_known(name, NAMES, str(file))
    return {name: (_absolute(name, value, file.parent), str(file)) for name, value in content.items()}


def _from_environment(environ: Mapping[str, str], cwd: Path) -> dict[str, tuple[Any, str]]:
    known = [*VARIABLES.values(), *_FILES, CONFIG_VARIABLE]
    for name in environ:
        # Only what is nearly one of ours is refused: Kubernetes sets CAIRN_SERVICE_HOST, agents have CAIRN_TASK.
        if name.startswith("CAIRN_") and name not in known and _nearest(name, known):
            _demand_known(name, known, "the environment")
    found: dict[str, tuple[Any, str]] = {}
    for name, variable in VARIABLES.items():
        if value := environ.get(variable):
            found[name] = (_read_slots(value) if name == "role_slots" else _absolute(name, value, cwd), variable)
        if name in SECRETS and (file := environ.get(f"{variable}_FILE")):
            if name in found:
                raise SettingsInvalid(f"{variable} and {variable}_FILE are both set: unset one")
            try:
                found[name] = ((cwd / file).read_text("utf-8").strip(), f"{variable}_FILE")
            except (OSError, ValueError) as error:
                raise SettingsInvalid(f"{variable}_FILE cannot be read: {error}") from error
    return found


def _from_flags(flags: Mapping[str, Any], cwd: Path) -> dict[str, tuple[Any, str]]:
    for name in flags:
        _demand_known(name, NAMES, "the flags")
    given = {name: value for name, value in flags.items() if value is not None}
    flag = {name: "--debug" if name == "log_level" else f"--{name.replace('_', '-')}" for name in given}
    return {name: (_absolute(name, value, cwd), flag[name]) for name, value in given.items()}


def _absolute(name: str, value: Any, folder: Path) -> Any:
    return (
        folder / Path(value).expanduser()
        if name in ("data_dir", "prices") and isinstance(value, (str, Path))
        else value
    )


def _read_slots(text: str) -> dict[str, str]:
    """`coder=2,reviewer=1`."""
    parts = (part.partition("=") for part in text.split(","))
    return {role.strip(): count.strip() for role, _, count in parts}


def _spelled(value: Any) -> str:
    return ",".join(f"{name}={count}" for name, count in value.items()) if isinstance(value, dict) else str(value)


def _demand(holds: bool, name: str, rule: str) -> None:
    if not holds:
        raise ValueError(f"{name} {rule}")


def _demand_known(name: str, known: tuple[str, ...] | list[str], where: str) -> None:
    if name not in known:
        nearest = _nearest(name, known)
        hint = f"did you mean {nearest}?" if nearest else f"known are {', '.join(known)}"
        raise SettingsInvalid(f"unknown setting {name} in {where}: {hint}")


def _nearest(name: str, known: tuple[str, ...] | list[str]) -> str | None:
    # The common prefix says nothing about likeness.
    bare = {variable.removeprefix("CAIRN_"): variable for variable in known}
    found = difflib.get_close_matches(name.removeprefix("CAIRN_"), bare, n=1, cutoff=0.75)
    return bare[found[0]] if found else None


def _masked(url: str | None) -> str:
    return re.sub(r"(?<=://)[^@/]+(?=@)|(?<=password=)[^&]+", "***", url) if url else "embedded"
