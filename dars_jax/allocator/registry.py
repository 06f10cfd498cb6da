"""Every allocator by its name, behind one signature: counts in, further rollouts out.

An allocator is made of a rule, in one of three ways.  `Asks`: each prompt says how many more it
wants.  `Shares`: rollouts in proportion to a number per prompt.  `Gains`: the next rollout goes
where it gains most.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from dars_jax.allocator import asking, checks, gaining, sharing

MAX_TRACED_GROUP = 128  # price lists for every possible size grow with its cube


@dataclasses.dataclass(frozen=True)
class Asks:
    """rule(num_correct, num_sampled, n_max=cap) -> int32[prompts], further rollouts wanted.

    With a budget, prompts get it in proportion to what they ask for.
    """

    rule: Callable[..., jax.Array]


@dataclasses.dataclass(frozen=True)
class Shares:
    """rule(num_correct, num_sampled) -> float[prompts], in proportion to which totals are given."""

    rule: Callable[..., jax.Array]


@dataclasses.dataclass(frozen=True)
class Gains:
    """rule(correct, sampled, have, bought) -> (numerator, denominator); see `gaining.GainRule`.

    No group that may grow stays below `minimum` rollouts.
    """

    rule: gaining.GainRule
    minimum: int = 0


Allocator: TypeAlias = Asks | Shares | Gains


def _nobody(num_correct: ArrayLike, num_sampled: ArrayLike, *, n_max: ArrayLike) -> jax.Array:
    """No top-ups: what a budget is for is left to others."""
    return jnp.zeros(jnp.broadcast_shapes(jnp.shape(num_correct), jnp.shape(num_sampled)), int)


def _dars(schedule: str, use_std: bool = False) -> Asks:
    return Asks(functools.partial(asking.top_up, schedule=schedule, use_std=use_std))


def _ada(schedule: str) -> Asks:
    return Asks(functools.partial(asking.top_up, schedule=schedule, round_size=8))


ALLOCATORS: dict[str, Allocator] = {
    "uniform": Shares(sharing.uniform),
    "et": _dars("et"),
    "hw": _dars("hw"),
    "et_std": _dars("et", use_std=True),
    "hw_std": _dars("hw", use_std=True),
    "hw_half": _dars("hw_half"),
    "dapo": Asks(_nobody),  # replaces prompts instead: `dapo_keep`, `dapo_draw`
    "ada_positive": _ada("ada_positive"),
    "ada_balanced": _ada("ada_balanced"),
    "ada_est": Shares(sharing.ada_est),
    "knapsack": Gains(gaining.knapsack, minimum=2),
    "hora": Gains(gaining.hora),
    "gvm": Shares(sharing.gvm),
    "cures": Shares(sharing.cures),
    "vip_rloo": Gains(gaining.vip_rloo, minimum=2),
    "vip_dr_grpo": Gains(gaining.vip_dr_grpo, minimum=3),
}


# Those that need a budget; the others can do without.
BUDGETED = tuple(name for name, a in ALLOCATORS.items() if not isinstance(a, Asks))


def allocate(
    allocator: str | Allocator,
    num_correct: ArrayLike,
    num_sampled: ArrayLike,
    *,
    n_max: int,
    n_min: int = 0,
    budget: ArrayLike | None = None,
    fresh: bool = False,
) -> jax.Array:
    """Further rollouts for each prompt, by any allocator.  Traces under jit and vmap.

    Call it again after each stage, with the counts so far and that stage's budget.

    Args:
      allocator: a name in ALLOCATORS, or one of your own.
      num_correct: int32[prompts], correct rollouts k of each prompt, 0 <= k <= num_sampled.
      num_sampled: int or int32[prompts], rollouts N so far.  A prompt with N = 0 (padding) gets 0.
        `Gains` sort prices by N: give it as an int, or an array outside of jit, where n_max is
        above 128.
      n_max: cap on a group, at most 1024, what it already has included.
      n_min: floor on a group, met whatever the budget.
      budget: further rollouts of all prompts together, an integer.  `Asks` can do without:
        everybody gets what they ask for.  What nobody may take, or gains from, is left.  A traced
        one that is negative counts as 0.
      fresh: the counts are evidence only, say of the last epoch, and the groups start empty; else
        the rollouts counted belong to the groups.

    Returns:
      int32[prompts].

    Raises:
      ValueError: an unknown name; no budget where there must be one, or one that is no whole
        number (traced, too) or negative; sizes beyond the limits; n_min above n_max; and what
        `top_up` refuses.
    """
    if isinstance(allocator, str) and allocator in ALLOCATORS:
        allocator = ALLOCATORS[allocator]
    if not isinstance(allocator, Asks | Shares | Gains):
        known = ", ".join(ALLOCATORS)
        raise ValueError(f"unknown allocator {allocator!r}: expected one of {known}")
    if budget is not None:
        checks.check_budget("budget", budget)
    elif not isinstance(allocator, Asks):
        raise ValueError(
            "this allocator shares a budget out: give budget=, further rollouts in all"
        )
    n_max, n_min = checks.one_size("n_max", n_max, 0), checks.one_size("n_min", n_min, 0)
    if n_max > checks.MAX_GROUP:
        raise ValueError(f"n_max is {n_max}: groups may have at most {checks.MAX_GROUP} rollouts")
    if n_min > n_max:
        raise ValueError(f"n_min is {n_min}, above the cap n_max = {n_max}")
    checks.check_counts(num_correct, num_sampled)
    checks.check_sizes(num_sampled, checks.MAX_GROUP if fresh else n_max)
    k, n = jnp.broadcast_arrays(checks.on_device(num_correct), checks.on_device(num_sampled))
    if k.ndim != 1:
        raise ValueError(f"counts of shape {k.shape}: give int[prompts]; jax.vmap takes several")
    sharing.check_prompts(n.size)
    held = jnp.zeros_like(n) if fresh else n
    if isinstance(allocator, Gains):
        floor = max(n_min, allocator.minimum)
        sizes = _sizes(num_sampled, n_max, fresh)
        if not sizes:
            return jnp.zeros_like(n)
        prices = gaining.price_list(allocator.rule, sizes, floor, n_max, fresh)
        return gaining.buy(prices, k, n, held, jnp.asarray(budget, jnp.int32))
    real = n > 0
    high = jnp.where(real, jnp.maximum(n_max, held), 0)
    low = jnp.where(real, jnp.clip(n_min, held, high), 0)
    if isinstance(allocator, Shares):
        shares = jnp.where(real, allocator.rule(k, n), 0)
        return sharing.apportion(shares, low, high, jnp.asarray(budget) + jnp.sum(held)) - held
    wanted = n - held + allocator.rule(k, n, n_max=n_max if not fresh else jnp.maximum(n_max, n))
    if budget is None:
        return jnp.clip(held + wanted, low, high) - held
    return sharing.apportion(jnp.where(real, wanted, 0), low - held, high - held, budget)


def _sizes(num_sampled: ArrayLike, n_max: int, fresh: bool) -> tuple[int, ...]:
    """The sizes of the groups that there are, or could be."""
    if not isinstance(num_sampled, jax.core.Tracer):
        return tuple(int(n) for n in np.unique(np.asarray(num_sampled)) if n > 0)
    if n_max > MAX_TRACED_GROUP or fresh:
        what = "of fresh groups" if fresh else f"with n_max = {n_max}"
        raise ValueError(
            f"num_sampled is traced, and prices {what} cannot be sorted for every size: give an int"
        )
    return tuple(range(1, n_max + 1))
