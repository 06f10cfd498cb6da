"""Checksums of a checkpoint's files, so that one that has changed on disk is never used.

orbax restores weights with flipped bits without a word, and counts an empty directory as a
checkpoint.  The manifest is written last, whole or not at all: what has none was not finished.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import jax

from dars_jax import distributed

NAME = "manifest.json"


def write(directory: Path, step: int, version: int) -> None:
    """Notes size and SHA-256 of every file.  All processes call it; each reads its share."""
    listed = [
        path.relative_to(directory).as_posix()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    ]
    (names, *_) = _share(listed)  # a shared disk may list files late
    mine = {name: _describe(directory / name) for name in _part(names)}
    files = {name: about for part in _share(mine) for name, about in part.items()}
    if distributed.is_first():
        text = json.dumps({"format": version, "step": step, "files": files}, indent=1)
        partial = directory / f"{NAME}.partial"
        with open(partial, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(directory / NAME)
    distributed.barrier()


def exists(directory: Path) -> bool:
    """Whether the checkpoint was finished."""
    return (directory / NAME).is_file()


def problem(directory: Path, step: int) -> str:
    """What is wrong with the files of a checkpoint; "" if nothing is.

    All processes call it together, each reads its share, and all get the same answer.
    """
    path = directory / NAME
    (text, *_) = _share(path.read_text(errors="replace") if exists(directory) else None)
    if text is None:
        return f"{path} is missing"
    try:
        manifest = json.loads(text)
        files, holds = manifest["files"], manifest["step"]
        wanted = [(name, int(files[name][0]), files[name][1]) for name in _part(sorted(files))]
    except (ValueError, KeyError, TypeError, IndexError):
        return f"{path} is damaged"
    if holds != step:
        return f"{directory} holds step {holds}: was it renamed?"
    found = (_difference(directory / name, size, digest) for name, size, digest in wanted)
    return next(filter(None, _share(next(filter(None, found), ""))), "")


def _part(names: list[str]) -> list[str]:
    return names[jax.process_index() :: jax.process_count()]


def _share(mine: Any) -> list[Any]:
    """A value that JSON can hold from every process, in their order."""
    return [json.loads(text) for text in distributed.gather_texts(json.dumps(mine))]


def _describe(path: Path) -> list:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return [os.fstat(file.fileno()).st_size, digest]


def _difference(path: Path, size: int, digest: str) -> str:
    if not path.is_file():
        return f"{path} is missing"
    found = _describe(path)
    if found[0] != size:
        return f"{path} has {found[0]} instead of {size} bytes"
    return "" if found[1] == digest else f"{path} has other contents than were saved"
