"""The report of a reproduction: what the arms reached, what of the paper holds, at what cost."""

import dataclasses
from typing import Any

import numpy as np

from dars_jax.study import claims, figures, variants
from dars_jax.study.arms import AXES, PANELS, SHORT
from dars_jax.study.compare import KS, Budget, Measure
from dars_jax.study.page import Block, Figure, Heading, Table, Text
from dars_jax.study.reproduction import TITLES, Reproduction, level_table

_MET = {True: "met", False: "contradicted", None: "open"}
_PHASES = ("rollout", "assemble", "update", "publish")


def blocks(r: Reproduction) -> list[Block]:
    """The whole page."""
    study = r.main
    seeds = len(study.runs[study.baseline])
    first = study.runs[study.baseline][0]
    problems = first.correct.shape[1]
    return [
        Heading("The paper in small", 1),
        Text(
            f"{len(study.runs)} arms x {seeds} seeds of the embedded policy, "
            f"{problems} held-out problems x {first.num_samples} answers. Intervals are 95 %, by "
            "bootstrap over problems and seeds together (Student's over seeds for what no problem "
            "has, such as entropy); differences between arms are paired by seed and problem. Made "
            f"by `{r.command}`."
        ),
        *_paths(r),
        *_levels(r),
        *_claims(r),
        *_questions(r),
        *_pull(r),
        *_curves(r),
        *_costs(r),
        *variants.blocks(r),
    ]


def _order(axis: str) -> list[str]:
    return [axis, *(a for a in AXES if a != axis)]


def _paths(r: Reproduction) -> list[Block]:
    k, last = r.most, r.budgets(r.axis)[-1]
    there = {title: [arm for arm in arms if arm in r.main.runs] for title, arms in PANELS.items()}
    panels = {title: arms for title, arms in there.items() if len(arms) > 2}
    if not panels:
        panels = {"": list(r.main.runs)}
    budgets = [r.main.budget(axis, r.sizes[-1]) for axis in _order(r.axis)]
    return [
        Heading("What the arms reach"),
        Figure("training_path", figures.training_path(r.main, TITLES, k, panels),
               f"Pass@1 against Pass@{k} along training, mean over seeds; crosses are intervals at "
               "the end. Up is a better single answer, right is a broader policy; an arm that goes "
               "up and to the left pays for Pass@1 with breadth."),
        Figure("pass_at_k", figures.pass_at_k(r.main, TITLES, r.budgets(r.axis),
                                              [r.main.baseline, "dars_b"]),
               "Pass@k before (dashed) and after, with the intervals of two arms. Curves that end "
               f"below the dashed one have lost breadth. At the end of {last}."),
        Figure("differences", figures.differences(r.main, TITLES, budgets, (1, k)),
               f"Pass@1 and Pass@{k} less the baseline's, paired, where every arm has spent the "
               "same prompts, rollouts or tokens. An interval that does not touch 0 is a "
               "difference."),
        Figure("against_cost", figures.against_cost(r.main, TITLES, "rollouts", (1, k)),
               f"Pass@1 and Pass@{k} against rollouts spent: at equal cost compare points above "
               "one another."),
    ]  # fmt: skip


def _levels(r: Reproduction) -> list[Block]:
    out: list[Block] = []
    ks = [k for k in KS if k <= r.most]
    for axis in _order(r.axis):
        for size, budget in zip(r.sizes, r.budgets(axis), strict=True):
            if axis != r.axis and size != r.sizes[-1]:
                continue  # report.json has them
            what = f"{budget}" if axis == "prompts" else f"{budget}, as the baseline at {size:,}"
            out += [Heading(f"After {what}", 3), level_table(r.main, ks, budget)]
    return out


def findings(r: Reproduction) -> list[tuple[str, list[tuple[Budget, int, claims.Finding]]]]:
    """Every claim with its verdict at every budget."""
    return [
        (claim.text, [
            (budget, size, claims.decide(r.main, claim, budget))
            for axis in _order(r.axis)
            for size, budget in zip(r.sizes, r.budgets(axis), strict=True)
        ])
        for claim in claims.CLAIMS
    ]  # fmt: skip


def _claims(r: Reproduction) -> list[Block]:
    run = r.main.runs[r.main.baseline][0]
    verdict, words = claims.peak(run.pass_at(1)[0])
    decided = findings(r)
    header = ["claim", *(f"equal {b.axis}, {size:,}" for b, size, _ in decided[0][1])]
    rows = [[claims.PEAK, verdict, *["the same"] * (len(header) - 2)]]
    rows += [[text, *(f.verdict for *_, f in at)] for text, at in decided]
    evidence: list[list[str]] = []
    for _, at in decided:
        for budget, size, finding in at:
            for condition, difference, met in finding.evidence:
                where = f"{budget.axis}, {size:,}"
                evidence.append([str(condition), where, str(difference), _MET[met]])
    return [
        Heading("The paper's claims"),
        Text("Decided by code from the intervals, where every arm has spent as many prompts, "
             "rollouts or tokens as the baseline had after the number of prompts at the head of "
             f"the column; ≤ and ≥ allow {claims.MARGIN}. {claims.PEAK}: sum of |advantage| of a "
             f"prompt at {words}."),
        Table(header, rows, words=True),
        Table(["condition", "at equal", "difference (95 %)", ""], evidence, words=True),
    ]  # fmt: skip


