"""What the tests share: CPU backend, one cache for a session, small policies, fresh processes."""

import fcntl
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import types

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Most of the suite's time is LLVM's.  Programs are the same, their machine code is less polished;
# XLA_FLAGS from outside takes precedence.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

import hypothesis
import pytest

REPO = pathlib.Path(__file__).resolve().parent.parent

hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, max_examples=40)
hypothesis.settings.load_profile("suite")


# Files are dealt to the processes of `pytest -n` in this order: the longest must not come last.
LONG_FIRST = ("training", "tpu", "learner", "policy", "commands", "engine", "rollout", "rewards",
              "setup")  # fmt: skip


def pytest_collection_modifyitems(items):
    """Rooms with slow tests first."""
    rank = {room: i for i, room in enumerate(LONG_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.parent.name, len(rank)))


def pytest_configure(config):
    """One cache for all processes of a session; set DARS_JAX_CACHE to keep one for good."""
    if "DARS_JAX_CACHE" not in os.environ:
        os.environ["DARS_JAX_CACHE"] = config.own_cache = tempfile.mkdtemp(prefix="dars_jax_tests_")


def pytest_unconfigure(config):
    if hasattr(config, "own_cache"):
        shutil.rmtree(config.own_cache, ignore_errors=True)
        del os.environ["DARS_JAX_CACHE"]


@pytest.fixture(scope="session", autouse=True)
def cache():
    """The cache directory; a program is compiled once for all processes."""
    path = pathlib.Path(os.environ["DARS_JAX_CACHE"])
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(path / "compiled")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    import jax

    jax.config.update("jax_compilation_cache_dir", str(path / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    return path


@pytest.fixture(scope="module", autouse=True)
def few_programs(cache):
    """Lets go of compiled programs before the system's limit on a process's memory maps, 65,530.

    Every program takes a few; beyond the limit the next compilation is a segmentation fault.
    """
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > 20_000:
        import jax

        jax.clear_caches()


@pytest.fixture(scope="session")
def fresh_python(cache):
    """Runs python with arguments in a process of its own -> CompletedProcess with text output.

    `devices` > 1 simulates as many.  XLA's CPU collectives need a thread per device or they wait
    for each other for ever, hence NPROC.  `quick=False` takes XLA's own machine code.
    """

    def run(*arguments, devices=1, cwd=REPO, timeout=600, quick=True):
        environment = dict(os.environ, PYTHONPATH=str(REPO))
        if not quick:
            del environment["XLA_FLAGS"]
        if devices > 1:
            environment["NPROC"] = "16"
            environment["XLA_FLAGS"] += f" --xla_force_host_platform_device_count={devices}"
        return subprocess.run(
            [sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False,
            env=environment, cwd=cwd, timeout=timeout,
        )  # fmt: skip

    return run


@pytest.fixture(scope="session")
def base_policy(cache, fresh_python):
    """The embedded policy, in the cache: trained once for all processes of the session."""
    code = (
        "from dars_jax.config import defaults; from dars_jax.setup import build;"
        "build.policy_directory(build.make_plan(defaults()), print)"
    )
    with open(cache / ".base_policy", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = fresh_python("-c", code, quick=False)
    assert done.returncode == 0, done.stderr[-3000:]


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

    from dars_jax.policy.decoder import rope_frequencies

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
    """The decoder, written independently of policy/decoder.py, for sequences one at a time."""
    return _reference_logits


@pytest.fixture(scope="session")
def prompt_files(tmp_path_factory):
    """Settings of a run on 20 training and 5 test problems of the embedded task."""
    from dars_jax.tasks import countdown

    directory = tmp_path_factory.mktemp("data")
    problems = {"train": countdown.train_problems()[:20], "test": countdown.test_problems()[:5]}
    for name, mine in problems.items():
        rows = [{"problem": p, "answer": countdown.answer_of(p)} for p in mine]
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return {f"data.{name}": str(directory / f"{name}.jsonl") for name in problems}


@pytest.fixture(scope="session")
def even_parts(prompt_files, tmp_path_factory):
    """The parts of a run of random weights, for whose answers processes.even is the reward."""
    import processes
    from small_runs import make_config

    from dars_jax.setup import build

    directory = processes.write_policy(tmp_path_factory.mktemp("policy"))
    config = make_config(prompt_files, policy__path=str(directory), reward__name="processes:even",
                         reward__in_process=True)  # fmt: skip
    return build.make_parts(build.make_plan(config), print)


@pytest.fixture(scope="session")
def tiny():
    """A small grouped-query decoder with weights far from uniform: config, params."""
    import jax

    from dars_jax.policy import decoder

    config = decoder.ModelConfig(61, 2, 32, 4, 2, 8, 48, family="qwen2", qkv_bias=True)
    params = jax.jit(lambda key: decoder.init_params(config, key))(jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(1), 100))
    params = jax.tree.map(
        lambda x: x + 0.15 * jax.random.normal(next(keys), x.shape, x.dtype), params
    )
    return types.SimpleNamespace(config=config, params=params)
