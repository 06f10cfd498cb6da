"""What a notebook calls: training in the kernel with a picture that grows, and reports as output.

A run in the kernel shares its accelerator: a second process could not open it.
"""

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
from IPython.display import DisplayHandle, Image, Markdown, display

from dars_jax.commands import cli, plot
from dars_jax.config import ConfigDict
from dars_jax.study import figures, look, page

REDRAW_SECONDS = 5.0


def machine() -> str:
    """What JAX computes on, in a line."""
    devices = jax.devices()
    kind = devices[0].device_kind
    return f"{len(devices)} x {kind}, {jax.default_backend()}"


def train(config: ConfigDict, workdir: str | Path) -> None:
    """Trains in this kernel, with curves below the cell; continues the run that `workdir` holds.

    Stopped by the kernel's interrupt, it saves and can be continued.

    Raises:
      RuntimeError: it ended before its time, for the reason that is printed.
    """
    with cli.quiet_native_code():
        from dars_jax.commands import train as command

    workdir = Path(workdir)
    config = config.copy_and_resolve_references()
    config.watchdog.minutes = 0.0  # it would end the kernel; who sits here interrupts
    with _curves(workdir):
        try:
            code = command.train(config, workdir)
        except SystemExit as ended:  # its one line is on standard error; the kernel lives on
            raise RuntimeError(f"training ended with exit code {ended.code}") from None
    if code:
        raise RuntimeError(f"training ended with exit code {code}; the same call continues it")


def show(blocks: Sequence[page.Block]) -> None:
    """Displays a report block by block."""
    for block in blocks:
        if isinstance(block, page.Figure):
            display(Image(block.png), Markdown(f"*{block.caption}*"))
        else:
            display(Markdown(page.to_markdown([block])))


def look_at(*workdirs: str | Path) -> None:
    """Displays curves, Pass@k, allocation and sample answers of one or several runs."""
    show(look.blocks(plot.named([Path(w) for w in workdirs])))


@contextlib.contextmanager
def _curves(workdir: Path) -> Iterator[None]:
    """Redraws the curves of a run while the body works, and once after it."""
    handle: DisplayHandle = display(
        Markdown("*curves appear after the first step*"), display_id=True
    )
    done = threading.Event()

    def redraw() -> None:
        drawn = 0
        while not done.wait(REDRAW_SECONDS):
            drawn = _draw(workdir, handle, drawn)
        _draw(workdir, handle, drawn)

    thread = threading.Thread(target=redraw, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _draw(workdir: Path, handle: DisplayHandle, drawn: int) -> int:
    """Draws if there are more than `drawn` steps -> steps drawn."""
    file = workdir / "metrics.jsonl"
    written = file.read_text().splitlines(keepends=True) if file.exists() else []
    steps = [json.loads(line) for line in written if line.endswith("\n")]
    if len(steps) > drawn:
        handle.update(Image(figures.steps(steps)))
    return len(steps)
