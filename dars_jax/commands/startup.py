"""What commands share before their own work: quiet logs, other processes, the parts of a run."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import jax

# Tensorflow comes along with jetstream and clu; 1 is what jax sets where nobody has.
if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

from dars_jax import distributed
from dars_jax.commands import cli
from dars_jax.config import ConfigDict, cache_dir
from dars_jax.engine.session import NonFiniteError
from dars_jax.records import metrics
from dars_jax.setup import build


def settle() -> None:
    """Quiet logs, and programs that are compiled once for all processes."""
    logging.getLogger("absl").setLevel(logging.WARNING)  # orbax and clu report every file
    logging.getLogger("jax").setLevel(logging.WARNING)  # and jax how processes meet
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))


@contextlib.contextmanager
def together(processes: distributed.Address | None, workdir: Path) -> Iterator[None]:
    """Runs the body in company of the other processes, if there are any."""
    settle()
    with cli.one_line_errors():
        distributed.join(processes)
    with distributed.leaving():
        with cli.one_line_errors():
            distributed.check_shared(workdir)
        yield


@contextlib.contextmanager
def answer_errors() -> Iterator[None]:
    """Ends the command with a code of its own when answers cannot be graded, or even sampled."""
    try:
        with cli.reward_errors():
            yield
    except NonFiniteError as error:
        cli.fail(str(error), cli.EXIT_POLICY)


def prepare(config: ConfigDict) -> tuple[build.Parts, metrics.Console]:
    """The parts of a run, and the console that has said what they are."""
    console = metrics.Console(config.train.num_steps)
    with cli.one_line_errors():
        plan = build.make_plan(config)
        device = jax.devices()[0]
        processes = jax.process_count()
        several = f" in {processes} processes" if processes > 1 else ""
        data, fsdp, tensor = plan.mesh_shape
        console.log(
            f"{jax.device_count()} x {device.device_kind}{several}, mesh data {data} x fsdp {fsdp} "
            f"x tensor {tensor}; policy of "
            f"{plan.model.num_params():,} parameters"
        )
        return build.make_parts(plan, console.log), console
