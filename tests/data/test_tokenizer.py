"""Tokenizers: ids and special tokens, from a model's own files."""

import functools
import io
import json

import pytest
import sentencepiece
import tokenizer_files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizer_files import (
    BEGIN,
    END,
    PAD,
    TURN,
    UNUSED,
    byte_level_bpe,
    chat_config,
    template_processor,
)

from dars_jax.data.tokenizer import load_tokenizer
from dars_jax.tasks import countdown


@pytest.fixture
def write(tmp_path):
    """Writes a model directory, see tokenizer_files.write."""
    return functools.partial(tokenizer_files.write, tmp_path)


@pytest.fixture(scope="module")
def countdown_tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("countdown") / "tokenizer.model"
    countdown.train_tokenizer(path)
    return load_tokenizer(path)


# sentencepiece ---------------------------------------------------------------------------------


def test_a_sentencepiece_model_tells_its_special_tokens(countdown_tokenizer):
    assert countdown_tokenizer.vocab_size == 109
    assert countdown_tokenizer.pad_id == countdown.VOCABULARY.index("<pad>")
    assert countdown_tokenizer.bos_id == countdown.VOCABULARY.index("<s>")
    assert countdown_tokenizer.eos_ids == (countdown.VOCABULARY.index("</s>"),)


def test_a_sentencepiece_prompt_starts_with_bos_and_other_text_does_not(countdown_tokenizer):
    ids = countdown_tokenizer.encode("3 7 = 21 :")
    assert countdown_tokenizer.bos_id not in ids
    assert countdown_tokenizer.encode_prompt("3 7 = 21 :") == [countdown_tokenizer.bos_id, *ids]


@given(st.lists(st.sampled_from(countdown.WORDS)))
def test_words_with_single_spaces_come_back_and_special_ids_give_no_text(
    countdown_tokenizer, words
):
    tokenizer, text = countdown_tokenizer, " ".join(words)
    ids = [tokenizer.bos_id, *tokenizer.encode(text), *tokenizer.eos_ids, tokenizer.pad_id, 5000]
    assert tokenizer.decode(ids) == text


def test_a_sentencepiece_model_without_bos_or_pad_pads_with_eos(tmp_path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c"]),
        model_writer=model,
        model_type="word",
        vocab_size=5,
        hard_vocab_limit=False,
        bos_id=-1,
        pad_id=-1,
        eos_id=1,
        unk_id=0,
        minloglevel=2,
    )
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.bos_id is None
    assert tokenizer.eos_ids == (1,)
    assert tokenizer.pad_id == 1
    assert tokenizer.encode_prompt("a b") == tokenizer.encode("a b")


def test_a_sentencepiece_model_has_no_chat_template(countdown_tokenizer):
    with pytest.raises(ValueError, match="no chat template"):
        countdown_tokenizer.render([{"role": "user", "content": "hello"}])


# Hugging Face: ids -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def byte_tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bpe")
    byte_level_bpe().save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    return load_tokenizer(directory)


@given(st.text())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_any_text_comes_back_from_a_byte_level_tokenizer(byte_tokenizer, text):
    ids = byte_tokenizer.encode(text)
    assert byte_tokenizer.decode([*ids, END, 10**6]) == text
    assert all(0 <= i < byte_tokenizer.vocab_size for i in ids)


def test_special_tokens_in_a_text_are_one_id_each_and_are_not_decoded(byte_tokenizer):
    ids = byte_tokenizer.encode("sum<|turn|>of<|end|>")
    assert ids.count(TURN) == ids.count(END) == 1
    assert byte_tokenizer.decode(ids) == "sumof"


def test_an_eos_that_the_file_does_not_mark_as_special_is_not_decoded_either(write):
    tokenizer = load_tokenizer(write(tokenizer_config_json={"eos_token": "}"}))
    ids = tokenizer.encode("{x}")
    assert tokenizer.eos_ids == (ids[-1],)
    assert tokenizer.decode(ids) == "{x"


def test_bos_is_added_to_prompts_where_the_file_says_so_and_nowhere_else(write):
    model = byte_level_bpe()
    model.post_processor = template_processor("<|begin|> $A")
    named = {"eos_token": "<|end|>", "bos_token": "<|begin|>"}
    tokenizer = load_tokenizer(write(model, tokenizer_config_json=named))
    assert tokenizer.bos_id == BEGIN
    assert tokenizer.encode_prompt("sum") == [BEGIN, *tokenizer.encode("sum")]
    assert BEGIN not in tokenizer.encode("sum")

    tokenizer = load_tokenizer(write(tokenizer_config_json=named))  # Qwen: named, never added
    assert tokenizer.encode_prompt("sum") == tokenizer.encode("sum")


def test_a_prompt_does_not_end_with_an_eos_that_the_file_would_append(write):
    model = byte_level_bpe()
    model.post_processor = template_processor("$A <|end|>")
    tokenizer = load_tokenizer(write(model))
    assert tokenizer.encode_prompt("sum") == tokenizer.encode("sum")


def test_padding_and_truncation_left_in_the_file_are_ignored(write):
    model = byte_level_bpe()
    model.enable_truncation(2)
    model.enable_padding(length=64)
    tokenizer = load_tokenizer(write(model))
    assert tokenizer.decode(tokenizer.encode("the sum of the numbers")) == "the sum of the numbers"
    assert len(tokenizer.encode("the sum of the numbers")) < 22 + 1


