"""Allocators side by side: figures that can be worked out by hand, and the command itself."""

import json
import math
import pathlib

import numpy as np
import pytest

from dars_jax.allocator import ALLOCATORS, allocate
from dars_jax.bench import __main__ as bench
from dars_jax.bench import allocators

ALL_ALIKE = allocators.Difficulty(
    np.array([0.3]), np.array([1.0]), np.array([5.0]), np.array([9.0])
)


def compare(name, d=ALL_ALIKE, **changes):
    return allocators.compare(name, d, **{"num_pre": 4, "n_max": 32, "budget": 4} | changes)


def test_uniform_rollouts_of_prompts_that_are_all_alike():
    got = compare("uniform")
    assert got["rollouts_per_prompt"] == pytest.approx(8)
    assert got["useful_groups"] == pytest.approx(1 - 0.3**8 - 0.7**8)
    assert got["useful_per_1000_rollouts"] == pytest.approx(125 * (1 - 0.3**8 - 0.7**8))
    assert got["rescued_prompts"] == pytest.approx(0.7**4 - 0.7**8)
    assert got["pull_by_accuracy"] == pytest.approx([0, 1, 0, 0, 0])
    assert got["tokens_per_prompt"] == pytest.approx(8 * (0.3 * 5 + 0.7 * 9))


def test_dynamic_sampling_spends_its_budget_on_other_prompts():
    got = compare("dapo")
    assert got["rollouts_per_prompt"] == pytest.approx(8)
    assert got["useful_groups"] == pytest.approx(1 - 0.3**4 - 0.7**4)
    assert got["useful_per_1000_rollouts"] == pytest.approx(250 * (1 - 0.3**4 - 0.7**4))
    assert got["rescued_prompts"] == pytest.approx(0)


def test_stages_share_the_budget():
    one, two = (compare("uniform", num_stages=n) for n in (2, 3))
    assert one["useful_groups"] == pytest.approx(two["useful_groups"], abs=1e-6)


def test_difficulty_is_read_from_what_an_evaluation_left(tmp_path):
    rows = [(0, 1.0, 3), (0, 0.0, 8), (0, 0.0, 6), (7, 0.0, 4), (7, 0.0, 2)]
    text = "".join(json.dumps({"uid": u, "reward": r, "length": n}) + "\n" for u, r, n in rows)
    (tmp_path / "answers.jsonl").write_text(text)
    d = allocators.difficulty(str(tmp_path / "answers.jsonl"))
    assert d.accuracy.tolist() == [1 / 3, 0] and d.share.tolist() == [0.5, 0.5]
    assert d.right_tokens.tolist() == [3, 3] and d.wrong_tokens.tolist() == [7, 3]


def test_a_beta_distribution_has_its_mean_and_variance():
    d = allocators.difficulty("beta:2,3")
    mean = d.accuracy @ d.share
    assert mean == pytest.approx(2 / 5, abs=1e-4)
    assert d.accuracy**2 @ d.share - mean**2 == pytest.approx(6 / (25 * 6), abs=1e-4)


def test_splits_cost_the_same_and_where_all_are_alike_they_are_the_same():
    found = [
        allocators.compare_splits("maxrl", ALL_ALIKE, s, rollouts=16, n_max=64) for s in (0, 0.5, 1)
    ]
    for row in found:
        assert row["rollouts_per_prompt"] == pytest.approx(16)
        assert row["noise_over_signal"] == pytest.approx(found[0]["noise_over_signal"])


def test_the_three_ways_that_are_timed_give_the_same():
    k = np.random.default_rng(0).integers(0, 9, 300)
    want = allocators.by_loop(k.tolist(), 8, 64)
    assert allocators.by_numpy(k, 8, 64).tolist() == want
    assert allocate("hw", k, 8, n_max=64).tolist() == want


@pytest.mark.parametrize("name", ["uniform", "hora", "gvm"])
def test_the_page_shows_what_the_command_computes(name):
    d = allocators.difficulty("beta:0.5,1.5")
    row = compare(name, d, num_pre=8, n_max=64, budget=8)
    page = pathlib.Path(__file__).resolve().parents[2] / "docs" / "allocators.md"
    assert allocators._table([row]).splitlines()[-1] in page.read_text().splitlines()


@pytest.mark.parametrize("markdown", [False, True])
def test_the_command_has_a_line_for_each(markdown, monkeypatch, capsys):
    monkeypatch.setattr(allocators, "ALLOCATORS", {n: ALLOCATORS[n] for n in ("uniform", "hora")})
    words = ["bench", "allocators", "--n_pre", "4", "--n_max", "8", "--budget", "2"]
    monkeypatch.setattr("sys.argv", [*words, *["--markdown"] * markdown])
    bench.main()
    lines = capsys.readouterr().out.splitlines()
    if markdown:
        assert [line for line in lines if line.startswith("| `uniform` | 6.0 |")]
    else:
        rows = [json.loads(line) for line in lines]
        assert [r["name"] for r in rows if r["what"] == "allocator"] == ["uniform", "hora"]
        assert len([r for r in rows if r["what"] == "split"]) == 9
        assert all(math.isfinite(r["rollouts_per_prompt"]) for r in rows)
