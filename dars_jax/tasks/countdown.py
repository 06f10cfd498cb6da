"""The embedded task, Countdown: reach a target with every given number, used exactly once.

    prompt    3 7 12 = 33 :
    response  3 * 7 + 12

2, 3 or 4 numbers of 1..20, the operators + - * with the usual precedence, no brackets, a target of
0..99. A prompt is made from a random expression, so each has a solution; its numbers are then
shuffled. The whole task follows from `SEED`. This file needs numpy only (`train_tokenizer` imports
sentencepiece when called); `countdown_tfds` wraps the two splits as a TFDS dataset.
"""

import functools
import io
import re
from collections.abc import Set
from pathlib import Path

import numpy as np

SEED = 20250818
NUM_TRAIN = 4096
NUM_TEST = 256

MAX_OPERAND = 20
MAX_TARGET = 99
LENGTHS = (2, 3, 3, 4, 4)  # of five problems one has 2 numbers, two have 3, two have 4
MAX_NUMBERS = max(LENGTHS)
SHARE_OF_OPERATOR = {"+": 0.33, "-": 0.33, "*": 0.34}

CONTROL_PIECES = ("<pad>", "<s>", "</s>", "<unk>")
WORDS = (*(str(number) for number in range(MAX_TARGET + 1)), "+", "-", "*", "=", ":")
VOCABULARY = CONTROL_PIECES + WORDS  # the position is the token id: 109 pieces


# Problems ------------------------------------------------------------------------------------


def sample(rng: np.random.Generator, n: int) -> list[tuple[str, str]]:
    """n fresh (problem, solution) pairs, none of them a test problem in any order of its numbers.

    Repeats are possible: there are fewer than 500 different problems of two numbers.
    """
    return _draw(rng, n, excluded=frozenset(map(_identity, test_problems())))


@functools.cache
def train_problems() -> tuple[str, ...]:
    """The 4,096 training problems: a fixed draw of `sample`, so disjoint from the test problems."""
    return tuple(problem for problem, _ in sample(np.random.default_rng([SEED, 1]), NUM_TRAIN))


@functools.cache
def test_problems() -> tuple[str, ...]:
    """The 256 test problems, no two equal under reordering of their numbers."""
    rng = np.random.default_rng([SEED, 0])
    return tuple(problem for problem, _ in _draw(rng, NUM_TEST, distinct=True))


def answer_of(problem: str) -> str:
    """What `check` needs to know about a problem: `3 7 12 = 33 :` -> `3 7 12 = 33`."""
    return problem.removesuffix(" :")


def _identity(problem: str) -> tuple[int, ...]:
    """The target and the sorted numbers: equal for problems that differ in order only."""
    numbers, target = answer_of(problem).split("=")
    return int(target), *sorted(map(int, numbers.split()))


def _draw(
    rng: np.random.Generator,
    n: int,
    *,
    excluded: Set[tuple[int, ...]] = frozenset(),
    distinct: bool = False,
) -> list[tuple[str, str]]:
    """Draws n pairs by rejection. A rejected one keeps its length, so the shares stay as stated."""
    lengths = rng.permutation(np.resize(LENGTHS, n))
    pairs: list[tuple[str, str]] = [("", "")] * n
    seen = set(excluded)
    pending = np.arange(n)
    while pending.size:
        length = lengths[pending]
        shape = (pending.size, MAX_NUMBERS)
        operands = rng.integers(1, MAX_OPERAND + 1, size=shape)
        operators = rng.choice(
            list(SHARE_OF_OPERATOR), size=shape, p=list(SHARE_OF_OPERATOR.values())
        )
        value = _evaluate_rows(operands, operators, length)
        # Random keys shuffle the numbers in use to the front; 2 is above any of [0, 1).
        keys = np.where(np.arange(MAX_NUMBERS) < length[:, None], rng.random(shape), 2.0)
        shuffled = np.take_along_axis(operands, np.argsort(keys, axis=1), axis=1)

        rejected = []
        for row, target in enumerate(value.tolist()):
            count = length[row]
            numbers = shuffled[row, :count].tolist()
            identity = (target, *sorted(numbers))
            if not 0 <= target <= MAX_TARGET or identity in seen:
                rejected.append(pending[row])
                continue
            if distinct:
                seen.add(identity)
            problem = f"{' '.join(map(str, numbers))} = {target} :"
            words = [str(operands[row, 0])]
            for position in range(1, count):
                words += [str(operators[row, position]), str(operands[row, position])]
            pairs[pending[row]] = problem, " ".join(words)
        pending = np.array(rejected, int)
    return pairs


def _evaluate_rows(operands: np.ndarray, operators: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Values of many expressions: int[rows, 4], str[rows, 4], int[rows] -> int[rows].

    `operators[:, i]` stands before `operands[:, i]`; column 0 of it is not read.
    """
    total = np.zeros_like(length)
    term = operands[:, 0]  # the product that is still growing, with its sign
    for position in range(1, MAX_NUMBERS):
        operand, operator = operands[:, position], operators[:, position]
        in_use = position < length
        times = operator == "*"
        total = np.where(in_use & ~times, total + term, total)
        fresh = np.where(operator == "-", -operand, operand)
        term = np.where(in_use, np.where(times, term * operand, fresh), term)
    return total + term


# Checking ------------------------------------------------------------------------------------

_TOKEN = re.compile(r"[0-9]+|\S")


def check(response: str, answer: str) -> bool:
    """Whether the response is an expression that uses exactly the numbers and hits the target.

    Args:
      response: such as `3 * 7 + 12`; the amount of space between the parts does not matter.
      answer: such as `3 7 12 = 33` (see `answer_of`).

    Raises:
      ValueError: the answer, not the response, is malformed.
    """
    numbers, _, right = answer.partition("=")
    wanted, target = sorted(numbers.split()), int(right)
    tokens = _TOKEN.findall(response)
    if len(tokens) != 2 * len(wanted) - 1 or sorted(tokens[::2]) != wanted:
        return False  # compared as text, so a number of a million digits is never converted
    total, sign, term = 0, 1, int(tokens[0])
    for operator, operand in zip(tokens[1::2], map(int, tokens[2::2]), strict=True):
        if operator == "*":
            term *= operand
        elif operator in "+-":
            total, sign, term = total + sign * term, 1 if operator == "+" else -1, operand
        else:
            return False
    return total + sign * term == target


# Vocabulary ----------------------------------------------------------------------------------


def train_tokenizer(path: str | Path) -> None:
    """Writes the sentencepiece model whose ids are the positions in `VOCABULARY`, to the byte.

    A `word` model orders its pieces by frequency, so the corpus repeats earlier words more often.
    """
    import sentencepiece

    corpus = (" ".join([word] * (len(WORDS) - rank)) for rank, word in enumerate(WORDS))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=corpus,
        model_writer=model,
        model_type="word",
        vocab_size=len(VOCABULARY),
        hard_vocab_limit=False,
        character_coverage=1.0,  # at the default of 0.9995 the operators count as too rare
        normalization_rule_name="identity",
        pad_id=VOCABULARY.index("<pad>"),
        bos_id=VOCABULARY.index("<s>"),
        eos_id=VOCABULARY.index("</s>"),
        unk_id=VOCABULARY.index("<unk>"),
        minloglevel=2,
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.getvalue())
