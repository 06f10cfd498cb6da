"""Prompts: what becomes of the rows of a source."""

import json
import logging

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from prompt_rows import load


def read_back(example):
    return "".join(map(chr, example.tokens))


@pytest.fixture
def write(tmp_path):
    """Writes rows (objects, or lines as they are) as prompts.jsonl."""

    def write_lines(*rows):
        path = tmp_path / "prompts.jsonl"
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        path.write_bytes(b"".join(line + b"\n" for line in lines))
        return path

    return write_lines


def row(problem="1 + 1?", answer="2", **more):
    return {"problem": problem, "answer": answer} | more


# JSON lines ------------------------------------------------------------------------------------


def test_a_row_becomes_an_example(write):
    path = write(row(), row("2 + 2?", "4", source="sums"))
    first, second = load(path).rows
    assert (first.uid, first.prompt, first.answer, first.source) == (0, "1 + 1?", ("2",), "prompts")
    assert (second.uid, second.prompt, second.source) == (1, "2 + 2?", "sums")
    assert read_back(first) == "\x011 + 1?"
    assert first.tokens.dtype == np.int32


def test_fields_can_have_other_names(write):
    path = write({"question": "1 + 1?", "gold": "2"})
    (example,) = load(path, prompt_field="question", answer_field="gold").rows
    assert (example.prompt, example.answer) == ("1 + 1?", ("2",))


@pytest.mark.parametrize(
    ("given_answer", "answer"),
    [
        ("2", ("2",)),
        (2, ("2",)),
        (0, ("0",)),
        (0.5, ("0.5",)),
        (["2", "two", 2], ("2", "two")),
    ],
)
def test_an_answer_is_text_a_number_or_several_accepted_forms(write, given_answer, answer):
    assert load(write(row(answer=given_answer))).rows[0].answer == answer


def test_a_latex_form_of_the_answer_is_accepted_too(write):
    path = write(row(answer="3e5", answer_latex=r"3 \times 10^5"), row(answer_latex=None))
    assert [e.answer for e in load(path).rows] == [("3e5", r"3 \times 10^5"), ("2",)]


def test_blank_lines_a_byte_order_mark_and_a_missing_last_newline_do_no_harm(write):
    path = write(b"\xef\xbb\xbf" + json.dumps(row()).encode(), b"", b"  \r", row("2 + 2?"))
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert [(e.uid, e.prompt) for e in load(path).rows] == [(0, "1 + 1?"), (3, "2 + 2?")]


def test_prompts_over_the_limit_are_dropped_and_counted_and_uids_stay(write):
    path = write(row("12345"), row("123456"), row("1"))
    examples = load(path, max_prompt_tokens=6)  # BOS is one of them
    assert [e.uid for e in examples.rows] == [0, 2]
    assert examples.dropped_too_long == 1


def test_duplicates_are_counted_and_kept(write):
    examples = load(write(row("a"), row("b"), row("a"), row("a", "3")))
    assert len(examples.rows) == 4
    assert examples.duplicates == 2


# Conversations ---------------------------------------------------------------------------------

USER = {"role": "user", "content": "1 + 1?"}
SYSTEM = {"role": "system", "content": "old"}


@pytest.mark.parametrize(
    ("problem", "system_prompt", "text"),
    [
        ("1 + 1?", "", "user:1 + 1?"),
        ("1 + 1?", "new", "system:new|user:1 + 1?"),
        ([USER], "new", "system:new|user:1 + 1?"),
        ([SYSTEM, USER], "", "system:old|user:1 + 1?"),
        ([SYSTEM, USER], "new", "system:new|user:1 + 1?"),
    ],
)
def test_a_system_prompt_stands_first_and_replaces_the_rows_own(
    write, problem, system_prompt, text
):
    (example,) = load(write(row(problem)), chat=True, system_prompt=system_prompt).rows
    assert read_back(example) == text
    assert example.prompt == "1 + 1?"


def test_earlier_turns_stay_in_a_chat(write):
    turns = [USER, {"role": "assistant", "content": "2"}, {"role": "user", "content": "sure?"}]
    (example,) = load(write(row(turns)), chat=True).rows
    assert read_back(example) == "user:1 + 1?|assistant:2|user:sure?"
    assert example.prompt == "sure?"


def test_without_chat_the_model_gets_the_users_text_alone(write):
    (example,) = load(write(row([SYSTEM, USER]))).rows
    assert read_back(example) == "\x011 + 1?"


