"""One device against eight simulated ones: the same answers, the same update but for rounding.

Each mesh has a process of its own, since the number of devices is fixed when jax starts.
"""

import json
import pathlib

import numpy as np
import pytest

SCRIPT = """
import json, sys
import jax, numpy as np
from dars_jax.policy import sharding
from dars_jax.rollout import scheduler, stages
from dars_jax.setup import build
from dars_jax.training.assemble import assemble
output, tests, mesh, files = sys.argv[1], sys.argv[2], *map(json.loads, sys.argv[3:])
sys.path.insert(0, tests)
from small_runs import make_config
axes = dict(zip(("mesh__data", "mesh__fsdp", "mesh__tensor"), mesh))
parts = build.make_parts(build.make_plan(make_config(files, **axes)), lambda _: None)
state = build.initial_state(parts)
params = parts.engine.load_params(state.params)
prompts = build.take(parts.train, np.arange(6))

class Restless(scheduler.Scheduler):
    moved = 0

    def _place(self, p, more, load):  # anywhere is better than here
        super()._place(p, more, np.where(np.arange(len(load)) == self.home[p], 1e9, load))
        Restless.moved = self.moves

stages.Scheduler = Restless
with build.make_grader(parts.plan) as grader:
    got, _ = stages.collect(
        prompts, parts.engine.open_session(params, 8), grader, parts.tokenizer.decode,
        parts.tokenizer.eos_ids, parts.plan.rollout, seed=0, step=0)
packed, _, kept = assemble(parts, prompts, got)
before = jax.device_get(state.params)
state, outcome = parts.update(state, sharding.put_batch(packed, parts.mesh), None)
leaves = jax.tree.leaves(jax.device_get(state.params))
embedding = state.params["embedding"]
np.savez(output, tokens=got.tokens.flat, length=got.length, prompt=got.prompt, stage=got.stage,
         reward=got.reward, logprob=got.logprob.flat, kept=kept, devices=jax.device_count(),
         grad_norm=jax.device_get(outcome["grad_norm"]),
         moves=Restless.moved, share=embedding.addressable_shards[0].data.size / embedding.size,
         moved=max(np.abs(x - y).max() for x, y in zip(leaves, jax.tree.leaves(before))),
         **{f"param{i}": x for i, x in enumerate(leaves)})
"""


@pytest.fixture(scope="module")
def step_on(fresh_python, base_policy, prompt_files, tmp_path_factory):
    """A DARS step of the embedded policy on a mesh -> its rollouts and parameters after it."""
    directory = tmp_path_factory.mktemp("steps")
    tests = pathlib.Path(__file__).parents[1]

    def run(*mesh):
        output = directory / f"{mesh}.npz"
        arguments = (output, tests, json.dumps(mesh), json.dumps(prompt_files))
        done = fresh_python("-c", SCRIPT, *arguments, devices=int(np.prod(mesh)))
        assert done.returncode == 0, done.stderr[-3000:]
        return dict(np.load(output))  # noqa: TID251, refuses pickles unless told otherwise

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
    assert got["moves"] > 0 == alone["moves"]  # top-ups were taken on other replicas
    assert alone["kept"].any() and set(alone["stage"]) == {0, 1}
    for name in ("tokens", "length", "prompt", "stage", "reward", "kept"):
        np.testing.assert_array_equal(got[name], alone[name])
    np.testing.assert_allclose(got["logprob"], alone["logprob"], atol=1e-5)
    np.testing.assert_allclose(got["grad_norm"], alone["grad_norm"], rtol=1e-4)
    assert alone["moved"] > 5e-5
    for name in (x for x in alone if x.startswith("param")):
        np.testing.assert_allclose(got[name], alone[name], atol=1e-5)


