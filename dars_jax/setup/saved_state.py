"""What a run has saved, for commands that do not train: the newest step, and a step's state."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from dars_jax.config import ConfigDict, flatten
from dars_jax.policy import decoder
from dars_jax.records import checkpoint
from dars_jax.records.checkpoint import Checkpoints
from dars_jax.setup import build
from dars_jax.setup.plan import Plan
from dars_jax.types import TrainState


def newest(workdir: Path) -> int | None:
    """Step of the newest finished checkpoint."""
    return max(checkpoint.finished(workdir / "checkpoints"), default=None)


def restore(
    plan: Plan,
    workdir: Path,
    config: ConfigDict,
    step: int,
    optimizer: Any,
    shardings: TrainState,
) -> TrainState:
    """The state of a checkpoint; only shapes are made before it is read.

    Raises:
      ValueError: its files are not those that were saved; see also Checkpoints.restore.
    """
    directory = workdir / "checkpoints"
    if damage := checkpoint.problem(directory, step):
        raise ValueError(f"{damage}: move the checkpoint of step {step} away to use the one before")
    params = decoder.abstract_params(plan.model)
    number: Any = jax.ShapeDtypeStruct((), jnp.int32)
    like = TrainState(
        step=number,
        params=params,
        opt_state=jax.eval_shape(optimizer.init, params),
        entropy=shardings.entropy and jax.ShapeDtypeStruct((2,), jnp.float32),
    )
    settings = flatten(config) | build.policy_content(config)
    checkpoints = Checkpoints(directory, settings, plan.config.checkpoint.keep)
    state = checkpoints.restore(step, like, shardings)
    checkpoints.close()
    return state
