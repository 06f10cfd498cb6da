"""Several processes: each holds its own rollouts and the rows of its own devices, and no more."""

import types

import jax
import numpy as np
import processes
import pytest
from jax.sharding import Mesh

from dars_jax.config import defaults
from dars_jax.policy import sharding
from dars_jax.rollout import exchange
from dars_jax.setup import plan
from dars_jax.training import assemble
from dars_jax.types import Prompts, Ragged, Rollouts

PROMPTS, ROWS = 12, 8
SCRIPT = """
import sys
import numpy as np
from dars_jax import distributed
sys.path.insert(0, sys.argv[1])
import test_shares
port, count, index = map(int, sys.argv[2:5])
distributed._PIECE = 64  # numbers: many rounds
distributed.join((f"localhost:{port}", count, index))
with distributed.leaving():
    np.savez(sys.argv[5], **test_shares.share(count, index))
"""
PER_TOKEN = ("tokens", "target", "position", "group", "segment", "advantage", "weight",
             "sampler_logprob")  # fmt: skip


def sampled(keep=lambda prompt: True):
    """Prompts, and the rollouts of those to keep; the first and the last group have no signal."""
    rng = np.random.default_rng(0)
    prompts = Prompts(tuple(rng.integers(0, 99, 1 + p).astype(np.int32) for p in range(PROMPTS)),
                      np.arange(PROMPTS), (("",),) * PROMPTS)  # fmt: skip
    sizes = rng.integers(2, 17, PROMPTS)
    prompt = np.repeat(np.arange(PROMPTS, dtype=np.int32), sizes)
    n = len(prompt)
    sample = np.concatenate([np.arange(size, dtype=np.int32) for size in sizes])
    length = np.minimum(rng.geometric(1 / 20, n), 40).astype(np.int32)
    tokens = [rng.integers(0, 99, size).astype(np.int32) for size in length]
    logprob = [rng.normal(size=size).astype(np.float32) for size in length]
    reward = (rng.random(n) < prompt / (PROMPTS - 1)).astype(np.float32)
    everything = Rollouts(
        prompt=prompt, sample=sample, stage=(sample > 7).astype(np.int32),
        tokens=Ragged.join(tokens, np.int32), logprob=Ragged.join(logprob, np.float32),
        length=length, truncated=length == 40, reward=reward, verdict=reward.astype(np.int8),
        parts=rng.random((n, 2)).astype(np.float32),
    )  # fmt: skip
    some = everything.take(np.flatnonzero([keep(p) for p in prompt]))
    return prompts, Rollouts(**vars(some) | {
        "tokens": Ragged.join(list(some.tokens), np.int32),
        "logprob": Ragged.join(list(some.logprob), np.float32),
    })  # fmt: skip


def parts_on(mesh):
    config = defaults().unlock()
    config.update_from_flattened_dict({
        "rollout.num_prompts": PROMPTS, "rollout.n_max": 16, "rollout.max_tokens": 40,
        "data.max_prompt_tokens": PROMPTS, "learner.micro_batch_rows": ROWS,
        "learner.row_tokens": 52, "learner.max_micro_batches": 20,
    })  # fmt: skip
    return types.SimpleNamespace(plan=plan.validate(config, 1), mesh=mesh)


def share(count, index):
    """What process `index` has of a step, after prompts were sampled in turn."""
    prompts, mine = sampled(lambda prompt: prompt % count == index)
    known = exchange.gather(mine)
    found = {"held": known.tokens.flat, "large": exchange.count_tokens(known, 50)}
    found |= {f"known_{name}": x for name, x in vars(known).items()
              if name not in ("tokens", "logprob")}  # fmt: skip
    # rows of a process do not lie side by side
    devices = np.array(jax.devices()).reshape(count, -1).T.reshape(2, -1, 1)
    parts = parts_on(Mesh(devices, sharding.MESH_AXES))
    sent = []

    def send(*args):
        sent.append(exchange.send(*args))
        return sent[-1]

    assemble.exchange = types.SimpleNamespace(send=send)
    for name, batch in (("batch", assemble.assemble(parts, prompts, known)[0]),
                        ("probe", assemble.probe(parts, prompts, known))):  # fmt: skip
        on_mesh = sharding.put_batch(batch, parts.mesh)
        for field, x in vars(batch).items():
            found[f"{name}.host.{field}"] = x
            for shard in getattr(on_mesh, field).addressable_shards:
                found[f"{name}.{shard.index[0].start or 0}.{field}"] = np.asarray(shard.data)
    first = exchange.send(known, np.zeros(len(known), np.int32))
    tokens, logprob = sent[0].tokens, sent[0].logprob
    return found | {"sent": tokens.flat, "sent_logprob": logprob.flat,
                    "here": np.flatnonzero(tokens.start >= 0), "holder": sent[0].holder,
                    "at_first": first.tokens.flat}  # fmt: skip


