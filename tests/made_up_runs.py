"""Working directories as the trainer leaves them, with made-up figures."""

import json

import numpy as np


def line(step, prompts=10, rollouts=80, **more):
    """A line of metrics.jsonl."""
    return {
        "step": step, "num_prompts": prompts, "num_rollouts": rollouts, "tokens": 3 * rollouts,
        "entropy": 1 / step, "response_length": 6.5, "grad_norm": 0.1 * step,
        "rescued_prompts": 2, "top_up_histogram": {"0": prompts - 4, "24": 4},
        "correct_histogram": {"0": 4, "3": prompts - 4}, "seconds_rollout": 1.0,
        "seconds_assemble": 0.1, "seconds_update": 2.0, "seconds_publish": 0.2,
        "seconds_step": 3.5,
    } | more  # fmt: skip


def write(workdir, correct, *, n=8, steps=None, settings=None, response="3 + 4", **metrics):
    """A run whose evaluation after step s found correct[s] (right ones of n for each problem)."""
    (workdir / "eval").mkdir(parents=True)
    known = {"seed": 0, "rollout.schedule": "hw", "rollout.n_pre": 8, "rollout.n_max": 32}
    (workdir / "config.json").write_text(json.dumps(known | (settings or {})))
    lines = [line(s + 1, **metrics) for s in range(steps or max(correct))]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    for step, row in correct.items():
        name = workdir / "eval" / f"step_{step:06d}"
        name.with_suffix(".json").write_text(json.dumps({"num_problems": len(row)}))
        answers = [
            {"problem": f"problem {p} :", "sample": i, "reward": float(i < c),
             "verdict": "correct" if i < c else "wrong", "length": 4,
             "truncated": False, "response": f"{response} {i}"}
            for p, c in enumerate(row) for i in range(n)
        ]  # fmt: skip
        text = "".join(json.dumps(a) + "\n" for a in answers)
        name.with_suffix(".jsonl").write_text(text)
    return workdir


def right(rng, p, problems=60, n=8):
    """Right answers of problems that are solved with probability p, more or less."""
    return rng.binomial(n, np.clip(rng.normal(p, 0.15, problems), 0, 1)).tolist()
