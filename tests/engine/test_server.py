"""Serving: JetStream's Driver and gRPC service give the tokens that direct use gives."""

import contextlib
import logging
import queue
import socket
import threading
import time
import types
from concurrent import futures

import grpc
import jax.numpy as jnp
import numpy as np
import pytest
from jetstream.core.proto import jetstream_pb2, jetstream_pb2_grpc
from serving import Words, ask, request_of

from dars_jax.engine import server as server_module
from dars_jax.engine.jetstream_engine import PolicyEngine, PolicyTokens
from dars_jax.engine.programs import Programs
from dars_jax.engine.server import Server
from dars_jax.engine.session import NonFiniteError, Request, SamplingConfig, Session
from dars_jax.engine.state import DecodeConfig
from dars_jax.policy import sharding

EOS = tuple(range(8))
LIMIT = 12
WORDS = Words(EOS)  # its padding can be sampled
GREEDY, SAMPLED = SamplingConfig(0.0, max_tokens=LIMIT), SamplingConfig(1.0, max_tokens=LIMIT)
PROMPTS = [np.random.default_rng(i).integers(10, 61, 1 + i % 8).astype(np.int32) for i in range(16)]


@pytest.fixture(scope="module")
def programs(tiny):
    """An engine's programs with three slots, and the published parameters."""
    config = DecodeConfig(slots=3, prefixes=16, requests=64, prompt_tokens=8,
                          response_tokens=LIMIT, eos_ids=EOS, filters=False,
                          dtype=jnp.dtype("float32"))  # fmt: skip
    made = Programs(config, tiny.config, sharding.make_mesh(1, 1, 1))
    return types.SimpleNamespace(programs=made, params=made.publish(tiny.params))


@pytest.fixture(scope="module")
def direct(programs):
    """The answers that rollouts give to (prompt, number of the request), less their EOS."""

    def sample(requests, sampling, seed=0):
        session = Session(programs.programs, programs.params, 16)
        session.prefill([(0, i, prompt) for i, (prompt, _) in enumerate(requests)])
        session.enqueue([Request(0, i, i, (seed, -2, 0, number, 0), LIMIT)
                         for i, (_, number) in enumerate(requests)], sampling)  # fmt: skip
        whole = []
        while len(whole) < len(requests):
            session.start(100)
            whole += session.finish().finished
        answers = session.drain(whole)
        return [[int(t) for t in answers[0, i][0] if t not in EOS] for i in range(len(requests))]

    return sample


@contextlib.contextmanager
def serving_of(programs, sampling=SAMPLED, k=1, seed=0):
    """A running server -> its stub and itself; `failures` must be empty at the end."""
    engine = PolicyEngine(programs.programs, WORDS, sampling, steps_per_dispatch=k, seed=seed)
    failures = queue.SimpleQueue()
    server = Server(engine, programs.params, WORDS.encode_prompt, WORDS.decode,
                            host="127.0.0.1", port=0, failed=failures.put)  # fmt: skip
    try:
        with grpc.insecure_channel(server.address) as channel:
            stub = jetstream_pb2_grpc.OrchestratorStub(channel)
            yield types.SimpleNamespace(stub=stub, server=server, failures=failures)
    finally:
        server.stop(grace=0)
    assert failures.empty(), failures.get()


def code_of(stub, *arguments, **fields):
    with pytest.raises(grpc.RpcError) as error:
        ask(stub, *arguments, **fields)
    return error.value.code(), error.value.details()


@pytest.mark.parametrize("k", [1, 4])
def test_more_clients_than_slots_get_the_answers_of_direct_use(programs, direct, k):
    want = direct([(prompt, 0) for prompt in PROMPTS], GREEDY)
    assert len({tuple(x) for x in want}) > 8 and {len(x) for x in want} > {LIMIT}
    with serving_of(programs, GREEDY, k) as s, futures.ThreadPoolExecutor(16) as clients:
        got = list(clients.map(lambda prompt: ask(s.stub, prompt)[0], PROMPTS))
    assert got == want


