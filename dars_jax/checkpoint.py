"""State on disk: one commit point, through orbax.

A checkpoint holds the TrainState and, beside it, the step and the configuration it belongs to.
A run is a function of (configuration, step, state), so that is all a resumed run needs.
"""

from pathlib import Path

import jax
import orbax.checkpoint as ocp

from dars_jax import config as config_lib
from dars_jax.types import TrainState

FORMAT = 1


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
        """Returns when the state is on disk."""
        about = {"format": FORMAT, "step": step, "config": self._config}
        with jax.transfer_guard("allow"):  # orbax lets its processes meet by implicit transfers
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(about)
                ),
                force=True,
            )
            self._manager.wait_until_finished()

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
        if about["format"] != FORMAT:
            raise ValueError(f"{where} has format {about['format']}; this version reads {FORMAT}")
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
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target))
        )
        return restored["state"]

    def close(self) -> None:
        """Ends orbax's threads."""
        self._manager.close()
