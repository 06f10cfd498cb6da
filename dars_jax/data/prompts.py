"""Prompts: rows of a source to token ids, and the order in which training uses them.

    rows = load_examples("train.jsonl", tokenizer, chat=True, max_prompt_tokens=1024).rows
    epoch, indices = batch_indices(len(rows), 3072, seed, step)

A row is either {problem, answer}, under field names of the user's choice, or has the layout in
which OpenR1-45K is published: `prompt`, a list of {role, content}, and `reward_model` with its
`ground_truth`. A name of the user's choice comes first there too. An `answer_latex` beside the
answer is one more form that counts as correct.
"""

import dataclasses
import hashlib
import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dars_jax.data import sources
from dars_jax.data.tokenizer import Tokenizer

PROMPT_FIELD, ANSWER_FIELD = "problem", "answer"  # unless the user says otherwise

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """One prompt, ready to sample from."""

    uid: int  # row number in its source, from 0; stable, it keys the random streams
    prompt: str  # what is asked, before any chat template
    answer: tuple[str, ...]  # accepted forms, at least one
    source: str  # the row's own data_source or source, else the name of the file or dataset
    tokens: np.ndarray  # int32[length], length >= 1
    others: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # columns, JSON-friendly


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """The usable rows of a source, and what became of the others."""

    rows: tuple[Example, ...]
    dropped_too_long: int
    duplicates: int  # usable rows whose prompt an earlier one has too; they are kept
    skipped_bad: int
    empty_answers: int  # how many of the skipped rows had no answer
    systems_dropped: int = 0  # rows whose system message a raw text prompt has no place for

    def fingerprint(self) -> str:
        """Changes with any prompt, token, accepted form, other column, or their order."""
        digest = hashlib.sha256()
        for row in self.rows:
            columns = sorted(row.others.items())
            digest.update(repr((row.uid, row.prompt, row.answer, columns)).encode())
            digest.update(row.tokens.tobytes())
        return digest.hexdigest()


class _BadRow(ValueError):
    """What is wrong with a row."""


class _EmptyAnswer(_BadRow):
    """A row without an answer to grade against."""


def load_examples(
    source: str,
    tokenizer: Tokenizer,
    *,
    prompt_field: str = PROMPT_FIELD,
    answer_field: str = ANSWER_FIELD,
    chat: bool,
    system_prompt: str = "",
    max_prompt_tokens: int,
    data_dir: str | None = None,
    skip_bad_rows: bool = False,
) -> Examples:
    """Reads, checks and tokenizes every row of a source.

    Args:
      source: `tfds:NAME:SPLIT`, `hf://ORG/NAME/FILES`, a `.jsonl` or `.json` file of JSON lines, or
        a `.parquet` file. `tfds:countdown:SPLIT` is built in and prepared when first used; any
        other TFDS dataset must have been prepared before.
      tokenizer: the policy's.
      prompt_field: where a row has its problem: text, or a list of {role, content}. The published
        layout has names of its own, which stand in for PROMPT_FIELD and ANSWER_FIELD.
      answer_field: where it has its answer: text, a number, or a list of accepted forms.
      chat: render the conversation through the model's chat template. Otherwise the model gets
        the text of the only user message, with BOS if it was made with one; a system message is
        left out, and counted.
      system_prompt: stands first in every conversation; it replaces the row's own system message.
        Empty: conversations stay as they are. Needs `chat`.
      max_prompt_tokens: longer prompts are dropped and counted.
      data_dir: where TFDS datasets lie; None means TFDS's own default.
      skip_bad_rows: count (and log) bad rows instead of raising.

    Raises:
      FileNotFoundError: there is no such file or prepared dataset.
      ValueError: a bad row, as `file:line: what is wrong`; a source without a usable prompt;
        arguments that contradict each other.
    """
    if max_prompt_tokens < 1:
        raise ValueError(f"max_prompt_tokens must be at least 1, got {max_prompt_tokens}")
    if system_prompt and not chat:
        raise ValueError("a system_prompt needs chat=True: a raw text prompt has no place for it")
    rows: list[Example] = []
    seen: set[str] = set()
    too_long = duplicates = bad = empty_answers = systems = 0
    for uid, raw in sources.read_rows(source, data_dir):
        try:
            row = _parse(raw)
            messages = _messages(row, prompt_field, system_prompt)
            answer = _answer(row, answer_field)
            tokens = _encode(tokenizer, messages, chat)
            name = _name(row, source)
        except _BadRow as error:
            message = f"{source}:{uid + 1}: {error}"
            if not skip_bad_rows:
                raise ValueError(message) from error
            (_log.info if bad else _log.warning)("skipped %s", message)  # the first one loudly
            bad += 1
            empty_answers += isinstance(error, _EmptyAnswer)
            continue
        if tokens.size > max_prompt_tokens:
            too_long += 1
            continue
        prompt = messages[-1]["content"]
        duplicates += prompt in seen
        seen.add(prompt)
        systems += not chat and any(message["role"] == "system" for message in messages)
        used = (prompt_field, answer_field, _prompt_name(row, prompt_field))
        others = {key: _friendly(value) for key, value in row.items() if key not in used}
        rows.append(Example(uid, prompt, answer, name, tokens, others))
    if not rows:
        raise ValueError(
            f"{source}: no usable prompt ({bad} bad rows, {too_long} longer than"
            f" {max_prompt_tokens} tokens)"
        )
    return Examples(tuple(rows), too_long, duplicates, bad, empty_answers, systems)


