"""The part of a report on what was changed in all arms alike: base policy, rate, size."""

from collections.abc import Mapping, Sequence

import numpy as np

from dars_jax.study import claims, figures
from dars_jax.study.arms import ALSO, LONG, SHORT, STANDARD, Variant
from dars_jax.study.compare import KS, Budget, Measure, Study
from dars_jax.study.page import Block, Figure, Heading, Table, Text
from dars_jax.study.reproduction import TITLES, Reproduction, level_table


def blocks(r: Reproduction) -> list[Block]:
    """A section for each part that was run, and one over all of them."""
    return [*_mixes(r), *_bases(r), *_strong(r), *_large(r), *_rates(r), *_breadth(r)]


def _only(study: Study, arms: Sequence[str]) -> Study:
    return Study({arm: study.runs[arm] for arm in arms if arm in study.runs})


def _part(r: Reproduction, name: str) -> dict[Variant, Study]:
    """The studies of a part, the standard one first; empty if it was not run."""
    part = ALSO[name]
    found = {v: _only(r.variants[v], part.arms) for v in part.variants if v in r.variants}
    if len(found) < len(part.variants) or not all(study.runs for study in found.values()):
        return {}
    return {STANDARD: _only(r.main, part.arms)} | found


def _setting(variant: Variant) -> str:
    """What is changed, in words."""
    if variant.architecture != STANDARD.architecture:
        return "eight times the size"
    if variant.rate != STANDARD.rate:
        return f"learning rate x {variant.rate:g}"
    if variant.warmup_steps != STANDARD.warmup_steps:
        return f"{variant.warmup_steps} supervised steps"
    return "standard"


def _mixes(r: Reproduction) -> list[Block]:
    ks = [k for k in KS if k <= r.most]
    settings = {STANDARD: r.main} | dict(r.variants)
    rows, said = [], []
    for arm in claims.MIXES:
        outcomes: dict[str, list[str]] = {}
        for variant, study in settings.items():
            if not {arm, claims.MIXED} <= study.runs.keys():
                continue
            for axis in ("rollouts", "tokens"):
                budget = study.common(axis, arm, claims.MIXED)
                at = [study.difference(arm, claims.MIXED, k, budget) for k in ks]
                outcome = claims.overall(at)
                seeds = min(len(study.runs[a]) for a in (arm, claims.MIXED))
                rows.append([_setting(variant), TITLES[arm], str(seeds), str(budget),
                             *map(str, at), outcome])  # fmt: skip
                if axis == "rollouts":
                    outcomes.setdefault(outcome, []).append(_setting(variant))
        if outcomes:
            words = [f"{outcome} with {', '.join(where)}" for outcome, where in outcomes.items()]
            said.append(f"{TITLES[arm]}: {'; '.join(words)}")
    if {row[0] for row in rows} <= {_setting(STANDARD)}:
        return []  # the questions have that already
    return [
        Heading("Does a combination win everywhere?"),
        Text(f"Each less {TITLES[claims.MIXED]} at the most that both have spent, paired. It "
             "wins where an interval at some k lies above 0 and none below, loses the other way "
             "round, and trades where there are both. At equal rollouts: "
             + ". ".join(said) + "."),
        Table(["setting", "arm", "seeds", "at equal", *(f"Pass@{k}" for k in ks), "outcome"],
              rows, words=True),
    ]  # fmt: skip


def _gain_table(first: str, studies: Mapping[str, Study], ks: Sequence[int]) -> Table:
    """What each arm gained after SHORT prompts, and its entropy, by name of the variant."""
    budget = Budget("prompts", SHORT)
    rows = []
    for name, study in studies.items():
        for arm, mine in study.runs.items():
            row = [name, TITLES[arm], str(len(mine))]
            for k in ks:
                before = np.mean([run.pass_at(k)[0] for run in mine])
                row += [f"{before:.3f}", str(study.gain(arm, k, budget))]
            rows.append([*row, f"{study.level(arm, 'entropy', budget).mean:.3f}"])
    cells = [cell for k in ks for cell in (f"Pass@{k} before", "gain")]
    return Table([first, "arm", "seeds", *cells, "entropy"], rows)


def _bases(r: Reproduction) -> list[Block]:
    found = _part(r, "bases")
    if not found:
        return []
    studies = {v.warmup_steps: found[v] for v in sorted(found, key=lambda v: v.warmup_steps)}
    k = r.most
    return [
        Heading("Weak and strong base policies"),
        Figure("bases", figures.bases(studies, TITLES, Budget("prompts", SHORT), (1, k)),
               f"Gain after {SHORT:,} prompts against what the base policy could do: a base that "
               f"already solves nearly all problems within {k} answers has only breadth to lose."),
        _gain_table("supervised steps", {str(n): s for n, s in studies.items()}, (1, k)),
    ]  # fmt: skip


def _levels(r: Reproduction, part: str, title: str, prompts: int) -> list[Block]:
    found = _part(r, part)
    if not found:
        return []
    variant, study = list(found.items())[-1]
    return [
        Heading(title),
        Text(f"Architecture {variant.architecture}, {variant.warmup_steps} supervised steps, "
             f"{variant.rate:g} of the learning rate, {prompts:,} prompts, "
             f"{len(study.runs[study.baseline])} seeds."),
        level_table(study, [k for k in KS if k <= r.most], Budget("prompts", prompts)),
    ]  # fmt: skip


def _strong(r: Reproduction) -> list[Block]:
    return _levels(r, "strong", "Long training from a stronger base", LONG)


def _large(r: Reproduction) -> list[Block]:
    return _levels(r, "large", "A policy eight times the size", SHORT)


def _rates(r: Reproduction) -> list[Block]:
    found = _part(r, "rates")
    if not found:
        return []
    studies = {f"x {v.rate:g}": found[v] for v in sorted(found, key=lambda v: v.rate)}
    return [
        Heading("Is it the learning rate?"),
        Text(f"The same factors for all arms, after {SHORT:,} prompts. Entropy, in nats per token, "
             "is the mean of the last tenth of the steps."),
        _gain_table("rate", studies, (1, 8, r.most)),
    ]  # fmt: skip


def _breadth(r: Reproduction) -> list[Block]:
    found = _part(r, "breadth")
    budget = Budget("prompts", LONG)
    narrow, broad = ALSO["breadth"].arms
    if not found or not all(s.reaches(a, budget) for s in found.values() for a in (narrow, broad)):
        return []
    measures: tuple[Measure, ...] = (1, 8, r.most, "entropy")
    rows = []
    for variant in sorted(found, key=lambda v: v.rate):
        study = found[variant]
        for arm in (narrow, broad):
            at = [study.level(arm, m, budget) for m in measures]
            rows.append([f"x {variant.rate:g}", TITLES[arm], str(len(study.runs[arm])),
                         *(f"{e.mean:.3f}" for e in at)])  # fmt: skip
        gaps = [study.difference(broad, narrow, m, budget) for m in measures]
        rows.append([f"x {variant.rate:g}", "difference", "", *map(str, gaps)])
    names = [f"Pass@{m}" if isinstance(m, int) else m for m in measures]
    return [
        Heading("Breadth and entropy at smaller rates"),
        Text("Breadth makes 2 updates at four times the rate where GRPO makes 16. Whether that "
             f"costs it its entropy is asked with smaller rates for both, after {LONG:,} prompts."),
        Table(["rate", "arm", "seeds", *names], rows),
    ]  # fmt: skip
