"""Figures or metrics of a run that have changed on disk are not believed when it goes on."""

import json

import ml_collections
import pytest
from small_runs import but

from dars_jax.commands import cli, startup, train
from dars_jax.records import metrics


@pytest.fixture
def run(even_parts, tmp_path, monkeypatch):
    """Trains so many steps -> the exit code."""
    monkeypatch.setenv("ANSWERS", str(tmp_path))
    (tmp_path / "run").mkdir()

    def to(steps):
        parts = but(even_parts, train__num_steps=steps, checkpoint__every=1)
        monkeypatch.setattr(startup, "prepare", lambda config: (parts, metrics.Console(steps)))
        return train.train(ml_collections.ConfigDict(parts.plan.config.to_dict()), tmp_path / "run")

    return to


def edit(path, change):
    path.write_text(change(path.read_text()))


def other_figure(text):
    figures = json.loads(text)
    return json.dumps(figures | {"avg": figures["avg"] + 0.25})


DAMAGE = {
    "figures cut off": (".json", lambda text: text[: len(text) // 2]),
    "figures without one": (".json", lambda text: text.replace('"avg"', '"awg"')),
    "another figure": (".json", other_figure),
    "answers cut off": (".jsonl", lambda text: text[: len(text) // 2]),
    "another verdict": (".jsonl", lambda text: text.replace('"wrong"', '"correct"', 1)),
}


def test_damage_is_named_and_the_initial_policy_evaluated_again(run, tmp_path, capsys):
    assert run(1) == 0
    first = tmp_path / "run" / "eval" / "step_000000"
    whole = {end: first.with_suffix(end).read_bytes() for end in (".json", ".jsonl")}
    for end, change in DAMAGE.values():
        capsys.readouterr()
        edit(first.with_suffix(end), change)
        assert first.with_suffix(end).read_bytes() != whole[end]
        assert run(1) == 0
        said = [x for x in capsys.readouterr().err.splitlines() if "evaluated again" in x]
        assert len(said) == 1 and f"WARNING: {first}" in said[0]
        assert {end: first.with_suffix(end).read_bytes() for end in whole} == whole
    assert run(1) == 0 and "evaluated again" not in capsys.readouterr().err


def test_a_damaged_line_of_metrics_is_one_line_and_nothing_is_lost(run, tmp_path, capsys):
    assert run(1) == 0
    file = tmp_path / "run" / "metrics.jsonl"
    whole = file.read_text()
    edit(file, lambda text: text.replace('"step"', '"stop"'))
    with pytest.raises(SystemExit) as ended:
        run(2)
    assert ended.value.code == cli.EXIT_USAGE
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {file}, line 1, is damaged")
    file.write_text(whole)
    assert run(2) == 0 and file.read_text().startswith(whole)
