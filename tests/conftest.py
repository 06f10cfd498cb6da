"""What the tests share: CPU backend, one cache for a session, small policies, fresh processes."""

import json
import os
import pathlib
import subprocess
import sys
import types

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import hypothesis
import pytest

REPO = pathlib.Path(__file__).resolve().parent.parent

hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, max_examples=40)
hypothesis.settings.load_profile("suite")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """DARS_JAX_CACHE of this session and of the processes it starts; set it to keep one for good.

    The embedded policy is trained once in it, and a program is compiled once for all processes.
    """
    path = pathlib.Path(os.environ.get("DARS_JAX_CACHE") or tmp_path_factory.mktemp("cache"))
    os.environ["DARS_JAX_CACHE"] = str(path)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(path / "compiled")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    import jax

    jax.config.update("jax_compilation_cache_dir", str(path / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    return path


@pytest.fixture(scope="session")
def fresh_python():
    """Runs python with arguments in a process of its own -> CompletedProcess with text output.

    `devices` > 1 simulates as many.  XLA's CPU collectives need a thread per device or they wait
    for each other for ever, hence NPROC.
    """

    def run(*arguments, devices=1, cwd=REPO, timeout=600):
        environment = dict(os.environ, PYTHONPATH=str(REPO))
        environment.pop("XLA_FLAGS", None)
        if devices > 1:
            environment["NPROC"] = "16"
            environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
        return subprocess.run(
            [sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False,
            env=environment, cwd=cwd, timeout=timeout,
        )  # fmt: skip

    return run


@pytest.fixture(scope="session")
def compilations():
    """A list that grows by one entry with every program that XLA compiles in this process."""
    import jax

    events = []

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return events


def _reference_logits(params, config, tokens):
    """Logits float[T,V] of one sequence int[T]: the decoder once more, in a few plain lines."""
    import jax
    import jax.numpy as jnp

    from dars_jax.model import rope_frequencies

    c, length = config, len(tokens)
    angle = jnp.arange(length)[:, None] * rope_frequencies(c)[None]  # [T,d/2]

    def norm(x, p):
        return x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + c.norm_eps) * p["scale"]

    def turn(x):  # [T,heads,d]: pairs (i, i + d/2) as complex numbers
        half = c.head_dim // 2
        z = (x[..., :half] + 1j * x[..., half:]) * jnp.exp(1j * angle)[:, None]
        return jnp.concatenate([z.real, z.imag], -1)

    x = params["embedding"][jnp.asarray(tokens)]
    for i in range(c.num_layers):
        p = jax.tree.map(lambda a, i=i: a[i], params["layers"])
        y = norm(x, p["attention_norm"])
        q, k, v = (
            jnp.einsum("td,dhk->thk", y, p[n]["kernel"]) + p[n].get("bias", 0.0) for n in "qkv"
        )
        q, k = turn(q), turn(k)
        heads = []
        for h in range(c.num_heads):
            of = h // (c.num_heads // c.num_kv_heads)
            scores = q[:, h] @ k[:, of].T / jnp.sqrt(c.head_dim)
            scores = jnp.where(jnp.tril(jnp.ones((length, length), bool)), scores, -jnp.inf)
            heads.append(jax.nn.softmax(scores, -1) @ v[:, of])
        x = x + jnp.einsum("thk,hkd->td", jnp.stack(heads, 1), p["o"]["kernel"])
        y = norm(x, p["mlp_norm"])
        gate = y @ p["gate"]["kernel"]
        x = x + (gate / (1 + jnp.exp(-gate)) * (y @ p["up"]["kernel"])) @ p["down"]["kernel"]
    head = params["embedding"] if c.tied_head else params["head"]
    return norm(x, params["final_norm"]) @ head.T


@pytest.fixture(scope="session")
def reference_logits():
    """The decoder, written independently of dars_jax.model, for sequences one at a time."""
    return _reference_logits


@pytest.fixture(scope="session")
def prompt_files(tmp_path_factory):
    """Settings of a run on 20 training and 5 test problems of the embedded task."""
    from dars_jax import countdown

    directory = tmp_path_factory.mktemp("data")
    problems = {"train": countdown.train_problems()[:20], "test": countdown.test_problems()[:5]}
    for name, mine in problems.items():
        rows = [{"problem": p, "answer": countdown.answer_of(p)} for p in mine]
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return {f"data.{name}": str(directory / f"{name}.jsonl") for name in problems}


@pytest.fixture(scope="session")
def tiny():
    """A small grouped-query decoder with weights far from uniform: config, params."""
    import jax

    from dars_jax import model

    config = model.ModelConfig(61, 2, 32, 4, 2, 8, 48, family="qwen2", qkv_bias=True)
    params = jax.jit(lambda key: model.init_params(config, key))(jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(1), 100))
    params = jax.tree.map(
        lambda x: x + 0.15 * jax.random.normal(next(keys), x.shape, x.dtype), params
    )
    return types.SimpleNamespace(config=config, params=params)
