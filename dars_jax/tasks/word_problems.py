"""One-step word problems: something a small pretrained model can learn, with an exact check.

    python -m dars_jax.tasks.word_problems DIR        writes DIR/train.jsonl and DIR/test.jsonl

Used by configs/word_problems.py.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

SEED = 0
NUM_TRAIN, NUM_TEST = 2000, 200

_NAMES = ("Anna", "Ben", "Chloe", "David", "Emma", "Farid", "Grace", "Hugo", "Ines", "Jonas")
_THINGS = ("apples", "books", "coins", "marbles", "pencils", "stamps", "shells", "cards")
# (text, answer) of x and y; x > y wherever something is taken away.
_STORIES = (
    ("{n} has {x} {t} and gets {y} more. How many {t} does {n} have now?", lambda x, y: x + y),
    ("{n} has {x} {t} and gives away {y}. How many {t} are left?", lambda x, y: x - y),
    ("{n} has {x} bags with {y} {t} each. How many {t} are there?", lambda x, y: x * y),
    ("{n} had {y} {t} and now has {x}. How many {t} were added?", lambda x, y: x - y),
)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def problems(seed: int, count: int) -> list[tuple[str, str]]:
    """`count` different (problem, answer) pairs."""
    rng = np.random.default_rng(seed)
    found: dict[str, str] = {}
    while len(found) < count:
        text, answer = _STORIES[rng.integers(len(_STORIES))]
        y, x = sorted(rng.choice(np.arange(2, 30), 2, replace=False).tolist())
        name, thing = rng.choice(_NAMES), rng.choice(_THINGS)
        found[text.format(n=name, t=thing, x=x, y=y)] = str(answer(x, y))
    return list(found.items())


def check(response: str, answer: str) -> bool:
    """Whether the last number of the response is the answer."""
    numbers = _NUMBER.findall(response)
    return bool(numbers) and numbers[-1].replace(",", "").removesuffix(".0") == answer


def write(directory: Path) -> None:
    """train.jsonl and test.jsonl, without a common problem."""
    directory.mkdir(parents=True, exist_ok=True)
    pairs = problems(SEED, NUM_TRAIN + NUM_TEST)
    for name, part in (("train", pairs[:NUM_TRAIN]), ("test", pairs[NUM_TRAIN:])):
        lines = [json.dumps({"problem": p, "answer": a}) + "\n" for p, a in part]
        (directory / f"{name}.jsonl").write_text("".join(lines))


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    write(parser.parse_args(argv).directory)


if __name__ == "__main__":
    main()
