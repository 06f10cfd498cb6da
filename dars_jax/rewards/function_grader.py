"""FunctionGrader: a user's own exact checker, called in this process."""

import collections
import importlib
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from dars_jax.rewards.grader import Gold, Grade, Grader, Verdict, as_forms
from dars_jax.rewards.math_grader import MathGrader


class FunctionGrader:
    """Grades with fn(response, gold) -> bool or a float in [0, 1]; the best accepted form counts.

    fn is trusted code and must be quick.  What it raises stops the run: a checker that fails on
    every response would otherwise look like a policy that learns nothing.
    """

    def __init__(self, fn: Callable[[str, str], bool | float]) -> None:
        self._fn = fn
        self._name = f"{fn.__module__}:{getattr(fn, '__qualname__', fn)}"
        self._finished: list[tuple[int, Grade]] = []
        self._counters: collections.Counter[str] = collections.Counter()

    def submit(self, request_id: int, response: str, gold: Gold) -> None:
        """Grades at once; collect() hands the grade out."""
        self._finished.append((request_id, self._grade(response, gold)))

    def collect(self, *, wait: bool) -> list[tuple[int, Grade]]:
        """All that were submitted since the last call."""
        finished, self._finished = self._finished, []
        return finished

    def grade(self, responses: Sequence[str], golds: Sequence[Gold]) -> list[Grade]:
        """Grades a batch, in order."""
        return [self._grade(*pair) for pair in zip(responses, golds, strict=True)]

    def counters(self) -> dict[str, int]:
        """Responses per verdict since the previous call: reading resets."""
        counts = {v.name.lower(): self._counters[v.name.lower()] for v in Verdict}
        self._counters.clear()
        return counts

    def close(self) -> None:
        """Nothing to end."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _grade(self, response: str, gold: Gold) -> Grade:
        reward = max(self._call(response, form) for form in as_forms(gold))
        verdict = Verdict.CORRECT if reward == 1.0 else Verdict.WRONG
        self._counters[verdict.name.lower()] += 1
        return Grade(reward, verdict)

    def _call(self, response: str, gold: str) -> float:
        try:
            reward = self._fn(response, gold)
        except Exception as error:
            raise RuntimeError(
                f"{self._name} raised {error!r} on response {response!a:.500}, gold {gold!a:.200}"
            ) from error
        if not isinstance(reward, bool | int | float) or not 0 <= reward <= 1:
            raise ValueError(
                f"{self._name} returned {reward!r}, want a bool or a number in [0, 1]; "
                f"response {response!a:.500}, gold {gold!a:.200}"
            )
        return float(reward)


def load_grader(name: str, **kwargs: Any) -> Grader:
    """`math`, or `package.module:function` for a checker of your own."""
    if name == "math":
        return MathGrader(**kwargs)
    module_name, colon, function_name = name.partition(":")
    if not (colon and module_name and function_name):
        raise ValueError(f'grader must be "math" or "package.module:function", got {name!r}')
    if kwargs:
        raise ValueError(f"grader {name!r} takes no settings, got {sorted(kwargs)}")
    try:
        fn = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"grader {name!r} cannot be loaded: {error}") from error
    if not callable(fn):
        raise ValueError(f"grader {name!r} is a {type(fn).__name__}, not a function")
    return FunctionGrader(fn)
