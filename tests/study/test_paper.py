"""The report of a reproduction, and the page about any runs."""

import json

import made_up_runs
import numpy as np
import pytest

from dars_jax.study import arms, look, page, paper, runs, variants
from dars_jax.study.compare import Study
from dars_jax.study.reproduction import Reproduction

GRPO = {"rollout.schedule": "none"}
N = 128


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """GRPO and DARS-B, two seeds, on two base policies, 25,600 prompts."""
    rng = np.random.default_rng(0)
    found = {}
    for base, start in ((100, 0.1), (300, 0.4)):
        found[base] = {}
        for arm, end in (("grpo", 0.3), ("dars_b", 0.5)):
            mine = []
            for seed in range(2):
                correct = {
                    step: made_up_runs.right(rng, p, n=N)
                    for step, p in ((0, start), (2, end), (4, end + 0.2))
                }
                settings = {"seed": seed} | (GRPO if arm == "grpo" else {})
                directory = tmp_path_factory.mktemp("runs") / arm
                size = {"prompts": 6400, "rollouts": 51_200 if arm == "grpo" else 150_000}
                made = made_up_runs.write(directory, correct, n=N, settings=settings, **size)
                mine.append(runs.read(made))
            found[base][arm] = tuple(mine)
    return {base: Study(study) for base, study in found.items()}


@pytest.fixture(scope="module")
def reproduction(studies):
    variants = {v: studies[300] for part in arms.ALSO.values() for v in part.variants}
    return Reproduction(studies[100], variants, "rollouts", "the command")


def test_every_picture_has_a_sentence_and_is_a_picture(reproduction):
    blocks = paper.blocks(reproduction)
    pictures = [b for b in blocks if isinstance(b, page.Figure)]
    assert {p.name for p in pictures} == {
        "training_path", "pass_at_k", "differences", "against_cost", "loudness", "top_ups",
        "training_curves", "bases",
    }  # fmt: skip
    for picture in pictures:
        assert picture.png.startswith(b"\x89PNG") and picture.caption.endswith(".")


def test_arms_that_have_not_spent_as_much_are_said_to_be_not_as_far(studies):
    shorter = Study({"dars_b": studies[100].runs["dars_b"], "grpo": studies[100].runs["grpo"]})
    text = page.to_markdown(paper.blocks(Reproduction(shorter, {}, "prompts", "x")))
    assert "| GRPO | not as far |" in text  # GRPO has spent 204,800 rollouts, DARS-B 600,000


def test_the_figures_are_there_for_programs(reproduction):
    stored = json.loads(json.dumps(paper.to_json(reproduction)))
    (level,) = [x for x in stored["levels"] if x["axis"] == "rollouts" and x["arm"] == "dars_b"
                and x["baseline_prompts"] == arms.LONG]  # fmt: skip
    assert level["amount"] == 204_800
    assert level["pass_at_1"]["low"] < level["pass_at_1"]["mean"] < level["pass_at_1"]["high"]
    verdicts = {c["verdict"] for c in stored["claims"]}
    assert "no runs" in verdicts  # Depth-Naive is not among these arms
    assert {"base_60", "rate_0.5", "large"} <= {v["variant"] for v in stored["variants"]}


def test_equal_cost_is_what_the_baseline_had_spent(reproduction):
    budgets = {str(b) for axis in arms.AXES for b in reproduction.budgets(axis)}
    assert {"6,400 prompts", "25,600 prompts", "51,200 rollouts", "204,800 rollouts"} <= budgets


def test_a_combination_is_judged_in_every_setting_in_which_it_was_run(studies):
    cheap, dear = studies[100].runs["grpo"], studies[100].runs["dars_b"]  # as far for a third
    both = Study({"dars_b": dear, "dars_b_half": cheap})
    settings = {arms.Variant("base_150", warmup_steps=150): both,
                arms.Variant("large", architecture="countdown-8x"): both}  # fmt: skip
    reproduction = Reproduction(studies[100], settings, "prompts", "x")
    text = page.to_markdown(variants.blocks(reproduction))
    assert "DARS-B, half weights: wins with 150 supervised steps, eight times the size" in text
    assert variants.blocks(Reproduction(studies[100], {}, "prompts", "x")) == []


def test_a_page_about_runs_shows_easy_hard_and_rescued_problems_escaped(tmp_path):
    correct = {0: [0, 0, 3, 2], 3: [8, 0, 5, 0]}
    run = made_up_runs.write(tmp_path / "run", correct, response="<b>3</b>")
    text = page.to_html(look.blocks({"mine": run}))
    assert "<b>" not in text and "right: &lt;b&gt;3&lt;/b&gt; 0" in text
    rescued, lost = text.index("rescued: never solved"), text.index("lost: solved before")
    assert "problem 0 :" in text[rescued:lost] and "problem 3 :" in text[lost:]


def test_runs_with_other_problems_are_not_compared(tmp_path):
    a = made_up_runs.write(tmp_path / "a", {0: [1, 2], 1: [1, 2]})
    b = made_up_runs.write(tmp_path / "b", {0: [1], 1: [1]})
    with pytest.raises(ValueError, match="a: 2 x 8, b: 1 x 8"):
        look.blocks({"a": a, "b": b})
