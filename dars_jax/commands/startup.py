"""What commands share before their own work: quiet logs, other processes, the parts of a run."""

import contextlib
import json
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
from dars_jax.config import ConfigDict, cache_dir, flatten
from dars_jax.data import hub
from dars_jax.engine.session import NonFiniteError
from dars_jax.policy import lora
from dars_jax.records import metrics
from dars_jax.setup import build


def settle() -> None:
    """Quiet logs, and programs that are compiled once for all processes."""
    # orbax and clu report every file, and orbax also logs the errors that it raises
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("jax").setLevel(logging.WARNING)  # and jax how processes meet
    logging.getLogger("dars_jax").setLevel(logging.WARNING)  # what it has to tell it prints
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # each write to a client that has gone
    for name in ("httpx", "httpx2"):  # every request to the hub, with addresses that are signed
        logging.getLogger(name).setLevel(logging.WARNING)
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
        with cli.storage_errors():
            yield


@contextlib.contextmanager
def answer_errors() -> Iterator[None]:
    """Ends the command with a code of its own when answers cannot be graded, or even sampled."""
    try:
        with cli.reward_errors():
            yield
    except NonFiniteError as error:
        cli.fail(str(error), cli.EXIT_POLICY)


_NAMED = ("policy.path", "data.train", "data.test")  # what may lie on the Hugging Face hub


def pinned(config: ConfigDict, workdir: Path | None = None) -> ConfigDict:
    """The configuration with the commits of names on the Hugging Face hub, the same everywhere.

    Args:
      workdir: of a run, which goes on with the commits that it began with.

    Raises:
      ValueError: a name has no commit, see `hub.pin`, or is a directory of some processes.
    """
    flat = flatten(config)
    names = {key: flat[key] for key in _NAMED if hub.parse(flat[key])}
    if len(set(distributed.gather_texts(json.dumps(names)))) > 1:
        raise ValueError(f"policy.path = {config.policy.path!r} is a directory for some processes "
                         "and a name on the hub for others: give its whole path")  # fmt: skip
    if not names:
        return config
    file = workdir / "config.json" if workdir else None
    before = stored_settings(file) if file and file.exists() else {}
    found = {}
    if distributed.is_first():
        found = {key: hub.pin(name, before.get(key, "")) for key, name in names.items()}
    found = distributed.gather_json(found)[0]
    for key, name in found.items():
        metrics.Console(0).log(f"{key}: {name}")
    config = config.copy_and_resolve_references()  # the caller's stays as it is
    config.update_from_flattened_dict(found)
    return config


def stored_settings(file: Path) -> dict:
    """What an earlier run has stored of its settings.

    Raises:
      ValueError: the file is damaged.
    """
    try:
        settings = json.loads(file.read_bytes())
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise ValueError(f"{file} is damaged: it is no JSON object. Remove it, and name the "
                         "commits of what is on the hub: NAME@COMMIT")  # fmt: skip
    return settings


def prepare(config: ConfigDict) -> tuple[build.Parts, metrics.Console]:
    """The parts of a run, and the console that has said what they are."""
    console = metrics.Console(config.train.num_steps)
    with cli.one_line_errors():
        plan = build.make_plan(config)
        device = jax.devices()[0]
        processes = jax.process_count()
        several = f" in {processes} processes" if processes > 1 else ""
        data, fsdp, tensor = plan.mesh_shape
        learn = ""
        if adapters := plan.update.lora:
            learn = (
                f", of which nothing learns but {lora.count(plan.model, adapters):,} of adapters"
            )
        console.log(
            f"{jax.device_count()} x {device.device_kind}{several}, mesh data {data} x fsdp {fsdp} "
            f"x tensor {tensor}; policy of "
            f"{plan.model.num_params():,} parameters{learn}"
        )
        for choice in plan.choices if device.platform != "cpu" else ():
            console.log(choice)
        return build.make_parts(plan, console.log), console
