"""Export as a command: a checkpoint becomes a Hugging Face directory."""

from pathlib import Path

import jax.numpy as jnp

from dars_jax.commands import cli, startup
from dars_jax.config import ConfigDict
from dars_jax.learner import update
from dars_jax.policy import sharding, weights
from dars_jax.records import checkpoint, storage
from dars_jax.setup import build, saved_state


def export(
    config: ConfigDict, workdir: Path, out: Path, *, step: int | None, dtype: str | None
) -> int:
    """Writes a checkpoint as a Hugging Face directory; returns the exit code.

    Args:
      step: None is the newest.
      dtype: "float32" or "bfloat16"; None is bfloat16, but float32 for the embedded policy, which
        is small and computes in it.
    """
    startup.settle()
    path = config.policy.path
    dtype = dtype or ("bfloat16" if path else "float32")
    with cli.one_line_errors():
        config = startup.pinned(config, workdir)
        plan = build.make_plan(config)
        steps = checkpoint.finished(workdir / "checkpoints")
        if not steps:
            raise ValueError(
                f"no checkpoint in {workdir}/checkpoints: is this the run's --workdir?"
            )
        if step is not None and step not in steps:
            raise ValueError(
                f"no checkpoint of step {step}: there are {', '.join(map(str, steps))}"
            )
        step = steps[-1] if step is None else step
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ValueError(f"--out {out} exists and is not an empty directory")
        mesh = sharding.make_mesh(*plan.mesh_shape)
        optimizer = update.make_optimizer(plan.optimizer)
        shardings = update.state_shardings(plan.model, optimizer, mesh, plan.update.entropy_target)
        state = saved_state.restore(plan, workdir, config, step, optimizer, shardings)
        source = build.policy_directory(plan, print)
        with storage.writing(out, any_error=True):  # safetensors has types of its own
            weights.save_params(
                out, state.params, plan.model, source=source, dtype=jnp.dtype(dtype)
            )
    size = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    print(f"{out}: step {step}, {plan.model.num_params():,} parameters in {dtype}, "
          f"{size / 1e6:,.1f} MB")  # fmt: skip
    return 0
