"""From a plan to the parts of a run: mesh, policy, data, engine, update.  Everything slow to start.

The launch scripts and the tests make their parts here, in the order in which mistakes show.
"""

import contextlib
import dataclasses
import fcntl
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dars_jax import distributed, objective
from dars_jax.config import CONTENTS, ConfigDict, cache_dir
from dars_jax.data import hub, prompts
from dars_jax.data.tokenizer import Tokenizer, load_tokenizer
from dars_jax.engine.jetstream_engine import PolicyEngine
from dars_jax.engine.programs import Programs
from dars_jax.learner import memory, update
from dars_jax.policy import lora, sharding, weights
from dars_jax.policy.fingerprint import fingerprint
from dars_jax.rewards import Grader, load_grader
from dars_jax.setup import base_policy, plan
from dars_jax.setup.plan import Plan, decode_config
from dars_jax.types import Prompts, TrainState

Log = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a run is made of.  Holds no weights."""

    plan: Plan
    mesh: jax.sharding.Mesh
    policy: Path  # directory of the initial policy
    tokenizer: Tokenizer
    train: prompts.Examples
    test: prompts.Examples
    contents: dict[str, str]  # fingerprints of the files that settings name, see config.CONTENTS
    engine: PolicyEngine
    optimizer: optax.GradientTransformation
    shardings: TrainState
    update: jax.stages.Wrapped


def make_plan(config: ConfigDict) -> Plan:
    """Checks the configuration, with the sizes that policy.path states if it is given."""
    path = config.policy.path
    model = weights.read_config(hub.model_directory(path, hub.CONFIG_FILES)) if path else None
    return plan.validate(config, jax.device_count(), model, _hardware())


def _hardware() -> memory.Hardware:
    """Of the devices here; the same in all processes, whose GPUs may have a little more or less."""
    if jax.default_backend() != "gpu":
        return memory.hardware(jax.devices())
    mine = memory.hardware(jax.local_devices())
    every = distributed.gather(np.array(mine.memory, np.float32))
    return dataclasses.replace(mine, memory=float(every.min()))


def make_parts(plan: Plan, log: Log) -> Parts:
    """Builds everything but the weights; reads and tokenizes the data."""
    c = plan.config
    mesh = sharding.make_mesh(*plan.mesh_shape)
    with distributed.in_turn(), _preparing(plan):
        policy = policy_directory(plan, log)
        tokenizer = load_tokenizer(policy)
        check_tokenizer(plan, tokenizer, policy, log)
        train = load_examples(plan, c.data.train, "data.train", tokenizer, log)
        test = load_examples(plan, c.data.test, "data.test", tokenizer, log)
    contents = {
        CONTENTS["data.train"]: train.fingerprint(),
        CONTENTS["data.test"]: test.fingerprint(),
        **policy_content(c, policy),
    }
    _check_alike(contents)
    programs = Programs(decode_config(plan, tuple(tokenizer.eos_ids)), plan.model, mesh)
    engine = PolicyEngine(programs, tokenizer, plan.rollout.sampling, seed=c.seed)
    optimizer = update.make_optimizer(plan.optimizer)
    return Parts(
        plan=plan,
        mesh=mesh,
        policy=policy,
        tokenizer=tokenizer,
        train=train,
        test=test,
        contents=contents,
        engine=engine,
        optimizer=optimizer,
        shardings=state_shardings(plan, optimizer, mesh),
        update=update.make_update(plan.update, plan.model, optimizer, mesh),
    )


def policy_content(config: ConfigDict, policy: Path) -> dict[str, str]:
    """The fingerprint of the initial policy's directory.

    Nothing for the embedded policy, which settings describe, unless adapters need its very weights.
    """
    if not (config.policy.path or config.lora.rank):
        return {}
    return {CONTENTS["policy.path"]: fingerprint(policy)}


def _check_alike(contents: dict[str, str]) -> None:
    """Raises ValueError, in all processes, if one of them has read other files."""
    every = distributed.gather_json(contents)
    for setting, key in CONTENTS.items():
        if len({found.get(key) for found in every}) > 1:
            raise ValueError(
                f"{setting} does not hold the same in all processes: copy one version to all hosts"
            )


@contextlib.contextmanager
def _preparing(plan: Plan) -> Iterator[None]:
    """One process at a time: the embedded policy and task are made when first needed."""
    if plan.config.policy.path:
        yield
        return
    cache_dir().mkdir(parents=True, exist_ok=True)
    with open(cache_dir() / ".preparing", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def policy_directory(plan: Plan, log: Log) -> Path:
    """The directory of the initial policy; the embedded one is trained first if need be."""
    if plan.config.policy.path:
        return hub.model_directory(plan.config.policy.path)
    if plan.config.policy.architecture not in base_policy.EMBEDDED:
        raise ValueError(
            "policy.path is empty: give the Hugging Face directory of the policy, or its name on "
            f"the hub, --config.policy.path=DIR (sizes expected: {plan.config.policy.architecture})"
        )
    return base_policy.base_policy(cache_dir(), plan.model, log, plan.config.policy.warmup_steps)


def load_examples(
    plan: Plan, source: str, key: str, tokenizer: Tokenizer, log: Log
) -> prompts.Examples:
    """Prompts of a source, with what was left out reported."""
    c = plan.config.data
    if not source:
        raise ValueError(f"{key} is empty: name a .jsonl or .parquet file, tfds:NAME:SPLIT or "
                         "hf://ORG/NAME/FILES")  # fmt: skip
    examples = prompts.load_examples(
        source, tokenizer, prompt_field=c.prompt_field, answer_field=c.answer_field, chat=c.chat,
        system_prompt=c.system_prompt, max_prompt_tokens=c.max_prompt_tokens,
        data_dir=c.dir or str(cache_dir() / "tfds"), skip_bad_rows=c.skip_bad_rows,
    )  # fmt: skip
    log(
        f"{source}: {len(examples.rows):,} prompts ({examples.dropped_too_long} over "
        f"{c.max_prompt_tokens} tokens dropped, {examples.skipped_bad} bad rows skipped, "
        f"{examples.duplicates} repeat an earlier one)"
    )
    if examples.systems_dropped:
        log(f"WARNING: {source}: {examples.systems_dropped:,} rows have a system message, which a "
            "raw text prompt leaves out; data.chat=True renders it")  # fmt: skip
    check_ids(plan, tokenizer, examples, source)
    return examples


def check_tokenizer(plan: Plan, tokenizer: Tokenizer, policy: Path, log: Log) -> None:
    """Whether tokenizer and model fit each other; tells what a user should know of them.

    Raises:
      ValueError: an id that prompts or answers may have is none of the embedding's rows.  Special
        tokens that nothing spells out, such as one for padding, may lie beyond.
    """
    c, rows = plan.config, plan.model.vocab_size
    beyond = [i for i in (*tokenizer.eos_ids, tokenizer.largest_plain_id()) if i >= rows]
    if beyond:
        raise ValueError(
            f"{policy}: token id {beyond[0]} of the tokenizer's {tokenizer.vocab_size} is none of "
            f"the {rows} rows of the embedding (vocab_size in config.json): they do not belong "
            "together, or the embedding was not resized when tokens were added"
        )
    for line in tokenizer.remarks(c.data.chat):
        log(f"WARNING: {line}")
    longest, most = c.data.max_prompt_tokens + c.rollout.max_tokens, plan.model.max_positions
    if most is not None and longest > most:
        log(f"WARNING: data.max_prompt_tokens + rollout.max_tokens = {longest:,}, but the policy "
            f"was made for {most:,} positions (max_position_embeddings): beyond them it may answer "
            "badly")  # fmt: skip


def check_ids(plan: Plan, tokenizer: Tokenizer, examples: prompts.Examples, source: str) -> None:
    """Raises ValueError if a prompt has a token id that is none of the embedding's rows."""
    rows = plan.model.vocab_size
    for row in examples.rows:
        if (largest := int(row.tokens.max())) >= rows:
            raise ValueError(
                f"{source}:{row.uid + 1}: token id {largest} of the tokenizer's "
                f"{tokenizer.vocab_size} is none of the {rows} rows of the embedding (vocab_size "
                "in the policy's config.json)"
            )