def test_a_system_prompt_without_chat_is_refused(write):
    with pytest.raises(ValueError, match="needs chat=True"):
        load(write(row()), system_prompt="new")


# Parquet ---------------------------------------------------------------------------------------


def published(question, truth, **more):
    messages = [SYSTEM, {"role": "user", "content": question}]
    return {"prompt": messages, "reward_model": {"ground_truth": truth, "style": "rule"}} | more


def write_parquet(path, rows):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def test_the_published_layout_is_recognised_in_parquet_and_json_lines(tmp_path, write):
    rows = [published("1 + 1?", "2", data_source="openr1"), published("2 + 2?", "4")]
    for path in (write_parquet(tmp_path / "train.parquet", rows), write(*rows)):
        first, second = load(path, chat=True).rows
        assert (first.uid, first.prompt, first.answer) == (0, "1 + 1?", ("2",))
        assert (first.source, second.source) == ("openr1", path.stem)
        assert read_back(first) == "system:old|user:1 + 1?"


def test_parquet_with_plain_columns_is_read_in_order(tmp_path):
    rows = [row(f"{i}?", i) for i in range(3000)]
    path = write_parquet(tmp_path / "plain.parquet", rows)
    examples = load(path).rows
    assert [e.prompt for e in examples] == [r["problem"] for r in rows]
    assert [e.uid for e in examples] == list(range(3000))


