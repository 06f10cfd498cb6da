"""Stands in for launch/tpu_run.py: leaves what a run leaves, in no time.

Arms named in $FAIL end with code 3; those named in $HANG wait to be asked to stop.
"""

import json
import os
import pathlib
import runpy
import signal
import sys

import made_up_runs
import numpy as np

from dars_jax.config import flatten


def main():
    _, _, spec, _, workdir, *overrides = sys.argv
    workdir = pathlib.Path(workdir)
    arm = workdir.parent.name
    names = ("NPROC", "JAX_PLATFORMS", "XLA_FLAGS", "DARS_JAX_CACHE")
    with open(workdir / "began.txt", "a") as file:
        file.write(json.dumps({name: os.environ.get(name) for name in names}) + "\n")
    if arm in os.environ.get("FAIL", "").split(","):
        print("error: no such luck")
        sys.exit(3)
    if arm in os.environ.get("HANG", "").split(","):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        (workdir / "hangs").touch()
        signal.pause()
    file, _, argument = spec.partition(":")
    config = runpy.run_path(file)["get_config"](argument)
    flat = flatten(config)
    for text in overrides:
        key, value = text.removeprefix("--config.").split("=", 1)
        flat[key] = type(flat[key])(value)
    every, last, size = (flat[k] for k in ("eval.every", "train.num_steps", "rollout.num_prompts"))
    rng = np.random.default_rng(flat["seed"])
    correct = {step: made_up_runs.right(rng, 0.2 + 0.5 * step / last, n=128)
               for step in range(0, last + 1, every)}  # fmt: skip
    made_up_runs.write(workdir, correct, n=128, settings=flat, prompts=size,
                       rollouts=size * flat["rollout.n_max"])  # fmt: skip


main()
