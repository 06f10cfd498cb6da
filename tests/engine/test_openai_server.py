"""Serving to OpenAI's clients: their own package gets the tokens that direct use gives."""

# ruff: noqa: E402
import contextlib
import json
import queue
import threading
import time
import types
from concurrent import futures

import jax.numpy as jnp
import numpy as np
import pytest

openai = pytest.importorskip("openai", reason="pip install 'dars_jax[test]'")
pytest.importorskip("uvicorn", reason="pip install 'dars_jax[serve]'")
httpx = pytest.importorskip("httpx", reason="a part of openai")

from serving import Words

from dars_jax.engine.jetstream_engine import PolicyEngine
from dars_jax.engine.openai_server import OpenAIServer
from dars_jax.engine.programs import Programs
from dars_jax.engine.session import Request, SamplingConfig, Session
from dars_jax.engine.state import DecodeConfig
from dars_jax.engine.text import StopText
from dars_jax.policy import sharding

EOS = (0, 7)
LIMIT, PROMPT = 30, 12  # short enough for one length of the caches
GREEDY = SamplingConfig(0.0, max_tokens=LIMIT)
PROMPTS = [np.random.default_rng(i).integers(10, 61, 1 + i % 8).tolist() for i in range(16)]


class Sentences(Words):
    """Each id with a space behind it, so that texts can be cut anywhere; and chats."""

    def decode(self, ids):
        return "".join(f"{i} " for i in ids)

    def render(self, messages):
        if messages[0]["role"] == "tool":
            raise ValueError("no tools here")
        return " ".join(m["content"] for m in messages)


WORDS = Sentences(EOS)


@pytest.fixture(scope="module")
def programs(tiny):
    """An engine's programs with two slots, and the published parameters."""
    config = DecodeConfig(slots=2, prefixes=16, requests=64, prompt_tokens=PROMPT,
                          response_tokens=LIMIT, eos_ids=EOS, filters=True,
                          dtype=jnp.dtype("float32"))  # fmt: skip
    made = Programs(config, tiny.config, sharding.make_mesh(1, 1, 1))
    engine = PolicyEngine(made, WORDS, GREEDY, steps_per_dispatch=4)
    return types.SimpleNamespace(programs=made, params=made.publish(tiny.params), engine=engine)


@pytest.fixture(scope="module")
def direct(programs):
    """(ids less their EOS, log-probs) that rollouts give to (prompt, stream)."""

    def sample(requests, sampling):
        session = Session(programs.programs, programs.params, 16)
        session.prefill([(0, i, np.array(p, np.int32)) for i, (p, _) in enumerate(requests)])
        session.enqueue([Request(0, i, i, stream, sampling.max_tokens)
                         for i, (_, stream) in enumerate(requests)], sampling)  # fmt: skip
        whole = []
        while len(whole) < len(requests):
            session.start(1000)
            whole += session.finish().finished
        answers = session.drain(whole)
        kept = []
        for i in range(len(requests)):
            ids, logprobs = (a.tolist() for a in answers[0, i])
            n = len(ids) - (ids[-1] in EOS)
            kept.append((ids[:n], logprobs[:n]))
        return kept

    return sample


@contextlib.contextmanager
def serving(programs):
    """A running server and its client; `failures` must be empty at the end."""
    engine, failures = programs.engine, queue.SimpleQueue()
    server = OpenAIServer(engine, programs.params, WORDS, "tiny", host="127.0.0.1", port=0,
                          failed=failures.put)  # fmt: skip
    url = f"http://{server.address}/v1"
    try:
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
            yield types.SimpleNamespace(server=server, client=client, url=url, engine=engine)
    finally:
        server.stop(grace=0)
    assert failures.empty(), failures.get()


@pytest.fixture(scope="module")
def served(programs):
    """One server for most tests."""
    with serving(programs) as s:
        yield s


def complete(s, prompt, **fields):
    return s.client.completions.create(model="tiny", prompt=prompt, **fields)


def words(ids):
    return WORDS.decode(ids)


def test_many_clients_at_once_get_the_answers_of_direct_use(served, direct):
    want = direct([(p, (0,) * 5) for p in PROMPTS], SamplingConfig(0.0, max_tokens=20))
    assert len({len(ids) for ids, _ in want}) > 3  # some end at an EOS
    with futures.ThreadPoolExecutor(16) as clients:
        got = list(clients.map(
            lambda p: complete(served, p, max_tokens=20, temperature=0), PROMPTS))  # fmt: skip
    assert [r.choices[0].text for r in got] == [words(ids) for ids, _ in want]
    assert [r.choices[0].finish_reason for r in got] == [
        "length" if len(ids) == 20 else "stop" for ids, _ in want
    ]
    assert [r.usage.completion_tokens for r in got] == [len(ids) for ids, _ in want]


