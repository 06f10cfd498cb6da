"""The measurement of what hosts hold: its work is that of a step, and its figures add up."""

import numpy as np

from dars_jax.bench import hosts

STEP = hosts.Step(prompts=8, answers=40, mean=500, max_tokens=900, prompt_tokens=5, rows=8,
                  row_tokens=1024)  # fmt: skip


def test_one_host_holds_everything_and_sends_nothing():
    line = hosts.one_host(STEP)
    _, fields = STEP.known()
    tokens = int(fields["length"].sum())
    assert (line["rollouts"], line["tokens"]) == (320, tokens)
    assert line["held_mb"] == 8 * tokens // 2**20 >= 1 and line["sent_mb"] == 0
    assert line["rows_mb"] >= 32 * tokens // 2**20
    assert all(value >= 0 for value in line["seconds"].values())


def test_answers_are_cut_at_the_limit_and_belong_to_their_prompts():
    _, fields = STEP.known()
    assert fields["length"].max() == 900 and fields["length"].min() >= 1
    assert fields["truncated"].sum() == (fields["length"] == 900).sum() > 0
    assert np.bincount(fields["prompt"]).tolist() == [40] * 8
