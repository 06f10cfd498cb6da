"""One trainer in several processes: joining, agreeing, leaving.

Every process runs the same programs in the same order on its share of the devices; what a process
alone knows (finished completions, grades, signals, files) is gathered before anyone acts on it.
With one process nothing is exchanged: the functions return what they are given.
"""

import contextlib
import functools
import glob
import json
import os
import socket
import sys
import time
import traceback
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Address = tuple[str, int, int]  # HOST:PORT of process 0, number of processes, own index

_JOIN_SECONDS = 300
_PIECE = 2**18  # numbers a process sends at a time: what it needs on the devices is bounded
_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"


# Joining and leaving -----------------------------------------------------------------------------


def join(address: Address | None) -> None:
    """Meets the other processes; call it before anything asks jax for devices.

    Args:
      address: None joins the other hosts of a TPU pod, if this machine is part of one.

    Raises:
      ValueError: process 0 cannot be reached, or cannot take the port.
    """
    alone = _pod_hosts() == 1 if address is None else address[1] == 1
    if alone:
        return
    # Its handler of SIGTERM would take the place of the trainer's, which stops after a checkpoint.
    jax.config.update("jax_enable_preemption_service", False)
    if address is None:
        jax.distributed.initialize()
        return
    coordinator, count, index = address
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if index:
        _wait_for(coordinator)
    else:
        _try_port(coordinator)
    jax.distributed.initialize(coordinator, count, index, initialization_timeout=_JOIN_SECONDS)


