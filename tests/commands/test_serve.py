"""The command that serves a checkpoint, and the texts that it is asked and answers."""

import os
import pathlib
import runpy
import signal
import socket
import subprocess
import sys

import grpc
import jax.numpy as jnp
import policies
import pytest
from jetstream.core.proto import jetstream_pb2_grpc
from serving import ask

from dars_jax.commands import serve
from dars_jax.data import prompts
from dars_jax.data.tokenizer import load_tokenizer
from dars_jax.engine.jetstream_engine import JetStreamTokenizer, PolicyEngine
from dars_jax.engine.programs import Programs
from dars_jax.engine.session import Request, SamplingConfig, Session
from dars_jax.engine.state import DecodeConfig
from dars_jax.engine.text import TextStream
from dars_jax.policy import sharding
from dars_jax.setup import build

REPO = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(configuration, working directory with a checkpoint, its parameters)."""
    directory = tmp_path_factory.mktemp("serve")
    config = runpy.run_path(str(REPO / "configs" / "grpo.py"))["get_config"]("")
    config.policy.path = str(policies.random(directory / "policy"))
    return config, directory / "work", policies.checkpoint(config, directory / "work", [1, 3])


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_pieces_of_a_text_add_up(size, trained):
    tokenizer = load_tokenizer(trained[0].policy.path)
    ids = tokenizer.encode("3 * 7 + 12")
    stream = TextStream(tokenizer.decode)
    pieces = [stream.add(ids[i : i + size]) for i in range(0, len(ids), size)]
    assert "".join(pieces) == tokenizer.decode(ids) == "3 * 7 + 12"
    assert all(pieces)


def test_half_a_character_waits_for_the_rest():
    stream = TextStream(lambda ids: bytes(ids).decode(errors="replace"))
    data = "aé€b".encode()
    assert [stream.add([i]) for i in data] == ["a", "", "é", "", "", "€", "b"]
    assert stream.add(b"\xe2") == "" and stream.add([], last=True) == "\ufffd"
    assert stream.add([], last=True) == ""


def test_bos_goes_in_front_of_a_text_unless_it_continues_one(trained):
    inner = load_tokenizer(trained[0].policy.path)
    tokenizer = JetStreamTokenizer(inner, 10)
    for is_bos in (True, False):
        ids, length = tokenizer.encode("3 7 = 21", is_bos=is_bos)
        want = inner.encode_prompt("3 7 = 21") if is_bos else inner.encode("3 7 = 21")
        assert ids[:length].tolist() == want and set(ids[length:].tolist()) <= {inner.pad_id}


# The command -----------------------------------------------------------------------------------


def answer_of(config, params, problem):
    """The greedy answer of rollouts."""
    plan = build.make_plan(config)
    tokenizer = load_tokenizer(config.policy.path)
    decode = DecodeConfig(
        slots=8, prefixes=1, requests=64, prompt_tokens=10, response_tokens=8,
        eos_ids=tokenizer.eos_ids, filters=False, dtype=jnp.dtype("float32"),
    )  # fmt: skip
    programs = Programs(decode, plan.model, sharding.make_mesh(1, 1, 1))
    session = Session(programs, programs.publish(params), 1)
    session.prefill([(0, 0, prompts.encode_prompt(tokenizer, problem, chat=False))])
    session.enqueue([Request(0, 0, 0, (0, 0, 0, 0, 0), 8)], SamplingConfig(0.0, max_tokens=12))
    session.start(100)
    ids, _ = session.drain(session.finish().finished)[0, 0]
    return tokenizer.decode(ids)


def test_the_command_serves_the_newest_checkpoint_until_it_is_stopped(trained):
    config, workdir, params = trained
    command = [sys.executable, "launch/serve.py", "--config", "configs/grpo.py", "--port", "0"]
    command += ["--workdir", str(workdir), "--temperature", "0", "--steps_per_dispatch", "4",
                f"--config.policy.path={config.policy.path}"]  # fmt: skip
    process = subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
                               text=True, env=dict(os.environ, PYTHONPATH=str(REPO)))  # fmt: skip
    try:
        line = process.stderr.readline()  # the first one
        assert line.startswith("serving step 3 on 127.0.0.1:")
        assert "256 slots, 4 steps per dispatch" in line
        with grpc.insecure_channel(line.split(" on ")[1].split(": ")[0]) as channel:
            stub = jetstream_pb2_grpc.OrchestratorStub(channel)
            _, said = ask(stub, "3 7 12 = 33 :", 8)
        assert said == answer_of(config, params, "3 7 12 = 33 :")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (143, "", "stopped by SIGTERM\n")
    finally:
        process.kill()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_of_either_kind_acts_at_once(trained, monkeypatch, second):
    kept = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    seen = []

    class Stopping:
        address = "here"

        def stop(self):
            seen.append(signal.getsignal(second))

    monkeypatch.setattr(serve, "_jetstream", lambda *_, **__: Stopping())
    monkeypatch.setattr(serve.saved_state, "policy", lambda *_: {})
    monkeypatch.setattr(PolicyEngine, "load_params", lambda *_: {})
    monkeypatch.setattr(serve.metrics.Console, "log",
                        lambda self, line: line.startswith("serving")
                        and os.kill(os.getpid(), signal.SIGTERM))  # fmt: skip
    try:
        code = serve.serve(trained[0], trained[1], api="jetstream", host="127.0.0.1", port=0,
                           initial=False, temperature=None, seed=0, steps=1)  # fmt: skip
    finally:
        for signum, handler in kept.items():
            signal.signal(signum, handler)
    assert code == 143 and seen == [signal.SIG_DFL]


def test_without_a_checkpoint_one_line_says_so(trained, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        serve.serve(trained[0], tmp_path, api="jetstream", host="127.0.0.1", port=0, initial=False,
                    temperature=None, seed=0, steps=1)  # fmt: skip
    (line,) = capsys.readouterr().err.splitlines()
    assert error.value.code == 2
    assert "no checkpoint" in line and "--initial" in line


def test_a_port_in_use_is_known_at_once(fresh_python, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = fresh_python("launch/serve.py", "--config", "configs/dars_b.py", "--workdir",
                            tmp_path, "--port", taken.getsockname()[1], timeout=20)  # fmt: skip
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert "--port" in line and "in use" in line
