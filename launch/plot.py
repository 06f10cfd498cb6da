"""Pictures of one or several runs: curves, Pass@k, difficulty and top-ups by step, sample answers.

    python launch/plot.py runs/dars_b
    python launch/plot.py runs/grpo runs/dars_b --output runs/pictures

Writes runs.html (one file that holds everything), runs.md and the pictures, for one run into
WORKDIR/plots unless --output says otherwise.  Works on a run that is under way, too, once it has
been evaluated twice.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout that is not installed

from dars_jax.commands import cli


def main() -> int:
    """Parses the command line and draws."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdirs", metavar="WORKDIR", type=Path, nargs="+", help="of a run")
    parser.add_argument("--output", type=Path, help="directory of the pictures (default: plots in "
                        "the first WORKDIR)")  # fmt: skip
    args = parser.parse_args()
    with cli.on_the_host():
        from dars_jax.commands import plot
    return plot.plot(args.workdirs, args.output or args.workdirs[0] / "plots")


if __name__ == "__main__":
    sys.exit(main())
