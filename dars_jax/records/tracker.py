"""Weights & Biases beside the files: the scalars of a run, under one id however often it resumes.

A step that is sent twice was the same both times, and W&B keeps the first.
"""

import contextlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dars_jax import distributed
from dars_jax.config import ConfigDict, flatten


class Tracker:
    """A W&B run at work."""

    def __init__(self, run: Any):
        self._run = run

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step; those of one step may come in several calls."""
        self._run.log(dict(values), step=step)


@contextlib.contextmanager
def tracking(
    config: ConfigDict, workdir: Path, log: Callable[[str], None]
) -> Iterator[Tracker | None]:
    """The run of a working directory; None without `wandb.project`, and on all processes but one.

    The key is looked up by the package (WANDB_API_KEY, or what `wandb login` has stored) and is
    written nowhere.  The run's id is kept in WORKDIR/wandb/run_id.

    Raises:
      ValueError: the package is missing, or W&B refuses the run.
    """
    if not config.wandb.project or not distributed.is_first():
        yield None
        return
    run = _start(config, workdir)
    log(f"Weights & Biases: {run.url if config.wandb.mode == 'online' else run.settings.sync_dir}")
    try:
        yield Tracker(run)
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()


def _start(config: ConfigDict, workdir: Path) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise ValueError(
            f"wandb.project is {config.wandb.project!r}, but {error.name or 'wandb'} is not "
            "installed: pip install 'dars_jax[wandb]', or leave wandb.project empty"
        ) from error
    online = config.wandb.mode == "online"
    try:
        return wandb.init(
            project=config.wandb.project,
            id=_run_id(workdir / "wandb" / "run_id"),
            name=workdir.resolve().name,
            dir=str(workdir),
            config=flatten(config),
            mode=config.wandb.mode,
            resume="allow" if online else None,  # offline files of one id are one run when synced
            # no code, no output, no address of a repository, which may hold a token
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, disable_code=True, save_code=False
            ),
        )
    except (wandb.errors.Error, TimeoutError) as error:
        raise ValueError(
            f"Weights & Biases: {error}; with wandb.mode=offline it needs no network and no key"
        ) from error


def _run_id(path: Path) -> str:
    """That of the earlier runs in this directory."""
    if path.exists():
        return path.read_text().strip()
    path.parent.mkdir(exist_ok=True)
    path.write_text(uuid.uuid4().hex[:8] + "\n")
    return path.read_text().strip()
