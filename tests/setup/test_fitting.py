"""Whether tokenizer, prompts and policy fit each other, before anything is sampled."""

import types

import numpy as np
import pytest

from dars_jax.data.prompts import Example, Examples
from dars_jax.setup import build


def plan(rows=272, max_positions=None, chat=False):
    data = types.SimpleNamespace(max_prompt_tokens=20, chat=chat)
    config = types.SimpleNamespace(data=data, rollout=types.SimpleNamespace(max_tokens=12))
    model = types.SimpleNamespace(vocab_size=rows, max_positions=max_positions)
    return types.SimpleNamespace(config=config, model=model)


class Tokens:
    """A tokenizer of so many ids, the last of which pads."""

    def __init__(self, vocab_size, eos=(0,), plain=None):
        self.vocab_size, self.eos_ids, self.pad_id = vocab_size, eos, vocab_size - 1
        self._plain = vocab_size - 2 if plain is None else plain

    def largest_plain_id(self):
        return self._plain

    def remarks(self, chat):
        return ["ends differ"] if chat else []


def told(*arguments):
    lines = []
    build.check_tokenizer(*arguments, "policy", lines.append)
    return lines


def test_an_unused_id_for_padding_beyond_the_embedding_is_harmless():
    assert told(plan(272), Tokens(273)) == []


@pytest.mark.parametrize(
    "tokenizer", [Tokens(274), Tokens(273, eos=(0, 272)), Tokens(300, (299,), 5)]
)
def test_ids_that_text_or_answers_may_have_are_refused_beyond_the_embedding(tokenizer):
    sizes = f"the tokenizer's {tokenizer.vocab_size} is none of the 272 rows"
    with pytest.raises(ValueError, match=sizes):
        told(plan(272), tokenizer)


def test_a_prompt_with_an_id_beyond_the_embedding_is_named():
    rows = tuple(
        Example(uid, "?", ("1",), "x", np.array([1, largest], np.int32))
        for uid, largest in ((0, 271), (7, 272))
    )
    examples = Examples(rows, 0, 0, 0, 0)
    with pytest.raises(
        ValueError, match=r"data\.jsonl:8: token id 272 of the tokenizer's 273 .* 272 rows"
    ):
        build.check_ids(plan(272), Tokens(273), examples, "data.jsonl")
    build.check_ids(plan(273), Tokens(273), examples, "data.jsonl")


def test_more_tokens_than_the_policy_was_made_for_are_told():
    assert told(plan(max_positions=32), Tokens(200)) == []
    (line,) = told(plan(max_positions=31), Tokens(200))
    assert "= 32, but the policy was made for 31 positions (max_position_embeddings)" in line


def test_what_the_tokenizer_has_to_say_is_passed_on():
    assert told(plan(chat=True), Tokens(200)) == ["WARNING: ends differ"]
