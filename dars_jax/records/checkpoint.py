"""State on disk: one commit point, through orbax.

A checkpoint holds the TrainState and, beside it, the step and the configuration it belongs to.
A run is a function of (configuration, step, state), so that is all a resumed run needs.  A manifest
of checksums is written last; without it, or with other files than it says, nothing is used.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from dars_jax import config as config_lib
from dars_jax import distributed
from dars_jax.records import manifest
from dars_jax.types import TrainState

FORMAT = 2  # 1 had no manifest


class SaveError(Exception):
    """A checkpoint could not be written; those before it are as they were."""


def finished(directory: Path) -> list[int]:
    """Steps of the checkpoints in a directory whose saving came to its end, oldest first."""
    steps = sorted(int(p.name) for p in directory.glob("*") if p.name.isdigit())
    return [s for s in steps if manifest.exists(directory / str(s)) or _is_old(directory / str(s))]


def problem(directory: Path, step: int) -> str:
    """What is wrong with the files of a checkpoint; "" if nothing is."""
    where = directory / str(step)
    return "" if _is_old(where) else manifest.problem(where, step)


def _is_old(where: Path) -> bool:
    """Whether it is of the first format, whose files cannot be checked."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        about = json.loads((where / "about" / "metadata").read_text())
        return about["format"] == 1 and not manifest.exists(where)
    return False


def recover(directory: Path, aside: Path, log: Callable[[str], None]) -> None:
    """Moves checkpoints that were not finished, or have changed, out of the way of a run.

    Only those newer than the newest good one, which the run then continues from.

    Args:
      aside: directory for them.

    Raises:
      ValueError: there are damaged ones and no good one.
    """
    steps = sorted((int(p.name) for p in directory.glob("*") if p.name.isdigit()), reverse=True)
    bad: dict[int, str] = {}
    for step in steps:
        if not (found := problem(directory, step)):
            break
        bad[step] = found
    else:
        damage = [text for step, text in bad.items() if manifest.exists(directory / str(step))]
        if damage:
            raise ValueError(f"{damage[0]}, and no checkpoint in {directory} is good: take another "
                             "--workdir to start anew")  # fmt: skip
    for step, found in bad.items():
        log(f"WARNING: {found}; the checkpoint of step {step} is not used but moved to {aside}")
    distributed.barrier()  # all have looked
    for step in bad if distributed.is_first() else ():
        aside.mkdir(parents=True, exist_ok=True)
        number = len(list(aside.glob(f"{step}.*")))
        (directory / str(step)).rename(aside / f"{step}.{number}")
    distributed.barrier()


def _present(state: TrainState) -> dict[str, Any]:
    """The fields that are there: those of a checkpoint written before the others existed."""
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: value for name, value in fields.items() if value is not None}


class Checkpoints:
    """The checkpoints of one working directory."""

    def __init__(self, directory: Path, config: dict, keep: int):
        """`config` is flattened, see config.flatten."""
        self._config = config
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, create=True, enable_async_checkpointing=False
            ),
            item_names=("state", "about"),
        )

    def latest(self) -> int | None:
        """Step of the newest checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState) -> None:
        """Returns when the state is on disk.

        Raises:
          SaveError: it could not be written.
        """
        about = {"format": FORMAT, "step": step, "config": self._config}
        directory = Path(self._manager.directory)
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(_present(state)), about=ocp.args.JsonSave(about)
        )
        try:
            with jax.transfer_guard("allow"):  # orbax lets its processes meet by implicit transfers
                self._manager.save(step, args=items, force=True)
                self._manager.wait_until_finished()
                manifest.write(directory / str(step), step, FORMAT)
        except Exception as error:  # tensorstore has types of its own for a full disk
            last = max(finished(directory), default=None)
            kept = "there is none before it" if last is None else f"that of step {last} is whole"
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
            raise SaveError(
                f"the checkpoint of step {step} was not written to {directory} ({reason}); {kept}"
            ) from error

    def restore(self, step: int, like: TrainState, shardings: TrainState) -> TrainState:
        """The state of a checkpoint, placed on this run's mesh.

        Args:
          like: shapes and dtypes.  The mesh need not be the one it was saved on.

        Raises:
          ValueError: the checkpoint has another format or step than its name says, or belongs to
            a configuration that differs where it matters; the message lists the differences.
        """
        about = self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))[
            "about"
        ]
        where = f"{self._manager.directory}/{step}"
        if about["format"] > FORMAT:
            raise ValueError(f"{where} has format {about['format']}; this version reads up to "
                             f"{FORMAT}")  # fmt: skip
        if about["step"] != step:
            raise ValueError(f"{where} holds step {about['step']}: was it renamed?")
        changed = config_lib.differences(about["config"], self._config)
        if changed:
            raise ValueError(
                "the run in this --workdir was started with another configuration: "
                + "; ".join(changed)
                + ". Take another --workdir, or the old settings"
            )
        target = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), like, shardings
        )
        restored = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(_present(target)))
        )
        return TrainState(**restored["state"])

    def close(self) -> None:
        """Ends orbax's threads."""
        self._manager.close()
