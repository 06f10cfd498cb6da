"""Values of a config.json that anybody may have written: checked, and refused in one line."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NoReturn

_MOST = 2**24  # features, tokens or heads: more is a slip, and would take for ever to refuse
_ABSENT: Any = object()


@dataclasses.dataclass(frozen=True)
class Fields:
    """An object of a JSON file.  `where` names it in messages: a file, or a key of one."""

    where: str
    values: Mapping[str, Any]

    def given(self, key: str) -> bool:
        """Whether the key has a value other than null."""
        return self.values.get(key) is not None

    def count(self, key: str, default: int = _ABSENT, most: int = _MOST) -> int:
        """A whole number from 1 to `most`.

        Args:
          default: where the key is absent; without one it must be there.

        Raises:
          ValueError: it is not there, or something else.
        """
        value = self._value(key, default)
        if type(value) is not int or not 1 <= value <= most:
            self.refuse(key, value, f"a whole number from 1 to {most:,}")
        return value

    def number(self, key: str, default: float = _ABSENT) -> float:
        """A finite number above 0; raises as `count` does."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(key, value, "a number above 0")
        if not 0 < value < math.inf:
            self.refuse(key, value, "a number above 0")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false, null as absent; ValueError for anything else: "false" is a true text."""
        value = self.values.get(key)
        if value is None:
            return default
        if type(value) is not bool:
            self.refuse(key, value, "true or false")
        return value

    def part(self, key: str) -> "Fields":
        """An object inside; without values where the key is absent or null."""
        value = self.values.get(key)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            self.refuse(key, value, "an object")
        return Fields(f"{self.where}: {key}", value)

    def refuse(self, key: str, value: Any, expected: str) -> NoReturn:
        """Always a ValueError."""
        raise ValueError(f"{self.where}: {key} is {value!r:.60}, expected {expected}")

    def _value(self, key: str, default: Any) -> Any:
        if key not in self.values:
            if default is _ABSENT:
                raise ValueError(f"{self.where} has no {key!r}")
            return default
        return self.values[key]
