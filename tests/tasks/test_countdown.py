"""The embedded task: its problems, its checker, its vocabulary."""

import ast
import hashlib
import itertools
import operator
import re
import subprocess
import sys
import time
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from dars_jax.tasks import countdown

OPERATION = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}


def parse(problem):
    numbers, target = re.fullmatch(r"((?:[0-9]+ ){2,4})= ([0-9]+) :", problem).groups()
    return [int(number) for number in numbers.split()], int(target)


def identity(problem):
    numbers, target = parse(problem)
    return target, *sorted(numbers)


def evaluate(response):
    """(value, numbers) of a plain expression by Python's own parser, or None if it is not one."""
    if set(response) - set("0123456789+-* "):
        return None
    try:
        tree = ast.parse(response.strip(), mode="eval").body
    except SyntaxError:
        return None
    numbers = []

    def value(node):
        if isinstance(node, ast.Constant):
            numbers.append(node.value)
            return Fraction(node.value)
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATION:
            return OPERATION[type(node.op)](value(node.left), value(node.right))
        raise ArithmeticError

    try:
        return value(tree), sorted(numbers)
    except ArithmeticError:
        return None


def expected(response, problem):
    numbers, target = parse(problem)
    return evaluate(response) == (target, sorted(numbers))


@pytest.fixture(scope="module")
def pairs():
    return countdown.sample(np.random.default_rng(7), 4000)


def test_importing_the_task_needs_numpy_only():
    code = (
        "import sys; before = set(sys.modules); import numpy.random;"
        "base = set(sys.modules) - before;"
        "import dars_jax.tasks.countdown;"
        "print({m.split('.')[0] for m in set(sys.modules) - before - base}"
        " - set(sys.stdlib_module_names))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "{'dars_jax'}"


def test_the_splits_have_the_stated_size_form_and_mixture():
    for problems, count in ((countdown.train_problems(), 4096), (countdown.test_problems(), 256)):
        assert len(problems) == count
        lengths = Counter()
        for problem in problems:
            numbers, target = parse(problem)
            assert all(1 <= number <= 20 for number in numbers)
            assert 0 <= target <= 99
            lengths[len(numbers)] += 1
        for length, share in ((2, 0.2), (3, 0.4), (4, 0.4)):
            assert abs(lengths[length] - share * count) <= 1


def test_no_test_problem_is_in_training_or_warm_up_whatever_the_order_of_its_numbers(pairs):
    test = set(map(identity, countdown.test_problems()))
    assert len(test) == 256
    assert test.isdisjoint(map(identity, countdown.train_problems()))
    assert test.isdisjoint(identity(problem) for problem, _ in pairs)


def test_the_problems_are_the_same_on_every_machine():
    text = "\n".join(countdown.train_problems() + countdown.test_problems())
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "c1cb3a3a0471accd"


def test_samples_follow_from_their_generator_and_differ_between_generators(pairs):
    assert countdown.sample(np.random.default_rng(7), 4000) == pairs
    assert countdown.sample(np.random.default_rng(8), 4000) != pairs
    assert countdown.sample(np.random.default_rng(7), 0) == []


def test_every_sampled_solution_solves_its_problem_within_seven_words(pairs):
    for problem, solution in pairs:
        assert expected(solution, problem)
        assert countdown.check(solution, countdown.answer_of(problem))
        assert len(solution.split()) <= 7


def test_all_three_operators_are_common_in_solutions(pairs):
    counts = Counter(word for _, solution in pairs for word in solution.split()[1::2])
    assert set(counts) == {"+", "-", "*"}
    assert min(counts.values()) > 1000


def test_the_numbers_of_a_problem_are_not_in_the_order_of_its_solution(pairs):
    same = sum(
        problem.split()[: len(solution.split()[::2])] == solution.split()[::2]
        for problem, solution in pairs
    )
    assert same < 0.25 * len(pairs)  # 1/2, 1/6 and 1/24 by chance, more where numbers repeat


@pytest.mark.parametrize("numbers", [(3, 12, 7), (5, 5, 2), (1, 9), (6, 3, 2, 4)])
def test_the_checker_agrees_with_pythons_parser_on_every_expression_of_some_numbers(numbers):
    verdicts = Counter()
    target = numbers[0] * numbers[1] - sum(numbers[2:])
    problem = f"{' '.join(map(str, numbers))} = {target} :"
    for order in itertools.permutations(numbers):
        for operators in itertools.product("+-*", repeat=len(numbers) - 1):
            words = [str(order[0])]
            for sign, number in zip(operators, order[1:], strict=True):
                words += [sign, str(number)]
            response = " ".join(words)
            verdict = countdown.check(response, countdown.answer_of(problem))
            assert verdict == expected(response, problem), response
            verdicts[verdict] += 1
    assert verdicts[True] and verdicts[False]


@given(st.data())
def test_the_checker_agrees_with_pythons_parser_on_mutated_solutions(data):
    seed = data.draw(st.integers(0, 99))
    ((problem, solution),) = countdown.sample(np.random.default_rng(seed), 1)
    words = solution.split()
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.integers(0, len(words)))
        word = data.draw(st.sampled_from([*countdown.WORDS, *words, "(", ")", "/", "**", "0"]))
        drop = data.draw(st.integers(0, 1))  # 0 inserts, 1 replaces (or appends at the end)
        words[place : place + drop] = [word]
    response = data.draw(st.sampled_from(["", " ", "  "])).join(words)
    assert countdown.check(response, countdown.answer_of(problem)) == expected(response, problem)


