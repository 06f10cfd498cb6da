"""TPU slices by name, without one: chips, and devices of the compiler.

libtpu's compiler runs on any x86 Linux machine and knows every slice.  jax is imported inside the
functions, since `prepare_environment` must come before it.
"""

import dataclasses
import math
import os
import re
from typing import Any

# libtpu expects a TPU machine: no metadata server, a host of some slice, more than one process.
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip, by its maker's figures."""

    hbm_gib: float  # what the compiler gives programs; a little less than the label says
    clock_hz: float
    flops: float  # bfloat16 matrix products a second
    hbm_bytes_per_s: float
    link_bytes_per_s: float  # along one torus axis, both directions together


CHIPS = {
    "v4": Chip(30.75, 1.05e9, 275e12, 1228e9, 90e9),
    "v5e": Chip(15.75, 1.503e9, 197e12, 819e9, 90e9),
    "v5p": Chip(95.74, 1.75e9, 459e12, 2765e9, 180e9),
    "v6e": Chip(31.25, 1.75e9, 918e12, 1640e9, 180e9),
}
_EXAMPLES = "v5e:1x1, v5e:2x4, v5e:16x16, v6e:16x16, v5p:2x2x2, v5p:4x4x8"


@dataclasses.dataclass(frozen=True)
class Slice:
    """A TPU slice."""

    name: str
    chip: Chip
    shape: tuple[int, ...]  # chips along each torus axis

    @property
    def num_chips(self) -> int:
        """Chips of the whole slice."""
        return math.prod(self.shape)


def prepare_environment() -> None:
    """Settings of this process for libtpu's compiler; jax must not be imported yet."""
    os.environ.update(_ENVIRONMENT)


def parse(name: str) -> Slice:
    """`v5e:16x16` -> the slice.

    Raises:
      ValueError: not the name of a slice, or of a chip without figures here.
    """
    found = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    if not found:
        raise ValueError(
            f"--topology {name!r}: expected CHIP:SHAPE in chips along each axis, like {_EXAMPLES}"
        )
    if found[1] not in CHIPS:
        raise ValueError(
            f"--topology {name!r}: unknown chip {found[1]!r}, expected one of {', '.join(CHIPS)}, "
            f"like {_EXAMPLES}"
        )
    return Slice(name, CHIPS[found[1]], tuple(map(int, found[2].split("x"))))


def devices(where: Slice) -> list[Any]:
    """The slice's devices, which can be compiled for but hold no data.

    Raises:
      ValueError: libtpu is missing, or knows no such slice.
    """
    from jax.experimental import topologies

    options: dict[str, Any] = {}
    if where.name.startswith("v4:"):  # a chip is one device only when asked for
        options["chip_config_name"] = "megacore"
    if where.num_chips == 1:  # hosts have four chips unless it says otherwise
        options["chips_per_host_bounds"] = [1, 1, 1]
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=where.name, **options
        ).devices
    except Exception as error:  # jaxlib raises several types, a missing library among them
        text = str(error).splitlines()[0]
        if "libtpu" in text.lower() or "No such file" in text or "not found" in text.lower():
            raise ValueError(f"libtpu's compiler is missing ({text}): pip install libtpu") from None
        raise ValueError(
            f"--topology {where.name!r} is not a slice that libtpu knows ({text}): "
            f"take one like {_EXAMPLES}"
        ) from None
    return list(found)
