"""Writes a checkpoint as a Hugging Face directory that transformers loads.

    python launch/export.py --config configs/dars_b.py --workdir runs/dars_b --out exported

A run with lora.rank becomes a directory of adapters for PEFT, or with --merged a model.  A model's
config, tokenizer and generation settings are those of the initial policy.  The directory appears
under its name only when it is complete.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout that is not installed

from dars_jax.commands import cli
from dars_jax.commands.cli import flags

_OUT = flags.DEFINE_string("out", None, "directory to write; it must not exist, or be empty")
_STEP = flags.DEFINE_integer("step", None, "which checkpoint (default: the newest)")
_DTYPE = flags.DEFINE_enum(
    "dtype", None, ["bfloat16", "float32"],
    "of the weights (default: bfloat16; float32 for adapters and the embedded policy)",
)  # fmt: skip
_MERGED = flags.DEFINE_bool(
    "merged", False, "a model in which the adapters of lora.rank are merged"
)


def main() -> int:
    """The whole export."""
    if not _OUT.value:
        cli.fail("--out is missing: name the directory to write")
    config, workdir = cli.config_and_workdir()
    with cli.quiet_native_code():  # heavy: only now that the command line is known to be right
        from dars_jax.commands import export

    return export.export(
        config, workdir, Path(_OUT.value), step=_STEP.value, dtype=_DTYPE.value,
        merged=_MERGED.value,
    )  # fmt: skip


if __name__ == "__main__":
    cli.start(main, __doc__)
