"""Avg@n and Pass@k of a policy, or of answers produced elsewhere.

    python launch/evaluate.py --config configs/dars_b.py --workdir runs/dars_b
    python launch/evaluate.py --config FILE --workdir DIR --benchmarks DIR --num_samples 128
    python launch/evaluate.py --generations answers.jsonl --benchmarks DIR --also math_verify

The first two evaluate the newest checkpoint in the working directory, or the initial policy if
there is none; the same command continues an evaluation that was stopped.  The third needs neither
policy nor configuration, and grades mathematics unless --config names another reward.
Writes report.json, report.md, pass_at_k.png and every answer with its grade.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout that is not installed

from dars_jax.commands import cli
from dars_jax.commands.cli import flags

_BENCHMARKS = flags.DEFINE_string(
    "benchmarks", None, "directory with aime24.jsonl, amc_2022_2023_83.jsonl, math500.jsonl, "
    "minerva.jsonl, olympiadbench_675.jsonl (those that are there), or .jsonl files, or several of "
    "these with commas; default: the test prompts of the configuration",
)  # fmt: skip
_NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", None, "answers per problem (default: eval.num_samples)", lower_bound=1
)
_GENERATIONS = flags.DEFINE_string(
    "generations", None, "JSON lines {id, response} to score instead of a policy's answers; every "
    "problem of --benchmarks needs at least one, an unanswered one an empty response",
)  # fmt: skip
_OUTPUT = flags.DEFINE_string(
    "output", None, "directory of the results (default: below WORKDIR/eval, or beside the "
    "generations file)",
)  # fmt: skip
_ALSO = flags.DEFINE_string(
    "also", None, "a second reward, such as math_verify: its scores of the same answers are shown "
    "beside, with the answers on which both differ",
)  # fmt: skip
cli.define_processes()


def main() -> int:
    """The whole evaluation."""
    output = Path(_OUTPUT.value) if _OUTPUT.value else None
    if _GENERATIONS.value is not None:
        if not _BENCHMARKS.value:
            cli.fail("--generations needs --benchmarks: the problems the ids belong to")
        if _NUM_SAMPLES.value is not None:
            cli.fail("--num_samples does not go with --generations: all that are there count")
        from dars_jax.commands import generations

        return generations.evaluate(
            Path(_GENERATIONS.value), _BENCHMARKS.value, output, cli.config_if_given(),
            _ALSO.value,
        )  # fmt: skip
    processes = cli.processes()
    from dars_jax.evaluation import benchmarks

    with cli.one_line_errors():
        files = [] if _BENCHMARKS.value is None else benchmarks.find(_BENCHMARKS.value)
    config, workdir = cli.config_and_workdir()
    if _NUM_SAMPLES.value is not None:
        config.eval.num_samples = _NUM_SAMPLES.value
    with cli.quiet_native_code():  # heavy: only now that the command line is known to be right
        from dars_jax.commands import evaluate

    return evaluate.evaluate(config, workdir, files, output, processes, _ALSO.value)


if __name__ == "__main__":
    cli.start(main, __doc__, needs_config=not cli.argument_of("generations"))
