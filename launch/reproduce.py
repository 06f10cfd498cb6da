"""The paper in small: its arms on the embedded policy, over seeds, and a report with error bars.

    python launch/reproduce.py --workdir runs/reproduce --quick
    python launch/reproduce.py --workdir runs/reproduce

--quick is 4 arms x 2 seeds x 6,400 prompts; the whole is all arms x 5 seeds x 25,600 prompts, and
weaker and stronger base policies.  The report is WORKDIR/report: report.md, report.html (one file
that holds everything), report.json and the pictures.  The same command continues what was stopped
and runs only what is missing; more seeds or arms can be added later.  Exit codes: 0 finished;
1 a run failed (its WORKDIR/ARM/seed_N/log.txt says why); 2 a mistake in the command; 130 / 143
stopped by SIGINT / SIGTERM with every run saved.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout that is not installed

from dars_jax.commands import cli
from dars_jax.study import arms

ROOT = Path(__file__).resolve().parent.parent


def _names(known: tuple[str, ...], what: str) -> Callable[[str], tuple[str, ...]]:
    """A parser of lists with commas whose words must be known."""

    def parse(text: str) -> tuple[str, ...]:
        names = tuple(filter(None, text.split(",")))
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(
                    f"unknown {what} {name!r}: expected some of {', '.join(known)}"
                )
        return names

    return parse


def _parts(text: str) -> dict[str, int | None]:
    """{part: its seeds, None if nothing is said} of a list like "bases,large:2"."""
    parts = {}
    for word in filter(None, text.split(",")):
        name, colon, seeds = word.partition(":")
        if name not in arms.ALSO:
            raise argparse.ArgumentTypeError(
                f"unknown part {name!r}: expected some of {', '.join(arms.ALSO)}"
            )
        parts[name] = _positive(seeds) if colon else None
    return parts


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def main() -> int:
    """Parses the command line and does the runs."""
    known = tuple(arms.ARMS)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True, help="directory of runs and report")
    parser.add_argument("--seeds", type=_positive, help="seeds 0 … N-1 (5; with --quick 2)")
    parser.add_argument("--arms", type=_names(known, "arm"), help="with commas, the baseline "
                        f"first; known: {', '.join(known)}")  # fmt: skip
    parser.add_argument("--budget", choices=arms.AXES, default="prompts",
                        help="at equal numbers of what arms are compared first; the report has "
                        "all three")  # fmt: skip
    parser.add_argument("--also", type=_parts, help="the same arms, as far as a part has them, in "
                        "parts, with commas, NAME or NAME:SEEDS; bases: weaker and stronger base "
                        "policies; rates: half and twice the learning rate; breadth: a half and a "
                        "quarter of it, long; strong: a stronger base, long; large: a policy eight "
                        "times the size (bases; with --quick nothing)")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="what can be seen in minutes")
    parser.add_argument("--jobs", type=_positive, default=len(os.sched_getaffinity(0)),
                        help="runs at a time, one thread each (one for each core)")  # fmt: skip
    args = parser.parse_args()
    quick = args.quick
    seeds = args.seeds or (2 if quick else 5)
    also = ({} if quick else {"bases": None}) if args.also is None else args.also
    with cli.on_the_host():  # heavy: only now that the command line is known to be right
        from dars_jax.commands import reproduce

    return reproduce.reproduce(ROOT, reproduce.Options(
        workdir=args.workdir,
        seeds=seeds,
        arms=args.arms or (arms.QUICK if quick else known),
        prompts=arms.SHORT if quick else arms.LONG,
        also={part: own or seeds for part, own in also.items()},
        axis=args.budget,
        jobs=args.jobs,
        command=shlex.join(["python", "launch/reproduce.py", *sys.argv[1:]]),
    ))  # fmt: skip


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        cli.fail("interrupted", 130)
