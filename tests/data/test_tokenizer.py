"""Tokenizers: ids, special tokens and chat templates, from a model's own files."""

import io
import json

import pytest
import sentencepiece
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dars_jax.data.tokenizer import load_tokenizer
from dars_jax.tasks import countdown

SPECIAL = ["<|end|>", "<|pad|>", "<|begin|>", "<|turn|>", "<|unused|>"]
END, PAD, BEGIN, TURN, UNUSED = range(5)

TEMPLATE = """\
{%- if messages[0]['role'] != 'system' %}
    {{- '<|begin|>system\\nBe brief.<|turn|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message['role'] == 'tool' %}
        {{- raise_exception('no tools here') }}
    {%- endif %}
    {{- bos_token + message['role'] + '\\n' + message['content'] + '<|turn|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- bos_token + 'assistant\\n' }}
{%- endif %}
"""


def byte_level_bpe():
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        special_tokens=SPECIAL, initial_alphabet=alphabet, vocab_size=300, show_progress=False
    )
    model.train_from_iterator(["what is the sum of the numbers"], trainer)
    return model


def template_processor(single):
    return tokenizers.processors.TemplateProcessing(
        single=single, special_tokens=[("<|begin|>", BEGIN), ("<|end|>", END)]
    )


@pytest.fixture
def write(tmp_path):
    """Writes a model directory; a keyword `config_json={…}` becomes the file config.json."""

    def write_directory(model=None, **files):
        (model or byte_level_bpe()).save(str(tmp_path / "tokenizer.json"))
        files = {"tokenizer_config_json": {"eos_token": "<|end|>"}} | files
        for name, content in files.items():
            (tmp_path / name.replace("_json", ".json")).write_text(json.dumps(content))
        return tmp_path

    return write_directory


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


# Hugging Face: chat ----------------------------------------------------------------------------

QUESTION = [{"role": "user", "content": "1 < 2?"}]


def chat_config(template, **more):
    named = {"eos_token": "<|end|>", "bos_token": "<|begin|>"}
    return {"tokenizer_config_json": named | {"chat_template": template} | more}


def test_a_chat_is_rendered_as_the_template_says_and_opened_for_the_assistant(write):
    tokenizer = load_tokenizer(write(**chat_config(TEMPLATE)))
    opened = "<|begin|>user\n1 < 2?<|turn|>\n<|begin|>assistant\n"
    assert tokenizer.render(QUESTION) == "<|begin|>system\nBe brief.<|turn|>\n" + opened
    system = {"role": "system", "content": "Think."}
    assert tokenizer.render([system, *QUESTION]) == ("<|begin|>system\nThink.<|turn|>\n" + opened)
    assert tokenizer.encode(tokenizer.render(QUESTION))[0] == BEGIN


def test_blocks_leave_no_blank_lines_and_loops_can_be_left(write):
    template = (
        "{% for m in messages %}\n  {% if loop.index == 2 %}\n  {% break %}\n  {% endif %}\n"
        "{{ m.content }}\n{% endfor %}\n"
    )
    tokenizer = load_tokenizer(write(**chat_config(template)))
    assert tokenizer.render([*QUESTION, *QUESTION]) == "1 < 2?\n"


def test_tojson_writes_text_as_it_is(write):
    tokenizer = load_tokenizer(write(**chat_config("{{ messages[0].content | tojson }}")))
    assert tokenizer.render([{"role": "user", "content": "1 < 2 'é'"}]) == "\"1 < 2 'é'\""


def test_the_current_date_is_not_offered_so_that_prompts_stay_the_same(write):
    template = "{{ strftime_now('%Y') if strftime_now is defined else '2024' }}"
    assert load_tokenizer(write(**chat_config(template))).render(QUESTION) == "2024"


def test_a_template_file_beside_the_config_wins(write):
    directory = write(**chat_config("from the config"))
    assert load_tokenizer(directory).render(QUESTION) == "from the config"
    (directory / "chat_template.jinja").write_text("from the file")
    assert load_tokenizer(directory).render(QUESTION) == "from the file"


def test_of_several_templates_the_default_is_used(write):
    both = [{"name": "rag", "template": "no"}, {"name": "default", "template": "yes"}]
    assert load_tokenizer(write(**chat_config(both))).render(QUESTION) == "yes"
    with pytest.raises(ValueError, match="no 'default'"):
        load_tokenizer(write(**chat_config(both[:1])))


