"""What a sandboxed command sees: an allow-list of paths to read, and its environment."""

import hashlib
import platform
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
ETC = (
    "alternatives",
    "group",
    "hosts",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "nsswitch.conf",
    "passwd",
    "protocols",
    "services",
)
HOME = "/tmp"
HOSTNAME = "sandbox"


def readable() -> list[str]:
    """The paths to show read-only, links as links: the system, and the Python that runs us with its packages."""
    interpreter = Path(sys.executable).resolve().parents[1]
    pythons = sorted({sys.prefix, sys.base_prefix, str(interpreter)})
    outside = [path for path in pythons if not any(Path(path).is_relative_to(shown) for shown in SYSTEM)]
    wanted = [*SYSTEM, *(f"/etc/{name}" for name in ETC), *outside]
    return [path for path in wanted if Path(path).exists()]


@cache
def runtime() -> str:
    """What runs the commands, by name and sha256: the shell and our Python."""
    programs = {"sh": Path("/bin/sh"), f"python {platform.python_version()}": Path(sys.executable)}
    return ", ".join(f"{name} sha256:{_sha256(program.resolve())}" for name, program in programs.items())


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def parents(paths: Iterable[str | Path]) -> list[str]:
    """The folders that lead to `paths`, outermost first, without the root and those of the sandbox's own."""
    leading = {str(parent) for path in paths for parent in Path(path).parents}
    return sorted(leading - {"/", "/usr", HOME})


def environment(home: str = HOME) -> dict[str, str]:
    """All a command finds in its environment; `python` and `pytest` are ours."""
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": home,
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
