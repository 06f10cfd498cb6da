"""Scores answers produced elsewhere with the same protocol.  Loads no JAX.

Generations are JSON lines {id, response}, several of one id as several answers to that problem.
`length` (tokens) and `truncated` are reported if every line has them, as the answer files of an
evaluation do.  Every problem must have an answer: one that a system did not answer would
otherwise drop out of the average, so it has to be there, as an empty response.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from dars_jax.commands import cli
from dars_jax.data import sources
from dars_jax.evaluation import benchmarks as benchmarks_lib
from dars_jax.evaluation import report, second
from dars_jax.evaluation.benchmarks import Benchmark
from dars_jax.evaluation.report import Evaluation
from dars_jax.evaluation.scores import Answers
from dars_jax.records.progress import Progress
from dars_jax.records.storage import writing
from dars_jax.rewards import OUTSIDE, Context, Grader, Verdict, load_grader

BATCH = 4096  # responses graded at a time
SEED = 0  # of the bootstrap

Place = tuple[int, int]  # number of the benchmark, row in it


@dataclasses.dataclass(frozen=True)
class Generation:
    """One line."""

    id: str
    response: str
    length: int | None  # tokens
    truncated: bool | None


def evaluate(
    generations: Path,
    benchmark_argument: str,
    output: Path | None,
    config: ConfigDict | None,
    also: str | None = None,
) -> int:
    """The command: reads, grades, writes, prints the table, returns the exit code.

    Args:
      benchmark_argument: see benchmarks.find.
      output: directory; None is one beside the generations.
      config: for its `reward`; None grades mathematics.
      also: a second reward, whose verdicts are shown beside.
    """
    with cli.one_line_errors():
        files = benchmarks_lib.find(benchmark_argument)
        benchmarks = [benchmarks_lib.load(file) for file in files]
        output = output or generations.with_name(generations.stem + "_evaluation")
        grader, name = _grader(config)
        other = _grader(config, also)[0] if also else None
        with grader, cli.reward_errors():
            evaluation = score(generations, benchmarks, grader, name, output)
        if also and other:
            with other, cli.reward_errors():
                rows = _graded(generations, benchmarks, output / "grades.jsonl")
                verdicts = second.judge(rows, benchmarks, other, (name, also), SEED)
            evaluation = dataclasses.replace(evaluation, second=verdicts)
        report.write(output, evaluation)
    print(report.to_markdown(evaluation))
    print(f"files: {output}/report.json, report.md, pass_at_k.png, grades.jsonl", file=sys.stderr)
    return 0


def score(
    path: Path, benchmarks: Sequence[Benchmark], grader: Grader, grader_name: str, output: Path
) -> Evaluation:
    """Grades every generation; writes {id, sample, reward, verdict} of each to grades.jsonl.

    Raises:
      ValueError: a bad line or an unknown id, as `file:line: what is wrong`; problems without a
        generation; an id that two benchmarks share.  All before anything is graded.
    """
    places = _places(benchmarks)
    count, has_lengths = _check(path, benchmarks, places)
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    where = np.zeros((count, 2), np.int64)
    reward, verdict = np.zeros(count), np.zeros(count, np.int8)
    length, truncated = np.zeros(count, np.int64), np.zeros(count, bool)
    parts = np.zeros((count, len(grader.parts)))
    samples: dict[str, int] = {}
    progress, done = Progress("grading"), 0
    partial = output / "grades.jsonl.partial"
    progress(0, count)
    with writing(output), partial.open("w") as file:
        for batch in _batches(path, BATCH):
            rows = [benchmarks[b].examples.rows[p] for b, p in (places[g.id] for g in batch)]
            contexts = [
                Context(row.uid, row.prompt, row.others,
                        finished=None if g.truncated is None else not g.truncated)
                for g, row in zip(batch, rows, strict=True)
            ]  # fmt: skip
            golds = [row.answer for row in rows]
            grades = grader.grade([g.response for g in batch], golds, contexts)
            for generation, grade in zip(batch, grades, strict=True):
                sample = samples.get(generation.id, 0)
                samples[generation.id] = sample + 1
                where[done], reward[done] = places[generation.id], grade.reward
                verdict[done], parts[done] = grade.verdict, grade.parts
                if has_lengths:
                    assert generation.length is not None
                    length[done], truncated[done] = generation.length, generation.truncated
                done += 1
                line = {"id": generation.id, "sample": sample, "reward": grade.reward,
                        "verdict": grade.verdict.name.lower()}  # fmt: skip
                if grade.parts:
                    line["rewards"] = dict(zip(grader.parts, grade.parts, strict=True))
                file.write(json.dumps(line) + "\n")
            progress(done, count)
    progress.close()
    partial.replace(output / "grades.jsonl")
    answers = []
    for number, benchmark in enumerate(benchmarks):
        mine = (where[:, 0] == number) & ~np.isin(verdict, OUTSIDE)
        answers.append(
            Answers(len(benchmark.ids), where[mine, 1], reward[mine],
                    verdict[mine] == Verdict.CORRECT,
                    length[mine] if has_lengths else None,
                    truncated[mine] if has_lengths else None,
                    dict(zip(grader.parts, parts[mine].T, strict=True)))
        )  # fmt: skip
    protocol = {"generations": path.name, "answers": count, "grader": grader_name}
    subject = f"Answers of {path.name}"
    return report.summarize(subject, protocol, benchmarks, answers, SEED)


def _grader(config: ConfigDict | None, name: str | None = None) -> tuple[Grader, str]:
    if config is None:
        name = name or "math"
        return load_grader(name, num_workers=os.cpu_count() or 1), name
    name = name or config.reward.name
    return load_grader(**(dict(config.reward) | {"name": name})), name


def _graded(path: Path, benchmarks: Sequence[Benchmark], grades: Path) -> Iterator[second.Graded]:
    """The generations again, with the verdicts that `score` wrote."""
    places = _places(benchmarks)
    with grades.open() as file:
        for (_, g), text in zip(_read(path), file, strict=True):
            line = json.loads(text)
            verdict = Verdict[line["verdict"].upper()]
            finished = None if g.truncated is None else not g.truncated
            yield second.Graded(*places[g.id], line["sample"], g.response, verdict, finished)


def _places(benchmarks: Sequence[Benchmark]) -> dict[str, Place]:
    places: dict[str, Place] = {}
    for number, benchmark in enumerate(benchmarks):
        for row, key in enumerate(benchmark.ids):
            if key in places:
                other = benchmarks[places[key][0]].name
                raise ValueError(
                    f"id {key!r} stands in {other} and in {benchmark.name}: "
                    "score these benchmarks one at a time"
                )
            places[key] = (number, row)
    return places


def _check(
    path: Path, benchmarks: Sequence[Benchmark], places: dict[str, Place]
) -> tuple[int, bool]:
    """(number of generations, whether all state length and truncated); raises as `score`."""
    count, stated, seen = 0, 0, set()
    for line, generation in _read(path):
        if generation.id not in places:
            names = ", ".join(benchmark.name for benchmark in benchmarks)
            raise ValueError(f"{path}:{line}: id {generation.id!r} is in none of {names}")
        seen.add(generation.id)
        count += 1
        stated += generation.length is not None and generation.truncated is not None
    if not count:
        raise ValueError(f"{path}: no generations in it")
    missing = []
    for benchmark in benchmarks:
        without = [key for key in benchmark.ids if key not in seen]
        if without:
            shown = ", ".join(without[:5]) + (", …" if len(without) > 5 else "")
            missing.append(f"{benchmark.name} {len(without)} of {len(benchmark.ids)} ({shown})")
    if missing:
        raise ValueError(
            f"{path}: problems without any generation: {'; '.join(missing)}. Give --benchmarks "
            'only the files that were asked, and unanswered problems as {"id": …, "response": ""}'
        )
    return count, stated == count


def _batches(path: Path, size: int) -> Iterator[list[Generation]]:
    batch = []
    for _, generation in _read(path):
        batch.append(generation)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _read(path: Path) -> Iterator[tuple[int, Generation]]:
    """(line from 1, what it says)."""
    if path.suffix not in (".jsonl", ".json"):
        raise ValueError(f"--generations {path}: expected a .jsonl file")
    for number, raw in sources.read_rows(str(path)):
        try:
            yield number + 1, _parse(raw)
        except ValueError as error:
            raise ValueError(f"{path}:{number + 1}: {error}") from error


def _parse(raw: sources.Raw) -> Generation:
    row = sources.parse_row(raw)
    for name in ("id", "response"):
        if name not in row:
            raise ValueError(f"no field {name!r}; there are {', '.join(map(repr, row)) or 'none'}")
    key, response = row["id"], row["response"]
    length, truncated = row.get("length"), row.get("truncated")
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise ValueError(f"id must be text or a number, got {key!r:.40}")
    if not isinstance(response, str):
        raise ValueError(f"response must be text, got {response!r:.40}")
    if length is not None and (type(length) is not int or not 0 <= length < 2**31):
        raise ValueError(f"length must be a number of tokens, got {length!r:.40}")
    if truncated is not None and type(truncated) is not bool:
        raise ValueError(f"truncated must be true or false, got {truncated!r:.40}")
    return Generation(str(key), response, length, truncated)
