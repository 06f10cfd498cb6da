"""The programs of a training step, compiled ahead of time for devices that are not there.

Shapes with shardings stand for arrays.  What one program leaves is what the next one takes: the
layouts that the compiler chose for one program's results are those of the next one's arguments.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, SingleDeviceSharding

from dars_jax.engine import state as engine_state
from dars_jax.engine.programs import Programs
from dars_jax.learner import update
from dars_jax.policy import decoder, lora, sharding
from dars_jax.setup import plan as plan_lib
from dars_jax.setup.plan import Plan
from dars_jax.tpu import flops, hlo
from dars_jax.tpu.profile import Product
from dars_jax.types import TrainState, UpdateBatch

NAMES = ("publish", "prefill", "decode", "update")


@dataclasses.dataclass(frozen=True)
class Program:
    """A program that is traced but not compiled."""

    name: str
    traced: Any  # jax.stages.Traced
    arguments: dict[str, int]  # bytes on each device, by what they are
    resident: dict[str, int]  # bytes of arrays that live through it without being arguments
    num_layers: int


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A program as the compiler left it; `error` says why there is none."""

    program: Program
    seconds: float
    text: str  # scheduled HLO, "" after an error
    peak: int  # bytes on each device, arguments included; 0 if unknown
    outputs: int  # bytes that are not written over arguments
    temporaries: int
    error: str

    @property
    def resident(self) -> int:
        """Bytes of what lives beside the program."""
        return sum(self.program.resident.values())


