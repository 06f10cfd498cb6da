"""What OpenAI's clients ask, checked, as work for the engine.

A field that would change the answer is obeyed or refused, never passed over.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from dars_jax.data.tokenizer import Tokenizer
from dars_jax.engine.session import SamplingConfig

MOST_CHOICES = 1024  # answers of one request, over all of its prompts
COLDEST = 1e-3  # below this a temperature would overflow float32


def _short(text: str, most: int = 300) -> str:
    """One line: a client may have put megabytes into the name of a field."""
    line = " ".join(text[:most].split())
    return line if len(text) <= most else line + " …"


class Refusal(Exception):
    """A request that cannot be answered: HTTP status, one line, and what is wrong with it."""

    def __init__(self, message: str, param: str | None = None, status: int = 400, code: str = ""):
        super().__init__(_short(message))
        self.param, self.status, self.code = param, status, code or None


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the engine can do, and the sampling of a request that asks for none."""

    model: str  # its name in requests
    prompt_tokens: int
    answer_tokens: int
    vocab_size: int
    sampling: SamplingConfig


@dataclasses.dataclass(frozen=True)
class Job:
    """Answers to be sampled: `n` to each prompt, choice p * n + i is the i-th of prompt p."""

    prompts: tuple[tuple[int, ...], ...]  # token ids
    texts: tuple[str, ...]  # of the prompts, to be echoed
    n: int
    sampling: SamplingConfig  # max_tokens may be 0 where the prompt is echoed
    seed: int | None  # None: the next of the server's random streams
    stop: tuple[str, ...]
    logprobs: int | None  # None: not asked for; 1: those of the most likely tokens, too
    echo: bool
    stream: bool
    usage: bool  # at the end of a stream


class _StreamOptions(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="ignore", strict=True)
    include_usage: bool = False


class _Request(pydantic.BaseModel):
    """What both kinds have."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: str
    max_tokens: int | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None  # not OpenAI's, but in common use
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    # These say who asks and change no answer.
    user: Any = None
    metadata: Any = None
    # These are refused unless they ask for nothing.
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None

    @pydantic.model_validator(mode="after")
    def _asks_for_nothing_else(self) -> "_Request":
        for name in self._unsupported():
            if getattr(self, name):
                raise ValueError(f"{name} is not supported: leave it out")
        if self.temperature is not None and 0 < self.temperature < COLDEST:
            raise ValueError(f"temperature {self.temperature} is below {COLDEST}: 0 is greedy")
        return self

    def _unsupported(self) -> tuple[str, ...]:
        return ("frequency_penalty", "presence_penalty", "logit_bias")

    def stops(self) -> tuple[str, ...]:
        """The stop sequences; an empty one stops nothing."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or ()
        return tuple(s for s in stop if s)

    def sampling(self, limits: Limits, most: int) -> SamplingConfig:
        """Its sampling, at most `most` tokens."""
        given = {
            name: getattr(self, name)
            for name in ("temperature", "top_p", "top_k")
            if getattr(self, name) is not None
        }
        return dataclasses.replace(limits.sampling, max_tokens=most, **given)


