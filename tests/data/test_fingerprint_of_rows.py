"""Whether a source still holds what it held, as the run reads it."""

import json

import pytest

from dars_jax.data.prompts import load_examples

ROWS = [{"problem": "1+1", "answer": "2", "level": 1}, {"problem": "2+3", "answer": "5"}]


class Letters:
    """Enough of a tokenizer; `offset` stands for another template."""

    def __init__(self, offset=0):
        self.offset = offset

    def encode_prompt(self, text):
        return [ord(c) + self.offset for c in text]


def of(path, rows, offset=0):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load_examples(str(path), Letters(offset), chat=False, max_prompt_tokens=99)
    return found.fingerprint()


def test_the_name_and_the_spelling_of_json_do_not_matter(tmp_path):
    turned = [dict(reversed(row.items())) for row in ROWS]
    assert of(tmp_path / "a.jsonl", ROWS) == of(tmp_path / "b.jsonl", turned)


@pytest.mark.parametrize("rows", [
    ROWS[::-1], ROWS[:1], [*ROWS, {"problem": "7", "answer": "7"}],
    [{**ROWS[0], "answer": "3"}, ROWS[1]], [{**ROWS[0], "level": 2}, ROWS[1]],
    [{**ROWS[0], "problem": "1+2"}, ROWS[1]],
])  # fmt: skip
def test_any_other_row_answer_column_or_order_is_seen(tmp_path, rows):
    assert of(tmp_path / "a.jsonl", ROWS) != of(tmp_path / "a.jsonl", rows)


def test_the_same_text_in_other_tokens_is_seen(tmp_path):
    assert of(tmp_path / "a.jsonl", ROWS) != of(tmp_path / "a.jsonl", ROWS, offset=1)
