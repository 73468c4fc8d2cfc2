"""What the log of a command looks like, who is heard in it, and what never stands in it."""

import base64
import json
import secrets
import string
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from ops.masks import MASK, hide, masked
from ops.settings import SettingsInvalid, levels_of, load

PROGRAM = """
import asyncio, logging, warnings
import structlog
from ops.logs import LINES, configure
from ops.masks import hide

early = structlog.get_logger("ledger.relay")
configure(LEVELS, tenant="blue")
hide(["open-sesame"])
unnamed = structlog.get_logger()
SAID
print(dict(LINES))
"""


def said(levels: str, code: str) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The lines of a program that has said this, and how many of each level it counted."""
    program = PROGRAM.replace("LEVELS", repr(levels)).replace("SAID", code)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    counted: dict[str, int] = json.loads(done.stdout.replace("'", '"'))
    return [json.loads(line) for line in done.stderr.splitlines()], counted


def test_our_lines_and_those_of_libraries_have_one_form() -> None:
    lines, counted = said(
        "info",
        """
structlog.contextvars.bind_contextvars(workflow="w", request_id="r")
early.info("ours", position=7)
logging.getLogger("psycopg.pool").warning("error connecting in %r: %s", "pool-1", "no")
logging.getLogger("aiohttp.server").error("Error handling request", exc_info=ValueError("x"))
warnings.warn("old")
""",
    )
    assert [(line["component"], line["level"]) for line in lines] == [
        ("ledger.relay", "info"), ("psycopg.pool", "warning"), ("aiohttp.server", "error"), ("py.warnings", "warning"),
    ]  # fmt: skip
    for line in lines:
        assert line["tenant"] == "blue" and line["workflow"] == "w" and line["request_id"] == "r" and line["timestamp"]
    assert lines[0]["event"] == "ours" and lines[0]["position"] == 7
    assert lines[1]["event"] == "error connecting in 'pool-1': no"
    assert lines[2]["exception"][0]["exc_type"] == "ValueError"
    assert counted == {"info": 1, "warning": 2, "error": 1}


def test_a_component_has_the_level_it_is_given_and_libraries_are_quiet_unless_they_are_named() -> None:
    lines, _ = said(
        "warning,ledger.relay=debug,asyncio=debug",
        """
for name in ("ledger.relay", "ledger.writer", "handlers.execute", "asyncio", "psycopg"):
    for level in ("debug", "info", "warning"):
        getattr(logging.getLogger(name), level)(level)
""",
    )
    heard = {name: [line["level"] for line in lines if line["component"] == name] for name in
             ("ledger.relay", "ledger.writer", "handlers.execute", "asyncio", "psycopg")}  # fmt: skip
    everything = ["debug", "info", "warning"]
    assert heard == {
        "ledger.relay": everything, "asyncio": everything,
        "ledger.writer": ["warning"], "handlers.execute": ["warning"], "psycopg": ["warning"],
    }  # fmt: skip


def test_of_libraries_debug_tells_warnings_only() -> None:
    lines, _ = said("debug", "early.debug('a'); logging.getLogger('asyncio').info('b')")
    assert [line["event"] for line in lines] == ["a"]


@pytest.mark.parametrize("text", ["loud", "info,ledger.relay", "ledger.rely=debug", "info,=debug", ""])
def test_a_level_that_is_none_is_refused_by_name(text: str, tmp_path: Any) -> None:
    with pytest.raises(SettingsInvalid, match=r"log_level \(from --debug\): (must be|names no component)"):
        load({"log_level": text}, {}, tmp_path)


def test_levels_are_read_as_they_are_written() -> None:
    assert levels_of("info, ledger.relay=debug,nats = error") == ("info", {"ledger.relay": "debug", "nats": "error"})
    assert levels_of("ops=debug") == ("info", {"ops": "debug"})


def _word(alphabet: str, length: int) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))


ALNUM = string.ascii_letters + string.digits
FORMS: dict[str, tuple[Callable[[], str], str]] = {
    "a bearer": (lambda: secrets.token_urlsafe(32), "Authorization: Bearer {}"),
    "a bearer in a dict": (lambda: secrets.token_urlsafe(24), "{{'Authorization': 'Bearer {}'}}"),
    "basic": (lambda: base64.b64encode(_word(ALNUM, 20).encode()).decode(), "proxy said: Basic {} is wrong"),
    "a URL": (lambda: _word(ALNUM, 12), "no server at postgresql://cairn:{}@db.example:5432/cairn"),
    "a NATS token": (lambda: _word(ALNUM, 12), "nats://{}@bus:4222"),
    "a keyword": (lambda: _word(ALNUM, 12), "connection failed: host=db password={} dbname=x"),
    "quoted": (lambda: f"{_word(ALNUM, 8)} {_word(ALNUM, 8)}", "password='{}' host=db"),
    "JSON": (lambda: _word(ALNUM, 16), '{{"api_key": "{}"}}'),
    "OpenAI's": (lambda: "sk-" + _word(ALNUM, 40), "Incorrect API key provided: {}."),
    "GitHub's": (lambda: "ghp_" + _word(ALNUM, 36), "remote: {} has expired"),
    "AWS's": (lambda: "AKIA" + _word(string.ascii_uppercase + string.digits, 16), "credentials {} are not allowed"),
    "a JWT": (lambda: f"eyJ{_word(ALNUM, 20)}.eyJ{_word(ALNUM, 30)}.{_word(ALNUM, 40)}", "it said {} and closed"),
    "a key": (lambda: f"-----BEGIN PRIVATE KEY-----\n{_word(ALNUM, 60)}\n-----END PRIVATE KEY-----", "read {}"),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_looks_like_a_secret_is_masked_wherever_it_stands(form: str) -> None:
    make, sentence = FORMS[form]
    for _ in range(20):
        secret = make()
        line = {
            "event": sentence.format(secret), "why": ["x", {"deep": (sentence.format(secret),)}], "left": "alone",
            "error": ValueError(sentence.format(secret)),
        }  # fmt: skip
        shown = json.dumps(masked(line))
        assert secret not in shown and json.dumps(secret)[1:-1] not in shown, shown
        assert MASK in shown and '"left": "alone"' in shown


def test_what_is_known_to_be_secret_and_what_is_called_so_is_masked_in_any_form() -> None:
    known, named = secrets.token_hex(8), secrets.token_hex(8)
    hide([known, "abc"])
    assert masked(f"x{known}y abc") == f"x{MASK}y abc", "a value of three letters is no secret"
    assert masked({"token": named, "nats_token": named, "api_key": named, "cookie": named}) == dict.fromkeys(
        ("token", "nats_token", "api_key", "cookie"), MASK
    )
    numbers = {"token": 3, "tokens": 1200, "attempt": None, "position": 9, "ok": True}
    assert masked(numbers) == numbers, "the number of a lease is no secret"


@pytest.mark.parametrize(
    "line",
    ["waiting for the key", "a/1 has begun", "http://127.0.0.1:8700/api/v1/workflows?after=3", "basic tests pass",
     "task.dispatched", "/srv/cairn/agents/token-bucket", "mail ann@example.org", "deadbeef" * 5],
)  # fmt: skip
def test_what_is_none_stays_as_it_is(line: str) -> None:
    assert masked(line) == line
