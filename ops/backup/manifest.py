"""What a backup consists of: `manifest.json`, written last, by which one that is whole and unharmed is known."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec

FORMAT = 1
NAME = "manifest.json"


class BackupBroken(Exception):
    """The folder is not a backup that can be restored; the message says which file is why."""


class Content(msgspec.Struct, frozen=True):
    """A file of the backup: its path in it, bytes, sha256 in hex."""

    path: str
    size: int
    sha256: str


class Tenant(msgspec.Struct, frozen=True):
    """Where a ledger stood when the backup began: what is restored goes at least so far, with this digest there (hex)."""

    name: str
    position: int
    epoch: int
    digest: str


class Manifest(msgspec.Struct, frozen=True):
    """`version` is the program's, `taken_at` in seconds since the epoch, `data_dir` where all of it lay then; a restore
    takes about `size_bytes`."""

    format: int
    version: str
    layout: int
    taken_at: float
    postgres: Literal["base", "dump"]
    data_dir: str
    size_bytes: int
    tenants: list[Tenant]
    files: list[Content]


def write(folder: Path, manifest: Manifest) -> None:
    """The last act of a backup."""
    with durable(folder / NAME, folder / f"{NAME}.new") as out:
        out.write(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")


@contextmanager
def durable(path: Path, new: Path) -> Iterator[BinaryIO]:
    """A file to be written under the name `new`, on the same disk: it is whole and durable before it is `path`."""
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
        yield out
        out.flush()
        os.fsync(out.fileno())
    new.rename(path)
    sync(path.parent)


def read(folder: Path) -> Manifest:
    """BackupBroken if there is none, or it is not of a format that this program restores."""
    file = folder / NAME
    if not file.is_file():
        raise BackupBroken(f"{file} is missing: {folder} is no backup, or one that was interrupted: take another")
    try:
        found = msgspec.json.decode(file.read_bytes(), type=Manifest)
    except msgspec.DecodeError as error:
        raise BackupBroken(f"{file} is damaged: {error}") from error
    if found.format != FORMAT:
        raise BackupBroken(
            f"{file} is of format {found.format}, this Cairn restores {FORMAT}: use Cairn {found.version}"
        )
    return found


def contents(folder: Path) -> list[Content]:
    """All files below the folder, each durable, readable by nobody else."""
    found = []
    for parent, folders, names in os.walk(folder):
        Path(parent).chmod(0o700)
        folders.sort()
        for name in sorted(names):
            path = Path(parent) / name
            path.chmod(0o600)
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                os.fsync(file.fileno())
                found.append(Content(str(path.relative_to(folder)), os.fstat(file.fileno()).st_size, digest))
        sync(Path(parent))
    return found


def check(folder: Path, manifest: Manifest) -> None:
    """BackupBroken names the first file that is missing or not as it was written."""
    for content in manifest.files:
        path = folder / content.path
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            raise BackupBroken(f"{path} is missing") from None
        if size != content.size:
            raise BackupBroken(f"{path} has {size} bytes, it was written with {content.size}")
        if digest != content.sha256:
            raise BackupBroken(f"{path} was changed: its sha256 is {digest}, it was written with {content.sha256}")


def sync(folder: Path) -> None:
    """What has a name in the folder keeps it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