@pytest.mark.parametrize("as_text", [False, True])
def test_several_prompts_of_one_request_keep_their_order(served, direct, as_text):
    want = direct([(p, (0,) * 5) for p in PROMPTS[:5]], SamplingConfig(0.0, max_tokens=9))
    prompts = [words(p) for p in PROMPTS[:5]] if as_text else PROMPTS[:5]
    got = complete(served, prompts, max_tokens=9).choices
    assert [c.index for c in got] == list(range(5))
    assert [c.text for c in got] == [words(ids) for ids, _ in want]


def test_a_seed_has_n_streams_of_its_own(served, direct):
    sampling = SamplingConfig(1.0, max_tokens=9)
    want = direct([(PROMPTS[3], (7, -3, 0, 0, i)) for i in range(4)], sampling)
    assert len({tuple(ids) for ids, _ in want}) == 4
    for _ in range(2):  # whatever was asked before
        got = complete(served, PROMPTS[3], max_tokens=9, temperature=1, n=4, seed=7, logprobs=0)
        assert [c.text for c in got.choices] == [words(ids) for ids, _ in want]
        for choice, (ids, logprobs) in zip(got.choices, want, strict=True):
            assert choice.logprobs.token_logprobs == pytest.approx(logprobs, abs=1e-5)
            assert choice.logprobs.tokens == [words([i]) for i in ids]


def test_sampling_is_that_of_the_request(served, direct):
    ask = dict(max_tokens=12, seed=3, temperature=2.0)
    stream = (3, -3, 0, 0, 0)
    narrow = SamplingConfig(2.0, top_p=0.5, top_k=3, max_tokens=12)
    for sampling, more in (
        (SamplingConfig(2.0, max_tokens=12), {}),
        (narrow, dict(top_p=0.5, extra_body={"top_k": 3})),
    ):
        ((ids, _),) = direct([(PROMPTS[5], stream)], sampling)
        assert complete(served, PROMPTS[5], **ask, **more).choices[0].text == words(ids)
    assert direct([(PROMPTS[5], stream)], narrow) != direct(
        [(PROMPTS[5], stream)], SamplingConfig(2.0, max_tokens=12)
    )


def test_the_chunks_of_a_stream_add_up(served, direct):
    ((ids, logprobs),) = direct([(PROMPTS[3], (0,) * 5)], SamplingConfig(0.0, max_tokens=20))
    *parts, last = complete(served, PROMPTS[3], max_tokens=20, stream=True, logprobs=0,
                            stream_options={"include_usage": True})  # fmt: skip
    assert len(parts) == 5  # of 4 tokens
    assert "".join(c.choices[0].text for c in parts) == words(ids)
    got = [x for c in parts for x in c.choices[0].logprobs.token_logprobs]
    assert got == pytest.approx(logprobs, abs=1e-5)
    assert [c.choices[0].finish_reason for c in parts] == [None] * (len(parts) - 1) + ["length"]
    assert not last.choices and last.usage.completion_tokens == len(ids)


def test_a_chat_is_answered_through_the_template_streamed_or_not(served, direct):
    ((ids, _),) = direct([(PROMPTS[3] + [20, 21], (0,) * 5)], SamplingConfig(0.0, max_tokens=9))
    messages = [{"role": "system", "content": words(PROMPTS[3])},
                {"role": "user", "content": [{"type": "text", "text": "20 21"}]}]  # fmt: skip
    ask = dict(model="tiny", messages=messages, max_completion_tokens=9)
    whole = served.client.chat.completions.create(**ask, logprobs=True)
    (choice,) = whole.choices
    assert choice.message.content == words(ids) and choice.message.role == "assistant"
    assert [t.token for t in choice.logprobs.content] == [words([i]) for i in ids]
    chunks = list(served.client.chat.completions.create(**ask, stream=True))
    assert "".join(c.choices[0].delta.content for c in chunks) == words(ids)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == choice.finish_reason


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_sequence_ends_the_answer_before_itself(served, direct, stream):
    ((ids, _),) = direct([(PROMPTS[3], (0,) * 5)], GREEDY)
    stop = words(ids[9:11])
    want = words(ids)[: words(ids).index(stop)]
    got = complete(served, PROMPTS[3], max_tokens=LIMIT, stop=[stop, "never"], stream=stream)
    choices = [r.choices[0] for r in (got if stream else [got])]
    assert "".join(c.text for c in choices) == want and choices[-1].finish_reason == "stop"


