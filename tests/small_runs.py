"""The configuration of a run of the embedded policy that takes seconds."""

import dataclasses
import pathlib
import runpy

import ml_collections

CONFIGS = pathlib.Path(__file__).resolve().parent.parent / "configs"
STEPS = 4
SMALL = {
    "rollout.num_prompts": 6,
    "rollout.slots": 64,
    "rollout.prefixes": 8,
    "rollout.prefill_batch": 8,
    "learner.micro_batch_rows": 8,
    "eval.num_samples": 4,
    "checkpoint.every": 2,
}


def make_config(files, arm="dars_hw", **changes):
    """An arm on the prompts of `files`, with other changes as section__key=value."""
    config = runpy.run_path(str(CONFIGS / f"{arm}.py"))["get_config"]("")
    changes = {k.replace("__", "."): v for k, v in changes.items()}
    config.update_from_flattened_dict(SMALL | files | {"train.num_steps": STEPS} | changes)
    return config


def but(parts, **changes):
    """Parts of a run with other settings, as section__key=value, that need no other program."""
    from dars_jax.setup import build

    config = ml_collections.ConfigDict(parts.plan.config.to_dict())
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return dataclasses.replace(parts, plan=build.make_plan(config))
