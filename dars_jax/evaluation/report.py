"""An evaluation as files: report.json, report.md beside the paper's rows, pass_at_k.png.

With a second grader also differences.jsonl.
"""

import dataclasses
import io
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dars_jax.evaluation import scores
from dars_jax.evaluation import second as second_lib
from dars_jax.evaluation.benchmarks import PAPER_ROWS, PUBLISHED, Benchmark
from dars_jax.evaluation.scores import Answers, Report
from dars_jax.evaluation.second import Second
from dars_jax.records import storage


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """All figures of one evaluation."""

    subject: str  # what was evaluated, for the headline
    protocol: dict[str, Any]  # how, JSON-friendly
    benchmarks: dict[str, Report]  # by name, in the order given
    titles: dict[str, str]
    overall: Report  # micro average over the problems of all benchmarks
    most_samples: int  # answers of the problem that has most
    remarks: tuple[str, ...]
    second: Second | None  # the same answers by another

    @property
    def is_papers(self) -> bool:
        """Whether it covers what the paper's rows cover."""
        return self.benchmarks.keys() == PUBLISHED.keys()


def summarize(
    subject: str,
    protocol: dict[str, Any],
    benchmarks: Sequence[Benchmark],
    answers: Sequence[Answers],
    seed: int,
    second: Second | None = None,
) -> Evaluation:
    """Figures of each benchmark and of all together.

    Args:
      answers: as many, in the same order.
      seed: of the bootstrap.
      second: what another grader says about the same answers.
    """
    reports = {b.name: scores.report(a, seed) for b, a in zip(benchmarks, answers, strict=True)}
    whole = scores.join(answers)
    overall = scores.report(whole, seed)
    remarks = [remark for b in benchmarks for remark in b.remarks()]
    most = int(np.bincount(whole.problem).max())
    if most != overall.num_samples:
        remarks.append(
            f"problems have {overall.num_samples} to {most} answers: Avg@n gives every problem the "
            f"same weight, Pass@k is given for k up to the fewest answers in a row"
        )
    if overall.rewards:
        means = ", ".join(f"{name} {mean:.3f}" for name, mean in overall.rewards.items())
        remarks.append(f"mean of each reward over all problems: {means}; the first counts as right")
    return Evaluation(
        subject=subject,
        protocol=protocol,
        benchmarks=reports,
        titles={b.name: b.title for b in benchmarks},
        overall=overall,
        most_samples=most,
        remarks=tuple(remarks),
        second=second,
    )


def write(directory: Path, evaluation: Evaluation) -> None:
    """Writes the files; each appears under its name only when whole."""
    with storage.writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    storage.replace(directory / "report.json", json.dumps(to_json(evaluation), indent=2) + "\n")
    storage.replace(directory / "report.md", to_markdown(evaluation))
    if evaluation.second:
        second_lib.write(directory / "differences.jsonl", evaluation.second)
    reports = {evaluation.titles[name]: r for name, r in evaluation.benchmarks.items()}
    if len(reports) > 1:
        reports["all problems"] = evaluation.overall
    picture = directory / "pass_at_k.png"
    plot(picture, reports, evaluation.subject, bands=[list(reports)[-1]])


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Shares in [0, 1]; the paper's rows in percent, as printed there."""
    return {
        "subject": evaluation.subject,
        "protocol": evaluation.protocol,
        "overall": evaluation.overall.to_json(),
        "benchmarks": {
            name: report.to_json()
            | {"published_problems": PUBLISHED[name].num_problems if name in PUBLISHED else None}
            for name, report in evaluation.benchmarks.items()
        },
        "remarks": list(evaluation.remarks),
        "paper_percent": [
            {"policy": policy, "method": method, "avg_at_128": avg, "pass_at_128": best}
            for policy, method, avg, best in PAPER_ROWS
        ]
        if evaluation.is_papers
        else [],
        "also": second_lib.to_json(evaluation.second) if evaluation.second else None,
    }


