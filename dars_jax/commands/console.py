"""`dars-jax COMMAND`: the scripts of launch/ by name, from a checkout or an installed wheel.

Imports nothing heavy, so that help comes at once.  `--config configs/FILE.py` finds the arms that
came with the package where there is no such file here.
"""

import importlib.metadata
import runpy
import sys
from pathlib import Path
from typing import NoReturn

import dars_jax

COMMANDS = {
    "train": ("tpu_run", "train a policy with the settings of a configuration file"),
    "evaluate": ("evaluate", "Avg@n and Pass@k of a policy, or of answers produced elsewhere"),
    "export": ("export", "write a checkpoint as a Hugging Face directory"),
    "serve": ("serve", "serve a trained policy over gRPC"),
    "plot": ("plot", "pictures of one or several runs"),
    "reproduce": ("reproduce", "the paper in small, with a report"),
    "compile-tpu": ("compile_tpu", "compile a step for a TPU slice that is not there"),
}
# What they import and `pip install dars_jax` alone does not bring.
TRAIN = {
    "absl", "clu", "etils", "flax", "jetstream", "jinja2", "math_verify", "matplotlib",
    "ml_collections", "optax", "orbax", "pyarrow", "safetensors", "sentencepiece", "sympy",
    "tensorboard", "tensorflow", "tensorflow_datasets", "tokenizers",
}  # fmt: skip


def main() -> None:
    """Runs the script that the first argument names, with the others."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help", "help"):
        print(usage())
        return
    if name == "--version":
        print(dars_jax.__version__)
        return
    if name not in COMMANDS:
        sys.exit(_error(f"unknown command {name!r}: expected one of {', '.join(COMMANDS)}"))
    root = home()
    script = str(root / "launch" / f"{COMMANDS[name][0]}.py")
    sys.argv = [script, *with_known_configs(sys.argv[2:], root)]
    try:
        runpy.run_path(script, run_name="__main__")
    except ModuleNotFoundError as error:
        end_without(error)


def end_without(error: ModuleNotFoundError) -> NoReturn:
    """Ends the command in one line that names the extra; another module's error goes on."""
    if (error.name or "").partition(".")[0] not in TRAIN:
        raise error
    sys.exit(_error(
        f"{error.name} is missing: pip install '.[train]' in a checkout, or 'dars_jax[train]', "
        "brings it"
    ))  # fmt: skip


def usage() -> str:
    """What `--help` shows."""
    lines = [f"  {name:12} {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join([
        "usage: dars-jax COMMAND [FLAGS]", "", *lines, "",
        "dars-jax COMMAND --help lists its flags; needs pip install 'dars_jax[train]'",
    ])  # fmt: skip


def home() -> Path:
    """The directory that has launch/ and configs/: a checkout, or where a wheel has put them."""
    checkout = Path(dars_jax.__file__).resolve().parent.parent
    if (checkout / "launch" / "tpu_run.py").is_file():
        return checkout
    for file in importlib.metadata.files("dars_jax") or ():
        if file.parts[-2:] == ("launch", "tpu_run.py"):
            return Path(str(file.locate())).resolve().parent.parent
    sys.exit(_error("launch/tpu_run.py is not installed: pip install the wheel or a checkout"))


def with_known_configs(arguments: list[str], root: Path) -> list[str]:
    """The arguments, with a --config that is not here, but is in `root`, made absolute."""
    result: list[str] = []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if not equals and result and result[-1] in ("--config", "-config"):
            flag, value = "", argument
        elif flag not in ("--config", "-config"):
            value = ""
        file = value.partition(":")[0]
        if file and not Path(file).is_file() and (root / file).is_file():
            argument = f"{flag}{equals}{root / value}"
        result.append(argument)
    return result


def _error(message: str) -> int:
    """Prints one line; the exit code of a mistake in the command."""
    print(f"error: {message}", file=sys.stderr)
    return 2
