"""The compiled programs of an engine on a mesh.

Replicas run as independent programs (shard_map over the batch axes), each with its own loop count;
within a replica the tensor axis is left to the compiler.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from dars_jax.engine import decode
from dars_jax.engine import state as engine_state
from dars_jax.engine.kv_cache import PagedCache
from dars_jax.engine.state import DecodeConfig, Prefixes, Report, Slots, Work
from dars_jax.policy import decoder, lora, sharding


class Programs:
    """The compiled programs of an engine on a mesh.

    A program is compiled once per shape: prefill per prompt bucket, enqueue and drain per bucket of
    requests, run per number of slots and cache length.
    """

    def __init__(self, config: DecodeConfig, model_config: decoder.ModelConfig, mesh: Mesh):
        self.config, self.model_config, self.mesh = config, model_config, mesh
        self.num_replicas = sharding.num_replicas(mesh)
        self.publish = jax.jit(
            functools.partial(lora.unstack_layers, dtype=config.dtype),
            out_shardings=sharding.decode_shardings(model_config, mesh),
        )
        self.empty_work = self.per_replica(lambda: engine_state.empty_work(config), 0)
        self.empty_prefixes = self.per_replica(
            lambda: engine_state.empty_prefixes(config, model_config), 0
        )
        self.prefills = self.per_replica(
            functools.partial(decode.prefill, config, model_config), 5, has_params=True,
            donate=(1, 2),
        )  # fmt: skip
        self.enqueue = self.per_replica(
            functools.partial(decode.enqueue, config), 3, has_params=True, donate=(2,)
        )
        self.drain = self.per_replica(decode.drain, 2)
        self.runs = self.per_replica(
            functools.partial(decode.run, config, model_config), 3, has_params=True, num_shared=2,
            donate=(2, 3),
        )  # fmt: skip

    def empty_slots(self, size: int, capacity: int) -> Slots:
        """Idle slots on every replica, with caches of `capacity` positions."""
        return self._empty_slots(self.config, size, capacity)()

    def dense_slots(self) -> Slots:
        """Idle slots on every replica that can be filled one at a time, without a prefix store."""
        dense = dataclasses.replace(self.config, page_size=0)
        return self._empty_slots(dense, dense.slots, dense.capacities[-1])()

    @functools.cache  # noqa: B019 - lives as long as the engine
    def _empty_slots(self, config: DecodeConfig, size: int, capacity: int) -> Callable[[], Slots]:
        empty = functools.partial(
            engine_state.empty_slots, config, self.model_config, size, capacity
        )
        return self.per_replica(empty, 0)

    @functools.cache  # noqa: B019
    def _resize(self, size: int, capacity: int) -> Callable[[Slots], Slots]:
        resize = functools.partial(decode.resize, self.config, self.model_config, size, capacity)
        return self.per_replica(resize, 1)

    def prefill(
        self,
        params: decoder.Params,
        prefixes: Prefixes,
        slots: Slots,
        tokens: jax.Array,
        length: jax.Array,
        row: jax.Array,
    ) -> tuple[Prefixes, Slots]:
        """See `decode.prefill`; prefixes and slots are donated."""
        pool = slots.caches if self.config.page_size else ()
        prefixes, pool = self.prefills(params, prefixes, pool, tokens, length, row)
        return prefixes, dataclasses.replace(slots, caches=pool) if self.config.page_size else slots

    def run(
        self,
        params: decoder.Params,
        prefixes: Prefixes,
        slots: Slots,
        work: Work,
        max_steps: int,
        enough: int,
    ) -> tuple[Slots, Work, Report]:
        """See `decode.run`; slots and work are donated."""
        numbers = (np.int32(max_steps), np.int32(enough))
        shared = sharding.put(numbers, sharding.replicated(self.mesh))
        return self.runs(params, prefixes, slots, work, *shared)

    def resize(self, slots: Slots, size: int, capacity: int) -> Slots:
        """See `decode.resize`.  Pages stay where they are: only tables pass through the program."""
        if not self.config.page_size:
            return self._resize(size, capacity)(slots)
        pages = slots.caches
        assert isinstance(pages, PagedCache)
        tables = dataclasses.replace(pages, layers=())
        slots = self._resize(size, capacity)(dataclasses.replace(slots, caches=tables))
        assert isinstance(slots.caches, PagedCache)
        caches = dataclasses.replace(slots.caches, layers=pages.layers)
        return dataclasses.replace(slots, caches=caches)

    def per_replica(
        self,
        function: Callable[..., Any],
        num_split: int,
        *,
        has_params: bool = False,
        num_shared: int = 0,
        donate: tuple[int, ...] = (),
    ) -> jax.stages.Wrapped:
        """Jits `function` of one replica's arrays as a program over all replicas.

        Arguments: the parameters if `has_params`, then `num_split` arguments with a leading replica
        axis, then `num_shared` whole ones.
        """
        split, whole = PartitionSpec(sharding.BATCH_AXES), PartitionSpec()
        specs = (whole,) * has_params + (split,) * num_split + (whole,) * num_shared
        first, last = int(has_params), int(has_params) + num_split

        def one(*args: Any) -> Any:
            mine = [jax.tree.map(lambda x: x[0], a) for a in args[first:last]]
            out = function(*args[:first], *mine, *args[last:])
            return jax.tree.map(lambda x: x[None], out)

        one.__name__ = getattr(function, "func", function).__name__  # in profiles and logs
        mapped = jax.shard_map(
            one, mesh=self.mesh, in_specs=specs, out_specs=split, check_vma=False,
            axis_names=frozenset(sharding.BATCH_AXES),
        )  # fmt: skip
        return jax.jit(mapped, donate_argnums=donate)
