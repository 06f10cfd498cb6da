from collections import Counter

import jax
import jax.numpy as jnp
import pytest

from dars_jax.bench import profile

WEIGHTS = "jit(_update)/while/body/jvp(Block)/Block._project/gate/dot_general"
PROGRAM = f"""HloModule jit__update, is_scheduled=true

%body (p: f32[2]) -> f32[2] {{
  %ynn_fusion.1 = f32[2]{{0}} fusion(%p), kind=kCustom, metadata={{op_name="{WEIGHTS}"}}
  ROOT %add.2 = f32[2]{{0}} add(%ynn_fusion.1, %p), metadata={{op_name="jit(_update)/Block/exp"}}
}}
"""


def test_operations_have_the_names_of_their_own_program(tmp_path):
    (tmp_path / "module_1.cpu_after_optimizations.txt").write_text(PROGRAM)
    other = PROGRAM.replace("jit__update", "jit_run").replace("gate", "up")
    (tmp_path / "module_2.cpu_after_optimizations.txt").write_text(other)
    (tmp_path / "module_2.before_optimizations.txt").write_text("%dot.9 = nothing")
    names = profile.names(str(tmp_path))
    assert names["jit__update", "ynn_fusion.1"] == WEIGHTS
    assert names["jit_run", "ynn_fusion.1"] == WEIGHTS.replace("gate", "up")
    assert names["jit_run", "add.2"] == "jit(_update)/Block/exp"
    assert len(names) == 4


@pytest.mark.parametrize(
    ("operation", "name", "what"),
    [
        ("ynn_fusion.1", WEIGHTS, "products: weights of layers"),
        ("dot.3", WEIGHTS.replace("jvp(Block)", "transpose(jvp(Block))"),
         "products: weights of layers, backward"),
        ("add_fusion", "jit(_update)/jvp(Block)/exp", "attention"),
        ("ynn_fusion.2", "jit(run)/Block/skgc,skcd->skgd/dot_general", "products: attention"),
        ("ynn_fusion.3", "jit(run)/Block/skbgd,skbdc->skbgc/dot_general", "products: attention"),
        ("fusion.4", "jit(resize)/shard_map/dynamic_update_slice", "resizing"),
        ("fusion.4", "jit(run)/Block/scatter", "keys and values"),
        ("copy.7", "copy.7", "what loops carry"),
        ("fusion.9", "jit(run)/never_heard_of", "other"),
    ],
)  # fmt: skip
def test_an_operation_belongs_to_what_it_computes(operation, name, what):
    assert profile.part(operation, name) == what


def test_shares_add_up_and_a_loop_is_not_counted_beside_what_is_in_it():
    seconds = Counter({("p", "while.1"): 9.0, ("p", "dot.1"): 3.0, ("p", "copy.1"): 1.0})
    whole, *lines = profile.summary(profile.Trace(10.0, 0.5, seconds), {("p", "dot.1"): WEIGHTS})
    assert whole == {"wall": 10.0, "host_alone": 0.05}
    assert [(line["part"], line["share"]) for line in lines] == [
        ("products: weights of layers", 0.75), ("what loops carry", 0.25)
    ]  # fmt: skip


def test_a_trace_times_the_operations_of_a_program():
    @jax.jit
    def squared(x):
        return x @ x

    x = jnp.ones((64, 64))
    squared(x)
    traced = profile.trace(lambda: squared(x).block_until_ready())
    assert {program for program, _ in traced.seconds} == {"jit_squared"}
    assert sum(traced.seconds.values()) > 0 and 0 < traced.idle < traced.wall


def test_the_host_is_alone_while_no_thread_runs_an_operation():
    assert profile.covered([(5, 7), (0, 2), (1, 3), (1, 2)]) == 5
    assert profile.covered([]) == 0
