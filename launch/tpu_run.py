"""Trains a policy with the settings of a configuration file.

    python launch/tpu_run.py --config configs/dars_b.py

In several processes, all with the same --workdir; on a TPU pod without the last three flags:

    python launch/tpu_run.py --config FILE --workdir DIR \\
      --coordinator HOST:PORT --num_processes N --process_id I

The same command continues a run that was stopped.  Exit codes: 0 finished; 2 a mistake in the
command, the configuration or the data; 3 three steps in a row without a finite gradient;
4 a checkpoint or another file could not be written (what was there is whole); 5 the reward failed;
6 the engine sampled from other weights than those that learn; 7 log-probs that are not finite;
8 no progress for watchdog.minutes; 130 / 143 stopped by SIGINT / SIGTERM with the state saved.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout that is not installed

from dars_jax.commands import cli

cli.define_processes()


def main() -> int:
    """The whole run."""
    processes = cli.processes()
    config, workdir = cli.config_and_workdir()
    with cli.quiet_native_code():  # heavy: only now that the command line is known to be right
        from dars_jax.commands import train

    return train.train(config, workdir, processes)


if __name__ == "__main__":
    cli.start(main, __doc__)
