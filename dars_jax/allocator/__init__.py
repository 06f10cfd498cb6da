"""How many more rollouts does each prompt deserve?  Every published answer, jax and numpy only.

`top_up` is the one of the paper, prompt by prompt; `allocate` is any allocator, also within a
budget.  asking, sharing and gaining hold the rules, registry their names, chances what counts say
about a prompt, expected the closed forms, pull the trade between sampling and weighting, rows what
a loop around them needs.
"""

from dars_jax.allocator.asking import (
    SCHEDULES,
    ada_kept,
    ada_mask,
    dapo_draw,
    dapo_keep,
    top_up,
)
from dars_jax.allocator.checks import MAX_GROUP
from dars_jax.allocator.registry import (
    ALLOCATORS,
    BUDGETED,
    MAX_TRACED_GROUP,
    Allocator,
    Asks,
    Gains,
    Shares,
    allocate,
)
from dars_jax.allocator.sharing import apportion

__all__ = [
    "ALLOCATORS",
    "BUDGETED",
    "MAX_GROUP",
    "MAX_TRACED_GROUP",
    "SCHEDULES",
    "Allocator",
    "Asks",
    "Gains",
    "Shares",
    "ada_kept",
    "ada_mask",
    "allocate",
    "apportion",
    "dapo_draw",
    "dapo_keep",
    "top_up",
]