def test_a_stop_sequence_in_pieces_is_not_shown():
    stop = StopText(["</a>", "aab"])
    assert [stop.add(p) for p in ("x<", "/", "b", "a", "a", "ab", "y")] == [
        "x", "", "</b", "", "", "a", ""
    ]  # fmt: skip
    assert stop.stopped
    open_end = StopText(["ab"])
    assert open_end.add("a") == "" and open_end.add("", last=True) == "a"


def test_an_echoed_prompt_is_scored(served, reference_logits, tiny):
    prompts = [PROMPTS[7], PROMPTS[15]]  # of one length
    got = complete(served, prompts, max_tokens=1, temperature=0, echo=True, logprobs=1)
    for prompt, choice in zip(prompts, got.choices, strict=True):
        logits = np.asarray(reference_logits(tiny.params, tiny.config, prompt), np.float64)
        table = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        rows = choice.logprobs
        assert choice.text.startswith(words(prompt))
        assert rows.tokens[: len(prompt)] == [words([i]) for i in prompt]
        assert len(rows.tokens) == len(prompt) + 1 and rows.token_logprobs[0] is None
        for at in range(1, len(prompt)):
            assert rows.token_logprobs[at] == pytest.approx(table[at - 1, prompt[at]], abs=1e-4)
            best = int(table[at - 1].argmax())
            top = rows.top_logprobs[at][words([best])]
            assert top == pytest.approx(table[at - 1, best], abs=1e-4)
        text = choice.text
        pieces = [text[a:b] for a, b in zip(rows.text_offset, [*rows.text_offset[1:], None],
                                            strict=True)]  # fmt: skip
        assert pieces == rows.tokens
    nothing = complete(served, PROMPTS[7], max_tokens=0, echo=True)
    assert nothing.choices[0].text == words(PROMPTS[7])


def test_the_server_says_which_model_it_has(served):
    assert [m.id for m in served.client.models.list()] == ["tiny"]
    assert served.client.models.retrieve("tiny").owned_by == "dars_jax"


@pytest.mark.parametrize(
    ("fields", "status", "what"),
    [
        (dict(model="gpt-4"), 404, "'gpt-4' is not here"),
        (dict(prompt=[]), 400, "the prompt is empty"),
        (dict(prompt=""), 400, "the prompt is empty"),
        (dict(prompt=[10] * 13), 400, "13 tokens: at most 12"),
        (dict(prompt=[61]), 400, "token id 61"),
        (dict(prompt=[-1]), 400, "token id -1"),
        (dict(prompt={"a": 1}), 400, "prompt: expected"),
        (dict(max_tokens=0), 400, "max_tokens is 0: 1 to 30"),
        (dict(max_tokens=31), 400, "max_tokens is 31: 1 to 30"),
        (dict(max_tokens="9"), 400, "max_tokens"),
        (dict(temperature=-1), 400, "temperature"),
        (dict(temperature=1e-9), 400, "0 is greedy"),
        (dict(top_p=0), 400, "top_p"),
        (dict(n=0), 400, "n:"),
        (dict(n=1024, prompt=[[10], [11]]), 400, "2048 answers"),
        (dict(logprobs=5), 400, "logprobs"),
        (dict(logprobs=1, temperature=1), 400, "logprobs=1 needs temperature=0"),
        (dict(echo=True, logprobs=0, stream=True), 400, "not streamed"),
        (dict(frequency_penalty=1.0), 400, "frequency_penalty is not supported"),
        (dict(best_of=3), 400, "best_of is not supported"),
        (dict(suffix="x"), 400, "suffix is not supported"),
        (dict(extra_body={"min_p": 0.1}), 400, "min_p"),
    ],
    ids=str,
)
def test_a_bad_request_is_an_error_in_openais_shape(served, fields, status, what):
    with pytest.raises(openai.APIStatusError) as error:
        served.client.completions.create(**(dict(model="tiny", prompt=[10]) | fields))
    assert error.value.status_code == status and what in error.value.body["message"]
    assert error.value.body["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        (dict(messages=[]), "messages"),
        (dict(messages=[{"role": "tool", "content": "1"}]), "/v1/completions takes raw text"),
        (dict(messages=[{"role": "user", "content": "1"}], tools=[{}]), "tools"),
    ],
    ids=str,
)
def test_a_bad_chat_is_refused(served, fields, what):
    with pytest.raises(openai.BadRequestError, match=what):
        served.client.chat.completions.create(model="tiny", extra_body=fields, messages=[])