@pytest.fixture(scope="module")
def alone():
    """All rollouts, and the batches of one process."""
    prompts, rollouts = sampled()
    parts = parts_on(sharding.make_mesh(1, 1, 1, jax.devices()[:1]))
    batch, _, kept = assemble.assemble(parts, prompts, rollouts)
    assert 1 < kept.sum() < PROMPTS - 1 and batch.bounds[-1] > 2
    return rollouts, {"batch": batch, "probe": assemble.probe(parts, prompts, rollouts)}, kept


@pytest.fixture(scope="module", params=[2, 4], ids="{} processes".format)
def shares(request, tmp_path_factory):
    """What each of some processes has; together they have 8 devices."""
    directory, count = tmp_path_factory.mktemp("shares"), request.param
    port = processes.free_port()
    commands = [["-c", SCRIPT, processes.TESTS / "training", port, count, i, directory / f"{i}.npz"]
                for i in range(count)]  # fmt: skip
    with processes.group(commands, devices=8 // count) as group:
        done = [process.communicate(timeout=600) for process in group]
    assert [process.returncode for process in group] == [0] * count, done[0][1][-3000:]
    # TID251 refuses pickles unless told otherwise
    return [dict(np.load(directory / f"{i}.npz")) for i in range(count)]  # noqa: TID251


def test_every_process_knows_all_of_every_rollout_but_its_tokens(alone, shares):
    rollouts, _, _ = alone
    for index, mine in enumerate(shares):
        for name in ("prompt", "sample", "stage", "length", "truncated", "reward", "verdict",
                     "parts"):  # fmt: skip
            want = getattr(rollouts, name)
            np.testing.assert_array_equal(mine[f"known_{name}"], want)
            assert mine[f"known_{name}"].dtype == want.dtype, name
        np.testing.assert_array_equal(mine["known_holder"], rollouts.prompt % len(shares))
        own = [rollouts.tokens[i] for i in np.flatnonzero(mine["known_holder"] == index)]
        np.testing.assert_array_equal(mine["held"], np.concatenate(own))
        assert mine["large"] == (rollouts.tokens.flat >= 50).sum()


@pytest.mark.parametrize("name", ["batch", "probe"])
def test_a_process_lays_out_the_rows_of_its_own_devices_and_together_they_are_the_batch(
    alone, shares, name
):
    want = alone[1][name]
    for field in PER_TOKEN:
        rows = {}
        for mine in shares:
            assert mine[f"{name}.host.{field}"].shape[0] == ROWS // len(shares)
            found = {i: mine[key] for i in range(ROWS) if (key := f"{name}.{i}.{field}") in mine}
            assert not rows.keys() & found.keys()
            rows |= found
        assert sorted(rows) == list(range(ROWS))  # a device each
        whole = np.concatenate([rows[i] for i in range(ROWS)])
        np.testing.assert_array_equal(whole, getattr(want, field))
        assert whole.dtype == getattr(want, field).dtype
    for field in ("bounds", "token_count"):
        for mine in shares:
            np.testing.assert_array_equal(mine[f"{name}.0.{field}"], getattr(want, field))


def test_no_process_is_sent_a_token_that_its_rows_do_not_need(alone, shares):
    rollouts, _, kept = alone
    placed = []
    for index, mine in enumerate(shares):
        here = mine["here"]
        assert (mine["holder"][here] == index).all()
        for name in ("sent", "sent_logprob"):
            assert mine[name].size == rollouts.length[here].sum()
        used = mine["batch.host.weight"] > 0  # what its rows predict
        for name, field in (("sent", "target"), ("sent_logprob", "sampler_logprob")):
            np.testing.assert_array_equal(
                np.sort(mine[name]), np.sort(mine[f"batch.host.{field}"][used])
            )
        placed += here.tolist()
    assert sorted(placed) == np.flatnonzero(kept[rollouts.prompt]).tolist()


def test_what_is_written_goes_to_the_first_process(alone, shares):
    got = np.sort(shares[0]["at_first"])
    np.testing.assert_array_equal(got, np.sort(alone[0].tokens.flat))
    assert not any(mine["at_first"].size for mine in shares[1:])
