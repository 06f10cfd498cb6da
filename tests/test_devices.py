"""One device against eight simulated ones: the same rollouts, and the same update but for rounding.

Each mesh has a process of its own, since the number of devices is fixed when jax starts.
"""

import numpy as np
import pytest

SCRIPT = """
import dataclasses, sys
import jax, numpy as np
from dars_jax import build, plan, rollout, trainer
sys.path.insert(0, sys.argv[2])
from test_trainer import make_config
data, fsdp, tensor = map(int, sys.argv[3:6])
files = dict(zip(("data.train", "data.test"), sys.argv[6:8]))
config = make_config(files, mesh__data=data, mesh__fsdp=fsdp, mesh__tensor=tensor)
parts = build.make_parts(build.make_plan(config), lambda _: None)
state = build.initial_state(parts)
params = parts.engine.load_params(state.params)
prompts = build.take(parts.train, np.arange(6))
with build.make_grader(parts.plan) as grader:
    got, _ = rollout.collect(
        prompts, parts.engine.open_session(params, 8), grader, parts.tokenizer.decode,
        parts.tokenizer.eos_ids, parts.plan.rollout, seed=0, step=0)
packed, _, kept = trainer.assemble(parts, prompts, got)
state, outcome = parts.update(state, PUT(parts, packed), None)
leaves = {f"param{i}": np.asarray(x) for i, x in enumerate(jax.tree.leaves(state.params))}
np.savez(sys.argv[1], tokens=got.tokens, length=got.length, prompt=got.prompt, stage=got.stage,
         reward=got.reward, logprob=got.logprob, kept=kept, devices=jax.device_count(),
         grad_norm=np.asarray(outcome["grad_norm"]), **leaves)
"""


def step_on(mesh, fresh_python, directory, files):
    import pathlib

    from dars_jax import trainer

    put = "trainer.put_batch" if hasattr(trainer, "put_batch") else (
        "(lambda parts, packed: __import__('dars_jax.sharding').sharding.put_batch"
        "(packed, parts.mesh))"
    )  # fmt: skip
    output = directory / f"{'x'.join(map(str, mesh))}.npz"
    tests = pathlib.Path(__file__).parent
    done = fresh_python("-c", SCRIPT.replace("PUT", put), output, tests, *mesh,
                        *files.values(), devices=int(np.prod(mesh)))  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return np.load(output)
