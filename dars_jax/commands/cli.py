"""What the launch scripts share: flags, one-line errors, exit codes.

Imports little at the top, so that a mistake on the command line shows at once.
"""

import contextlib
import fcntl
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from dars_jax.commands import console
from dars_jax.records import storage

try:  # the first import that needs more than jax and numpy, in every script
    from absl import app, flags
    from ml_collections import ConfigDict, config_flags

    from dars_jax.rewards import GradingError
except ModuleNotFoundError as error:
    console.end_without(error)

EXIT_USAGE = 2  # bad command line, configuration, data or directory
EXIT_DIVERGED = 3  # gradients that are not finite, step after step
EXIT_NOT_SAVED = 4  # a checkpoint, or another file, could not be written
EXIT_REWARD = 5  # the reward failed on an answer
EXIT_STRANGE_WEIGHTS = 6  # the engine sampled from other weights than those that learn
EXIT_POLICY = 7  # the policy's log-probs are not finite
EXIT_STALLED = 8  # no progress for watchdog.minutes

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "configuration file, FILE.py or FILE.py:PRESET; --config.section.key=VALUE "
    "changes a setting (see dars_jax/config.py for all of them)", lock_config=True,
)  # fmt: skip
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "directory of checkpoints, metrics and answers; continued if it holds a run "
    "(default: runs/NAME after the configuration)",
)  # fmt: skip


def fail(message: str, code: int = EXIT_USAGE) -> NoReturn:
    """Prints one line and exits.  Logins and queries of addresses, often secrets, are left out."""
    line = re.sub(r"(\w:/{1,2})[^\s/@]*@", r"\1", " ".join(message.split()))  # a path has one /
    line = re.sub(r"(\w:/{1,2}[^\s?]*\?)[^\s'\"]+", r"\1…", line)
    print(f"error: {line}", file=sys.stderr)
    sys.exit(code)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns the errors a user can mend into one line; for set-up, not for the loop."""
    try:
        yield
    except ValueError as error:
        fail(str(error))
    except storage.StorageError as error:
        fail(str(error), EXIT_NOT_SAVED)
    except OSError as error:
        if error.errno in storage.FULL and error.filename:
            fail(storage.told(error.filename, error), EXIT_NOT_SAVED)
        fail(str(error), EXIT_NOT_SAVED if error.errno in storage.FULL else EXIT_USAGE)


@contextlib.contextmanager
def storage_errors() -> Iterator[None]:
    """Ends the command with its own exit code when a file cannot be written."""
    try:
        yield
    except storage.StorageError as error:
        fail(str(error), EXIT_NOT_SAVED)


@contextlib.contextmanager
def reward_errors() -> Iterator[None]:
    """Ends the command with its own exit code when the reward fails on an answer."""
    try:
        yield
    except GradingError as error:
        fail(str(error), EXIT_REWARD)


@contextlib.contextmanager
def alone(workdir: Path, who: str) -> Iterator[None]:
    """Lets one process into a working directory, made if need be; the lock ends with the process.

    Raises:
      ValueError: another one is there.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another {who} is at work in --workdir {workdir}: wait, or take another"
            ) from None
        yield


@contextlib.contextmanager
def quiet_native_code() -> Iterator[None]:
    """Keeps what tensorflow's native code writes to stderr while it is imported off the terminal.

    jetstream and clu import tensorflow, which greets with eight lines about devices nobody asked
    it to use.  Python's own errors pass through.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


@contextlib.contextmanager
def on_the_host() -> Iterator[None]:
    """For imports of a command that computes on the CPU only: takes no chip, greets nobody."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    with quiet_native_code():
        yield


def argument_of(name: str) -> str:
    """What the command line gives a flag, before flags are parsed; "" if it is not there."""
    for flag, value in itertools.pairwise([*sys.argv[1:], ""]):
        if flag in (f"--{name}", f"-{name}"):
            return value
        if flag.startswith((f"--{name}=", f"-{name}=")):
            return flag.split("=", 1)[1]
    return ""


def config_if_given() -> ConfigDict | None:
    """The configuration; None without --config, for commands that can do without."""
    return _CONFIG.value


def define_processes() -> None:
    """Flags of commands that run in several processes."""
    flags.DEFINE_string(
        "coordinator", None, "HOST:PORT of process 0, for a run in several processes; TPU pods "
        "need none of these three flags",
    )  # fmt: skip
    flags.DEFINE_integer("num_processes", None, "how many there are", lower_bound=1)
    flags.DEFINE_integer("process_id", None, "which one this is, from 0", lower_bound=0)


def processes() -> tuple[str, int, int] | None:
    """(HOST:PORT of process 0, number of processes, own index); None without the flags."""
    names = ("coordinator", "num_processes", "process_id")
    values: tuple[Any, ...] = tuple(flags.FLAGS[name].value for name in names)
    missing = [f"--{name}" for name, value in zip(names, values, strict=True) if value is None]
    if len(missing) == len(names):
        return None
    if missing:
        fail(
            f"--coordinator, --num_processes and --process_id go together: {missing[0]} is missing"
        )
    coordinator, count, index = values
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        fail(f"--coordinator {coordinator!r}: expected HOST:PORT")
    if index >= count:
        fail(f"--process_id {index}: with --num_processes {count} the largest is {count - 1}")
    return coordinator, count, index


def config_and_workdir() -> tuple[ConfigDict, Path]:
    """The configuration, and the working directory, made and known to be writable."""
    argument = argument_of("config")
    file, _, preset = argument.partition(":")
    name = Path(file).stem + (f"-{preset.replace(',', '-')}" if preset else "")
    workdir = Path(_WORKDIR.value or Path("runs") / name)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / ".writable"
        probe.write_text("")
        probe.unlink(missing_ok=True)  # several processes may do this at once
    except OSError as error:
        code = EXIT_NOT_SAVED if error.errno in storage.FULL else EXIT_USAGE
        fail(f"--workdir {workdir} is not writable: {error.strerror}", code)
    return _CONFIG.value, workdir


def start(main: Callable[[], int | None], usage: str, *, needs_config: bool = True) -> None:
    """Parses the flags and runs main; its result is the exit code."""
    if any(a.lstrip("-") in ("h", "help", "helpshort", "helpfull") for a in sys.argv[1:]):
        _help(usage)
    argument = argument_of("config")
    file = argument.partition(":")[0]
    if needs_config and not argument:
        fail("--config is missing: name a file, for example --config configs/dars_b.py")
    if argument and not os.path.isfile(file):
        fail(f"--config {file}: no such file")
    try:
        app.run(lambda _: main(), flags_parser=_parse)
    except ModuleNotFoundError as error:
        console.end_without(error)
    except KeyboardInterrupt:
        fail("interrupted", 130)


def _help(usage: str) -> None:
    known = flags.FLAGS.flags_by_module_dict()
    print(usage.strip() + "\n\nFlags:")
    for flag in [*known.get(__name__, ()), *known.get(sys.argv[0], ())]:
        print(f"  --{flag.name}: {' '.join(flag.help.split())}")
    sys.exit(0)


def _parse(argv: list[str]) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, ValueError, TypeError) as error:
        text = str(error).strip()
        if "Traceback" in text:  # raised inside the configuration file: its last line says why
            fail(f"--config {argument_of('config')}: {text.splitlines()[-1]}")
        text = text.strip('"').replace("\\n", " ").replace("\\'", "'")
        fail(f"command line: {text}")
    if len(rest) > 1:
        fail(f"unexpected argument {rest[1]!r}: settings are given as --config.key=value")
    return rest