def to_markdown(evaluation: Evaluation) -> str:
    """Two tables: the figures beside the paper's, and Pass@k for every k.  In percent."""
    overall, most = evaluation.overall, evaluation.most_samples
    n = str(most) if most == overall.num_samples else "n"
    lines = [f"# {evaluation.subject}", ""]
    lines += [", ".join(f"{key} {value}" for key, value in evaluation.protocol.items()), ""]
    lines += _row("", "problems", f"Avg@{n}", "Pass@k", "95 % interval", "tokens", "truncated")
    lines += _row("---", *["---:"] * 6)
    rows = [(evaluation.titles[name], r) for name, r in evaluation.benchmarks.items()]
    if len(rows) > 1:
        rows.append(("**all problems**", overall))
    for title, report in rows:
        k = max(report.pass_at)
        length, truncated = report.response_length, report.truncated_share
        lines += _row(
            title, f"{report.num_problems:,}", _percent(report.avg),
            f"{_percent(report.pass_at[k])} (k = {k})", _interval(report, k),
            "–" if length is None else f"{length:,.1f}",
            "–" if truncated is None else _percent(truncated),
        )  # fmt: skip
    if evaluation.is_papers:
        total = sum(published.num_problems for published in PUBLISHED.values())
        for policy, method, avg, best in PAPER_ROWS:
            lines += _row(f"paper: {policy}, {method}", f"{total:,}", str(avg),
                          f"{best} (k = 128)", "–", "–", "–")  # fmt: skip
    remarks = list(evaluation.remarks)
    if evaluation.is_papers:
        remarks.append("paper: arXiv 2508.13755, Avg@128 and Pass@128 over all its problems")
    lines += ["", *(f"- {remark}" for remark in remarks)] if remarks else []
    lines += ["", "Pass@k with 95 % bootstrap intervals over problems, percent:", ""]
    ks = sorted({k for _, report in rows for k in report.pass_at})
    lines += _row("k", *(title for title, _ in rows))
    lines += _row("---:", *["---:"] * len(rows))
    for k in ks:
        cells = (
            f"{_percent(r.pass_at[k])} ({_interval(r, k)})" if k in r.pass_at else "–"
            for _, r in rows
        )
        lines += _row(str(k), *cells)
    if evaluation.second:
        lines += second_lib.to_markdown(
            evaluation.second, evaluation.titles, evaluation.benchmarks, overall
        )
    return "\n".join(lines) + "\n"


def _row(*cells: str) -> list[str]:
    return ["| " + " | ".join(cells) + " |"]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _interval(report: Report, k: int) -> str:
    low, high = report.pass_interval[k]
    return f"{_percent(low)} to {_percent(high)}"


def plot(path: Path, reports: dict[str, Report], title: str, *, bands: Sequence[str]) -> None:
    """Pass@k against k as PNG, a curve per report.

    Args:
      reports: by the name in the legend; the last one is drawn thick.
      bands: names of those whose intervals are drawn; bands of all may hide one another.
    """
    import matplotlib

    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it reports its font cache
    matplotlib.use("Agg")  # no display needed
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4.8))
    for name, report in reports.items():
        ks = list(report.pass_at)
        last = name == list(reports)[-1]
        (line,) = axes.plot(ks, [100 * v for v in report.pass_at.values()], marker="o", ms=3,
                            lw=2.5 if last else 1, label=name)  # fmt: skip
        if name in bands:
            low, high = np.array([report.pass_interval[k] for k in ks]).T * 100
            axes.fill_between(ks, low, high, color=line.get_color(), alpha=0.2, lw=0)
    axes.set_xscale("log", base=2)
    ticks = sorted({k for report in reports.values() for k in report.pass_at})
    axes.set_xticks(ticks, [str(k) for k in ticks])
    axes.set(xlabel="k, answers per problem", ylabel="Pass@k, percent of problems", ylim=(0, 100),
             title=title)  # fmt: skip
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.tight_layout()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    pyplot.close(figure)
    storage.replace(path, picture.getvalue())