def _at(shapes: Any, shardings: Any) -> Any:
    """Shapes with the shardings of a tree of the same structure."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )


def bytes_per_device(tree: Any) -> int:
    """Bytes that arrays of these shapes and shardings take on each device."""
    total = 0
    for x in jax.tree.leaves(tree):
        size = x.dtype.itemsize  # a random key's too: 8
        total += int(np.prod(x.sharding.shard_shape(x.shape))) * size
    return total


def state_shapes(plan: Plan, mesh: Mesh) -> tuple[TrainState, Any]:
    """The TrainState, and its optimizer."""
    optimizer = update.make_optimizer(plan.optimizer)
    params = lora.learning(plan.model, plan.update.lora)
    step: Any = jax.ShapeDtypeStruct((), jnp.int32)
    target = plan.update.entropy_target
    state = TrainState(
        step=step,
        params=params,
        opt_state=jax.eval_shape(optimizer.init, params),
        entropy=jax.ShapeDtypeStruct((2,), jnp.float32) if target else None,
    )
    shardings = update.state_shardings(plan.model, optimizer, mesh, target, plan.update.lora)
    return _at(state, shardings), optimizer


def initial_shapes(plan: Plan, mesh: Mesh) -> Any:
    """The initial policy beside the state, where the update asks for it; else None."""
    adapters = plan.update.lora
    if not (adapters or plan.update.loss.kl_coef):
        return None
    dtype = plan.update.dtype if adapters else jnp.float32
    shapes = decoder.abstract_params(plan.model)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), shapes)
    return _at(shapes, sharding.param_shardings(plan.model, mesh))


def batch_shapes(plan: Plan, mesh: Mesh) -> UpdateBatch:
    """The largest batch of the configuration."""
    shape = (plan.batch.rows, plan.batch.micro_batches, plan.batch.row_tokens)
    floats = ("advantage", "weight", "sampler_logprob")
    shapes: dict[str, Any] = {
        f.name: jax.ShapeDtypeStruct(shape, jnp.float32 if f.name in floats else jnp.int32)
        for f in dataclasses.fields(UpdateBatch)
    }
    parts = plan.update.num_minibatches
    shapes["bounds"] = jax.ShapeDtypeStruct((parts + 1,), jnp.int32)
    shapes["token_count"] = jax.ShapeDtypeStruct((parts,), jnp.float32)
    return _at(UpdateBatch(**shapes), sharding.batch_shardings(mesh))


def _created(jitted: jax.stages.Wrapped, mesh: Mesh) -> Any:
    """The arrays that an engine starts with, where the compiler puts them."""
    traced = jitted.trace()
    try:
        shardings = traced.lower().compile().output_shardings
    except jax.errors.JaxRuntimeError:  # too large: the program that takes them will say so
        shardings = jax.tree.map(lambda _: sharding.rows(mesh), traced.out_info)
    return _at(traced.out_info, shardings)


def programs(plan: Plan, mesh: Mesh, names: tuple[str, ...] = NAMES) -> Iterator[Program]:
    """Traces the programs of a step, one after the other.

    Args:
      names: which of NAMES.
    """
    state, optimizer = state_shapes(plan, mesh)
    learns = "adapters" if plan.update.lora else "float32 weights"
    kept = {f"optimizer and {learns}": bytes_per_device(state)}
    params, initial = state.params, initial_shapes(plan, mesh)
    if plan.update.lora:
        params = lora.joined(initial, params)
    if initial is not None:
        kept["frozen weights" if plan.update.lora else "reference weights"] = bytes_per_device(
            initial
        )
    make = functools.partial(Program, num_layers=plan.model.num_layers)
    engine = Programs(plan_lib.decode_config(plan, (0,)), plan.model, mesh)
    published = engine.publish.trace(params)
    if "publish" in names:
        rest = {"optimizer": bytes_per_device(state) - bytes_per_device(state.params)}
        what = "weights and adapters" if plan.update.lora else "float32 weights"
        yield make("publish", published, {what: bytes_per_device(params)}, rest)
    if {"prefill", "decode"} & set(names):
        yield from _engine_programs(plan, mesh, engine, published, kept, names, make)
    if "update" in names:
        batch = batch_shapes(plan, mesh)
        jitted = update.make_update(plan.update, plan.model, optimizer, mesh)
        arguments = {**kept, "batch": bytes_per_device(batch)}
        yield make("update", jitted.trace(state, batch, initial), arguments, {})


def _engine_programs(
    plan: Plan,
    mesh: Mesh,
    engine: Programs,
    published: Any,
    kept: dict[str, int],
    names: tuple[str, ...],
    make: Callable[..., Program],
) -> Iterator[Program]:
    config = engine.config
    params = _at(published.out_info, sharding.decode_shardings(plan.model, mesh))
    prefixes, work = _created(engine.empty_prefixes, mesh), _created(engine.empty_work, mesh)
    empty = functools.partial(
        engine_state.empty_slots, config, plan.model, config.slots, config.cache_tokens
    )
    slots = _created(engine.per_replica(empty, 0), mesh)
    sizes = {
        name: bytes_per_device(tree)
        for name, tree in (("decode weights", params), ("prefix store", prefixes),
                           ("decode cache and slots", slots), ("work list", work))
    }  # fmt: skip
    if "prefill" in names:
        shape = (engine.num_replicas, plan.config.rollout.prefill_batch)
        rows = sharding.rows(mesh)
        ints = lambda *s: jax.ShapeDtypeStruct(s, jnp.int32, sharding=rows)  # noqa: E731
        prompts = (ints(*shape, config.prompt_tokens), ints(*shape), ints(*shape))
        pool = slots.caches if config.page_size else ()
        given = ("decode weights", "prefix store", *["decode cache and slots"] * bool(pool))
        yield make(
            "prefill", engine.prefills.trace(params, prefixes, pool, *prompts),
            {name: sizes[name] for name in given},
            {**kept, **{name: n for name, n in sizes.items() if name not in given}},
        )  # fmt: skip
    if "decode" in names:
        number = jax.ShapeDtypeStruct((), jnp.int32, sharding=sharding.replicated(mesh))
        yield make("decode", engine.runs.trace(params, prefixes, slots, work, number, number),
                   sizes, kept)  # fmt: skip


def compile_program(program: Program) -> Compiled:
    """Compiles; a program that does not fit or that the compiler refuses comes with its error."""
    begin = time.perf_counter()
    try:
        compiled = program.traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        seconds = time.perf_counter() - begin
        return Compiled(program, seconds, "", 0, 0, 0, str(error))
    memory = compiled.memory_analysis()
    return Compiled(
        program=program,
        seconds=time.perf_counter() - begin,
        text=compiled.as_text(),
        peak=memory.peak_memory_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        error="",
    )


def product_cycles(product: Product, device: jax.Device) -> float:
    """The compiler's cycles of a program that is one bfloat16 matrix product and nothing else."""
    where = SingleDeviceSharding(device)
    sides = ((product.rows, product.depth), (product.depth, product.columns))
    shapes = [jax.ShapeDtypeStruct(s, jnp.bfloat16, sharding=where) for s in sides]
    dtype = {"f32": jnp.float32}.get(product.dtype, jnp.bfloat16)
    compiled = jax.jit(functools.partial(jnp.dot, preferred_element_type=dtype)).lower(*shapes)
    return hlo.cycles(hlo.sites(hlo.parse(compiled.compile().as_text() or "")))


def count_flops(program: Program, trips: float) -> flops.Count:
    """Matrix products of one execution, all devices together; see flops.count."""
    return flops.count(program.traced.jaxpr, trips)
