"""State on disk: one commit point, through orbax.

A checkpoint holds the TrainState and, beside it, the step and the configuration it belongs to.
A run is a function of (configuration, step, state), so that is all a resumed run needs.  A manifest
of checksums is written last; without it, or with other files than it says, nothing is used.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from dars_jax import config as config_lib
from dars_jax import distributed
from dars_jax.records import manifest
from dars_jax.types import TrainState

FORMAT = 2  # 1 had no manifest

_REMOVED = ".removed"  # ending of a checkpoint's directory that is being removed
_UNNAMED = ".orbax-checkpoint-tmp"  # and of one that orbax is still writing
_LOOK_SECONDS = 0.5  # between looks at the other processes while waiting for one's own
_MEET_MS = 1_200_000  # as long as orbax's own threads wait for other processes


class SaveError(Exception):
    """A checkpoint could not be written; those before it are as they were."""


def finished(directory: Path) -> list[int]:
    """Steps of the checkpoints in a directory whose saving came to its end, oldest first."""
    steps = _steps(directory)
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
    bad: dict[int, str] = {}
    for step in reversed(_steps(directory)):
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
    if distributed.is_first():
        for step in bad:
            aside.mkdir(parents=True, exist_ok=True)
            number = len(list(aside.glob(f"{step}.*")))
            (directory / str(step)).rename(aside / f"{step}.{number}")
        _sweep(directory, _REMOVED, _UNNAMED)  # of a run that was killed
    distributed.barrier()


def _present(state: TrainState) -> dict[str, Any]:
    """The fields that are there: those of a checkpoint written before the others existed."""
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: value for name, value in fields.items() if value is not None}


def remove_older(directory: Path, keep: int) -> None:
    """Leaves the newest `keep` finished checkpoints, and nothing that is older.

    A directory loses its name before its files: half removed it is no checkpoint.
    """
    kept = finished(directory)[-keep:]
    for step in [s for s in _steps(directory) if s < kept[0]]:
        gone = directory / f"{step}{_REMOVED}"
        shutil.rmtree(gone, ignore_errors=True)  # of a run that was killed here, and went back
        (directory / str(step)).rename(gone)
    _sweep(directory, _REMOVED)


def _sweep(directory: Path, *endings: str) -> None:
    """Removes what lost its name, or never got one."""
    for path in directory.glob("*"):
        if path.name.endswith(endings):
            shutil.rmtree(path)


def _steps(directory: Path) -> list[int]:
    return sorted(int(path.name) for path in directory.glob("*") if path.name.isdigit())


class Checkpoints:
    """The checkpoints of one working directory.  At most one is being saved at a time.

    `save` returns when the state is on the host.  A thread then waits until orbax has written it,
    reads it back for the manifest, and removes older checkpoints.  It runs no program of jax, which
    several processes would have to run in the same order: they meet at the coordinator.
    """

    def __init__(self, directory: Path, config: dict, keep: int):
        """`config` is flattened, see config.flatten."""
        self._directory, self._config, self._keep = directory.absolute(), config, keep
        self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
        self._meet = ocp.multihost.get_barrier_sync_fn()
        self._background = concurrent.futures.ThreadPoolExecutor(1, "save")
        self._saving: concurrent.futures.Future | None = None
        self._saves = 0

    def latest(self) -> int | None:
        """Step of the newest checkpoint.  All processes call it together."""
        newest = distributed.of_first(max(finished(self._directory), default=-1))
        return None if newest < 0 else newest

    def save(self, step: int, state: TrainState) -> None:
        """Returns when the state may be donated; waits for the save before to end.

        Raises:
          SaveError: this one or the one before could not be written.
        """
        self.wait()
        about = {"format": FORMAT, "step": step, "config": self._config}
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(_present(state)), about=ocp.args.JsonSave(about)
        )
        with (
            self._save_errors(step),
            jax.transfer_guard("allow"),  # orbax lets its processes meet by implicit transfers
        ):
            self._orbax.save(self._directory / str(step), args=items)
        self._saves += 1
        self._saving = self._background.submit(self._finish, step, self._saves)

    def check(self) -> None:
        """Looks whether the save in flight has failed.  All processes call it together.

        Raises:
          SaveError: it has, in one of them.
        """
        if self._saving is None:
            return
        done = self._saving.done()
        error = self._saving.exception() if done else None
        state = distributed.largest(2 if error else int(not done))
        if state == 1:  # some are still at it
            return
        self._saving = None
        if state == 2:
            texts = distributed.gather_texts(str(error or ""))
            raise SaveError(next(filter(None, texts))) from error

    def wait(self) -> None:
        """Returns when no save is in flight.  All processes call it together.

        Raises:
          SaveError: it has failed, in one of them.
        """
        while self._saving is not None:
            concurrent.futures.wait([self._saving], timeout=_LOOK_SECONDS)
            self.check()

    def _finish(self, step: int, number: int) -> None:
        """All that follows when the state is on the host; in the background."""
        meet = functools.partial(self._meet, timeout_ms=_MEET_MS)
        where = self._directory / str(step)
        with self._save_errors(step):
            self._orbax.wait_until_finished()  # only this tells of a full disk
            manifest.write_part(where)
            meet(key=f"dars_jax_parts_{number}")
            if distributed.is_first():
                manifest.write(where, step, FORMAT)
                remove_older(self._directory, self._keep)
            meet(key=f"dars_jax_whole_{number}")

    @contextlib.contextmanager
    def _save_errors(self, step: int) -> Iterator[None]:
        """Turns whatever goes wrong into a SaveError that says what there is."""
        try:
            yield
        except Exception as error:  # tensorstore has types of its own for a full disk
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
            last = max(finished(self._directory), default=None)
            if last == step:
                raise SaveError(
                    f"the checkpoint of step {step} is whole, but older ones could not be removed "
                    f"from {self._directory} ({reason})"
                ) from error
            kept = "there is none before it" if last is None else f"that of step {last} is whole"
            raise SaveError(
                f"the checkpoint of step {step} was not written to {self._directory} ({reason}); "
                f"{kept}"
            ) from error

    def restore(self, step: int, like: TrainState, shardings: TrainState) -> TrainState:
        """The state of a checkpoint, placed on this run's mesh.

        Args:
          like: shapes and dtypes.  The mesh need not be the one it was saved on.

        Raises:
          ValueError: the checkpoint has another format or step than its name says, or belongs to
            a configuration that differs where it matters; the message lists the differences.
        """
        where = self._directory / str(step)
        read = functools.partial(self._orbax.restore, where)
        about = read(args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]
        if about["format"] > FORMAT:
            raise ValueError(f"{where} has format {about['format']}; this version reads up to "
                             f"{FORMAT}: go on with a newer dars_jax, or take another --workdir to "
                             "start anew")  # fmt: skip
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
        restored = read(args=ocp.args.Composite(state=ocp.args.StandardRestore(_present(target))))
        return TrainState(**restored["state"])

    def close(self) -> None:
        """Waits for the save in flight, and ends the threads.

        Raises:
          SaveError: see wait.
        """
        try:
            self.wait()
        finally:
            self._background.shutdown()
            with contextlib.suppress(Exception):  # orbax tells of a failed save more than once
                self._orbax.close()