@pytest.mark.parametrize("k", [1, 4])
def test_the_nth_request_has_the_nth_random_stream(programs, direct, k):
    want = direct([(prompt, n) for n, prompt in enumerate(PROMPTS)], SAMPLED, seed=5)
    assert any(WORDS.pad_id in x[:-1] for x in want)  # padding does not end an answer
    assert [] in want  # an EOS at once
    with serving_of(programs, SAMPLED, k, seed=5) as s:
        assert [ask(s.stub, prompt)[0] for prompt in PROMPTS] == want


def test_at_once_they_have_these_streams_in_the_order_of_arrival(programs, direct):
    prompt = PROMPTS[5]
    want = direct([(prompt, n) for n in range(12)], SAMPLED)
    with serving_of(programs, SAMPLED, 4) as s, futures.ThreadPoolExecutor(12) as clients:
        got = list(clients.map(lambda _: ask(s.stub, prompt)[0], range(12)))
    assert sorted(got) == sorted(want)


@pytest.mark.parametrize("k", [1, 4])
def test_a_client_gets_the_tokens_it_asked_for_and_no_more(programs, direct, k):
    (whole,) = direct([(PROMPTS[3], 0)], GREEDY)
    assert len(whole) > 6
    with serving_of(programs, GREEDY, k) as s:
        for most in range(1, 7):
            assert ask(s.stub, PROMPTS[3], most)[0] == whole[:most]


def test_a_text_prompt_is_answered_with_text_and_ids(programs, direct):
    (whole,) = direct([(PROMPTS[3], 0)], GREEDY)
    with serving_of(programs, GREEDY, 1) as s:
        assert ask(s.stub, WORDS.decode(PROMPTS[3])) == (whole, WORDS.decode(whole))
        assert ask(s.stub, PROMPTS[3]) == (whole, "")


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ((None,), "empty"),
        (([],), "empty"),
        (("",), "empty"),
        (([10] * 9,), "9 tokens: at most 8"),
        ((" 10" * 9,), "9 tokens: at most 8"),
        (([10, 61],), "token id 61"),
        (([10, -1],), "token id -1"),
        (([10], 0), "max_tokens is 0: 1 to 12"),
        (([10], LIMIT + 1), "max_tokens is 13: 1 to 12"),
        (("ten",), "ten"),
    ],
    ids=str,
)
def test_a_bad_request_is_an_error_of_its_client_alone(served, request_, words):
    good = served.stub.Decode(request_of(PROMPTS[3]))
    code, details = code_of(served.stub, *request_)
    assert code == grpc.StatusCode.INVALID_ARGUMENT and words in details
    assert list(good)
    assert ask(served.stub, PROMPTS[3])[0] == served.want


@pytest.fixture(scope="module")
def served(programs, direct):
    """One server for all bad requests, and its answer to a good one."""
    with serving_of(programs, GREEDY, 4) as s:
        s.want = direct([(PROMPTS[3], 0)], GREEDY)[0]
        yield s


def test_a_session_cache_is_refused(served):
    code, details = code_of(served.stub, [10], session_cache="x")
    assert code == grpc.StatusCode.INVALID_ARGUMENT and "session_cache" in details


def test_it_says_that_it_lives(served):
    assert served.stub.HealthCheck(jetstream_pb2.HealthCheckRequest()).is_live


def test_a_client_that_goes_away_leaves_its_slot(served):
    for _ in range(5):
        call = served.stub.Decode(request_of(PROMPTS[3]))
        next(call)
        call.cancel()
    assert ask(served.stub, PROMPTS[3])[0] == served.want