def encode_prompt(
    tokenizer: Tokenizer, text: str, *, chat: bool, system_prompt: str = ""
) -> np.ndarray:
    """A prompt typed by hand as int32[length], as if a row of the training data had it.

    Raises:
      ValueError: it is empty, or the chat template refuses it.
    """
    return _encode(tokenizer, _messages({"prompt": text}, "prompt", system_prompt), chat)


def batch_indices(
    num_examples: int, batch_size: int, seed: int, step: int
) -> tuple[int, np.ndarray]:
    """Which examples a step uses: each once per epoch, in an order of (seed, epoch) only.

    Args:
      num_examples: at least 1.
      batch_size: at least 1; the last batch of an epoch is shorter if it does not divide.
      seed: at least 0.
      step: counted from 0 over the whole run.

    Returns:
      The epoch, from 0, and the indices, int64[at most batch_size].

    Raises:
      ValueError: an argument below its minimum.
    """
    if num_examples < 1 or batch_size < 1 or seed < 0 or step < 0:
        raise ValueError(
            "batch_indices needs num_examples >= 1, batch_size >= 1, seed >= 0 and step >= 0, got"
            f" {num_examples}, {batch_size}, {seed} and {step}"
        )
    epoch, batch = divmod(step, math.ceil(num_examples / batch_size))
    order = np.random.default_rng([seed, epoch]).permutation(num_examples)
    return epoch, order[batch * batch_size : (batch + 1) * batch_size]


# What a row says; each raises _BadRow ----------------------------------------------------------


def _parse(raw: sources.Raw) -> Mapping[str, Any]:
    try:
        return sources.parse_row(raw)
    except ValueError as error:
        raise _BadRow(str(error)) from error


def _messages(
    row: Mapping[str, Any], prompt_field: str, system_prompt: str
) -> list[dict[str, str]]:
    """The conversation as {role, content}, the user's question last."""
    name = _prompt_name(row, prompt_field)
    value = _field(row, name)
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise _BadRow(f"{name} must be text or a list of messages, got {_kind(value)}")
    messages = []
    for message in value:
        if not isinstance(message, Mapping):
            raise _BadRow(f"a message in {name} must be an object, got {_kind(message)}")
        role, content = message.get("role"), message.get("content")
        if role not in ("system", "user", "assistant") or not isinstance(content, str):
            raise _BadRow(f"a message in {name} needs a role (system, user, assistant) and a text")
        messages.append({"role": role, "content": _utf8(content, name)})
    if messages[-1]["role"] != "user":
        raise _BadRow(f"the last message in {name} must be the user's")
    if not messages[-1]["content"].strip():
        raise _BadRow(f"{name} is empty")
    if system_prompt:
        others = [message for message in messages if message["role"] != "system"]
        messages = [{"role": "system", "content": system_prompt}, *others]
    return messages


