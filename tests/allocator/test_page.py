"""docs/allocators.md: its code runs and gives what it says, its table has every allocator."""

import ast
import pathlib
import re

import numpy as np
import pytest

from dars_jax.allocator import ALLOCATORS

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "allocators.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)


@pytest.fixture
def registry(monkeypatch):
    """What is registered meanwhile is forgotten."""
    for name in set(ALLOCATORS):
        monkeypatch.setitem(ALLOCATORS, name, ALLOCATORS[name])
    before = dict(ALLOCATORS)
    yield
    for name in set(ALLOCATORS) - set(before):
        del ALLOCATORS[name]


@pytest.mark.parametrize("code", BLOCKS)
def test_the_code_gives_the_numbers_beside_it(code, registry):
    lines, names, checked = code.splitlines(), {}, 0
    for statement in ast.parse(code).body:
        exec(ast.unparse(statement), names)
        said = re.search(r"# (\d[\d ]*)", lines[statement.end_lineno - 1])
        if (
            said
            and isinstance(statement, ast.Expr | ast.Assign)
            and "allocate" in ast.unparse(statement)
        ):
            value = eval(ast.unparse(statement.value), names)
            assert np.asarray(value).tolist() == [int(x) for x in said[1].split()]
            checked += 1
    assert checked


def test_an_allocator_of_ones_own_is_ten_lines():
    (own,) = [code for code in BLOCKS if "ALLOCATORS[" in code]
    assert len([line for line in own.splitlines() if line.strip()]) <= 10


def test_every_allocator_has_a_row_in_both_tables():
    rows = [line.split("|") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    registry = {name for row in rows if len(row) == 6 for name in re.findall(r"`(\w+)`", row[1])}
    compared = {name for row in rows if len(row) == 8 for name in re.findall(r"`(\w+)`", row[1])}
    assert registry >= set(ALLOCATORS)
    assert compared >= set(ALLOCATORS)
