"""Whole runs in which adapters learn: what they save, resumed or not, on one device or eight."""

import json
import pathlib

import jax
import ml_collections
import numpy as np
import pytest
from small_runs import but, make_config

from dars_jax.config import flatten
from dars_jax.policy import lora, weights
from dars_jax.records import metrics
from dars_jax.records.checkpoint import Checkpoints
from dars_jax.setup import base_policy, build, saved_state
from dars_jax.training import loop

pytestmark = pytest.mark.usefixtures("base_policy")

STEPS = 3


@pytest.fixture(scope="module")
def parts(prompt_files):
    config = make_config(
        prompt_files, lora__rank=4, optimizer__learning_rate=1e-2, train__num_steps=STEPS,
        eval__num_samples=1, checkpoint__every=1,
    )  # fmt: skip
    return build.make_parts(build.make_plan(config), print)


def run(parts, workdir, steps=STEPS):
    parts = but(parts, train__num_steps=steps)
    workdir.mkdir(exist_ok=True)
    with build.make_grader(parts.plan) as grader:
        loop.Trainer(parts, grader, workdir, metrics.Console(steps)).run()


def lines(workdir):
    rows = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if "seconds" not in k and not k.endswith("_per_s")}
            for row in rows]  # fmt: skip


def restored(parts, workdir, step=STEPS):
    about = flatten(parts.plan.config) | parts.contents
    checkpoints = Checkpoints(workdir / "checkpoints", about, 2)
    state = checkpoints.restore(step, build.initial_state(parts), parts.shardings)
    checkpoints.close()
    return state


