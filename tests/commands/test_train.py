"""What training says at its end."""

import processes
import pytest
from small_runs import make_config

from dars_jax.commands import train


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return processes.write_policy(tmp_path_factory.mktemp("policy"))


def test_a_run_that_has_more_steps_than_are_asked_for_ends_with_what_it_has(
    policy, prompt_files, tmp_path, capsys
):
    settings = {"policy__path": str(policy)}
    for steps in (2, 1):
        config = make_config(prompt_files, **settings, train__num_steps=steps)
        assert train.train(config, tmp_path) == 0
        *_, one, four, last = capsys.readouterr().out.splitlines()
        assert one.startswith("  Pass@1 ") and four.startswith("  Pass@4 ")
        assert last.startswith("Pass@1 before")
    assert (tmp_path / "pass_at_k.png").exists()
    assert sorted(p.name for p in (tmp_path / "eval").glob("*.jsonl")) == [
        "step_000000.jsonl", "step_000002.jsonl",
    ]  # fmt: skip
