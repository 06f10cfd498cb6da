"""One device against eight simulated ones: the same rollouts, the same update but for rounding.

Each mesh has a process of its own, since the number of devices is fixed when jax starts.
"""

import json
import pathlib

import numpy as np
import pytest

SCRIPT = """
import json, sys
import jax, numpy as np
from dars_jax import build, rollout, sharding, trainer
output, tests, mesh, files = sys.argv[1], sys.argv[2], *map(json.loads, sys.argv[3:])
sys.path.insert(0, tests)
from test_trainer import make_config
axes = dict(zip(("mesh__data", "mesh__fsdp", "mesh__tensor"), mesh))
parts = build.make_parts(build.make_plan(make_config(files, **axes)), lambda _: None)
state = build.initial_state(parts)
params = parts.engine.load_params(state.params)
prompts = build.take(parts.train, np.arange(6))
with build.make_grader(parts.plan) as grader:
    got, _ = rollout.collect(
        prompts, parts.engine.open_session(params, 8), grader, parts.tokenizer.decode,
        parts.tokenizer.eos_ids, parts.plan.rollout, seed=0, step=0)
packed, _, kept = trainer.assemble(parts, prompts, got)
before = jax.device_get(state.params)
state, outcome = parts.update(state, sharding.put_batch(packed, parts.mesh), None)
leaves = jax.tree.leaves(jax.device_get(state.params))
embedding = state.params["embedding"]
np.savez(output, tokens=got.tokens, length=got.length, prompt=got.prompt, stage=got.stage,
         reward=got.reward, logprob=got.logprob, kept=kept, devices=jax.device_count(),
         grad_norm=jax.device_get(outcome["grad_norm"]),
         share=embedding.addressable_shards[0].data.size / embedding.size,
         moved=max(np.abs(x - y).max() for x, y in zip(leaves, jax.tree.leaves(before))),
         **{f"param{i}": x for i, x in enumerate(leaves)})
"""


@pytest.fixture(scope="module")
def step_on(fresh_python, prompt_files, tmp_path_factory):
    """A DARS step of the embedded policy on a mesh -> its rollouts and parameters after it."""
    directory = tmp_path_factory.mktemp("steps")
    tests = pathlib.Path(__file__).parent

    def run(*mesh):
        output = directory / f"{mesh}.npz"
        arguments = (output, tests, json.dumps(mesh), json.dumps(prompt_files))
        done = fresh_python("-c", SCRIPT, *arguments, devices=int(np.prod(mesh)))
        assert done.returncode == 0, done.stderr[-3000:]
        return dict(np.load(output))

    return run


@pytest.fixture(scope="module")
def alone(step_on):
    return step_on(1, 1, 1)


@pytest.mark.parametrize(
    ("mesh", "share"),
    [
        pytest.param((2, 2, 2), 1 / 4, id="data 2 fsdp 2 tensor 2"),
        pytest.param((1, 8, 1), 1 / 8, id="fsdp 8"),
    ],
)
def test_eight_devices_take_the_same_step_as_one(step_on, alone, mesh, share):
    got = step_on(*mesh)
    assert (got["devices"], alone["devices"]) == (8, 1)
    assert (got["share"], alone["share"]) == (share, 1)  # the parameters really are spread
    assert alone["kept"].any() and set(alone["stage"]) == {0, 1}
    for name in ("tokens", "length", "prompt", "stage", "reward", "kept"):
        np.testing.assert_array_equal(got[name], alone[name])
    np.testing.assert_allclose(got["logprob"], alone["logprob"], atol=1e-5)
    np.testing.assert_allclose(got["grad_norm"], alone["grad_norm"], rtol=1e-4)
    assert alone["moved"] > 5e-5
    for name in (x for x in alone if x.startswith("param")):
        np.testing.assert_allclose(got[name], alone[name], atol=1e-5)
