"""What ends a run from within: a signal to any of its processes, and an engine gone wrong."""

import contextlib
import signal
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

    `state` is the one before the step.
    """

    def __init__(self, step: int, gap: float, limit: float, state: TrainState):
        super().__init__(
            f"in step {step} the sampler's log-probs lie {gap:.3g} nats a token from the "
            f"trainer's, above learner.gap_limit = {limit:g}: the engine serves other weights than "
            "those that learn. The step was not applied; the same command does it again"
        )
        self.state = state


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
