"""A small run as today's code leaves it, packed into a file, for the code of later days to read.

python tests/stored_run.py tests/records/run_of_format_2.tar.xz
"""

import hashlib
import json
import os
import pathlib
import sys
import tarfile
import tempfile

import jax
import numpy as np
import processes
from small_runs import make_config

from dars_jax.records import metrics
from dars_jax.setup import build
from dars_jax.tasks import countdown
from dars_jax.training import loop

STEPS = 2
SIZES = {"d_model": 8, "d_ff": 8, "num_heads": 1, "num_kv_heads": 1, "head_dim": 8}


def trainer(directory, steps):
    """Of the run below a directory, which has the policy and the prompts beside it."""
    files = {f"data.{name}": str(directory / f"{name}.jsonl") for name in ("train", "test")}
    config = make_config(
        files, policy__path=str(directory / "policy"), reward__name="processes:even",
        reward__in_process=True, train__num_steps=steps, checkpoint__every=1, checkpoint__keep=1,
        rollout__num_prompts=4, eval__num_samples=2,
    )  # fmt: skip
    parts = build.make_parts(build.make_plan(config), print)
    grader = build.make_grader(parts.plan)
    return loop.Trainer(parts, grader, directory / "run", metrics.Console(steps))


def digests(state):
    """{path of a leaf: dtype, shape and SHA-256 of its bytes}"""
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(state))
    return {
        jax.tree_util.keystr(path): [
            str(x.dtype), list(x.shape), hashlib.sha256(np.ascontiguousarray(x)).hexdigest()
        ]
        for path, x in leaves
    }  # fmt: skip


def make(directory):
    """Runs it, and notes what its state was."""
    (directory / "policy").mkdir()
    processes.write_policy(directory / "policy", **SIZES)
    processes.write_problems(directory / "train.jsonl", countdown.train_problems()[:8])
    processes.write_problems(directory / "test.jsonl", countdown.test_problems()[:2])
    (directory / "run").mkdir()
    os.environ["ANSWERS"] = tempfile.mkdtemp()
    trainer(directory, STEPS).run()
    state = trainer(directory, STEPS)._state
    (directory / "state.json").write_text(json.dumps(digests(state), indent=1))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        made = pathlib.Path(name)
        make(made)
        with tarfile.open(sys.argv[1], "w:xz") as file:
            for kept in ("policy", "train.jsonl", "test.jsonl", "state.json", "run/checkpoints",
                         "run/eval", "run/metrics.jsonl"):  # fmt: skip
                file.add(made / kept, kept)
