"""What ends a run from within: a signal to any of its processes, and an engine gone wrong."""

import collections
import contextlib
import signal
import statistics
from collections.abc import Iterator
from typing import Any

from dars_jax import distributed
from dars_jax.types import TrainState


class Stopped(Exception):
    """The run was asked to stop; its state is on disk.  `exit_code` is 128 + the signal."""

    def __init__(self, signum: int, step: int):
        super().__init__(f"stopped by {signal.Signals(signum).name} after step {step}")
        self.exit_code = 128 + signum


class StrangeWeightsError(Exception):
    """The engine sampled from weights that are not those that learn.

    `state` is the one before the step; None if the step was applied, and is to be forgotten.
    """

    def __init__(self, step: int, gap: float, limit: float, state: TrainState | None):
        what, then = "learner.gap_limit", "was not applied; the same command does it again"
        if state is None:
            what = f"{UsualGap.TIMES} times what was usual"
            then = "is not saved; the same command goes on from the last checkpoint"
        super().__init__(
            f"in step {step} the sampler's log-probs lie {gap:.3g} nats a token from the "
            f"trainer's, above {what} = {limit:g}: the engine serves other weights than those that "
            f"learn. The step {then}"
        )
        self.state = state


class UsualGap:
    """The gap between sampler and trainer in the steps before: how far above it is strange.

    What rounding makes of it depends on the policy and on the hardware, so that a limit for all is
    either too low or too high; it changes slowly, and other weights make it jump.
    """

    TIMES, STEPS, FEWEST = 5, 16, 3

    def __init__(self, least: float):
        """`least` is a gap, in nats, that is never strange."""
        self._least = least
        self._gaps: collections.deque[float] = collections.deque(maxlen=self.STEPS)

    def check(self, step: int, gap: float) -> None:
        """Notes the gap of a step.

        Raises:
          StrangeWeightsError: it is far above the median of the last steps.
        """
        if len(self._gaps) >= self.FEWEST:
            limit = max(self._least, self.TIMES * statistics.median(self._gaps))
            if gap > limit:
                raise StrangeWeightsError(step, gap, limit, None)
        self._gaps.append(gap)


class StopFlag:
    """Set by the first SIGINT or SIGTERM; a second one acts at once."""

    def __init__(self) -> None:
        self.signum = 0

    def _set(self, signum: int, _: Any) -> None:
        self.signum = signum
        signal.signal(signum, signal.default_int_handler)

    def check(self, step: int) -> None:
        """Raises Stopped in every process if one of them was asked to stop."""
        signum = distributed.largest(self.signum)
        if signum:
            raise Stopped(signum, step)

    @contextlib.contextmanager
    def installed(self) -> Iterator["StopFlag"]:
        """Catches both signals while the body runs."""
        signals = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(s, self._set) for s in signals]
        try:
            yield self
        finally:
            for s, handler in zip(signals, before, strict=True):
                signal.signal(s, handler)