def test_who_goes_away_before_its_turn_costs_no_prefill_but_keeps_its_number(
    programs, direct, monkeypatch
):
    (want,) = direct([(PROMPTS[3], 7)], SAMPLED, seed=5)
    first, gate, prefilled = PolicyEngine.prefill, threading.Event(), []

    def slow(self, **arguments):
        prefilled.append(arguments["true_length"])
        assert gate.wait(30)
        return first(self, **arguments)

    monkeypatch.setattr(PolicyEngine, "prefill", slow)
    with serving_of(programs, SAMPLED, seed=5) as s:
        calls = [s.stub.Decode(request_of(PROMPTS[3])) for _ in range(7)]
        backlog = s.server._driver._prefill_backlog
        eventually(lambda: prefilled and backlog.qsize() == 6)
        for call in calls:
            call.cancel()
        eventually(lambda: all(r.return_channel.cancelled() for r in list(backlog.queue)))
        gate.set()
        assert ask(s.stub, PROMPTS[3])[0] == want
    assert len(prefilled) == 2


def eventually(true):
    until = time.monotonic() + 20
    while not true():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_a_full_queue_is_an_error_of_the_next_client_alone(programs, direct, monkeypatch):
    (want,) = direct([(PROMPTS[3], 0)], GREEDY)
    first, gate = PolicyEngine.prefill, threading.Event()
    monkeypatch.setattr(PolicyEngine, "prefill",
                        lambda self, **a: gate.wait(30) and first(self, **a))  # fmt: skip
    with serving_of(programs, GREEDY) as s:
        backlog = s.server._driver._prefill_backlog
        assert backlog.maxsize > 1000
        backlog.maxsize = 2
        one = s.stub.Decode(request_of(PROMPTS[3]))
        eventually(lambda: backlog.empty() and backlog.unfinished_tasks)  # at its prefill
        others = [s.stub.Decode(request_of(PROMPTS[3])) for _ in range(2)]
        eventually(backlog.full)
        assert code_of(s.stub, PROMPTS[3])[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
        gate.set()
        for call in (one, *others):
            got = [i for r in call for i in r.stream_content.samples[0].token_ids]
            assert got == want


def test_noise_is_an_error_of_its_client_and_no_traceback(served, caplog):
    with grpc.insecure_channel(served.server.address) as channel:
        noise = channel.unary_stream("/jetstream_proto.Orchestrator/Decode")
        for data in (
            b"\xff" * 9,
            request_of("aaaa").SerializeToString().replace(b"aa", b"\xff\xfe"),
        ):
            with pytest.raises(grpc.RpcError) as error:
                list(noise(data, timeout=20))
            assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert not caplog.records


def test_a_message_that_is_far_too_long_is_not_taken_in(served):
    code, details = code_of(served.stub, " 10" * 30_000)
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details
    assert ask(served.stub, PROMPTS[3])[0] == served.want


def test_who_says_half_a_hello_is_cut(programs, monkeypatch):
    monkeypatch.setattr(server_module, "SECONDS", 1)
    with serving_of(programs, GREEDY) as s:
        host, port = s.server.address.split(":")
        with socket.create_connection((host, int(port)), timeout=20) as half:
            half.sendall(b"PRI * HT")
            while half.recv(1 << 16):
                pass


def test_a_last_answer_that_ends_while_the_driver_looks_away_kills_nothing(
    programs, direct, monkeypatch
):
    (want,) = direct([(PROMPTS[3], 0)], GREEDY)
    starts = queue.SimpleQueue()
    first = PolicyEngine.init_decode_state
    monkeypatch.setattr(PolicyEngine, "init_decode_state",
                        lambda self: starts.put(1) or first(self))  # fmt: skip
    with serving_of(programs, GREEDY, 4) as s:
        starts.get(timeout=30)
        driver = s.server._driver
        backlog, slots = driver._generate_backlogs[0], driver._generate_slots[0]
        get = backlog.get

        def slow(block=True, timeout=None):
            until = time.monotonic() + 0.3
            while not block and slots.qsize() < 2 and time.monotonic() < until:
                time.sleep(0.01)
            return get(block, timeout)

        backlog.get = slow
        for _ in range(2):
            assert ask(s.stub, PROMPTS[3])[0] == want
            starts.get(timeout=30)  # it happened, and the driver started over


def test_an_engine_that_fails_is_reported_and_can_be_stopped(programs, monkeypatch):
    def broken(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(PolicyEngine, "insert", broken)
    with contextlib.suppress(AssertionError), serving_of(programs) as s:
        call = s.stub.Decode(request_of(PROMPTS[3]))
        error = s.failures.get(timeout=30)
        assert "out of memory" in str(error)
        s.server.stop()
        with pytest.raises(grpc.RpcError):
            list(call)
        s.server.stop = lambda grace: None


def test_a_stopped_server_leaves_no_thread(programs):
    before = set(threading.enumerate())
    with serving_of(programs, GREEDY, 4) as s:
        calls = [s.stub.Decode(request_of(prompt)) for prompt in PROMPTS]
        next(calls[0])
        assert set(threading.enumerate()) > before
    left = [t for t in threading.enumerate() if t not in before and "poll" not in t.name]
    assert not left


def test_answers_in_work_end_before_the_server_does(programs, direct):
    (want,) = direct([(PROMPTS[3], 0)], GREEDY)
    with serving_of(programs, GREEDY, 1) as s:
        call = s.stub.Decode(request_of(PROMPTS[3]))
        first = next(call)
        s.server.stop(grace=30)
        rest = [first, *call]
        assert [i for r in rest for i in r.stream_content.samples[0].token_ids] == want
        s.server.stop = lambda grace: None


def test_two_servers_do_not_share_a_port(programs):
    engine = PolicyEngine(programs.programs, WORDS, GREEDY)
    with serving_of(programs) as s, pytest.raises(OSError, match="cannot listen"):
        Server(engine, None, None, None, host="127.0.0.1",
                       port=int(s.server.address.split(":")[1]), failed=print)  # fmt: skip


def test_the_root_logger_is_left_alone():
    root = logging.getLogger()
    assert root.level != logging.DEBUG  # JetStream sets it, and adds a handler of this format
    assert not [h for h in root.handlers if h.formatter and "asctime" in h.formatter._fmt[:12]]


# What JetStream's versions say ------------------------------------------------------------------


def test_the_arguments_of_both_jetstreams_are_taken(programs):
    engine = PolicyEngine(programs.programs, WORDS, GREEDY)
    params, tokens = programs.params, jnp.asarray(PROMPTS[3])
    old = engine.prefill(params=params, existing_prefix=None, padded_tokens=tokens, true_length=4)
    new = engine.prefill(params=params, padded_tokens=tokens, true_length=4, sampler=None,
                         rng=None, request_id="x")  # fmt: skip
    assert old.token == new.token
    state = engine.insert(new, engine.init_decode_state(), slot=0, request_id="x")
    state, result = engine.generate(params, state, sampler=None, rng=None)
    assert engine.free_resource(slot=0) is None
    assert result.convert_to_numpy().data[0, 0] == int(new.token[0])
    with pytest.raises(ValueError, match="sampler is not supported"):
        engine.generate(params, state, sampler=max)
    with pytest.raises(TypeError, match="'speed'"):
        engine.prefill(params=params, padded_tokens=tokens, true_length=4, speed=1)


def test_a_log_prob_that_is_not_finite_reaches_nobody():
    logprob = np.array([[-0.5, -1.0], [-0.25, np.nan]], np.float32)

    def tokens_with(valid):
        columns = [np.ones((2, 2), np.int32), np.array(valid, np.int32), np.ones((2, 1), np.int32)]
        data = np.concatenate([*columns, logprob.view(np.int32)], axis=1)
        return PolicyTokens(data=data, tokens_idx=(0, 2), valid_idx=(2, 4), length_idx=(4, 5),
                            samples_per_slot=1, logprob_idx=(5, 7))  # fmt: skip

    kept = tokens_with([[1, 1], [1, 0]]).convert_to_numpy()
    np.testing.assert_array_equal(kept.logprobs(0), logprob[0])
    with pytest.raises(NonFiniteError, match="the prompt in slot 1 are not finite"):
        tokens_with([[1, 1], [1, 1]]).convert_to_numpy()