class CompletionRequest(_Request):
    """Body of /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: Annotated[int, Field(ge=0, le=1)] | None = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = None

    def _unsupported(self) -> tuple[str, ...]:
        more = () if self.best_of in (None, self.n or 1) else ("best_of",)
        return (*super()._unsupported(), "suffix", *more)

    def job(self, tokenizer: Tokenizer, limits: Limits) -> Job:
        """The work it asks for; text becomes ids as it is, with BOS if the policy has one.

        Raises:
          Refusal: it cannot be answered.
        """
        several = isinstance(self.prompt, list) and bool(self.prompt)
        one = not several or isinstance(self.prompt[0], int)
        given: Sequence[Any] = [self.prompt] if one else self.prompt
        _few(len(given) * (self.n or 1))
        for text in given:
            _not_far_too_long(text, limits)
        prompts = [tokenizer.encode_prompt(p) if isinstance(p, str) else p for p in given]
        most = self.max_tokens
        echo = bool(self.echo)
        least = 0 if echo else 1
        if most is None:
            most = min(16, limits.answer_tokens)  # OpenAI's default
        job = Job(
            prompts=_checked(prompts, limits),
            texts=tuple(p if isinstance(p, str) else tokenizer.decode(p) for p in given),
            n=self.n or 1,
            sampling=self.sampling(limits, _most(most, least, limits, "max_tokens")),
            seed=self.seed,
            stop=self.stops(),
            logprobs=self.logprobs,
            echo=echo,
            stream=bool(self.stream),
            usage=bool(self.stream_options and self.stream_options.include_usage),
        )
        if self.logprobs and job.sampling.temperature > 0:
            raise Refusal(
                "logprobs=1 needs temperature=0: of the tokens of an answer the engine keeps the "
                "log-probabilities of those sampled; logprobs=0 gives them", "logprobs",
            )  # fmt: skip
        if job.echo and job.stream and self.logprobs is not None:
            raise Refusal("echo with logprobs is not streamed: leave stream out", "stream")
        return job


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)
    type: Literal["text"]
    text: str


class _Message(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)
    role: str
    content: str | list[_Part]
    name: str | None = None

    def plain(self) -> dict[str, str]:
        """As chat templates take it."""
        content = self.content
        if not isinstance(content, str):
            content = "".join(part.text for part in content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class ChatRequest(_Request):
    """Body of /v1/chat/completions."""

    messages: Annotated[list[_Message], Field(min_length=1)]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: Any = None
    tools: Any = None
    tool_choice: Any = None

    def _unsupported(self) -> tuple[str, ...]:
        plain = self.response_format in (None, {"type": "text"})
        none = self.tool_choice in (None, "none")
        return (*super()._unsupported(), "top_logprobs", "tools",
                *(() if plain else ("response_format",)),
                *(() if none else ("tool_choice",)))  # fmt: skip

    def job(self, tokenizer: Tokenizer, limits: Limits) -> Job:
        """The work it asks for, through the policy's chat template.

        Raises:
          Refusal: it cannot be answered.
        """
        _few(self.n or 1)
        try:
            text = tokenizer.render([message.plain() for message in self.messages])
        except ValueError as error:
            raise Refusal(f"{error}; /v1/completions takes raw text", "messages") from error
        _not_far_too_long(text, limits)
        name = "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"
        most = getattr(self, name)
        if most is None:
            most = limits.answer_tokens
        return Job(
            prompts=_checked([tokenizer.encode(text)], limits),
            texts=(text,),
            n=self.n or 1,
            sampling=self.sampling(limits, _most(most, 1, limits, name)),
            seed=self.seed,
            stop=self.stops(),
            logprobs=0 if self.logprobs else None,
            echo=False,
            stream=bool(self.stream),
            usage=bool(self.stream_options and self.stream_options.include_usage),
        )


def parse(kind: type[CompletionRequest] | type[ChatRequest], body: bytes, limits: Limits) -> Any:
    """A body of JSON as a request of its kind.

    Raises:
      Refusal: it is malformed, or for another model.
    """
    try:
        request = kind.model_validate_json(body)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = [_short(str(part), 60) for part in first["loc"]]
        if where[:1] == ["prompt"]:
            raise Refusal(
                "prompt: expected a text, a list of texts, a list of token ids or a list of such "
                "lists", "prompt",
            ) from error  # fmt: skip
        message = first["msg"].removeprefix("Value error, ")
        at = f"{'.'.join(where)}: " if where else ""
        raise Refusal(at + message, where[0] if where else None) from error
    if request.model != limits.model:
        raise Refusal(
            f"the model {request.model!r} is not here: this server has {limits.model!r}",
            "model", 404, "model_not_found",
        )  # fmt: skip
    return request


def _most(most: int, least: int, limits: Limits, name: str) -> int:
    if not least <= most <= limits.answer_tokens:
        raise Refusal(f"{name} is {most}: {least} to {limits.answer_tokens} are possible", name)
    return most


def _checked(prompts: Sequence[Sequence[int]], limits: Limits) -> tuple[tuple[int, ...], ...]:
    for ids in prompts:
        if not ids:
            raise Refusal("the prompt is empty", "prompt")
        if len(ids) > limits.prompt_tokens:
            raise Refusal(
                f"prompt of {len(ids)} tokens: at most {limits.prompt_tokens} fit", "prompt",
                code="context_length_exceeded",
            )  # fmt: skip
        for i in ids:
            if not 0 <= i < limits.vocab_size:
                raise Refusal(
                    f"token id {i}: the vocabulary has 0 to {limits.vocab_size - 1}", "prompt"
                )
    return tuple(tuple(ids) for ids in prompts)


def _few(count: int) -> None:
    if count > MOST_CHOICES:
        raise Refusal(f"{count} answers in one request: at most {MOST_CHOICES}", "n")


def _not_far_too_long(prompt: str | Sequence[int], limits: Limits) -> None:
    """Refuses a text that cannot fit before seconds are spent on its tokens."""
    most = max(1 << 16, 64 * limits.prompt_tokens)
    if isinstance(prompt, str) and len(prompt) > most:
        raise Refusal(
            f"prompt of {len(prompt)} characters: at most {limits.prompt_tokens} tokens fit",
            "prompt", code="context_length_exceeded",
        )  # fmt: skip