def _questions(r: Reproduction) -> list[Block]:
    ks = [k for k in KS if k <= r.most]
    rows = []
    for question in claims.QUESTIONS:
        if not {question.arm, question.other} <= r.main.runs.keys():
            continue
        for axis in ("rollouts", "tokens"):
            budget = r.main.common(axis, question.arm, question.other)
            at = [r.main.difference(question.arm, question.other, k, budget) for k in ks]
            better = [claims.winner(question, e) for e in at]
            cells = [f"{e} {TITLES.get(w, w)}" for e, w in zip(at, better, strict=True)]
            rows.append([question.text, str(budget), *cells])
    if not rows:
        return []
    return [
        Heading("Sampling against weighting"),
        Text("A group of n rollouts at accuracy a whose advantages are weighted by w pulls with "
             "n w 2a(1-a). The same pull can be bought by rollouts or by weights. Differences "
             "first arm less second, at the most that both have spent, and the better one where "
             "the interval says so."),
        Table(["question", "at equal", *(f"Pass@{k}" for k in ks)], rows, words=True),
    ]  # fmt: skip


def _pull(r: Reproduction) -> list[Block]:
    run = r.main.runs[r.main.baseline][0]
    out: list[Block] = [
        Heading("Who is heard"),
        Figure("loudness", figures.loudness(run.pass_at(1)[0]),
               "Sum of |advantage| of a prompt by how often the base policy solves it, expected "
               "over the groups it would draw, and the share of each class. GRPO hears the "
               "middle; DARS and MaxRL raise the hard side."),
    ]  # fmt: skip
    adaptive = [a for a, m in r.main.runs.items() if m[0].settings["rollout.schedule"] != "none"]
    if adaptive:
        out.append(
            Figure("top_ups", figures.top_ups(r.main, TITLES),
                   "Left: how many rollouts prompts got. Right: prompts that had no success among "
                   "the first N rollouts and one after the top-ups, which turns a group without a "
                   "signal into one with.")
        )  # fmt: skip
    return out


def _curves(r: Reproduction) -> list[Block]:
    return [
        Heading("Along training"),
        Figure("training_curves", figures.training_curves(r.main, TITLES),
               "Entropy, response length and norm of the gradient, mean over seeds; bands are "
               "the range of the seeds. Entropy that falls early is breadth that is gone."),
    ]  # fmt: skip


def _costs(r: Reproduction) -> list[Block]:
    rows = []
    for arm, mine in r.main.runs.items():
        column = lambda name, mine=mine: np.mean([x.column(name).sum() for x in mine])  # noqa: E731
        phases = [column(f"seconds_{phase}") for phase in _PHASES]
        rows.append([TITLES[arm], f"{column('num_rollouts'):,.0f}", f"{column('tokens'):,.0f}",
                     f"{column('rescued_prompts'):,.0f}", *(f"{s:.0f}" for s in phases),
                     f"{column('seconds_step') - sum(phases):.0f}"])  # fmt: skip
    return [
        Heading("What it cost"),
        Text("Of a run, mean over seeds. Seconds are wall-clock of training steps on this "
             "machine, one thread a run, evaluations and starting left out."),
        Table(["arm", "rollouts", "tokens", "rescued prompts", *(f"{p}, s" for p in _PHASES),
               "rest, s"], rows),
    ]  # fmt: skip


def to_json(r: Reproduction) -> dict[str, Any]:
    """Every figure of the tables, JSON-friendly; shares in [0, 1]."""
    study = r.main
    ks = [k for k in KS if k <= r.most]
    measures: list[Measure] = [*ks, "entropy", "rollouts"]
    every = [(size, b) for axis in AXES for size, b in zip(r.sizes, r.budgets(axis), strict=True)]
    run = study.runs[study.baseline][0]
    verdict, words = claims.peak(run.pass_at(1)[0])
    name = lambda m: f"pass_at_{m}" if isinstance(m, int) else m  # noqa: E731
    return {
        "command": r.command,
        "seeds": {arm: [run.settings["seed"] for run in mine] for arm, mine in study.runs.items()},
        "base": {name(k): float(run.pass_at(k)[0].mean()) for k in ks},
        "levels": [
            {"axis": b.axis, "amount": b.amount, "baseline_prompts": size, "arm": arm}
            | {name(m): dataclasses.asdict(study.level(arm, m, b)) for m in measures}
            for size, b in every for arm in study.runs if study.reaches(arm, b)
        ],
        "against_baseline": [
            {"axis": b.axis, "amount": b.amount, "baseline_prompts": size, "arm": arm}
            | {name(k): dataclasses.asdict(study.difference(arm, study.baseline, k, b)) for k in ks}
            for size, b in every for arm in list(study.runs)[1:] if study.reaches(arm, b)
        ],
        "claims": [{"claim": claims.PEAK, "verdict": verdict, "evidence": words}] + [
            {"claim": text, "axis": b.axis, "baseline_prompts": size, "verdict": f.verdict,
             "evidence": {str(c): dataclasses.asdict(d) for c, d, _ in f.evidence}}
            for text, at in findings(r) for b, size, f in at
        ],
        "variants": [
            {"variant": variant.name, "arm": arm}
            | {name(k): dataclasses.asdict(s.gain(arm, k, Budget("prompts", SHORT))) for k in ks}
            for variant, s in r.variants.items() for arm in s.runs
        ],
    }  # fmt: skip
