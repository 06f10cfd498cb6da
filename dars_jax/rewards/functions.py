"""Reward functions of the user's own: how one is found, what it is given, what it may return.

    def check(response, answer): ...                              # one answer
    def check(response, answer, prompt, row, tokens, finished):   # what it names, it gets
    def check(responses, answers, prompts, rows, …):              # many at once

Runs in the trainer for ours and for whom it is asked, else in function_worker.py.  Imports little.
"""

import dataclasses
import importlib
import importlib.util
import inspect
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from dars_jax.rewards.grader import Verdict

KEYWORDS = ("prompt", "row", "tokens", "finished")
_PLURAL = {"prompts": "prompt", "rows": "row", "tokens": "tokens", "finished": "finished"}
_BATCH = 64  # answers of one call of a batch function


@dataclasses.dataclass(frozen=True)
class Function:
    """A reward function, and what it asks for."""

    name: str  # as the user wrote it
    call: Callable[..., Any]
    wanted: tuple[str, ...]  # of KEYWORDS
    batch: int  # answers per call; 1 unless its first argument is `responses`

    @property
    def plural(self) -> bool:
        """Whether it takes lists."""
        return self.batch > 1


def load(name: str) -> Function:
    """The function that `package.module:function` or `path/to/file.py:function` names.

    A path counts from the current directory, and so do modules beside the user.

    Raises:
      ValueError: one line that names the function and what is wrong with it.
    """
    place, colon, function_name = name.rpartition(":")
    if not (colon and place and function_name):
        raise ValueError(
            f'reward {name!r}: write "math", "math_verify", "package.module:function" or '
            '"./file.py:function"'
        )
    try:
        module = _file(place) if place.endswith(".py") else _module(place)
    except SyntaxError as error:
        raise ValueError(
            f"reward {name!r} cannot be loaded: {error.msg} ({error.filename}, line {error.lineno})"
        ) from error
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"reward {name!r} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    call = getattr(module, function_name, None)
    if call is None:
        names = [k for k, v in vars(module).items() if inspect.isfunction(v) and k[0] != "_"]
        raise ValueError(
            f"reward {name!r}: {place} has no {function_name!r}; its functions are "
            f"{', '.join(names) or 'none'}"
        )
    return of(call, name)


def of(call: Callable[..., Any], name: str) -> Function:
    """A function as it is; ValueError if it cannot be called with what there is to give."""
    if not callable(call):
        raise ValueError(f"reward {name!r} is a {type(call).__name__}, not a function")
    if inspect.iscoroutinefunction(call):
        raise ValueError(f"reward {name!r} is a coroutine: give a plain function")
    try:
        parameters = list(inspect.signature(call).parameters.values())
    except ValueError:  # some that are written in C do not say
        return Function(name, call, (), 1)
    plural = bool(parameters) and parameters[0].name == "responses"
    names = _PLURAL if plural else {key: key for key in KEYWORDS}
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    enough = len(positional) >= 2 or any(p.kind == p.VAR_POSITIONAL for p in parameters)
    others = [p for p in parameters if p not in positional[:2]]
    wanted = [p.name for p in others if p.name in names]
    strange = [
        p for p in others
        if p.name not in names and p.default is p.empty
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]  # fmt: skip
    if not enough or strange or any(p.name in names for p in positional[:2]):
        said = "responses, answers" if plural else "response, answer"
        raise ValueError(
            f"reward {name!r} takes {inspect.signature(call)}: it must take ({said}) first, then "
            f"any of {', '.join(names)}"
        )
    return Function(name, call, tuple(names[n] for n in wanted), _BATCH if plural else 1)


def rewards(function: Function, calls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Calls the function.

    Args:
      calls: {"response": text, "forms": accepted answers, and what the function wants} each.  Of
        several forms the best counts; a form whose reward is None or NaN does not.

    Returns:
      {"reward": number in [0, 1], or None}, {"error": text} or {"verdict": TOO_BIG} each.
    """
    try:
        return _rewards(function, calls)
    except MemoryError:
        if len(calls) == 1:
            return [{"verdict": int(Verdict.TOO_BIG)}]
        return [outcome for call in calls for outcome in rewards(function, [call])]


def _rewards(function: Function, calls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    flat = [(call, form) for call in calls for form in call["forms"]]
    values = iter(_values(function, flat))
    outcomes = []
    for call in calls:
        mine = [next(values) for _ in call["forms"]]
        errors = [v for v in mine if isinstance(v, str)]
        judged = [v for v in mine if isinstance(v, float)]
        outcomes.append({"error": errors[0]} if errors else {"reward": max(judged, default=None)})
    return outcomes


def _values(function: Function, flat: list[tuple[Mapping, str]]) -> list[float | str | None]:
    """A number, None, or what went wrong as text."""
    if not function.plural:
        return [_guarded(_one, function, call, form) for call, form in flat]
    several = _guarded(_several, function, flat)
    if isinstance(several, str):
        return [several] * len(flat)
    return [_guarded(_number, value) for value in several]


def _guarded(step: Callable[..., Any], *args: Any) -> Any:
    """What step returns; of an exception its text.  MemoryError is for `rewards`."""
    try:
        return step(*args)
    except (KeyboardInterrupt, MemoryError):
        raise
    except _Unfit as error:
        return str(error)
    except BaseException as error:  # SystemExit too: a checker does not end the run
        return f"it raised {type(error).__name__}: {str(error)[:300]}"


class _Unfit(ValueError):
    """What a function must not return."""


def _one(function: Function, call: Mapping[str, Any], form: str) -> float | None:
    wanted = {key: call[key] for key in function.wanted}
    return _number(function.call(call["response"], form, **wanted))


def _several(function: Function, flat: list[tuple[Mapping, str]]) -> list:
    """As many values as answers, not looked at yet."""
    names = {singular: name for name, singular in _PLURAL.items()}
    wanted = {names[key]: [call[key] for call, _ in flat] for key in function.wanted}
    values, count = [call["response"] for call, _ in flat], len(flat)
    values = function.call(values, [form for _, form in flat], **wanted)
    try:
        values = list(values)
    except TypeError:
        raise _Unfit(f"it returned {values!r:.100}, want a list of {count} rewards") from None
    if len(values) != count:
        raise _Unfit(f"it returned {len(values)} rewards for {count} answers")
    return values


def _number(value: Any) -> float | None:
    """Python's, numpy's and JAX's scalars alike."""
    if value is None:
        return None
    if isinstance(value, str | bytes) or getattr(value, "shape", None):
        raise _Unfit(f"it returned {value!r:.100}, want a bool or a number in [0, 1], or None")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise _Unfit(
            f"it returned {value!r:.100}, want a bool or a number in [0, 1], or None"
        ) from None
    if math.isnan(number):
        return None
    if not 0 <= number <= 1:
        raise _Unfit(f"it returned {value!r:.100}, want a bool or a number in [0, 1], or None")
    return number


def _module(name: str) -> ModuleType:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
    return importlib.import_module(name)


def _file(place: str) -> ModuleType:
    """The module in a file, with the file's directory to import from."""
    path = Path(place).resolve()
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    name = f"reward_file_{path.stem}"  # a user's json.py must not stand in for another json
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # its name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.append(str(path.parent))
    spec.loader.exec_module(module)
    return module
