"""The drill of a long run says what has grown, and nothing else."""

import jax
import jax.numpy as jnp
import pytest

from dars_jax.drills import long_run
from dars_jax.drills.soak import Compilations

FLAT = {"resident_mb": 1000.0, "live_arrays": 100, "open_files": 9}


def run(**last: float) -> list[dict[str, float]]:
    """A run whose first lines warm up, and whose last one is otherwise flat."""
    lines: list[dict[str, float]] = [{"step": i, **FLAT} for i in range(1, 6)]
    return [{"step": 0, **dict.fromkeys(FLAT, 0)}, *lines, {"step": 6, **FLAT, **last}]


def test_a_flat_run_and_what_grows_while_it_warms_up_are_no_faults():
    assert long_run.faults(run()) == []
    assert long_run.faults(run(resident_mb=1049.0, live_arrays=99)) == []


@pytest.mark.parametrize(
    ("what", "value"), [("resident_mb", 1051.0), ("live_arrays", 101), ("open_files", 10)]
)
def test_what_has_grown_is_named_with_both_figures(what, value):
    (said,) = long_run.faults(run(**{what: value}))
    assert said == f"{what}: {FLAT[what]:,} after step 2, {value:,} after step 6"


def test_it_counts_what_the_process_holds(tmp_path):
    compilations = Compilations()
    before = long_run.held(tmp_path, compilations)
    kept = jax.jit(lambda x: x * 3.25)(jnp.ones(1000))
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "answers").touch()
    with open(tmp_path / "metrics", "w"):
        after = long_run.held(tmp_path, compilations)
    grown = {k: after[k] - before[k] for k in before}
    assert grown["programs"] >= 1
    assert grown["live_bytes"] >= kept.nbytes
    assert grown["open_files"] == grown["workdir_files"] == 1
