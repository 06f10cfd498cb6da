"""The work that benchmarks share, and how it is timed against bare matrix products."""

import dataclasses
import functools
import importlib.metadata
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dars_jax.bench import profile
from dars_jax.policy import decoder, sharding, weights

MODELS = {
    "tiny": decoder.ModelConfig(2048, 4, 256, 4, 2, 64, 688, 1e6, qkv_bias=True, tied_head=True),
    "small": decoder.ModelConfig(2048, 8, 512, 8, 4, 64, 1376, 1e6, qkv_bias=True, tied_head=True),
}
VOCAB = 2048


@dataclasses.dataclass(frozen=True)
class Work:
    """What is sampled and trained on."""

    prompts: int = 32
    samples: int = 8
    prompt_tokens: int = 32
    new_tokens: int = 128
    skewed: bool = False

    def lengths(self) -> np.ndarray:
        """int32[prompts * samples] completion lengths."""
        count = self.prompts * self.samples
        if not self.skewed:
            return np.full(count, self.new_tokens, np.int32)
        draw = np.random.default_rng(0).geometric(1 / 40, count)
        return np.minimum(draw, self.new_tokens).astype(np.int32)

    def prompt_ids(self) -> list[np.ndarray]:
        """`prompts` of int32[prompt_tokens]."""
        rng = np.random.default_rng(1)
        ids = rng.integers(4, VOCAB, (self.prompts, self.prompt_tokens)).astype(np.int32)
        return list(ids)


@dataclasses.dataclass(frozen=True)
class Policy:
    """A model on the mesh."""

    name: str
    config: decoder.ModelConfig
    mesh: jax.sharding.Mesh
    params: decoder.Params


def load_policy(name: str) -> Policy:
    """Random weights of a known size, or a directory's."""
    mesh = sharding.make_mesh(1, jax.device_count(), 1)
    if name in MODELS:
        config = MODELS[name]
        shardings = sharding.param_shardings(config, mesh)
        init = jax.jit(functools.partial(decoder.init_params, config), out_shardings=shardings)
        return Policy(name, config, mesh, init(jax.random.key(0)))
    config = weights.read_config(name)
    shardings = sharding.param_shardings(config, mesh)
    return Policy(Path(name).name, config, mesh, weights.load_params(name, config, shardings))


def matmul_seconds(config: decoder.ModelConfig, rows: int) -> float:
    """Wall seconds of one forward pass's weight products over `rows` tokens, float32."""
    d, f, q = config.d_model, config.d_ff, config.num_heads * config.head_dim
    kv = config.num_kv_heads * config.head_dim
    n = config.num_layers
    shapes = {(d, q + 2 * kv): n, (q, d): n, (d, f): 2 * n, (f, d): n, (d, config.vocab_size): 1}
    product = jax.jit(jnp.matmul)
    total = 0.0
    for (a, b), count in shapes.items():
        x, y = jnp.ones((rows, a)), jnp.ones((a, b))
        run = lambda x=x, y=y: product(x, y).block_until_ready()  # noqa: E731
        run()
        total += count * statistics.median(timed(run) for _ in range(5))
    return total


def simulated(devices: int) -> dict[str, str]:
    """The environment of a process in which the CPU is so many devices.

    XLA's collectives need a thread per device, or they wait for each other for ever.
    """
    flag = f"--xla_force_host_platform_device_count={devices}"
    environment = dict(os.environ, XLA_FLAGS=f"{os.environ.get('XLA_FLAGS', '')} {flag}")
    if devices > (os.cpu_count() or 1):
        environment["NPROC"] = "16"
    return environment


def versions() -> dict[str, str]:
    """Of what decides on speed."""
    return {n: importlib.metadata.version(n) for n in ("jax", "jaxlib", "flax", "numpy")}


def timed(run: Callable[[], Any]) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(
    what: str, policy: Policy, work: Work, tokens: int, repeats: int,
    run: Callable[[], dict[str, Any]], bound: Callable[[], float], programs: str = "",
) -> dict[str, Any]:  # fmt: skip
    """Times `run` in rounds that alternate with the matmul-only `bound` -> a line to show.

    Where `programs` names the directory to which XLA writes its programs, it has a "profile" of one
    more run.
    """
    first = timed(run)
    seconds, bounds, extra = [], [], {}
    for _ in range(repeats):
        bounds.append(bound())
        start = time.perf_counter()
        extra = run()
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    shares = [b / s for b, s in zip(bounds, seconds, strict=True)]
    line = {
        "what": what,
        "model": policy.name,
        "params": policy.config.num_params(),
        "tokens_per_s": round(tokens / median, 1),
        "matmul_share": round(statistics.median(shares), 3),
        "compile_s": round(max(first - median, 0), 2),
        "seconds": [round(s, 4) for s in seconds],
        "tokens": tokens,
        "work": dataclasses.asdict(work),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "versions": versions(),
        **extra,
    }
    if programs:
        line["profile"] = list(profile.summary(profile.trace(run), profile.names(programs)))
    return line


def show(line: Mapping[str, Any]) -> None:
    """Prints a line of JSON at once, and one for each line of its profile."""
    print(json.dumps({k: v for k, v in line.items() if k != "profile"}), flush=True)
    for part in line.get("profile", ()):
        print(json.dumps({"what": "profile", "of": line["what"], **part}), flush=True)
