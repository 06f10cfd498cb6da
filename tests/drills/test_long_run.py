"""The drill of a long run says what has grown, and nothing else."""

import gc

import jax
import jax.numpy as jnp
import pytest

from dars_jax.drills import long_run
from dars_jax.drills.soak import Compilations

FLAT = {"resident_mb": 1000.0, "live_arrays": 100, "open_files": 9}


def run(**last: float) -> list[dict[str, float]]:
    """A run whose first lines warm up, whose early ones vary, and whose last one may be higher."""
    lines: list[dict[str, float]] = [{"step": 100 * i, **FLAT} for i in range(1, 21)]
    lines[0] = lines[0] | {"open_files": 50, "resident_mb": 10.0}
    lines[5] = lines[5] | {"open_files": 12}
    return [*lines[:-1], lines[-1] | last]


def test_what_grows_while_a_run_warms_up_or_varies_is_no_fault():
    assert long_run.faults(run()) == []
    assert long_run.faults(run(resident_mb=1049.0, live_arrays=99, open_files=12)) == []


@pytest.mark.parametrize(
    ("what", "before", "value"),
    [("resident_mb", "1,000.0", 1051.0), ("live_arrays", "100", 101), ("open_files", "12", 13)],
)
def test_what_has_grown_is_named_with_both_figures(what, before, value):
    (said,) = long_run.faults(run(**{what: value}))
    assert said == f"{what}: {before} by step 1,000, {value:,} at the end"


def test_it_counts_what_the_process_holds(tmp_path):
    gc.collect()  # files that other tests have left open
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
