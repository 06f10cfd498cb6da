"""Evaluation as a command: the policy of a working directory on benchmarks or held-out prompts."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dars_jax import distributed
from dars_jax.commands import cli, startup
from dars_jax.config import FREE_KEYS, ConfigDict, as_of_today, cache_dir, differences, flatten
from dars_jax.data import sources
from dars_jax.evaluation import answering, benchmarks, report, second
from dars_jax.evaluation.benchmarks import Benchmark
from dars_jax.records import storage
from dars_jax.records.progress import Progress
from dars_jax.rewards import Verdict, load_grader
from dars_jax.setup import build, saved_state


def evaluate(
    config: ConfigDict,
    workdir: Path,
    files: list[Path],
    output: Path | None,
    processes: distributed.Address | None = None,
    also: str | None = None,
) -> int:
    """Evaluates the newest checkpoint, or the initial policy, and prints the table.

    What was answered before into the same directory is kept, so that a stopped evaluation
    continues, and benchmarks can be added.

    Args:
      files: benchmarks; none means the test prompts of the configuration.
      output: directory; None is WORKDIR/eval/step_NNNNNN_nN.
      also: a second reward, whose verdicts on the same answers are shown beside.

    Returns:
      The exit code.
    """
    with startup.together(processes, workdir):
        return _evaluate(config, workdir, files, output, also)


def _evaluate(
    config: ConfigDict, workdir: Path, files: list[Path], output: Path | None, also: str | None
) -> int:
    with cli.one_line_errors():
        config = startup.pinned(config, workdir)
    parts, console = startup.prepare(_asking(config, files) if files else config)
    c = parts.plan.config
    with cli.one_line_errors():
        asked = _benchmarks(parts, files, console.log)
        step = saved_state.newest(workdir)
        output = output or workdir / "eval" / f"step_{step or 0:06d}_n{c.eval.num_samples}"
        _claim(output, _settings(config, step, parts.policy), asked)
        params = saved_state.policy(parts.plan, workdir, config, step, parts.policy, parts.mesh)
        grader = build.make_grader(parts.plan)
        other = load_grader(**(dict(c.reward) | {"name": also})) if also else None
    answers = []
    with grader, startup.answer_errors():
        params = parts.engine.load_params(params)
        for benchmark in asked:
            file = output / "answers" / f"{benchmark.name}.jsonl"
            own = benchmark.name == sources.name_of(config.data.test)  # as training samples it
            noise = answering.EVALUATION_STEP if own else answering.noise_of(benchmark.name)
            progress = Progress(f"{benchmark.name}  answers")
            show = progress if distributed.is_first() else lambda *_: None
            answers.append(
                answering.answer(parts, params, grader, benchmark, file, noise=noise, progress=show)
            )
            progress.close()
    if not distributed.is_first():
        return 0
    verdicts = None
    if also and other:
        with other, cli.reward_errors():
            rows = _graded(output / "answers", asked)
            verdicts = second.judge(rows, asked, other, (c.reward.name, also), c.seed)
    name = Path(c.policy.path).name if c.policy.path else "the embedded policy"
    protocol = {
        "answers per problem": c.eval.num_samples, "temperature": c.eval.temperature,
        "top-p": c.eval.top_p, "top-k": c.eval.top_k,
        "longest answer in tokens": c.rollout.max_tokens, "seed": c.seed,
    }  # fmt: skip
    evaluation = report.summarize(
        f"{name} after {step} steps" if step else f"{name} before training",
        protocol,
        asked,
        answers,
        c.seed,
        verdicts,
    )
    report.write(output, evaluation)
    print(report.to_markdown(evaluation))
    console.log(f"files: {output}/report.json, report.md, pass_at_k.png, answers/")
    return 0


def _graded(directory: Path, asked: list[Benchmark]) -> Iterator[second.Graded]:
    """The answers that were written, by benchmark."""
    for number, benchmark in enumerate(asked):
        rows = {row.uid: i for i, row in enumerate(benchmark.examples.rows)}
        with (directory / f"{benchmark.name}.jsonl").open() as file:
            for text in file:
                line = json.loads(text)
                yield second.Graded(
                    number, rows[line["uid"]], line["sample"], line["response"],
                    Verdict[line["verdict"].upper()], not line["truncated"],
                )  # fmt: skip


def _asking(config: ConfigDict, files: list[Path]) -> ConfigDict:
    """The configuration that reads benchmark files, and needs no training data."""
    config = config.copy_and_resolve_references()  # ConfigDict(config) would share its sections
    config.data.train = config.data.test = str(files[0])
    config.data.prompt_field, config.data.answer_field = "problem", "answer"
    config.data.skip_bad_rows = False
    return config


def _benchmarks(
    parts: build.Parts, files: list[Path], log: Callable[[str], None]
) -> list[Benchmark]:
    c = parts.plan.config.data
    data_dir = c.dir or str(cache_dir() / "tfds")
    if not files:
        return [benchmarks.identify(c.test, parts.test, data_dir)]
    return [
        benchmarks.identify(
            str(file),
            build.load_examples(parts.plan, str(file), "--benchmarks", parts.tokenizer, log),
            None,
        )
        for file in files
    ]


def _settings(config: ConfigDict, step: int | None, policy: Path) -> dict[str, Any]:
    """What decides the answers."""
    flat = as_of_today(flatten(config)) | build.policy_content(config, policy)
    sampling = ("eval.num_samples", "eval.temperature", "eval.top_p", "eval.top_k")
    kept = {k: v for k, v in flat.items() if k in sampling or k not in FREE_KEYS}
    return {"step": step or 0, **kept}


def _claim(output: Path, settings: dict[str, Any], asked: list[Benchmark]) -> None:
    """Notes in the directory what its answers come from.

    Raises:
      ValueError: it has answers of other settings, or to another version of a benchmark.
    """
    path = output / "settings.json"
    found = {"settings": settings, "benchmarks": {}}
    if path.exists():
        found = json.loads(path.read_text())
    known = found["benchmarks"]
    changed = differences(found["settings"], settings, free=())
    mine = {benchmark.name: benchmark.fingerprint() for benchmark in asked}
    changed += [
        f"{name}: other problems" for name in mine if known.get(name, mine[name]) != mine[name]
    ]
    if changed:
        raise ValueError(
            f"{output} has the answers of another evaluation: {'; '.join(changed)}. "
            "Take another --output"
        )
    if not distributed.is_first():
        return
    output.mkdir(parents=True, exist_ok=True)
    storage.replace(path, json.dumps(found | {"benchmarks": known | mine}, indent=2) + "\n")
