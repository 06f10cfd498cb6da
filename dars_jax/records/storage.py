"""Writing files on a disk that may be full: whole or not at all, and told with the file's name.

The error of a write or a flush names no file.
"""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from dars_jax.data import disk

FULL = disk.FULL
_OF_STORAGE = (*FULL, errno.EIO, errno.EROFS, errno.ESTALE, errno.EACCES, errno.EPERM,
               errno.ENOTDIR, errno.EEXIST)  # fmt: skip


class StorageError(Exception):
    """A file could not be written; what was finished before is as it was."""


@contextlib.contextmanager
def writing(path: Path, *, any_error: bool = False) -> Iterator[None]:
    """Runs a body that writes a file, or below a directory.

    Args:
      any_error: whether every exception means that; for libraries with types of their own.

    Raises:
      StorageError: the body could not write.  What has other reasons goes on as it is.
    """
    try:
        yield
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        if not any_error and number not in _OF_STORAGE:
            raise
        raise StorageError(told(path, error)) from error


def told(path: Path | str, error: BaseException) -> str:
    """One line about a file, or a directory, that could not be written."""
    text = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    reason = text.splitlines()[-1].strip()
    return (
        f"{path} could not be written ({reason}); what was finished before is whole. Make room "
        "there, and the same command goes on"
    )


def replace(path: Path, content: str | bytes) -> None:
    """Writes a file beside and renames it, so that it is the old one or the new one.

    Raises:
      StorageError: it could not be written.
    """
    partial = path.with_name(path.name + ".partial")
    with writing(path):
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        partial.replace(path)