GATHER_SCRIPT = """
import dataclasses, functools, json, sys
import jax, jax.numpy as jnp, numpy as np, optax
sys.path.insert(0, sys.argv[2])
from dars_jax import types
from dars_jax.learner import packing, update
from dars_jax.policy import decoder, sharding
from small_updates import CONFIG
rng = np.random.default_rng(0)
config = decoder.ModelConfig(64, 3, 32, 4, 2, 8, 48, qkv_bias=True)
lengths = [[7, 1, 3, 7], [2, 2], [5, 6, 1, 1, 7, 4], [3], [7, 7, 6]]
owner = np.repeat(np.arange(5), [len(x) for x in lengths]).astype(np.int32)
n = len(owner)
zeros = np.zeros(n, np.int32)
prompts = types.Prompts(tuple(rng.integers(0, 64, k).astype(np.int32) for k in (5, 1, 3, 4, 2)),
                        np.arange(5), (("",),) * 5)
length = np.concatenate(lengths).astype(np.int32)
ragged = lambda x: types.Ragged.of_rows(x, length)
rollouts = types.Rollouts(owner, zeros, zeros,
                          ragged(rng.integers(0, 64, (n, 7)).astype(np.int32)),
                          ragged(np.zeros((n, 7), np.float32)), length,
                          zeros.astype(bool), zeros.astype(np.float32), zeros.astype(np.int8))
packed = packing.assemble(prompts, rollouts, rng.normal(size=n).astype(np.float32),
                          np.full(n, 1 / n, np.float32), np.ones(5, bool), np.zeros(5, int), 1,
                          packing.BatchShape(8, 4, 12))
optimizer = optax.chain(optax.clip_by_global_norm(0.1), optax.adamw(1e-2, eps=1e-4))
settings = dataclasses.replace(CONFIG, num_epochs=2)
host = jax.device_get

def step(config, params, mesh, **changes):
    mesh = sharding.make_mesh(*mesh, jax.devices()[: int(np.prod(mesh))])
    shardings = update.state_shardings(config, optimizer, mesh)
    state = update.init_state(jax.device_put(params, shardings.params), optimizer, shardings)
    run = update.make_update(dataclasses.replace(settings, **changes), config, optimizer, mesh)
    state, metrics = run(state, sharding.put_batch(packed, mesh), None)
    return host(state.params), host(metrics)

found = {}
for tied in (False, True):
    mine = dataclasses.replace(config, tied_head=tied)
    params = host(jax.jit(functools.partial(decoder.init_params, mine))(jax.random.key(0)))
    params = jax.tree.map(lambda x: 3 * x, params)
    want, wanted = step(mine, params, (1, 1, 1))
    for mesh in ((2, 2, 2), (1, 8, 1), (4, 1, 2)):
        for gather in ("epoch", "layer"):
            got, metrics = step(mine, params, mesh, gather=gather, remat="full")
            gap = jax.tree.map(lambda x, y: float(np.abs(x - y).max()), got, want)
            norms = metrics["grad_norm"] / wanted["grad_norm"] - 1
            found[f"{mesh} {gather} {'tied' if tied else 'apart'}"] = (
                max(jax.tree.leaves(gap)), float(np.abs(norms).max()))
    moved = jax.tree.map(lambda x, y: float(np.abs(x - y).max()), params, want)
    found[f"moved {tied}"] = (min(jax.tree.leaves(moved)), 0)
json.dump(found, open(sys.argv[1], "w"))
"""


def test_it_does_not_matter_when_the_weights_are_gathered(fresh_python, tmp_path):
    output = tmp_path / "found.json"
    done = fresh_python("-c", GATHER_SCRIPT, output, pathlib.Path(__file__).parents[1], devices=8)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(output.read_text())
    moved = [found.pop(f"moved {tied}")[0] for tied in (False, True)]
    assert min(moved) > 1e-3 and len(found) == 12
    for name, (gap, norm_gap) in found.items():
        assert gap < 1e-5 and norm_gap < 1e-4, (name, gap, norm_gap)
