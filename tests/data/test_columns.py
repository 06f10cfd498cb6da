"""The other columns of a row, which a reward may ask for."""

import datetime
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dars_jax.data.prompts import load_examples


def columns(path, tokenizer):
    rows = load_examples(str(path), tokenizer, chat=False, max_prompt_tokens=99).rows
    return rows[0].others


class Letters:
    """Enough of a tokenizer."""

    def encode_prompt(self, text):
        return [ord(c) for c in text]


def test_all_columns_but_problem_and_answer_are_kept(tmp_path):
    row = {"problem": "2+2", "answer": 4, "level": 3, "tests": [{"in": "1", "out": None}]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    assert columns(tmp_path / "a.jsonl", Letters()) == {"level": 3, "tests": row["tests"]}


def test_columns_of_any_type_can_be_written_as_json(tmp_path):
    row = {"problem": "2+2", "answer": "4", "raw": b"\xff1", "day": datetime.date(2026, 1, 2),
           "vector": np.array([1.5, 2.0])}  # fmt: skip
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    got = columns(tmp_path / "a.parquet", Letters())
    assert json.loads(json.dumps(got)) == {"raw": "\\xff1", "day": "2026-01-02",
                                           "vector": [1.5, 2.0]}  # fmt: skip
