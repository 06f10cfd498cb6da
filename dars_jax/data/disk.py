"""A full disk, by whatever library it is told: some have errors of their own, without a number."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def filling(place: Path | str) -> Iterator[None]:
    """Runs a body in which a library writes below a directory.

    Raises:
      OSError: the disk is full; with its number, and the directory for a file name.  What has other
        reasons goes on as it is.
    """
    try:
        yield
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        text = str(error)
        told = [n for n in FULL if n == number or os.strerror(n) in text]
        if not told:
            raise
        raise OSError(told[0], os.strerror(told[0]), str(place)) from error
