"""How fast is a step?  Each command prints JSON lines, steady state apart from compilation.

    python -m dars_jax.bench rollout --model tiny
    python -m dars_jax.bench update --model DIR --skewed
    python -m dars_jax.bench allocate
    python -m dars_jax.bench allocators --difficulty runs/mine/eval/step_000000.jsonl --markdown
    python -m dars_jax.bench step --model tiny
    python -m dars_jax.bench simulate
    python -m dars_jax.bench scale --what step slots
    python -m dars_jax.bench compare --file speed.jsonl --rounds 5 \
        "ours:update=python -m dars_jax.bench update" "TRL:update=python bench_trl.py update tiny"

--model is a Hugging Face directory, or "tiny" (4 layers, d 256) or "small" (8 layers, d 512) with
random weights.  The work is 32 prompts x 8 rollouts, 32 prompt tokens, 128 new ones; with --skewed
lengths are geometric with mean 40, at most 128.  `matmul_share` relates the speed to what this
machine would do if nothing but the model's matrix products ran, measured in the same run.
--devices splits the CPU, one engine replica each.  --profile adds where the time of one more run
goes: seconds of all threads in each part of the work.  `allocate` times every allocator, beside a
Python loop and numpy.  `allocators` says what each does with one budget for prompts of given
accuracies.  `simulate` runs the real scheduler over an engine that only counts: decode steps of a
DARS-HW step over the ideal, tokens / slots, and over the bound that the longest chain of a prompt's
answers sets as well; last, the step of the 7B policy on v5e:16x16.
`scale` measures what costs grow with: step, slots, replicas, hosts (processes), scheduler,
allocators, assemble (packing), grade, checkpoint; every size in a process of its own.
`compare` runs commands in turn and prints a table of how many times as long the others take as the
first program, in the same round; without commands it prints that of a file again.
"""

import argparse
import dataclasses
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from dars_jax.bench import allocators, compare, profile, scale, steps
from dars_jax.bench.work import MODELS, Work, load_policy, show, simulated
from dars_jax.commands import cli
from dars_jax.rollout import simulation


def bench_simulate(_: argparse.Namespace) -> None:
    """Decode steps over the ideal, streaming and with a barrier, for small and large steps."""
    sizes = ((128, 512, 1, 900), (3072, 2048, 1, 900), (3072, 256, 8, 900), (3072, 12288, 1, 900),
             (3072, 192, 64, 900), (3072, 192, 64, 1024))  # fmt: skip
    for prompts, slots, replicas, mean in sizes:
        for barrier in (False, True):
            config = simulation.dars_hw(max_tokens=3072, steps_per_dispatch=128, barrier=barrier)
            outcome = simulation.simulate(
                num_prompts=prompts, slots=slots, replicas=replicas, config=config,
                prefixes=prompts // replicas, mean_tokens=mean, ring=min(16, replicas),
            )  # fmt: skip
            line = {
                "what": "simulate", "prompts": prompts, "slots": slots, "replicas": replicas,
                "mean_tokens": mean, "barrier": barrier, **dataclasses.asdict(outcome),
            }  # fmt: skip
            show(line)


def bench_scale(args: argparse.Namespace) -> None:
    """What costs grow with; see scale.py."""
    with cli.one_line_errors():
        scale.bench_scale(args)


def bench_compare(args: argparse.Namespace) -> None:
    """Runs what is named, and prints the table of all that the file holds."""
    with cli.one_line_errors():
        entries = [compare.Entry.parse(text) for text in args.entries]
        if entries:
            lines = compare.compare(entries, args.rounds, args.file)
        else:
            lines = compare.read(args.file)
        print(compare.table(lines))


_COMMANDS: dict[str, Callable[..., None]] = {
    "rollout": steps.bench_rollout, "update": steps.bench_update, "step": steps.bench_step,
    "allocate": allocators.bench_allocate, "allocators": allocators.bench_allocators,
    "simulate": bench_simulate, "scale": bench_scale, "compare": bench_compare,
}  # fmt: skip


def main() -> None:
    """Parses the command line and runs one benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=[*_COMMANDS])
    parser.add_argument("--model", default="tiny", help="directory, tiny or small")
    parser.add_argument("--skewed", action="store_true", help="geometric lengths, mean 40")
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds")
    parser.add_argument("--slots", type=int, default=256, help="decode slots, all replicas")
    parser.add_argument("--steps_per_dispatch", type=int, default=128)
    parser.add_argument("--row_tokens", type=int, default=288, help="length of a packed row")
    parser.add_argument("--rows", type=int, default=8, help="rows of a micro-batch")
    parser.add_argument("--devices", type=int, default=1, help="simulated devices of the CPU")
    parser.add_argument("--profile", action="store_true",
                        help="where the time of one more run goes, by XLA's trace")  # fmt: skip
    compared = parser.add_argument_group("allocators")
    compared.add_argument(
        "--difficulty", default="beta:0.5,1.5",
        help="accuracies of prompts: beta:A,B, or the answers of an evaluation (.jsonl)",
    )  # fmt: skip
    compared.add_argument("--n_pre", type=int, default=8, help="rollouts before the allocation")
    compared.add_argument("--n_max", type=int, default=64, help="cap on a group")
    compared.add_argument("--budget", type=float, default=8, help="further rollouts per prompt")
    compared.add_argument("--stages", type=int, default=2, help="with the first; they share it")
    compared.add_argument("--markdown", action="store_true", help="tables instead of JSON lines")
    grown = parser.add_argument_group("scale")
    grown.add_argument("--what", dest="parts", nargs="+", choices=[*scale.MEASURES],
                       metavar="PART", help=f"of {', '.join(scale.MEASURES)} (all)")  # fmt: skip
    grown.add_argument("--sizes", nargs="+", default=[], help="instead of those of each part")
    grown.add_argument("--read", type=Path, help="tables of the lines in this file")
    between = parser.add_argument_group("compare")
    between.add_argument("entries", nargs="*", help="PROGRAM:WORK=COMMAND, the reference first")
    between.add_argument("--rounds", type=int, default=5, help="of all commands in turn")
    between.add_argument("--file", type=Path, default=Path("speed.jsonl"),
                         help="to which lines are added (speed.jsonl)")  # fmt: skip
    args = parser.parse_intermixed_args()
    if args.entries and args.what != "compare":
        parser.error(f"unrecognized arguments: {' '.join(args.entries)}")
    if args.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {args.rounds}")
    run = _COMMANDS[args.what]
    if args.what in ("allocate", "allocators", "simulate", "scale", "compare"):
        run(args)
        return
    if args.model not in MODELS and not Path(args.model).is_dir():
        parser.error(f"--model {args.model}: neither a directory nor one of {', '.join(MODELS)}")
    with tempfile.TemporaryDirectory() as directory:
        args.programs = directory if args.profile else ""
        if args.devices > 1:  # read when jax starts its backend, which is below
            os.environ.update(simulated(args.devices))
        if args.profile:
            os.environ["XLA_FLAGS"] = (
                f"{os.environ.get('XLA_FLAGS', '')} {profile.flags(directory)}"
            )
        run(load_policy(args.model), Work(skewed=args.skewed), args)


if __name__ == "__main__":
    main()
