"""Export as a command: a checkpoint becomes a Hugging Face directory, of a model or of adapters."""

from pathlib import Path

import jax.numpy as jnp

from dars_jax.commands import cli, startup
from dars_jax.config import ConfigDict
from dars_jax.learner import update
from dars_jax.policy import adapter_files, lora, sharding, weights
from dars_jax.records import checkpoint, storage
from dars_jax.setup import build, saved_state


def export(
    config: ConfigDict,
    workdir: Path,
    out: Path,
    *,
    step: int | None,
    dtype: str | None,
    merged: bool = False,
) -> int:
    """Writes a checkpoint as a Hugging Face directory; returns the exit code.

    A run with lora.rank becomes a directory for PEFT, with adapters alone.

    Args:
      step: None is the newest.
      dtype: "float32" or "bfloat16"; None is bfloat16, but float32 for adapters and for the
        embedded policy, which are small and computed in it.
      merged: write a model, with the adapters merged into the weights.
    """
    startup.settle()
    with cli.one_line_errors():
        config = startup.pinned(config, workdir)
        plan = build.make_plan(config)
        adapters = plan.update.lora
        if merged and not adapters:
            raise ValueError("--merged is for adapters, but lora.rank is 0: leave it out")
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
        source = build.policy_directory(plan, print)
        if adapters and not merged:
            dtype, count = dtype or "float32", lora.count(plan.model, adapters)
            optimizer = update.make_optimizer(plan.optimizer)
            shardings = build.state_shardings(plan, optimizer, mesh)
            state = saved_state.restore(plan, workdir, config, step, source, optimizer, shardings)
            with storage.writing(out, any_error=True):  # safetensors has types of its own
                adapter_files.save_adapters(
                    out, state.params, adapters, base=source.resolve(), dtype=jnp.dtype(dtype)
                )
        else:
            dtype = dtype or ("bfloat16" if config.policy.path else "float32")
            params = saved_state.policy(plan, workdir, config, step, source, mesh)
            params, count = lora.merged(params) if adapters else params, plan.model.num_params()
            with storage.writing(out, any_error=True):
                weights.save_params(out, params, plan.model, source=source, dtype=jnp.dtype(dtype))
    size = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    what = "parameters of adapters" if adapters and not merged else "parameters"
    print(f"{out}: step {step}, {count:,} {what} in {dtype}, {size / 1e6:,.1f} MB")
    return 0