def make_grader(plan: Plan) -> Grader:
    """The reward named in the configuration.

    Raises:
      ValueError: there is none, or a sum where advantages need rewards that are shares of right.
    """
    c = plan.config
    grader = load_grader(**c.reward)
    if grader.parts and c.objective.advantage not in objective.OF_ANY_REWARD:
        raise ValueError(
            f"reward.name = {c.reward.name!r} is a sum, of which objective.advantage = "
            f"{c.objective.advantage!r} makes no accuracy: use one of "
            f"{', '.join(objective.OF_ANY_REWARD)}"
        )
    return grader


def state_shardings(
    plan: Plan, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh
) -> TrainState:
    """Where every leaf of a run's TrainState lives."""
    u = plan.update
    return update.state_shardings(plan.model, optimizer, mesh, u.entropy_target, u.lora)


def load_policy(plan: Plan, mesh: jax.sharding.Mesh, directory: Path) -> Any:
    """A policy's weights in the trainer's layout, float32, or policy.dtype if they are frozen."""
    dtype = plan.update.dtype if plan.update.lora else jnp.dtype(jnp.float32)
    shardings = sharding.param_shardings(plan.model, mesh)
    return weights.load_params(directory, plan.model, shardings, dtype)


def initial_params(parts: Parts) -> Any:
    """The initial policy's weights, see `load_policy`."""
    return load_policy(parts.plan, parts.mesh, parts.policy)


def initial_state(parts: Parts) -> TrainState:
    """Step 0."""
    plan, adapters = parts.plan, parts.plan.update.lora
    if adapters is None:
        params = initial_params(parts)
    else:
        draw = functools.partial(lora.init, plan.model, adapters, plan.config.seed)
        params = jax.jit(draw, out_shardings=parts.shardings.params)()
    return update.init_state(
        params, parts.optimizer, parts.shardings, plan.update.loss.entropy_coef
    )


def take(examples: prompts.Examples, indices: np.ndarray) -> Prompts:
    """The prompts of one step."""
    rows = [examples.rows[i] for i in indices]
    return Prompts(
        tokens=tuple(r.tokens for r in rows),
        uid=np.array([r.uid for r in rows], np.int64),
        answer=tuple(r.answer for r in rows),
        text=tuple(r.prompt for r in rows),
        row=tuple(r.others for r in rows),
    )
