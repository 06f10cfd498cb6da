"""Compiles every program of a training step for a TPU slice, on a machine without one.

    python launch/compile_tpu.py --config configs/dars_b.py:qwen2.5-math-7b --topology v5e:16x16

Prints JSON lines, one object a program and one for the step, on standard output (or to --output),
and on standard error progress and a table: memory against the chip, FLOPs against 6 N tokens, the
compiler's own cycle model, every collective by loop level, and an estimate of step and run.
Without --config.mesh.* a mesh is chosen and explained.  Nothing runs on a TPU: these are the
compiler's words and stated assumptions.  A 7B policy takes minutes and a few GB of memory;
--num_layers 2 gives a quick look, and --profile 30 shows where a program's cycles go.  Needs
libtpu, which `pip install -e '.[test]'` brings.
Exit codes: 0 everything fits; 1 something does not, with the largest contributors and the settings
that would help; 2 a mistake in the command or the configuration.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout that is not installed

from dars_jax.commands import cli
from dars_jax.tpu import topology

topology.prepare_environment()  # before anything imports jax, as configuration files do

from absl import flags  # noqa: E402

_TOPOLOGY = flags.DEFINE_string(
    "topology", None, "the slice, CHIP:SHAPE: v5e:1x1, v5e:2x4, v5e:16x16, v6e:16x16, v5p:4x4x8, …"
)
_MEAN_RESPONSE = flags.DEFINE_float(
    "mean_response", None, "mean tokens of a rollout (default: a third of rollout.max_tokens)"
)
_ROLLOUTS = flags.DEFINE_float(
    "rollouts_per_prompt", None, "mean rollouts of a prompt, top-ups included (default: what the "
    "schedule gives if right pre-rollouts are spread evenly)",
)  # fmt: skip
_NUM_LAYERS = flags.DEFINE_integer(
    "num_layers", None, "layers of a shortened model, for a quick look (default: all)"
)
_PROGRAMS = flags.DEFINE_list(
    "programs", ["publish", "prefill", "decode", "update"], "which to compile"
)
_PROFILE = flags.DEFINE_integer(
    "profile", 0, "how many of the largest groups of instructions of each program to show, with "
    "what bounds them",
)  # fmt: skip
_OUTPUT = flags.DEFINE_string(
    "output", None, "file for the JSON lines; the table then goes to standard output"
)


def main() -> int:
    """Compiles and reports."""
    if not _TOPOLOGY.value:
        cli.fail("--topology is missing: name a slice, for example --topology v5e:16x16")
    with cli.one_line_errors():
        topology.parse(_TOPOLOGY.value)  # before the heavy imports
    from dars_jax.commands import compile_tpu

    return compile_tpu.compile_step(
        cli.config_if_given(), _TOPOLOGY.value, mean_response=_MEAN_RESPONSE.value,
        rollouts_per_prompt=_ROLLOUTS.value, num_layers=_NUM_LAYERS.value,
        programs=tuple(_PROGRAMS.value), profile=_PROFILE.value,
        output=Path(_OUTPUT.value) if _OUTPUT.value else None,
    )  # fmt: skip


if __name__ == "__main__":
    cli.start(main, __doc__)
