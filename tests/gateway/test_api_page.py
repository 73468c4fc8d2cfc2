"""`docs/api.md` is tried: what it says to type is typed, in its order, in one shell, and what it says comes is compared."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import TOKEN, served_in_thread

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
STILL_GOING_ON = 28
"""What curl ends with when its time (`-m`) is over."""


def lines() -> Iterator[tuple[str, str]]:
    """What is typed, and what is then seen; `...` stands for anything."""
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        for command, seen in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            yield command, seen.strip("\n")


def wanted(seen: str) -> str:
    return ".*".join(re.escape(part) for part in seen.split("..."))


def test_every_line_of_the_page_does_what_it_says(
    postgres_url: str, nats_url: str, tenant: str, tmp_path: Path
) -> None:
    typed = [*lines()]
    assert len(typed) > 20
    script = ["shopt -s expand_aliases"]
    for number, (command, _) in enumerate(typed):
        script += [command, f"printf '\\n<{number} %s>\\n' $?"]
    with served_in_thread(postgres_url, nats_url, tenant) as (system, _):
        environment = {"PATH": "/usr/bin:/bin", "CAIRN_URL": system.url, "CAIRN_TOKEN": TOKEN}
        ran = subprocess.run(
            ["bash"], input="\n".join(script), env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
    assert ran.stderr == ""
    rest = ran.stdout
    for number, (command, seen) in enumerate(typed):
        found = re.match(rf"(.*?)\n<{number} (\d+)>\n", rest, re.DOTALL)
        assert found, command
        rest = rest[found.end() :]
        assert int(found[2]) in ({0, STILL_GOING_ON} if " -m " in command else {0}), command
        output = found[1].replace("\r", "").strip("\n")
        assert re.fullmatch(wanted(seen), output, re.DOTALL), f"{command}\n{output}"


@pytest.mark.parametrize("wrong", ['{"a":1}', '{"a":1,"b":2} '])
def test_another_output_is_noticed(wrong: str) -> None:
    assert not re.fullmatch(wanted('{"a":...,"b":2}'), wrong, re.DOTALL)