def _answer(row: Mapping[str, Any], answer_field: str) -> tuple[str, ...]:
    """The accepted forms, each once, in the order given."""
    if answer_field == ANSWER_FIELD and _published(row):
        model = _plain(row["reward_model"])
        if not isinstance(model, Mapping):
            raise _BadRow(f"reward_model must be an object with a ground_truth, got {_kind(model)}")
        name, value = "ground_truth", _field(model, "ground_truth")
    else:
        name, value = answer_field, _field(row, answer_field)
    forms = [_answer_text(form, name) for form in (value if isinstance(value, list) else [value])]
    if not forms:
        raise _EmptyAnswer(f"{name} is empty")
    if row.get("answer_latex") is not None:
        forms.append(_answer_text(_field(row, "answer_latex"), "answer_latex"))
    return tuple(dict.fromkeys(forms))


def _answer_text(form: object, name: str) -> str:
    if form is None or (isinstance(form, str) and not form.strip()):
        raise _EmptyAnswer(f"{name} is empty")
    if isinstance(form, str):
        return _utf8(form, name)
    if isinstance(form, bool) or not isinstance(form, int | float) or not math.isfinite(form):
        raise _BadRow(f"{name} must be text, a number or a list of these, got {_kind(form)}")
    return str(form)


def _encode(tokenizer: Tokenizer, messages: list[dict[str, str]], chat: bool) -> np.ndarray:
    """The prompt as the model reads it, int32[length]."""
    if chat:
        try:
            ids = tokenizer.encode(tokenizer.render(messages))
        except ValueError as error:  # the template may refuse an order of roles
            raise _BadRow(str(error)) from error
    else:
        if [message["role"] for message in messages if message["role"] != "system"] != ["user"]:
            raise _BadRow("a conversation of several turns needs chat=True")
        ids = tokenizer.encode_prompt(messages[-1]["content"])
    if not ids:
        raise _BadRow("the prompt has no tokens")
    return np.array(ids, np.int32)


def _name(row: Mapping[str, Any], source: str) -> str:
    for key in ("data_source", "source"):
        name = _field(row, key) if key in row else None
        if isinstance(name, str) and name:
            return name
    return source.split(":")[1] if source.startswith("tfds:") else sources.name_of(source)


def _published(row: Mapping[str, Any]) -> bool:
    """Whether a row has the published layout, its values right or wrong."""
    if isinstance(row.get("reward_model"), Mapping) and isinstance(row.get("prompt"), list):
        return True
    return {"reward_model", "prompt"} <= row.keys() and not {
        PROMPT_FIELD,
        ANSWER_FIELD,
    } & row.keys()


def _prompt_name(row: Mapping[str, Any], prompt_field: str) -> str:
    """Where this row has its problem."""
    return "prompt" if prompt_field == PROMPT_FIELD and _published(row) else prompt_field


def _field(row: Mapping[str, Any], name: str) -> object:
    if name not in row:
        raise _BadRow(f"no field {name!r}; there are {', '.join(map(repr, row)) or 'none'}")
    try:
        return _plain(row[name])
    except UnicodeDecodeError as error:
        raise _BadRow(f"{name} is not UTF-8: {error}") from error


def _plain(value: object) -> object:
    """TFDS gives arrays and bytes where JSON has lists, numbers and text."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value


def _friendly(value: object) -> object:
    """A column that nothing here needs: as JSON has it, whatever it is."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _friendly(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_friendly(item) for item in value]
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _utf8(text: str, name: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
        raise _BadRow(f"{name} is not valid Unicode: {error}") from error
    return text


def _kind(value: object) -> str:
    return f"{type(value).__name__} {value!r:.40}"