def test_of_templates_by_name_the_default_is_used(write):
    assert (
        load_tokenizer(write(**chat_config({"default": "yes", "rag": "no"}))).render(QUESTION)
        == "yes"
    )


def test_a_mark_around_the_assistants_words_changes_nothing(write):
    template = (
        "{% for m in messages %}{% set word = m.content %}{% generation %}[{{ word }}]"
        "{%- endgeneration %}{% endfor %}"
    )
    tokenizer = load_tokenizer(write(**chat_config(template)))
    assert tokenizer.render([*QUESTION, *QUESTION]) == "[1 < 2?][1 < 2?]"


def test_a_text_that_spells_out_its_bos_gets_no_second_one(write):
    model = byte_level_bpe()
    model.post_processor = template_processor("<|begin|> $A")
    named = {"eos_token": "<|end|>", "bos_token": "<|begin|>"}
    tokenizer = load_tokenizer(write(model, tokenizer_config_json=named))
    assert tokenizer.encode_prompt("<|begin|>sum") == tokenizer.encode_prompt("sum")
    twice = tokenizer.encode_prompt("<|begin|><|begin|>sum")  # as written
    assert twice == [BEGIN, BEGIN, *tokenizer.encode("sum")]


ENDS = "{% for m in messages %}{{ m.content }}<|turn|>{% endfor %}"


@pytest.mark.parametrize(
    ("files", "chat", "told"),
    [
        ({}, True, []),
        (chat_config(ENDS), False, []),
        (chat_config(ENDS), True, ["the chat template has '<|turn|>' (3)"]),
        (chat_config(ENDS) | {"generation_config_json": {"eos_token_id": [TURN, END]}}, True, []),
        (chat_config("{{ messages[0].content }}"), True, []),
        (chat_config("{{ 1 / 0 }}"), True, []),
        (
            {"generation_config_json": {"eos_token_id": TURN}}, False,
            ["the named eos_token has '<|end|>' (0)"],
        ),
        (
            {
                "generation_config_json": {"eos_token_id": END},
                "config_json": {"eos_token_id": [END, UNUSED]},
            },
            False,
            ["config.json has '<|unused|>' (4)"],
        ),
        (
            {"generation_config_json": {"eos_token_id": 0}, "config_json": {"eos_token_id": 9999}},
            False, [],
        ),
    ],
)  # fmt: skip
def test_an_end_that_is_named_elsewhere_is_told_with_the_remedy(write, files, chat, told):
    lines = load_tokenizer(write(**files)).remarks(chat)
    assert len(lines) == len(told)
    for line, part in zip(lines, told, strict=True):
        assert part in line and "eos_token_id of generation_config.json" in line


def test_the_largest_id_that_any_text_can_give_is_not_that_of_a_special_token(write):
    model = byte_level_bpe()
    plain = model.get_vocab_size() - 1
    model.add_special_tokens(["<|late|>"])
    assert load_tokenizer(write(model)).largest_plain_id() == plain
    model.add_tokens(["later"])  # not special, but spelled out all the same
    assert load_tokenizer(write(model)).largest_plain_id() == plain


def test_the_largest_id_of_a_sentencepiece_model_is_that_of_a_piece(countdown_tokenizer):
    assert countdown_tokenizer.largest_plain_id() == 108


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "'append' of 'list' object is unsafe"),
        ("{{ nothing.content }}", "'nothing' is undefined"),
        ("{{ messages[0].content + 1 }}", "concatenate"),
        ("{{ messages | length / (messages | length - 1) }}", "division by zero"),
        ("{{ range(10 ** 6) | list }}", "Range too big"),
        ("{{ [].pop() }}", "unsafe|empty"),
        ("{% include 'other' %}", "loader"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
    ],
)
def test_a_template_that_refuses_or_misbehaves_is_a_clear_error(write, template, message):
    tokenizer = load_tokenizer(write(**chat_config(template)))
    with pytest.raises(ValueError, match=f"the chat template says: .*{message}"):
        tokenizer.render(QUESTION)


def test_without_a_template_there_is_no_chat(write):
    tokenizer = load_tokenizer(write())
    with pytest.raises(ValueError, match="no chat template"):
        tokenizer.render(QUESTION)


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
