"""Serving as a command: from a configuration and a checkpoint to a running server."""

import dataclasses
import functools
import queue
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from dars_jax.commands import cli, startup
from dars_jax.config import ConfigDict
from dars_jax.data import prompts
from dars_jax.data.tokenizer import Tokenizer, load_tokenizer
from dars_jax.engine.jetstream_engine import PolicyEngine
from dars_jax.engine.programs import Programs
from dars_jax.engine.server import Server
from dars_jax.engine.session import NonFiniteError
from dars_jax.engine.state import DecodeConfig
from dars_jax.policy import sharding
from dars_jax.records import metrics
from dars_jax.setup import build, saved_state
from dars_jax.setup.plan import Plan


def serve(
    config: ConfigDict,
    workdir: Path,
    *,
    api: str,
    host: str,
    port: int,
    initial: bool,
    temperature: float | None,
    seed: int,
    steps: int,
) -> int:
    """Serves the newest checkpoint until SIGINT, SIGTERM or a failure; returns the exit code.

    Args:
      api: "jetstream" or "openai".
      initial: serve the initial policy instead.
      temperature: None is that of the rollouts.
      seed: of the sampling.
      steps: decode steps per dispatch.
    """
    startup.settle()
    make_server = _jetstream if api == "jetstream" else _openai()
    console = metrics.Console(0)
    with cli.one_line_errors():
        config = startup.pinned(config, workdir)
        plan = build.make_plan(config)
        step = None if initial else saved_state.newest(workdir)
        if step is None and not initial:
            raise ValueError(
                f"no checkpoint in {workdir}/checkpoints: is this the run's --workdir? "
                "--initial serves the policy that training starts from"
            )
        mesh = sharding.make_mesh(*plan.mesh_shape)
        source = build.policy_directory(plan, console.log)
        tokenizer = load_tokenizer(source)
        build.check_tokenizer(plan, tokenizer, source, console.log)
        engine = _make_engine(plan, mesh, tokenizer, temperature, seed, steps, api == "openai")
        params = engine.load_params(saved_state.policy(plan, workdir, config, step, source, mesh))
        # a signal handler may put into it at any moment
        ended: queue.SimpleQueue[int | Exception] = queue.SimpleQueue()
        server = make_server(plan, engine, params, tokenizer, workdir.resolve().name,
                             host=host, port=port, failed=ended.put)  # fmt: skip

    signals = (signal.SIGINT, signal.SIGTERM)

    def stop(signum: int, _: Any) -> None:
        for either in signals:
            signal.signal(either, signal.SIG_DFL)  # a second one acts at once
        ended.put(signum)

    for signum in signals:
        signal.signal(signum, stop)
    console.log(
        f"serving {'the initial policy' if step is None else f'step {step}'} on {server.address}: "
        f"{engine.max_concurrent_decodes} slots, {steps} steps per dispatch, prompts up to "
        f"{engine.max_prefill_length} tokens, answers up to {engine.max_answer_length}"
    )
    end = ended.get()
    server.stop()
    if isinstance(end, NonFiniteError):
        cli.fail(str(end), cli.EXIT_POLICY)
    if isinstance(end, Exception):
        cli.fail(f"the engine failed: {type(end).__name__}: {end}", 1)
    console.log(f"stopped by {signal.Signals(end).name}")
    return 128 + end


def _jetstream(
    plan: Plan, engine: PolicyEngine, params: Any, tokenizer: Tokenizer, _: str, **where: Any
) -> Server:
    c = plan.config.data
    encode = functools.partial(
        prompts.encode_prompt, tokenizer, chat=c.chat, system_prompt=c.system_prompt
    )
    return Server(engine, params, encode, tokenizer.decode, **where)


def _openai() -> Callable[..., Any]:
    """Makes the server of that interface; its packages are an extra."""
    try:
        from dars_jax.engine.openai_server import OpenAIServer
    except ModuleNotFoundError as error:
        if (error.name or "dars_jax").startswith("dars_jax"):
            raise
        cli.fail(f"--api openai needs the package {error.name}: pip install 'dars_jax[serve]'")
    return lambda plan, *arguments, **where: OpenAIServer(*arguments, **where)


def _make_engine(
    plan: Plan,
    mesh: jax.sharding.Mesh,
    tokenizer: Tokenizer,
    temperature: float | None,
    seed: int,
    steps: int,
    filters: bool,
) -> PolicyEngine:
    c, sampling = plan.config, plan.rollout.sampling
    if temperature is not None:
        sampling = dataclasses.replace(sampling, temperature=temperature)
    decode_config = DecodeConfig(
        slots=plan.slots, prefixes=1, requests=1, prompt_tokens=c.data.max_prompt_tokens,
        response_tokens=c.rollout.max_tokens, eos_ids=tuple(tokenizer.eos_ids),
        filters=filters or sampling.top_k > 0 or sampling.top_p < 1,
        dtype=jnp.dtype(c.policy.dtype),
    )  # fmt: skip
    programs = Programs(decode_config, plan.model, mesh)
    return PolicyEngine(programs, tokenizer, sampling, steps_per_dispatch=steps, seed=seed)