@pytest.fixture(scope="module")
def finished(parts, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("lora") / "a"
    run(parts, workdir)
    return workdir


def test_the_sampler_serves_what_the_trainer_computes(parts, finished):
    rows = lines(finished)
    assert len(rows) == STEPS and sum(row.get("updates_applied", 0) for row in rows) >= 4
    state = restored(parts, finished)
    moved = [abs(np.asarray(pair["b"])).max() for pair in
             state.params["layers"]["adapters"].values()]  # fmt: skip
    assert min(moved) > 5e-3  # so that the gaps below are those of adapters that do something
    assert max(row["logprob_gap_max"] for row in rows) < 1e-4


def test_a_checkpoint_holds_adapters_and_nothing_of_the_base(parts, finished):
    state, model = restored(parts, finished), parts.plan.model
    count = lora.count(model, parts.plan.update.lora)
    numbers = sum(x.size for x in jax.tree.leaves(state))
    assert 3 * count <= numbers <= 3 * count + 10  # adapters, their moments, some counters
    assert count < model.num_params() / 5


def test_a_run_in_two_parts_is_identical(parts, finished, tmp_path):
    run(parts, tmp_path, 1)
    run(parts, tmp_path)
    assert lines(tmp_path) == lines(finished)
    for x, y in zip(*(jax.tree.leaves(restored(parts, w)) for w in (finished, tmp_path)),
                    strict=True):  # fmt: skip
        np.testing.assert_array_equal(x, y)


def test_commands_that_do_not_train_get_the_merged_policy(parts, finished):
    plan = parts.plan
    config = ml_collections.ConfigDict(plan.config.to_dict())
    of = lambda step: parts.engine.load_params(  # noqa: E731
        saved_state.policy(plan, finished, config, step, parts.policy, parts.mesh)
    )
    initial, trained = of(None), of(STEPS)
    adapters = restored(parts, finished).params["layers"]["adapters"]["up"]
    scale = plan.config.lora.alpha / plan.config.lora.rank
    for i, (before, after) in enumerate(zip(initial["layers"], trained["layers"], strict=True)):
        change = scale * np.asarray(adapters["a"][i]) @ np.asarray(adapters["b"][i])
        assert np.abs(change).max() > 1e-3
        np.testing.assert_allclose(after["up"]["kernel"], before["up"]["kernel"] + change,
                                   atol=1e-6)  # fmt: skip
        assert (after["mlp_norm"]["scale"] == before["mlp_norm"]["scale"]).all()


def test_another_embedded_policy_is_refused(parts, finished, tmp_path, monkeypatch):
    params = jax.tree.map(lambda x: x * 1.001, build.initial_params(parts))
    weights.save_params(tmp_path / "base", params, parts.plan.model, source=None, dtype="float32")
    (tmp_path / "base" / "tokenizer.model").write_bytes(
        (parts.policy / "tokenizer.model").read_bytes()
    )
    monkeypatch.setattr(base_policy, "base_policy", lambda *_: tmp_path / "base")
    other = build.make_parts(parts.plan, print)
    with pytest.raises(ValueError, match="the contents of 'the embedded policy' have changed"):
        run(other, finished)


MESH_SCRIPT = """
import dataclasses, functools, json, sys
import jax, jax.numpy as jnp, numpy as np, optax
sys.path.insert(0, sys.argv[2])
from dars_jax.learner import packing, update
from dars_jax.policy import decoder, lora, sharding
import small_updates
from small_updates import CONFIG, make_work, pack
config = decoder.ModelConfig(64, 3, 32, 4, 2, 8, 48, qkv_bias=True)
settings = lora.Lora(4, 8.0, lora.TARGETS)
packed = pack(make_work(), packing.BatchShape(8, 4, 24))
optimizer = optax.chain(optax.clip_by_global_norm(0.1), optax.adamw(1e-2, eps=1e-4))
update_config = dataclasses.replace(CONFIG, num_epochs=2, lora=settings, remat="full")
host = jax.device_get
base = host(jax.jit(functools.partial(decoder.init_params, config))(jax.random.key(0)))
base = jax.tree.map(lambda x: 3 * x, base)
found = {}
for gather, *mesh in (("epoch", 1, 1, 1), ("layer", 2, 2, 2)):
    mesh = sharding.make_mesh(*mesh, jax.devices()[: int(np.prod(mesh))])
    shardings = update.state_shardings(config, optimizer, mesh, 0.0, settings)
    draw = functools.partial(lora.init, config, settings, 0)
    adapters = jax.jit(draw, out_shardings=shardings.params)()
    initial = jax.device_put(base, sharding.param_shardings(config, mesh))
    start = host(adapters)
    state = update.init_state(adapters, optimizer, shardings)
    run = update.make_update(
        dataclasses.replace(update_config, gather=gather), config, optimizer, mesh)
    state, metrics = run(state, sharding.put_batch(packed, mesh), initial)
    up = state.params["layers"]["adapters"]["up"]
    share = [x.addressable_shards[0].data.size / x.size for x in (up["a"], up["b"])]
    got = host(state.params), host(metrics)["grad_norm"], start
    if not found:
        want = got
        moved = jax.tree.map(lambda x, y: float(np.abs(x - y).max()), want[0], want[2])
        found["moved"] = min(jax.tree.leaves(moved))
        continue
    gap = jax.tree.map(lambda x, y: float(np.abs(x - y).max()), got[0], want[0])
    same = jax.tree.map(np.array_equal, got[2], want[2])
    found |= {
        "gap": max(jax.tree.leaves(gap)), "norm": float(np.abs(got[1] / want[1] - 1).max()),
        "start": all(jax.tree.leaves(same)), "share": share}
json.dump(found, open(sys.argv[1], "w"))
"""


def test_eight_devices_make_the_update_of_one(fresh_python, tmp_path):
    output = tmp_path / "found.json"
    done = fresh_python("-c", MESH_SCRIPT, output, pathlib.Path(__file__).parents[1], devices=8)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(output.read_text())
    assert found["moved"] > 1e-3
    assert found["gap"] < 1e-5 and found["norm"] < 1e-4
    assert found["start"]  # one draw on any mesh
    assert found["share"] == [1 / 2, 1 / 2]  # spread as the weights are
