"""Meshes whose axes are Explicit, jax's default: the mathematics works where the arrays lie."""

SHARED = """
import contextlib, jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from dars_jax import allocator as a, objective as o

mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
spread = NamedSharding(mesh, P(("x", "y")))
rng = np.random.default_rng(0)
rewards, mask = rng.integers(0, 2, 16).astype(np.float32), rng.random(16) < 0.8
ids = rng.integers(-1, 5, 16).astype(np.int32)  # some are padding
sampled, correct = np.full(8, 8, np.int32), rng.integers(0, 9, 8).astype(np.int32)

def of_rollouts(rewards, ids, mask):
    same = {n: o.group_advantages(rewards, ids, 4, advantage=n, mask=mask) for n in NAMES}
    return same | {"ada": a.ada_mask(rewards, ids, 4, mask=mask)}

def of_groups(rewards, ids, mask):
    return o.has_signal(rewards, ids, 4, mask), o.group_sums(rewards, ids, 4, mask)

def of_prompts(correct, sampled):
    given = {n: a.allocate(n, correct, sampled, n_max=24, budget=20) for n in RULES}
    return given | {"top_up": a.top_up(correct, sampled, schedule="et", n_max=32)}
"""

JITTED = """
NAMES, RULES = o.ADVANTAGES, a.ALLOCATORS
for f, arrays in ((of_rollouts, (rewards, ids, mask)), (of_groups, (rewards, ids, mask)),
                  (of_prompts, (correct, sampled))):
    alone = jax.tree.leaves(jax.jit(f)(*arrays))
    for around in (contextlib.nullcontext(), jax.set_mesh(mesh)):
        with around:
            together = jax.tree.leaves(jax.jit(f)(*jax.device_put(arrays, spread)))
        for x, y in zip(alone, together, strict=True):
            np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=1e-6)
            assert f is of_groups or jax.typeof(y).sharding.spec == spread.spec
print("agree")
"""

EAGER = """
NAMES, RULES = ("mean", "rs_grpo", "pkpo"), ("hora", "hw", "gvm")
for f, arrays in ((of_rollouts, (rewards, ids, mask)), (of_groups, (rewards, ids, mask)),
                  (of_prompts, (correct, sampled))):
    alone = jax.tree.leaves(f(*arrays))
    with jax.set_mesh(mesh):
        together = jax.tree.leaves(f(*jax.device_put(arrays, spread)))
    for x, y in zip(alone, together, strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=1e-6)
with jax.set_mesh(mesh):  # arrays of the host, and only some that lie on the mesh
    o.group_advantages(rewards, jax.device_put(ids, spread), 4)
    assert a.allocate("hora", jax.device_put(correct, spread), 8, n_max=24, budget=20).sum() == 20
print("agree")
"""


def test_compiled_on_explicit_axes_all_gives_what_one_device_gives(fresh_python):
    done = fresh_python("-c", SHARED + JITTED, devices=4)
    assert done.stdout.strip() == "agree", done.stderr[-3000:]


def test_called_one_by_one_on_explicit_axes_it_gives_the_same(fresh_python):
    done = fresh_python("-c", SHARED + EAGER, devices=4)
    assert done.stdout.strip() == "agree", done.stderr[-3000:]
