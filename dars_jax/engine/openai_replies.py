"""Answers in the shapes that OpenAI's clients read."""

import dataclasses
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dars_jax.engine.openai_requests import Job, Refusal
from dars_jax.engine.text import TextStream

Decode = Callable[[Sequence[int]], str]


@dataclasses.dataclass
class Part:
    """What is new of an answer; `end` is "" while there is more to come."""

    text: str
    ids: list[int]
    logprobs: list[float]
    end: str


@dataclasses.dataclass(frozen=True)
class Scores:
    """Of a prompt's tokens but the first: log-probability, the most likely token, and its own."""

    logprob: np.ndarray  # float32[length - 1]
    best: np.ndarray  # int32[length - 1]
    best_logprob: np.ndarray  # float32[length - 1]


def whole(parts: Sequence[Part]) -> Part:
    """The parts of an answer as one."""
    return Part(
        "".join(p.text for p in parts), [i for p in parts for i in p.ids],
        [x for p in parts for x in p.logprobs], parts[-1].end,
    )  # fmt: skip


def usage(job: Job, sampled: int) -> dict[str, int]:
    """Tokens of the prompts and of the answers, EOS left out."""
    asked = sum(map(len, job.prompts))
    return {
        "prompt_tokens": asked, "completion_tokens": sampled, "total_tokens": asked + sampled
    }  # fmt: skip


def error(refusal: Refusal) -> dict[str, Any]:
    """The body of a refused request."""
    kind = "invalid_request_error" if refusal.status < 500 else "server_error"
    return {
        "error": {"message": str(refusal), "type": kind, "param": refusal.param,
                  "code": refusal.code}
    }  # fmt: skip


class Replies:
    """Replies to one request: whole, or chunk by chunk."""

    object, chunk_object, prefix = "text_completion", "text_completion", "cmpl"

    def __init__(self, job: Job, model: str, decode: Decode):
        self._job, self._decode = job, decode
        self._head = {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time()),
                      "model": model}  # fmt: skip
        self._choices = len(job.prompts) * job.n
        self._names = [_Names(decode) for _ in range(self._choices)]
        self._sampled = 0
        self._begun: set[int] = set()

    def whole(self, answers: Sequence[Part], scores: Sequence[Scores]) -> dict[str, Any]:
        """The reply that is not streamed; `scores` of the prompts where they are asked for."""
        choices = [
            self._choice(i, part, scores[i // self._job.n] if scores else None)
            for i, part in enumerate(answers)
        ]
        sampled = sum(len(part.ids) for part in answers)
        return {**self._head, "object": self.object, "choices": choices,
                "usage": usage(self._job, sampled)}  # fmt: skip

    def chunk(self, index: int, part: Part) -> dict[str, Any]:
        """A part of choice `index`."""
        self._sampled += len(part.ids)
        choice = self._piece(index, part, first=index not in self._begun)
        self._begun.add(index)
        return {**self._head, "object": self.chunk_object, "choices": [choice]}

    def last_chunk(self) -> dict[str, Any]:
        """What a client that asked for the usage gets after all parts."""
        return {**self._head, "object": self.chunk_object, "choices": [],
                "usage": usage(self._job, self._sampled)}  # fmt: skip

    def _choice(self, index: int, part: Part, scores: Scores | None) -> dict[str, Any]:
        job, names = self._job, self._names[index]
        prompt = index // job.n
        logprobs = None
        if scores is not None:
            names.prompt(job.prompts[prompt], scores, tops=bool(job.logprobs))
        if job.logprobs is not None:
            names.answer(part, tops=bool(job.logprobs))
            logprobs = names.take()
        text = (job.texts[prompt] if job.echo else "") + part.text
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": part.end}

    def _piece(self, index: int, part: Part, first: bool) -> dict[str, Any]:
        job, names = self._job, self._names[index]
        logprobs = None
        if job.logprobs is not None:
            names.answer(part, tops=bool(job.logprobs))
            logprobs = names.take()
        text = (job.texts[index // job.n] if job.echo and first else "") + part.text
        return {"index": index, "text": text, "logprobs": logprobs,
                "finish_reason": part.end or None}  # fmt: skip


class ChatReplies(Replies):
    """Replies to a chat."""

    object, chunk_object, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def _choice(self, index: int, part: Part, scores: Scores | None) -> dict[str, Any]:
        message = {"role": "assistant", "content": part.text, "refusal": None}
        return {"index": index, "message": message, "logprobs": self._logprobs(part),
                "finish_reason": part.end}  # fmt: skip

    def _piece(self, index: int, part: Part, first: bool) -> dict[str, Any]:
        delta = {"role": "assistant"} if first else {}
        return {"index": index, "delta": delta | {"content": part.text},
                "logprobs": self._logprobs(part), "finish_reason": part.end or None}  # fmt: skip

    def _logprobs(self, part: Part) -> dict[str, Any] | None:
        if self._job.logprobs is None:
            return None
        named = [(_name(self._decode, i), x) for i, x in zip(part.ids, part.logprobs, strict=True)]
        return {"content": [{"token": name, "logprob": x, "bytes": list(name.encode()),
                             "top_logprobs": []} for name, x in named]}  # fmt: skip


def _name(decode: Decode, token: int) -> str:
    """A token as text; one without a text of its own by its number."""
    text = decode([token])
    return text if text and "\ufffd" not in text else f"token_id:{token}"


class _Names:
    """The log-probs of a choice: token by token, with where each begins in the text."""

    def __init__(self, decode: Decode):
        self._decode, self._text, self._offset = decode, TextStream(decode), 0
        self._rows: list[tuple[str, float | None, dict[str, float] | None, int]] = []

    def prompt(self, ids: Sequence[int], scores: Scores, tops: bool) -> None:
        """Tokens of the prompt; the first has no log-probability, for nothing stands before it."""
        self._add(ids[0], None, None)
        for i, x, best, top in zip(
            ids[1:], scores.logprob.tolist(), scores.best.tolist(), scores.best_logprob.tolist(),
            strict=True,
        ):  # fmt: skip
            name = _name(self._decode, i)
            other = _name(self._decode, best)
            if best != i and other == name:
                other = f"token_id:{best}"
            self._add(i, x, {name: x, other: top} if tops else None)

    def answer(self, part: Part, tops: bool) -> None:
        """Sampled tokens; greedy ones are the most likely."""
        for i, x in zip(part.ids, part.logprobs, strict=True):
            self._add(i, x, {_name(self._decode, i): x} if tops else None)

    def take(self) -> dict[str, Any]:
        """Those since the last call."""
        rows, self._rows = self._rows, []
        tops = [top for _, _, top, _ in rows]
        return {
            "tokens": [name for name, _, _, _ in rows],
            "token_logprobs": [x for _, x, _, _ in rows],
            "top_logprobs": tops if any(tops) else None,
            "text_offset": [at for _, _, _, at in rows],
        }

    def _add(self, token: int, logprob: float | None, top: dict[str, float] | None) -> None:
        self._rows.append((_name(self._decode, token), logprob, top, self._offset))
        self._offset += len(self._text.add([token]))
