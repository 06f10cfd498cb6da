"""Chat templates: what a conversation becomes, and where it ends."""

import functools

import pytest
import tokenizer_files
from tokenizer_files import BEGIN, END, TURN, UNUSED, chat_config

from dars_jax.data.tokenizer import load_tokenizer

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


QUESTION = [{"role": "user", "content": "1 < 2?"}]


@pytest.fixture
def write(tmp_path):
    """Writes a model directory, see tokenizer_files.write."""
    return functools.partial(tokenizer_files.write, tmp_path)


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
