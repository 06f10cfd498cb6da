"""Avg@n and Pass@k of a trained policy on the test prompts of its configuration.

    python launch/evaluate.py --config configs/dars_b.py --workdir runs/dars_b

Evaluates the newest checkpoint in the working directory, or the initial policy if there is none.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout that is not installed

from dars_jax import cli


def main() -> int:
    """The whole evaluation."""
    config, workdir = cli.config_and_workdir()
    from dars_jax import run  # heavy: only now that the command line is known to be right

    return run.evaluate(config, workdir)


if __name__ == "__main__":
    cli.start(main, __doc__)
