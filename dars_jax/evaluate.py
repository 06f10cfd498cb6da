"""Avg@n and Pass@k of a policy on held-out prompts, with every answer kept."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dars_jax import build, model, passk, rollout
from dars_jax.rewards import Grader, Verdict
from dars_jax.types import Rollouts

EVALUATION_STEP = -1  # as the step of the random keys: the same noise at every evaluation


@dataclasses.dataclass(frozen=True)
class Report:
    """Figures of one evaluation."""

    num_problems: int
    num_samples: int
    avg: float  # Avg@n, the mean reward: an estimate of Pass@1
    pass_at: dict[int, float]
    pass_interval: dict[int, tuple[float, float]]  # 95 % bootstrap intervals over problems
    response_length: float
    truncated_share: float

    def summary(self) -> str:
        """One line."""
        ks = "  ".join(f"Pass@{k} {v:.3f}" for k, v in self.pass_at.items() if k > 1)
        return f"Pass@1 {self.avg:.3f}  {ks}"

    def to_json(self) -> dict[str, Any]:
        """JSON-friendly values."""
        return dataclasses.asdict(self)


def powers_up_to(n: int) -> list[int]:
    """1, 2, 4, … and n itself."""
    ks = [2**i for i in range(n.bit_length()) if 2**i <= n]
    return ks if ks[-1] == n else [*ks, n]


def report(rewards: np.ndarray, lengths: np.ndarray, truncated: np.ndarray, seed: int) -> Report:
    """Figures of float[problems, n] rewards and as many lengths (tokens) and truncation flags."""
    problems, n = rewards.shape
    correct = (rewards > 0.5).sum(axis=1)
    values = {k: passk.pass_at_k(np.full(problems, n), correct, k) for k in powers_up_to(n)}
    return Report(
        num_problems=problems,
        num_samples=n,
        avg=float(rewards.mean()),
        pass_at={k: float(v.mean()) for k, v in values.items()},
        pass_interval={k: passk.bootstrap_interval(v, seed=seed) for k, v in values.items()},
        response_length=float(lengths.mean()),
        truncated_share=float(truncated.mean()),
    )


def evaluate(
    parts: build.Parts,
    params: model.Params,
    grader: Grader,
    *,
    output: Path | None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Report:
    """Samples n answers to every test prompt from published params.

    Args:
      output: JSON lines of every answer; written beside and renamed, so it is whole if it exists.
      progress: called with (answers done, answers in all).
    """
    plan, config = parts.plan, parts.plan.evaluation
    rows, n = parts.test.rows, config.n_max
    chunk = max(plan.requests // n, 1) * plan.num_replicas
    results: list[tuple[np.ndarray, Rollouts]] = []
    for start in range(0, len(rows), chunk):
        indices = np.arange(start, min(start + chunk, len(rows)))
        session = parts.engine.open_session(params, plan.config.rollout.prefill_batch)
        rollouts, _ = rollout.collect(
            build.take(parts.test, indices), session, grader, parts.tokenizer.decode,
            parts.tokenizer.eos_ids, config, seed=plan.config.seed, step=EVALUATION_STEP,
            progress=lambda done, *_, base=start: progress(base * n + done, len(rows) * n),
        )  # fmt: skip
        results.append((indices, rollouts))
    if output is not None:
        _write(output, parts, results)
    shape = (len(rows), n)
    join = lambda name: np.concatenate([getattr(r, name) for _, r in results]).reshape(shape)  # noqa: E731
    return report(join("reward"), join("length"), join("truncated"), plan.config.seed)


def _write(output: Path, parts: build.Parts, results: list[tuple[np.ndarray, Rollouts]]) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_suffix(".partial")
    with partial.open("w") as file:
        for indices, r in results:
            for i in range(len(r)):
                example = parts.test.rows[indices[r.prompt[i]]]
                ids = r.tokens[i, : r.length[i]]
                line = {
                    "uid": example.uid,
                    "problem": example.prompt,
                    "answer": list(example.answer),
                    "sample": int(r.sample[i]),
                    "response": parts.tokenizer.decode(ids),
                    "reward": float(r.reward[i]),
                    "verdict": Verdict(r.verdict[i]).name.lower(),
                    "length": int(r.length[i]),
                    "truncated": bool(r.truncated[i]),
                }
                file.write(json.dumps(line) + "\n")
    partial.replace(output)