@given(st.text("0123456789+-*=() ", max_size=12))
def test_the_checker_agrees_with_pythons_parser_on_noise(response):
    assert countdown.check(response, "2 3 = 6") == expected(response, "2 3 = 6 :")


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        ("3 * 7 + 12", True),
        ("12 + 7 * 3", True),
        ("  12+7*3 ", True),
        ("", False),
        ("33", False),
        ("3 * 7 + 12 = 33", False),
        ("3 * 7 + 12 :", False),
        ("(3 * 7) + 12", False),
        ("3 * 7 + 12 +", False),
        ("+ 3 * 7 12", False),
        ("3 * 7 + 7", False),
        ("3 + 7 + 12 + 11", False),
        ("03 * 7 + 12", False),
        ("3.0 * 7 + 12", False),
        ("٣ * 7 + 12", False),
        ("3 × 7 + 12", False),
        ("12 - -7 * 3", False),
        ("9" * 100_000 + " * 7 + 12", False),
    ],
)
def test_a_response_counts_only_as_a_plain_expression_of_all_the_numbers(response, verdict):
    assert countdown.check(response, "3 7 12 = 33") is verdict


def test_multiplication_binds_first_and_subtraction_runs_from_the_left():
    assert countdown.check("20 - 4 - 3", "3 4 20 = 13")
    assert countdown.check("20 - 4 * 3", "3 4 20 = 8")
    assert not countdown.check("20 - 4 * 3", "3 4 20 = 48")
    assert countdown.check("2 - 5 * 3 + 20", "2 3 5 20 = 7")


@pytest.mark.parametrize("answer", ["", "3 7 12", "3 7 12 = x"])
def test_a_malformed_answer_is_an_error_not_a_wrong_response(answer):
    with pytest.raises(ValueError, match="invalid literal"):
        countdown.check("3 * 7 + 12", answer)


def test_40000_checks_take_less_than_half_a_second(pairs):
    work = [(solution, countdown.answer_of(problem)) for problem, solution in pairs] * 10
    seconds = []
    for _ in range(3):
        start = time.process_time()
        for solution, answer in work:
            countdown.check(solution, answer)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.5


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "new" / "tokenizer.model"
    countdown.train_tokenizer(path)
    return path


def test_the_vocabulary_has_109_pieces_in_the_order_of_their_ids(model_file):
    model = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    pieces = [model.id_to_piece(i).lstrip("▁") for i in range(model.vocab_size())]
    assert pieces == list(countdown.VOCABULARY)
    assert len(pieces) == 109
    assert model.encode("17 * 0") == [4 + 17, countdown.VOCABULARY.index("*"), 4]


def test_training_the_vocabulary_again_gives_the_same_bytes(model_file, tmp_path):
    countdown.train_tokenizer(tmp_path / "again.model")
    assert (tmp_path / "again.model").read_bytes() == model_file.read_bytes()


def test_problems_and_solutions_survive_the_vocabulary(model_file, pairs):
    model = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    for text in itertools.chain.from_iterable(pairs):
        ids = model.encode(text)
        assert model.decode(ids) == text
        assert len(ids) == len(text.split())
        assert model.unk_id() not in ids