@pytest.mark.parametrize(
    ("files", "eos_ids"),
    [
        ({"generation_config_json": {"eos_token_id": [TURN, END]}}, (TURN, END)),
        ({"generation_config_json": {"eos_token_id": TURN}}, (TURN,)),
        (
            {
                "generation_config_json": {"eos_token_id": [TURN]},
                "config_json": {"eos_token_id": PAD},
            },
            (TURN,),
        ),
        ({"generation_config_json": {}, "config_json": {"eos_token_id": PAD}}, (PAD,)),
        ({"config_json": {"eos_token_id": None}}, (END,)),
        ({}, (END,)),
        ({"tokenizer_config_json": {"eos_token": {"content": "<|turn|>"}}}, (TURN,)),
        (
            {
                "tokenizer_config_json": {"eos_token": None},
                "special_tokens_map_json": {"eos_token": "<|turn|>"},
            },
            (TURN,),
        ),
    ],
)
def test_eos_is_what_the_generation_config_says_then_the_config_then_the_name(
    write, files, eos_ids
):
    assert load_tokenizer(write(**files)).eos_ids == eos_ids


@pytest.mark.parametrize(
    ("named", "generation", "pad_id"),
    [
        ({"pad_token": "<|pad|>"}, {"pad_token_id": UNUSED}, PAD),
        ({}, {"pad_token_id": UNUSED}, UNUSED),
        ({}, {"pad_token_id": -1}, END),
        ({"pad_token": None}, {}, END),
    ],
)
def test_pad_is_the_named_token_then_the_stated_id_then_the_first_eos(
    write, named, generation, pad_id
):
    directory = write(
        tokenizer_config_json={"eos_token": "<|end|>"} | named, generation_config_json=generation
    )
    assert load_tokenizer(directory).pad_id == pad_id


def test_a_text_that_spells_out_its_bos_gets_no_second_one(write):
    model = byte_level_bpe()
    model.post_processor = template_processor("<|begin|> $A")
    named = {"eos_token": "<|end|>", "bos_token": "<|begin|>"}
    tokenizer = load_tokenizer(write(model, tokenizer_config_json=named))
    assert tokenizer.encode_prompt("<|begin|>sum") == tokenizer.encode_prompt("sum")
    twice = tokenizer.encode_prompt("<|begin|><|begin|>sum")  # as written
    assert twice == [BEGIN, BEGIN, *tokenizer.encode("sum")]


def test_the_largest_id_that_any_text_can_give_is_not_that_of_a_special_token(write):
    model = byte_level_bpe()
    plain = model.get_vocab_size() - 1
    model.add_special_tokens(["<|late|>"])
    assert load_tokenizer(write(model)).largest_plain_id() == plain
    model.add_tokens(["later"])  # not special, but spelled out all the same
    assert load_tokenizer(write(model)).largest_plain_id() == plain


def test_the_largest_id_of_a_sentencepiece_model_is_that_of_a_piece(countdown_tokenizer):
    assert countdown_tokenizer.largest_plain_id() == 108


# Bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer_config_json": {}}, "no file states an end-of-sequence token"),
        ({"tokenizer_config_json": {"eos_token": "<eos>"}}, "'<eos>' is not in tokenizer.json"),
        ({"generation_config_json": {"eos_token_id": [0, 9999]}}, "eos_token_id 9999"),
        ({"config_json": {"eos_token_id": "2"}}, "config.json: eos_token_id '2'"),
        ({"config_json": [1]}, "config.json: expected a JSON object"),
        (chat_config("{% for"), "tokenizer_config.json: broken chat template"),
        (chat_config("{% generation %}"), "tokenizer_config.json: broken chat template"),
        (chat_config(7), "chat_template is 7, expected a text"),
        (chat_config({"rag": "no"}), "no 'default'"),
        (chat_config([{"template": "no name"}]), "an entry of chat_template has no name"),
        (chat_config(["text"]), "an entry of chat_template has no name"),
        ({"tokenizer_config_json": {"eos_token": 7}}, "eos_token is 7, expected a text"),
        ({"tokenizer_config_json": {"eos_token": ["<|end|>"]}}, "eos_token is"),
        ({"tokenizer_config_json": {"eos_token": {"text": "x"}}}, "eos_token is"),
    ],
)
def test_a_directory_that_contradicts_itself_is_refused_with_the_reason(write, files, message):
    with pytest.raises(ValueError, match=message):
        load_tokenizer(write(**files))


def test_a_directory_is_refused_if_a_file_is_not_json(write):
    directory = write()
    (directory / "generation_config.json").write_text("{eos")
    with pytest.raises(ValueError, match=r"generation_config\.json: not JSON"):
        load_tokenizer(directory)


def test_what_git_lfs_leaves_in_place_of_a_tokenizer_is_named(write):
    directory = write()
    (directory / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=r"tokenizer\.json is a git-lfs pointer"):
        load_tokenizer(directory)


def test_a_path_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json and no tokenizer\.model"):
        load_tokenizer(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such tokenizer"):
        load_tokenizer(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tokenizer.json", "not a tokenizers file"),
        ("my.model", "not a sentencepiece model"),
        ("vocab.txt", "a tokenizer is"),
    ],
)
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path, name, message):
    (tmp_path / name).write_text("not a tokenizer")
    with pytest.raises(ValueError, match=message):
        load_tokenizer(tmp_path / name)


def test_a_tokenizer_json_can_be_named_itself(write):
    assert load_tokenizer(write() / "tokenizer.json").eos_ids == (END,)
