"""Checksums of a checkpoint's files, so that one that has changed on disk is never used.

orbax restores weights with flipped bits without a word.  The manifest is written last, whole or not
at all: what has none was not finished.
"""

import hashlib
import json
import os
import re
from pathlib import Path

import jax

from dars_jax import distributed

NAME = "manifest.json"
_PART = ".part"  # of the manifest, while a checkpoint is written


def write_part(directory: Path) -> None:
    """Notes size and SHA-256 of the files that this process has written, read back from the disk.

    It asks nothing of other processes: a thread may call it beside programs of jax.
    """
    found = (p for p in directory.rglob("*") if p.is_file() and p.suffix != _PART)
    names = sorted(p.relative_to(directory).as_posix() for p in found)
    mine = [name for name in names if _writer(name) == jax.process_index()]
    part = {name: _describe(directory / name, settle=True) for name in mine}
    _write(directory / _part_of(jax.process_index()), json.dumps(part))


def write(directory: Path, step: int, version: int) -> None:
    """Puts the parts together.  The first process calls it, once those of all stand.

    Raises:
      OSError: a file is not there any more as it was noted.
    """
    parts = [directory / _part_of(index) for index in range(jax.process_count())]
    files: dict[str, list] = {}
    for part in parts:
        files |= json.loads(part.read_text())
    partial = directory / f"{NAME}.partial"
    _write(partial, json.dumps({"format": version, "step": step, "files": files}, indent=1) + "\n")
    for name, (size, _) in json.loads(partial.read_text())["files"].items():
        if (found := (directory / name).stat().st_size) != size:
            raise OSError(f"{directory / name} has {found} instead of {size} bytes")
    for part in parts:
        part.unlink()
    partial.replace(directory / NAME)


def exists(directory: Path) -> bool:
    """Whether the checkpoint was finished."""
    return (directory / NAME).is_file()


def problem(directory: Path, step: int) -> str:
    """What is wrong with the files of a checkpoint; "" if nothing is.

    All processes call it together, each reads its share, and all get the same answer.
    """
    path = directory / NAME
    (text, *_) = distributed.gather_json(
        path.read_text(errors="replace") if exists(directory) else None
    )
    if text is None:
        return f"{path} is missing"
    try:
        manifest = json.loads(text)
        files, holds = manifest["files"], manifest["step"]
        wanted = [(name, int(files[name][0]), files[name][1]) for name in _share_of(sorted(files))]
    except (ValueError, KeyError, TypeError, IndexError):
        return f"{path} is damaged"
    if holds != step:
        return f"{directory} holds step {holds}: was it renamed?"
    found = (_difference(directory / name, size, digest) for name, size, digest in wanted)
    return next(filter(None, distributed.gather_json(next(filter(None, found), ""))), "")


def _writer(name: str) -> int:
    """The process that wrote a file: orbax gives each but the first folders of its own.

    Each process lists what it has written itself, for a shared disk may list others' files late.
    """
    owned = re.search(r"\bprocess_(\d+)(?:/|$)", name)
    return int(owned[1]) if owned else 0


def _part_of(process: int) -> str:
    return f"manifest.{process}{_PART}"


def _write(path: Path, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _share_of(names: list[str]) -> list[str]:
    return names[jax.process_index() :: jax.process_count()]


def _describe(path: Path, settle: bool = False) -> list:
    """[size, SHA-256]; `settle` waits until they are on the disk, before older ones are removed."""
    with open(path, "rb") as file:
        if settle:
            os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return [os.fstat(file.fileno()).st_size, digest]


def _difference(path: Path, size: int, digest: str) -> str:
    if not path.is_file():
        return f"{path} is missing"
    found = _describe(path)
    if found[0] != size:
        return f"{path} has {found[0]} instead of {size} bytes"
    return "" if found[1] == digest else f"{path} has other contents than were saved"