def test_a_bad_parquet_row_or_file_is_named(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", [row(), row(answer=None)])
    with pytest.raises(ValueError, match=r"x\.parquet:2: answer is empty"):
        load(path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"x\.parquet: not a readable parquet file"):
        load(path)


# Bad input -------------------------------------------------------------------------------------

BAD_LINES = [
    (b"{", "not JSON"),
    (b"[1]", "must be a JSON object, this is a list"),
    (b"[" * 100_000, "nested too deeply"),
    (b'{"problem": "' + b"x" * 1_100_000 + b'"}', "longer than 1,000,000 bytes"),
    (b'{"problem": "\xff", "answer": "1"}', "not JSON: .*utf-8"),
    (b'{"problem": "\\ud800", "answer": "1"}', "problem is not valid Unicode"),
    ({"answer": "2"}, "no field 'problem'; there are 'answer'"),
    ({"problem": "1 + 1?"}, "no field 'answer'; there are 'problem'"),
    (row(" "), "problem is empty"),
    (row(3), "problem must be text or a list of messages, got int 3"),
    (row([]), "problem must be text or a list of messages"),
    (row(["hello"]), "a message in problem must be an object"),
    (row([{"role": "tool", "content": "x"}]), "needs a role"),
    (row([{"role": "user", "content": None}]), "and a text"),
    (row([USER, {"role": "assistant", "content": "2"}]), "must be the user's"),
    (row([USER, USER]), "several turns needs chat=True"),
    (row(answer=True), "answer must be text, a number or a list of these, got bool True"),
    (row(answer=float("nan")), "answer must be text, a number"),
    (row(answer={"value": 2}), "answer must be text, a number"),
    (published("1 + 1?", ""), "ground_truth is empty"),
]
EMPTY_ANSWERS = ["", "  ", None, [], ["2", ""]]


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_a_bad_row_is_named_by_file_and_line_or_skipped_and_counted(write, line, message):
    path = write(row("a"), line, row("b"))
    with pytest.raises(ValueError, match=rf"prompts\.jsonl:2: .*{message}"):
        load(path)
    examples = load(path, skip_bad_rows=True)
    assert [e.uid for e in examples.rows] == [0, 2]
    assert examples.skipped_bad == 1


@pytest.mark.parametrize("answer", EMPTY_ANSWERS)
def test_an_empty_answer_is_a_bad_row_of_its_own_kind(write, answer):
    path = write(row(answer=answer), row(), b"{")
    with pytest.raises(ValueError, match=r"prompts\.jsonl:1: answer is empty"):
        load(path)
    examples = load(path, skip_bad_rows=True)
    assert (examples.skipped_bad, examples.empty_answers) == (2, 1)


def test_a_template_that_refuses_a_conversation_makes_a_bad_row(write):
    with pytest.raises(ValueError, match=r"prompts\.jsonl:1: too many turns"):
        load(write(row([USER] * 4)), chat=True)


def test_the_first_skipped_row_is_told(write, caplog):
    with caplog.at_level(logging.WARNING):
        load(write(b"{", b"[]", row()), skip_bad_rows=True)
    (record,) = caplog.records
    assert "prompts.jsonl:1: not JSON" in record.getMessage()


def test_a_source_without_a_usable_prompt_is_refused_with_the_counts(write):
    with pytest.raises(ValueError, match=r"prompts\.jsonl: no usable prompt \(0 bad rows, 0 long"):
        load(write())
    with pytest.raises(ValueError, match=r"\(1 bad rows, 1 longer than 3 tokens\)"):
        load(write(b"{", row()), skip_bad_rows=True, max_prompt_tokens=3)


@pytest.mark.parametrize("source", ["tfds:countdown", "tfds::train", "prompts.txt", "."])
def test_a_source_of_no_known_form_is_refused(source):
    with pytest.raises(ValueError, match=r"a (TFDS )?source is"):
        load(source)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.jsonl: no such file"):
        load(tmp_path / "nothing.jsonl")


def test_a_limit_below_one_token_is_refused(write):
    with pytest.raises(ValueError, match="max_prompt_tokens must be at least 1"):
        load(write(row()), max_prompt_tokens=0)


# The published layout, and rows that nearly have it -------------------------------------------


def nearly_published(**changes):
    given = {"prompt": [USER], "reward_model": {"ground_truth": "2", "style": "rule"}} | changes
    return {key: value for key, value in given.items() if value is not ...}


def test_a_field_of_the_users_choice_comes_before_the_published_layout(write):
    path = write(nearly_published(question="3 + 3?", gold="6"))
    for options, expected in (
        ({}, ("1 + 1?", ("2",))),
        ({"prompt_field": "question"}, ("3 + 3?", ("2",))),
        ({"answer_field": "gold"}, ("1 + 1?", ("6",))),
        ({"prompt_field": "question", "answer_field": "gold"}, ("3 + 3?", ("6",))),
    ):
        (example,) = load(path, **options).rows
        assert (example.prompt, example.answer) == expected
    with pytest.raises(ValueError, match="no field 'gone'"):
        load(path, prompt_field="gone")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"reward_model": None},
            "reward_model must be an object with a ground_truth, got NoneType",
        ),
        ({"reward_model": "2"}, "reward_model must be an object with a ground_truth, got str"),
        ({"reward_model": []}, "reward_model must be an object with a ground_truth, got list"),
        ({"reward_model": {}}, "no field 'ground_truth'"),
        ({"reward_model": {"ground_truth": None}}, "ground_truth is empty"),
        ({"prompt": None}, "prompt must be text or a list of messages"),
        ({"prompt": {"role": "user"}}, "prompt must be text or a list of messages"),
        ({"reward_model": ...}, "no field 'problem'"),
    ],
)
def test_a_row_that_nearly_has_the_published_layout_is_told_what_it_lacks(write, changes, message):
    with pytest.raises(ValueError, match=f"prompts.jsonl:1: {message}"):
        load(write(nearly_published(**changes)))


def test_a_row_with_an_empty_reward_model_beside_its_own_fields_is_read_by_these(write):
    (example,) = load(write(row(reward_model=None, prompt=[USER]))).rows
    assert example.answer == ("2",)


def test_system_messages_that_raw_text_leaves_out_are_counted(write):
    path = write(row([SYSTEM, USER]), row(), row([SYSTEM, USER]))
    assert load(path).systems_dropped == 2
    assert load(path, chat=True).systems_dropped == 0


@pytest.mark.parametrize("column", ["problem", "answer", "data_source", "notes"])
def test_text_in_parquet_that_is_no_utf_8_is_a_bad_row(tmp_path, column):
    rows = {name: [b"1", b"2", b"3"] for name in ("problem", "answer", "data_source", "notes")}
    rows[column][1] = b"\xff\xfe"
    arrays = [pyarrow.array(values, pyarrow.binary()).view(pyarrow.string()) for values in
              rows.values()]  # fmt: skip
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table(arrays, names=list(rows)), path)
    with pytest.raises(ValueError, match=f"rows.parquet:2: {column} is not UTF-8"):
        load(path)
    examples = load(path, skip_bad_rows=True)
    assert [e.uid for e in examples.rows] == [0, 2] and examples.skipped_bad == 1
