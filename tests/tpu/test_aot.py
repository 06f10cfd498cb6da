"""What libtpu's compiler says of programs for slices that are not there, and how it is read."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import pytest

from dars_jax.learner import update
from dars_jax.policy import decoder, sharding
from dars_jax.setup import arms, plan
from dars_jax.tpu import aot, flops, hlo, hlo_traffic, topology

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu, the TPU compiler, is not installed: pip install libtpu",
)

# Six layers of 1024 x 1024 bfloat16 weights, halved over "a" and gathered in the loop over layers,
# inside a loop whose bound is data and ends with a sum over "b".
SCRIPT = """
import json, sys
from dars_jax.tpu import topology
topology.prepare_environment()
import jax, jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
import numpy as np
from dars_jax.tpu import flops
mesh = Mesh(np.array(topology.devices(topology.parse("v5e:2x2"))).reshape(2, 2), ("a", "b"),
            axis_types=(AxisType.Auto,) * 2)

def shape(s, spec, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(s, dtype, sharding=NamedSharding(mesh, spec))

def inner(x, w):
    def layer(x, w):
        return jnp.tanh(x @ jax.lax.all_gather(w, "a", axis=0, tiled=True)), None
    return jax.lax.psum(jax.lax.scan(layer, x[0], w)[0], "b")[None]

rows = P(("a", "b"))
mapped = jax.shard_map(inner, mesh=mesh, in_specs=(rows, P(None, "a")), out_specs=rows,
                       check_vma=False)
f = jax.jit(lambda x, w, n: jax.lax.fori_loop(0, n, lambda _, x: mapped(x, w), x))
traced = f.trace(shape((4, 256, 1024), rows), shape((6, 1024, 1024), P(None, "a")),
                 shape((), P(), jnp.int32))
json.dump({"text": traced.lower().compile().as_text(),
           "flops": flops.count(traced.jaxpr, 10).weights}, open(sys.argv[1], "w"))
"""


@pytest.fixture(scope="module")
def compiled(fresh_python, tmp_path_factory):
    output = tmp_path_factory.mktemp("aot") / "compiled.json"
    done = fresh_python("-c", SCRIPT, output)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(output.read_text())
    return hlo.parse(found["text"]), found["flops"]


@needs_libtpu
def test_loops_are_found_with_the_trip_counts_that_the_program_states(compiled):
    loops = {site.loops[-1] for site in hlo.sites(compiled[0]) if site.loops}
    assert {(loop.depth, loop.known) for loop in loops} == {(1, None), (2, 6)}


@needs_libtpu
def test_a_collective_is_counted_in_the_loop_where_it_runs(compiled):
    module, _ = compiled
    found = hlo_traffic.collectives(module, hlo.sites(module, lambda loop: 100))
    figures = {(c.kind, c.bytes, c.group, len(c.site.loops), c.site.times) for c in found}
    gathered, summed = 1024 * 1024 * 2, 256 * 1024 * 2
    assert figures == {("all-gather", gathered, 2, 2, 600), ("all-reduce", summed, 2, 1, 100)}


@needs_libtpu
def test_cycles_grow_with_the_trips_of_the_loop(compiled):
    module, _ = compiled
    once, twice = (hlo.cycles(hlo.sites(module, lambda loop, n=n: n)) for n in (100, 200))
    assert twice == 2 * once  # everything that costs is in the loop
    least = 2 * 256 * 1024**2 * 600 / 197e12 * topology.CHIPS["v5e"].clock_hz
    assert least < once < 8 * least  # beside the products: slices and copies of the layer


@needs_libtpu
def test_flops_inside_shard_map_are_those_of_all_devices(compiled):
    assert compiled[1] == 4 * 10 * 6 * 2 * 256 * 1024 * 1024


# The update's options on a program like it: wide enough layers that the compiler need not wait.
ON_V6E = """
import sys
from dars_jax.tpu import topology
topology.prepare_environment()
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
from dars_jax.learner import update
from dars_jax.policy import sharding
from dars_jax.tpu import hlo, hlo_traffic
mesh = sharding.make_mesh(1, 4, 1, topology.devices(topology.parse("v6e:2x2")))

def inner(x, w):
    def layer(x, w):
        return jnp.tanh(x @ jax.lax.all_gather(w, "fsdp", axis=0, tiled=True)), None
    return jax.lax.scan(layer, x[0], w)[0][None]

def shape(s, spec):
    return jax.ShapeDtypeStruct(s, jnp.bfloat16, sharding=NamedSharding(mesh, spec))

f = jax.shard_map(inner, mesh=mesh, in_specs=(P("fsdp"), P(None, "fsdp")), out_specs=P("fsdp"),
                  check_vma=False)
options = update.compiler_options(mesh.devices.flat[0])
lowered = jax.jit(f).lower(shape((4, 1024, 4096), P("fsdp")),
                           shape((6, 4096, 4096), P(None, "fsdp")))
module = hlo.parse(lowered.compile(compiler_options=options).as_text())
for c in hlo_traffic.collectives(module, hlo.sites(module)):
    print(c.kind, len(c.site.loops), c.asynchronous)
"""


@needs_libtpu
def test_v6e_gathers_a_layer_ahead_on_its_sparse_cores(fresh_python):
    done = fresh_python("-c", ON_V6E)
    assert done.returncode == 0, done.stderr[-3000:]
    assert set(done.stdout.splitlines()) == {"all-gather 0 True", "all-gather 1 True"}


ONE_CHIP = """
from dars_jax.tpu import topology
topology.prepare_environment()
from dars_jax.learner import memory
for name in ("v5e:1x1", "v6e:1x1", "v5p:1x1x1", "v5e:2x4"):
    where = topology.parse(name)
    devices = topology.devices(where)
    known = memory.hardware(devices)
    print(name, len(devices), known.memory == where.chip.hbm_gib * memory.GIB, known.torus)
"""


@needs_libtpu
def test_one_chip_is_a_slice_too_and_the_plan_knows_what_it_is(fresh_python):
    done = fresh_python("-c", ONE_CHIP)
    assert done.stdout.splitlines() == [
        "v5e:1x1 1 True (1, 1, 1)", "v6e:1x1 1 True (1, 1, 1)", "v5p:1x1x1 1 True (1, 1, 1)",
        "v5e:2x4 8 True (2, 4, 1)",
    ], done.stderr[-3000:]  # fmt: skip


# Shapes and FLOPs ------------------------------------------------------------------------------


def test_flops_of_an_update_equal_the_formula():
    made = plan.validate(arms.dars_b(), 1)
    mesh = sharding.make_mesh(1, 1, 1, jax.devices()[:1])
    (program,) = aot.programs(made, mesh, ("update",))
    got = aot.count_flops(program, 10)
    c = made.model
    tokens = 10 * made.batch.rows * made.batch.row_tokens * made.update.num_epochs
    heads = 2 * c.num_heads + 2 * c.num_kv_heads
    layer = c.d_model * (heads * c.head_dim + 3 * c.d_ff)
    weights = c.num_layers * layer + c.vocab_size * c.d_model
    assert got.weights == 6 * weights * tokens
    seen = made.batch.row_tokens  # a mask computes what it hides
    assert got.attention == 3 * 4 * c.num_layers * c.num_heads * c.head_dim * seen * tokens
    assert not got.kernels


def test_a_conditional_counts_as_its_dearest_branch_and_data_bounds_as_told():
    def f(x, n):
        x = jax.lax.cond(n > 2, lambda: x @ x @ x, lambda: x @ x)
        return jax.lax.fori_loop(0, n, lambda _, y: y @ x, x)

    jaxpr = jax.jit(f).trace(jnp.ones((8, 8)), 3).jaxpr
    assert flops.count(jaxpr, trips=5).weights == (2 + 5) * 2 * 8**3


# The command -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def command(fresh_python):
    def run(*arguments, config="configs/dars_b.py"):
        return fresh_python("launch/compile_tpu.py", "--config", config, *arguments)

    return run


@needs_libtpu
def test_a_small_policy_fits_and_publishing_only_gathers(command, tmp_path):
    output = tmp_path / "programs.jsonl"
    axes = ("--config.mesh.data=1", "--config.mesh.fsdp=2", "--config.mesh.tensor=2")
    done = command("--topology", "v5e:2x2", "--programs", "publish,prefill,decode",
                   "--num_layers", "1", "--output", output, *axes)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    *programs, step = map(json.loads, output.read_text().splitlines())
    assert [p["program"] for p in programs] == ["publish", "prefill", "decode"]
    for p in programs:
        assert p["fits"] and 0 < p["peak"] < p["memory"]
        assert p["mesh"] == {"data": 1, "fsdp": 2, "tensor": 2}
    assert {row["kind"] for row in programs[0]["collectives"]} == {"all-gather"}
    assert programs[2]["flops"] == pytest.approx(programs[2]["ideal_flops"], rel=0.02)
    assert step["fits"] and step["step_seconds"] > 0
    assert "decode" in done.stdout and "GiB" in done.stdout  # the table
    assert "compiling" in done.stderr  # progress


@needs_libtpu
def test_what_does_not_fit_is_named_with_the_settings_that_help(command):
    done = command("--topology", "v5e:2x2", "--programs", "publish",
                   "--config.rollout.num_prompts=128",  # a shorter simulation
                   config="configs/dars_b.py:qwen2.5-math-7b")  # fmt: skip
    assert done.returncode == 1, done.stderr[-3000:]
    record = json.loads(done.stdout.splitlines()[0])
    assert not record["fits"]
    optimizer = 2 * 4 * decoder.ARCHITECTURES["qwen2.5-math-7b"].num_params() / 4
    assert record["parts"]["optimizer (beside)"] == pytest.approx(optimizer, rel=1e-3)
    assert "publish does NOT FIT" in done.stderr
    assert "14.19 GiB  optimizer" in done.stderr and "mesh.fsdp" in done.stderr


@needs_libtpu
def test_a_program_that_the_compiler_cannot_place_is_reported_with_its_arguments(command):
    slots = 1_600_000
    done = command("--topology", "v5e:2x2", "--programs", "decode", "--config.mesh.fsdp=4",
                   f"--config.rollout.slots={slots}")  # fmt: skip
    assert done.returncode == 1, done.stderr[-3000:]
    assert "decode does NOT FIT" in done.stderr and "rollout.slots" in done.stderr
    assert "no total" in done.stderr and "Traceback" not in done.stderr
    record = json.loads(done.stdout.splitlines()[0])
    layers, key_and_value, heads, features, positions = 2, 2, 4, 16, 18
    cache = slots * layers * key_and_value * heads * features * positions * 4
    assert record["parts"]["decode cache and slots"] == pytest.approx(cache, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--topology is missing"),
        (("--topology", "v5e-256"), "v5e:16x16"),
        (("--topology", "v9:2x2"), "v5e, v5p, v6e"),
        pytest.param(("--topology", "v5e:7x7"), "v5e:16x16", marks=needs_libtpu),
        (("--topology", "v5e:2x2", "--programs", "publish,serve"), "serve"),
        (("--topology", "v5e:2x2", "--mean_response", "-3"), "--mean_response"),
    ],
    ids=["no slice", "old name", "no such chip", "no such shape", "no such program", "negative"],
)
def test_a_mistake_is_one_line(command, arguments, said):
    done = command(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_importing_the_package_leaves_the_environment_alone(fresh_python):
    check = (
        "import os; before = dict(os.environ); "
        "import dars_jax.commands.compile_tpu, dars_jax.tpu.topology; "
        "assert {k for k in os.environ if 'TPU' in k} == {k for k in before if 'TPU' in k}"
    )
    assert fresh_python("-c", check).returncode == 0


def test_bytes_on_a_device_are_those_of_its_share():
    mesh = sharding.make_mesh(1, 1, 1, jax.devices()[:1])
    made = plan.validate(arms.dars_b(), 1)
    state, _ = aot.state_shapes(made, mesh)
    assert aot.bytes_per_device(state.params) == 4 * made.model.num_params()
    assert jax.tree.structure(state) == jax.tree.structure(
        jax.tree.map(lambda s: 0, update.state_shardings(
            made.model, update.make_optimizer(made.optimizer), mesh))
    )  # fmt: skip
