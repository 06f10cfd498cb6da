"""Text to token ids and back: sentencepiece models and Hugging Face tokenizer directories.

Everything a model needs to know about its tokens comes from its own files: which ids end an
answer, which one pads, whether a prompt starts with BOS, and the chat template.
"""

import contextlib
import json
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from dars_jax.data import chat_template, sources


class Tokenizer(Protocol):
    """What the trainer asks of a tokenizer. Ids are plain ints in 0..vocab_size-1."""

    vocab_size: int  # the tokenizer's; a model's embedding may be padded beyond it
    bos_id: int | None
    eos_ids: tuple[int, ...]  # at least one; the first is the one to append to a solution
    pad_id: int

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone: no BOS and no EOS is added. For responses and rendered chats."""

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a raw text prompt, with the BOS in front if the model was made with one."""

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids without special tokens; ids beyond the vocabulary give no text."""

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The chat as text, opened for the assistant's turn, special tokens spelled out.

        Raises:
          ValueError: there is no chat template, or it does not accept these messages.
        """

    def largest_plain_id(self) -> int:
        """Of the ids that any text can give; special ones need their own spelling."""

    def remarks(self, chat: bool) -> list[str]:
        """What a user should know about how answers end, one line each; [] is the usual case."""


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Reads a `*.model` file, a `tokenizer.json`, or a directory that holds either.

    Raises:
      FileNotFoundError: there is no tokenizer at the path.
      ValueError: there is one, but it or a file beside it cannot be used.
    """
    path = Path(path)
    if path.is_dir():
        if (path / "tokenizer.json").is_file():
            return HuggingFaceTokenizer(path)
        path = path / "tokenizer.model"
        if path.is_file():
            return SentencePieceTokenizer(path)
        raise FileNotFoundError(f"{path.parent}: no tokenizer.json and no tokenizer.model in it")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such tokenizer file or directory")
    if path.name == "tokenizer.json":
        return HuggingFaceTokenizer(path.parent)
    if path.suffix == ".model":
        return SentencePieceTokenizer(path)
    raise ValueError(f"{path}: a tokenizer is a *.model file, a tokenizer.json or a directory")


class SentencePieceTokenizer:
    """A sentencepiece model file. It has no chat template; prompts start with its BOS, if any."""

    def __init__(self, path: str | Path) -> None:
        """Reads the file; ValueError if it is no sentencepiece model or defines no EOS."""
        import sentencepiece

        try:
            self._model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise ValueError(f"{path}: not a sentencepiece model: {error}") from error
        self.vocab_size: int = self._model.vocab_size()
        bos, eos, pad = self._model.bos_id(), self._model.eos_id(), self._model.pad_id()
        if eos < 0:  # sentencepiece says -1 for a token that is switched off
            raise ValueError(f"{path}: the model defines no end-of-sequence token")
        self.bos_id: int | None = bos if bos >= 0 else None
        self.eos_ids: tuple[int, ...] = (eos,)
        self.pad_id: int = pad if pad >= 0 else eos
        self._hidden = {bos, eos, pad}

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer.encode`."""
        return self._model.encode(text)

    def encode_prompt(self, text: str) -> list[int]:
        """See `Tokenizer.encode_prompt`."""
        return ([] if self.bos_id is None else [self.bos_id]) + self.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """See `Tokenizer.decode`."""
        return self._model.decode(_visible(ids, self._hidden, self.vocab_size))

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Always a ValueError."""
        raise ValueError("a sentencepiece model has no chat template; give it prompts as raw text")

    def largest_plain_id(self) -> int:
        """See `Tokenizer.largest_plain_id`."""
        model, ids = self._model, range(self.vocab_size)
        return max(
            (i for i in ids if not model.is_control(i) and not model.is_unused(i)), default=0
        )

    def remarks(self, chat: bool) -> list[str]:
        """None: the one file has one end."""
        return []


class HuggingFaceTokenizer:
    """A Hugging Face model directory with a `tokenizer.json`.

    BOS, EOS and pad are looked up in the order in which a reader would trust the files:
      EOS: generation_config.json, config.json (a number or a list), then the named eos_token;
      pad: the named pad_token, generation_config.json, config.json, then the first EOS;
      BOS: the named bos_token only (Qwen's config.json states a bos_token_id it never uses).
    A named token stands in tokenizer_config.json or special_tokens_map.json.
    """

    def __init__(self, directory: str | Path) -> None:
        """Reads the directory; ValueError names the file and what is wrong with it."""
        import tokenizers

        self._directory = Path(directory)
        file = self._directory / "tokenizer.json"
        if sources.is_lfs_pointer(file):
            raise ValueError(f"{file} is a git-lfs pointer, not the file: run git lfs pull")
        try:
            self._model = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the Rust side raises nothing narrower
            raise ValueError(f"{file}: not a tokenizers file: {error}") from error
        self._model.no_padding()  # a file may carry the settings it was trained with
        self._model.no_truncation()
        self.vocab_size: int = max(self._model.get_vocab().values(), default=-1) + 1

        config = _read_json(self._directory / "tokenizer_config.json")
        named = _read_json(self._directory / "special_tokens_map.json") | {
            key: value for key, value in config.items() if value is not None
        }
        self._named = {
            name: self._content(name, named[name])
            for name in ("bos_token", "eos_token", "pad_token", "unk_token")
            if named.get(name)
        }
        self.bos_id: int | None = self._id_of("bos_token")
        self.eos_ids: tuple[int, ...] = self._find_ids("eos")
        if not self.eos_ids:
            raise ValueError(f"{self._directory}: no file states an end-of-sequence token")
        named_pad = self._id_of("pad_token")
        pads = (named_pad,) if named_pad is not None else self._find_ids("pad")
        self.pad_id: int = (pads or self.eos_ids)[0]
        self._hidden = {self.bos_id, *self.eos_ids, self.pad_id}
        self._template = chat_template.read(self._directory, config.get("chat_template"))

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer.encode`. Special tokens spelled out in the text are recognised."""
        return self._model.encode(text, add_special_tokens=False).ids

    def encode_prompt(self, text: str) -> list[int]:
        """See `Tokenizer.encode_prompt`. The file's post-processor decides what goes in front."""
        ids = self._model.encode(text, add_special_tokens=True).ids
        if ids[:2] == [self.bos_id] * 2 and self.encode(text)[:1] == [self.bos_id]:
            ids = ids[1:]  # the text, a rendered chat perhaps, spells out its own
        while ids and ids[-1] in self.eos_ids:  # some append EOS: the answer could not start
            ids.pop()
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """See `Tokenizer.decode`."""
        visible = _visible(ids, self._hidden, self.vocab_size)
        return self._model.decode(visible, skip_special_tokens=True)

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """See `Tokenizer.render`."""
        return self._render(messages, add_generation_prompt=True)

    def largest_plain_id(self) -> int:
        """See `Tokenizer.largest_plain_id`."""
        added = self._model.get_added_tokens_decoder()
        plain = self._model.get_vocab(with_added_tokens=False).values()
        return max((i for i in plain if i not in added), default=0)

    def remarks(self, chat: bool) -> list[str]:
        """See `Tokenizer.remarks`: ends that other files name, or the chat template."""
        others = [("the named eos_token", self._id_of("eos_token"))]
        with contextlib.suppress(ValueError):  # a file that is not asked may say what it likes
            others += [("config.json", i) for i in self._stated("config.json", "eos")]
        if chat:
            others.append(("the chat template", self._end_of_turn()))
        told = lambda i: f"{self._model.id_to_token(i)!r} ({i})"  # noqa: E731
        used = ", ".join(map(told, self.eos_ids))
        return [
            f"{self._directory}: answers end with {used}, but {where} has {told(i)}; if the policy "
            "ends with that, answers run to the limit: put all into eos_token_id of "
            "generation_config.json"
            for where, i in others
            if i is not None and i not in self.eos_ids
        ]

    def _render(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> str:
        if self._template is None:
            raise ValueError(f"{self._directory}: the tokenizer has no chat template")
        try:
            return self._template(
                messages=[dict(message) for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._named,
            )
        except Exception as error:  # a template is a program: it may fail in any way
            raise ValueError(
                f"{self._directory}: the chat template says: {error or type(error).__name__}"
            ) from error

    def _end_of_turn(self) -> int | None:
        """The special token with which the chat template closes an answer; None if none is seen."""
        answer = "forty-two"
        chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]
        try:
            _, found, after = self._render(chat, add_generation_prompt=False).rpartition(answer)
        except ValueError:
            return None
        first = self.encode(after.lstrip())[:1] if found else []
        added = self._model.get_added_tokens_decoder()
        return first[0] if first and first[0] in added else None

    def _id_of(self, name: str) -> int | None:
        token = self._named.get(name)
        if token is None:
            return None
        token_id = self._model.token_to_id(token)
        if token_id is None:
            raise ValueError(f"{self._directory}: {name} {token!r} is not in tokenizer.json")
        return token_id

    def _find_ids(self, role: str) -> tuple[int, ...]:
        """Ids of "eos" or "pad" from the first file that states any; () if none does."""
        for name in ("generation_config.json", "config.json"):
            if ids := self._stated(name, role):
                return ids
        named = self._id_of(f"{role}_token")
        return () if named is None else (named,)

    def _stated(self, name: str, role: str) -> tuple[int, ...]:
        """Ids of "eos" or "pad" that a file states."""
        stated = _read_json(self._directory / name).get(f"{role}_token_id")
        ids = stated if isinstance(stated, list) else [stated]
        ids = [i for i in ids if i is not None and i != -1]  # both mean "none" in the wild
        for i in ids:
            if type(i) is not int or not 0 <= i < self.vocab_size:
                raise ValueError(
                    f"{self._directory / name}: {role}_token_id {i!r} is no token id below"
                    f" {self.vocab_size}"
                )
        return tuple(ids)

    def _content(self, name: str, token: object) -> str:
        """A named token is written as text or as an object with settings."""
        text = token.get("content") if isinstance(token, Mapping) else token
        if not isinstance(text, str):
            raise ValueError(f"{self._directory}: {name} is {token!r:.60}, expected a text")
        return text


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; {} if the file is absent."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object")
    return value


def _visible(ids: Iterable[int], hidden: Container[int | None], vocab_size: int) -> list[int]:
    return [i for i in map(int, ids) if i not in hidden and 0 <= i < vocab_size]
