"""A page about finished or unfinished runs, as a command."""

from collections.abc import Sequence
from pathlib import Path

from dars_jax.commands import cli
from dars_jax.study import look, page


def plot(workdirs: Sequence[Path], output: Path) -> int:
    """Writes runs.html, runs.md and the pictures; returns the exit code."""
    with cli.one_line_errors():
        for file in page.write(output, "runs", look.blocks(named(workdirs))):
            print(file)
    return 0


def named(workdirs: Sequence[Path]) -> dict[str, Path]:
    """By the last parts of their paths, as many as it takes to tell them apart.

    Raises:
      ValueError: one is there twice.
    """
    paths = [path.resolve() for path in workdirs]
    if len(set(paths)) < len(paths):
        raise ValueError("a working directory is named twice")
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return {"/".join(path.parts[-depth:]): given
            for path, given in zip(paths, workdirs, strict=True)}  # fmt: skip