def _pod_hosts() -> int:
    """Hosts of the TPU slice this machine belongs to; 1 where it has no TPU to use."""
    chips = glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*")
    if not chips or "tpu" not in os.environ.get("JAX_PLATFORMS", "tpu"):
        return 1
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES")
    if hosts is None:
        request = urllib.request.Request(
            _METADATA + "worker-network-endpoints", headers={"Metadata-Flavor": "Google"}
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                hosts = answer.read().decode()
        except OSError:
            return 1
    return len(hosts.split(","))


def _wait_for(coordinator: str) -> None:
    """Until process 0 listens: jax itself would end the process with a stack trace."""
    host, _, port = coordinator.rpartition(":")
    end = time.monotonic() + _JOIN_SECONDS
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise ValueError(
                    f"no answer from --coordinator {coordinator} in {_JOIN_SECONDS} s ({error}): "
                    "does the process with --process_id 0 run there?"
                ) from error
            time.sleep(0.1)


def _try_port(coordinator: str) -> None:
    port = int(coordinator.rpartition(":")[2])
    try:
        with socket.socket(socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", port))
    except OSError as error:
        raise ValueError(f"--coordinator {coordinator}: port {port}: {error.strerror}") from error


@contextlib.contextmanager
def leaving() -> Iterator[None]:
    """Leaves the others in order after the body, and at once when it fails.

    A process that fails must not wait for the others, which may be waiting for it: it exits, and
    jax ends those that are left as soon as it notices (at most 100 s later).
    """
    try:
        yield
    except BaseException as error:
        if not jax.distributed.is_initialized():
            raise
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else 1
        else:
            traceback.print_exc()
            code = 130 if isinstance(error, KeyboardInterrupt) else 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    if jax.distributed.is_initialized():
        barrier()
        jax.distributed.shutdown()


# Agreeing ----------------------------------------------------------------------------------------


def is_first() -> bool:
    """Whether this is the process that writes files and speaks."""
    return jax.process_index() == 0


def barrier() -> None:
    """Waits for all processes."""
    gather(np.int32(0))


@contextlib.contextmanager
def in_turn() -> Iterator[None]:
    """Runs the body in process 0 first: the others find what it has prepared on a shared disk."""
    if not is_first():
        barrier()
    try:
        yield
    finally:
        if is_first():
            barrier()


def gather(x: np.ndarray | np.int32) -> np.ndarray:
    """An array of the same shape and dtype from every process -> [processes, ...]."""
    if jax.process_count() == 1:
        return np.asarray(x)[None]
    with jax.transfer_guard("allow"):
        return multihost_utils.process_allgather(np.asarray(x))


def gather_ragged(x: np.ndarray) -> list[np.ndarray]:
    """int32[n] of any length from every process -> one array per process.

    Travels in pieces of a power of two, so that a handful of programs serves any amount.
    """
    sizes = gather(np.int32(len(x)))
    most = max(int(sizes.max()), 1)
    piece = min(1 << (most - 1).bit_length(), _PIECE)
    padded = np.zeros(-(-most // piece) * piece, np.int32)
    padded[: len(x)] = x
    got = np.concatenate([gather(part) for part in padded.reshape(-1, piece)], axis=1)
    return [row[:size] for row, size in zip(got, sizes, strict=True)]


def deliver(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """int32[n] of any length for every process -> what each process has for this one.

    Each number travels once, from its process to the other, in pieces of a power of two.
    """
    if jax.process_count() == 1:
        return list(parts)
    me, count = jax.process_index(), jax.process_count()
    grid = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    mesh = Mesh(np.array(grid).reshape(count, -1), ("process", "local"))
    away = [part[:0] if to == me else part for to, part in enumerate(parts)]
    sizes = gather(np.array([len(x) for x in away], np.int32))  # [from, to]
    most, lanes = int(sizes.max()), mesh.shape["local"]
    piece = lanes * min(1 << max(-(-most // lanes) - 1, 0).bit_length(), max(_PIECE // lanes, 1))
    got = [np.empty(n, np.int32) for n in sizes[:, me]]
    for at in range(0, most, piece):
        block = np.zeros((1, count, piece), np.int32)
        for row, part in zip(block[0], away, strict=True):
            some = part[at : at + piece]
            row[: len(some)] = some
        for theirs, row in zip(got, _swap(block, mesh), strict=True):
            some = theirs[at : at + piece]
            some[:] = row[: len(some)]
    got[me] = parts[me]
    return got


def _swap(block: np.ndarray, mesh: Mesh) -> np.ndarray:
    """int32[1,to,n] of every process -> int32[from,n] for this one; each device takes a part."""
    count, n = block.shape[1:]
    rows = NamedSharding(mesh, PartitionSpec("process", None, "local"))
    with jax.transfer_guard("allow"):
        whole = jax.make_array_from_process_local_data(rows, block, (count, count, n))
        out = np.empty((count, n), np.int32)
        for shard in _all_to_all(mesh)(whole).addressable_shards:
            out[:, shard.index[2]] = np.asarray(shard.data)[:, 0]
    return out


@functools.cache
def _all_to_all(mesh: Mesh) -> jax.stages.Wrapped:
    """int32[from, to, n], split over `from` -> the same, split over `to`."""
    return jax.jit(
        jax.shard_map(
            lambda x: lax.all_to_all(x, "process", 1, 0), mesh=mesh,
            in_specs=PartitionSpec("process", None, "local"),
            out_specs=PartitionSpec(None, "process", "local"),
        )
    )  # fmt: skip


def gather_texts(text: str) -> list[str]:
    """A text from every process -> one per process."""
    if jax.process_count() == 1:
        return [text]
    numbers = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
    return [x.astype(np.uint8).tobytes().decode() for x in gather_ragged(numbers)]


def gather_json(value: Any) -> list[Any]:
    """A value that JSON can hold from every process -> one per process."""
    return [json.loads(text) for text in gather_texts(json.dumps(value))]


def largest(x: int) -> int:
    """Largest of the processes' integers."""
    return x if jax.process_count() == 1 else int(gather(np.int32(x)).max())


def of_first(x: int) -> int:
    """The integer of process 0."""
    return x if jax.process_count() == 1 else int(gather(np.int32(x))[0])


def check_shared(directory: Path) -> None:
    """Makes sure that the processes see one and the same directory.

    Raises:
      ValueError: they do not.
    """
    if jax.process_count() == 1:
        return
    token = gather_ragged(np.frombuffer(uuid.uuid4().bytes, np.int32))[0]
    file = directory / f".shared-{token.tobytes().hex()}"
    if is_first():
        file.write_text("")
    barrier()
    missing = largest(not file.exists())
    if is_first():
        file.unlink()
    if missing:
        raise ValueError(
            f"--workdir {directory} is not one directory for all processes: take a shared disk"
        )


class Replicas:
    """Which process drains and grades which engine replica: the one that holds its first device."""

    def __init__(self, mesh: Mesh, count: int):
        """`count` replicas, in the order of the mesh's devices."""
        devices = mesh.devices.reshape(count, -1)[:, 0]
        self._owner = np.array([d.process_index for d in devices])
        self.mine = self._owner == jax.process_index()  # bool[E]

    def local(self, tree: Any) -> Any:
        """Device arrays split over replicas [E,...] -> numpy arrays; rows of others are zeros."""
        return jax.device_get(tree) if jax.process_count() == 1 else jax.tree.map(_local, tree)

    def share(self, x: np.ndarray) -> np.ndarray:
        """[E,...] whose own rows hold -> [E,...] with every row from the process it belongs to."""
        if jax.process_count() == 1:
            return x
        owned = [np.flatnonzero(self._owner == i) for i in range(jax.process_count())]
        send = np.zeros((max(map(len, owned)), *x.shape[1:]), x.dtype)
        send[: self.mine.sum()] = x[self.mine]
        whole = np.empty_like(x)
        for rows, theirs in zip(owned, gather(send), strict=True):
            whole[rows] = theirs[: len(rows)]
        return whole


def _local(x: jax.Array) -> np.ndarray:
    out = np.zeros(x.shape, x.dtype)
    for shard in x.addressable_shards:
        out[shard.index] = jax.device_get(shard.data)
    return out