def test_what_is_no_request_at_all_has_the_same_shape(served):
    for method, path, body, status in (
        ("POST", "/completions", b"{", 400), ("POST", "/completions", b"[1]", 400),
        ("GET", "/completions", b"", 405), ("GET", "/nothing", b"", 404),
        ("POST", "/completions", b" " * (9 << 20), 413),
    ):  # fmt: skip
        got = httpx.request(method, served.url + path, content=body)
        assert got.status_code == status
        assert got.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_slots(served, direct, monkeypatch, stream):
    ((ids, _),) = direct([(PROMPTS[3], (0,) * 5)], GREEDY)
    assert len(ids) == LIMIT  # 8 dispatches
    driver, slots = served.server._driver, served.engine.max_concurrent_decodes
    whole, steps = served.engine._generate, []
    monkeypatch.setattr(
        served.engine, "_generate", lambda *a: steps.append(time.sleep(0.02)) or whole(*a)
    )
    body = dict(model="tiny", prompt=PROMPTS[3], max_tokens=LIMIT, n=40, stream=stream)
    with (
        contextlib.suppress(httpx.ReadTimeout),
        httpx.stream("POST", served.url + "/completions", json=body, timeout=0.2) as answer,
    ):
        next(answer.iter_lines())
    until = time.monotonic() + 20
    while driver._generate_slots[0].qsize() < slots or not driver._prefill_backlog.empty():
        assert time.monotonic() < until
        time.sleep(0.01)
    assert len(steps) < 80  # whole, 40 answers in 2 slots take 160; 40 that end at once 20 to 40
    assert complete(served, PROMPTS[3], max_tokens=3).choices[0].text == words(ids[:3])


def test_the_engine_does_not_leave_the_event_loop_behind(served, monkeypatch):
    whole, steps, counts = served.engine._generate, [], []
    monkeypatch.setattr(served.engine, "_generate", lambda *a: steps.append(1) or whole(*a))

    def block():
        time.sleep(0.1)
        counts.append(len(steps))
        time.sleep(1)
        counts.append(len(steps))

    body = dict(model="tiny", prompt=PROMPTS[3], max_tokens=LIMIT, n=40)  # 160 dispatches
    with futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, served.url + "/completions", json=body, timeout=60)
        while len(steps) < 4:
            assert not asked.done()
            time.sleep(0.001)
        served.server._loop.call_soon_threadsafe(block)
        assert len(asked.result().json()["choices"]) == 40
    # JetStream lets the engine be eight dispatches ahead; all of them take less than a second
    assert counts[1] - counts[0] <= 9 and len(steps) - counts[1] > 20


def test_an_engine_that_fails_is_reported_and_can_be_stopped(programs, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(programs.engine, "insert", broken)
    failures = queue.SimpleQueue()
    server = OpenAIServer(programs.engine, programs.params, WORDS, "tiny", host="127.0.0.1",
                          port=0, failed=failures.put)  # fmt: skip
    url = f"http://{server.address}/v1/completions"
    with futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(httpx.post, url, json=dict(model="tiny", prompt=[10]), timeout=30)
        assert "out of memory" in str(failures.get(timeout=30))
        assert httpx.post(url, json=dict(model="tiny", prompt=[10])).status_code == 503
        server.stop()
        with pytest.raises(httpx.HTTPError):
            waiting.result().raise_for_status()


def test_answers_in_work_end_before_the_server_does_and_no_thread_stays(programs, direct):
    ((ids, _),) = direct([(PROMPTS[3], (0,) * 5)], GREEDY)
    before = set(threading.enumerate())
    with serving(programs) as s:
        stream = complete(s, PROMPTS[3], max_tokens=LIMIT, stream=True)
        first = next(stream)
        s.server.stop(grace=30)
        rest = [first, *stream]
        assert "".join(c.choices[0].text for c in rest) == words(ids)
        with pytest.raises(openai.APIConnectionError):
            complete(s, PROMPTS[3])
        s.server.stop = lambda grace: None
    assert not [t for t in threading.enumerate() if t not in before]


def test_a_second_server_does_not_share_the_port(programs, served):
    port = int(served.server.address.split(":")[1])
    with pytest.raises(OSError):
        OpenAIServer(None, None, None, "", host="127.0.0.1", port=port, failed=print)


def test_events_are_json_lines_that_end_with_done(served):
    body = dict(model="tiny", prompt=[10], max_tokens=5, stream=True)
    text = httpx.post(served.url + "/completions", json=body).text
    events = [e.removeprefix("data: ") for e in text.split("\n\n") if e]
    assert events[-1] == "[DONE]"
    assert all(json.loads(e)["object"] == "text_completion" for e in events[:-1])
