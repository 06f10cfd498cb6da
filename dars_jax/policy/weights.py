"""Model directories in and out: config.json and safetensors, as transformers reads and writes them.

Parameters are read piece by piece, straight into the device that wants them, and written leaf by
leaf, so the host never holds the model twice.  Every mistake in a directory is a ValueError of
one line that names the file or tensor.
"""

import itertools
import json
import logging
import math
import pathlib
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jax.experimental import multihost_utils

from dars_jax.policy import hf_config
from dars_jax.policy.decoder import ModelConfig, Params, abstract_params
from dars_jax.policy.hf_config import existing, inside
from dars_jax.policy.hf_layout import (
    LAYOUT,
    Stored,
    chunks,
    expected_shapes,
    layout_of,
    read_part,
    to_stored,
)

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
_DTYPES = ("F32", "BF16", "F16")
_EMBEDDING, _HEAD = LAYOUT["embedding"].name, LAYOUT["head"].name


def read_config(directory: str | pathlib.Path) -> ModelConfig:
    """The sizes in a directory's config.json.

    Raises:
      ValueError: no such directory or file, not JSON, or a model this trainer does not run; the
        message names what was found and what is supported.
    """
    document = hf_config.read_json(existing(directory), "config.json")
    return hf_config.parse(document, f"{directory}/config.json")


def files(directory: pathlib.Path) -> list[pathlib.Path]:
    """The safetensors files of a directory, in the order of their names in it.

    Raises:
      ValueError: as load_params does for what is missing or damaged.
    """
    return list(dict.fromkeys(stored.file for stored in _catalogue(directory).values()))


def load_params(
    directory: str | pathlib.Path,
    config: ModelConfig,
    shardings: Any,
    dtype: jnp.dtype = jnp.float32,
) -> Params:
    """Reads a directory's safetensors into sharded arrays of `dtype`.

    Args:
      shardings: a jax.sharding.Sharding for each leaf of `abstract_params(config)`.  Each process
        reads only what its own devices hold.

    Raises:
      ValueError: no weights; a tensor missing, unknown, or of another shape than `config` says; a
        damaged file; a file outside the directory.
    """
    start = time.monotonic()
    directory = existing(directory)
    stored = _catalogue(directory)
    _check(directory, stored, config)

    def load(path: Any, leaf: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding) -> jax.Array:
        pieces = {}  # devices that hold the same part share it

        def piece(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None  # every device holds a part
            part = tuple(range(*s.indices(n)) for s, n in zip(index, leaf.shape, strict=True))
            if part not in pieces:
                pieces[part] = read_part(stored, layout_of(path), leaf.shape, part, dtype)
            return pieces[part]

        array = jax.make_array_from_callback(leaf.shape, sharding, piece, dtype=dtype)
        return array.block_until_ready()  # a transfer under way keeps its host buffers alive

    params = jax.tree_util.tree_map_with_path(load, abstract_params(config), shardings)
    logging.getLogger(__name__).info(
        "loaded %.2f GB of parameters from %s in %.1f s; peak host memory of the process %.2f GB",
        config.num_params() * np.dtype(dtype).itemsize / 1e9,
        directory,
        time.monotonic() - start,
        peak_host_bytes() / 1e9,
    )
    return params


def save_params(
    directory: str | pathlib.Path,
    params: Params,
    config: ModelConfig,
    *,
    source: str | pathlib.Path | None,
    max_shard_bytes: int = 5 * 2**30,
    dtype: jnp.dtype,
) -> None:
    """Writes a directory that transformers loads; it appears under its name only when complete.

    Every process of a multi-host run must call this; the first one writes.

    Args:
      source: the directory the model came from, whose config.json, generation_config.json and
        tokenizer files go along; None for a model made here.
      dtype: of the tensors on disk, float32 or bfloat16.

    Raises:
      ValueError: `directory` exists and is not empty, or `config` is not the source's.
    """
    dtype = np.dtype(dtype)
    files = hf_config.files_to_save(config, source, dtype.name)
    copies = []
    if source is not None:
        root = pathlib.Path(source)
        copies = [inside(root, name) for name in TOKENIZER_FILES if (root / name).exists()]
    write_directory(directory, config, _tensors(params, dtype), files, max_shard_bytes, copies)


def write_directory(
    directory: str | pathlib.Path,
    config: ModelConfig,
    tensors: Iterator[tuple[str, np.ndarray]],
    files: dict[str, dict[str, Any]],
    max_shard_bytes: int,
    copies: Sequence[pathlib.Path] = (),
) -> None:
    """Writes tensors as they come, then JSON files and copies, and gives it all its name at last.

    Args:
      tensors: name and C-ordered array, in the order of `expected_shapes(config)`.
      files: name -> content of the JSON files.

    Raises:
      ValueError: `directory` exists and is not empty.
    """
    directory = pathlib.Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(f"{directory} exists and is not an empty directory: choose another name")
    partial = directory.with_name(directory.name + ".partial")
    writer = jax.process_index() == 0
    if writer:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    first = next(tensors)
    tensors = itertools.chain([first], tensors)
    plan = _plan_shards(config, first[1].itemsize, max_shard_bytes)
    weight_map: dict[str, str] = {}
    for number, count in enumerate(plan, 1):
        shard = dict(itertools.islice(tensors, count))
        file = SINGLE if len(plan) == 1 else f"model-{number:05d}-of-{len(plan):05d}.safetensors"
        weight_map |= dict.fromkeys(shard, file)
        if writer:
            safetensors.numpy.save_file(shard, partial / file, metadata={"format": "pt"})
    if not writer:
        return
    if len(plan) > 1:
        total = config.num_params() * first[1].itemsize
        files = files | {INDEX: {"metadata": {"total_size": total}, "weight_map": weight_map}}
    for name, document in files.items():
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        (partial / name).write_text(text, encoding="utf-8")
    for original in copies:
        shutil.copyfile(original, partial / original.name)
    for name in set(weight_map.values()):  # safetensors lets nobody but the owner read
        shutil.copymode(partial / "config.json", partial / name)
    partial.replace(directory)


def peak_host_bytes() -> int:
    """The most memory this process has held at a time, files mapped into it included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _catalogue(directory: pathlib.Path) -> dict[str, Stored]:
    """Every tensor of a directory by name, from the headers of its safetensors files."""
    if (directory / SINGLE).exists():
        files = [SINGLE]
    elif (directory / INDEX).exists():
        weight_map = hf_config.read_json(directory, INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not all(
            isinstance(file, str) for file in weight_map.values()
        ):
            raise ValueError(f"{directory}/{INDEX} has no weight_map of tensor and file names")
        files = sorted(set(weight_map.values()))
    else:
        raise ValueError(f"{directory} holds no weights: neither {SINGLE} nor {INDEX}"
                         f"{_instead(directory)}")  # fmt: skip
    stored: dict[str, Stored] = {}
    for name in files:
        path = inside(directory, name)
        try:
            with safetensors.safe_open(path, framework="np") as file:
                for tensor in sorted(file.keys()):
                    if tensor in stored:
                        first = stored[tensor].file.name
                        raise ValueError(f"{directory}: {tensor} is in {first} and in {name}")
                    part = file.get_slice(tensor)
                    shape = tuple(part.get_shape())
                    stored[tensor] = Stored(path, tensor, shape, part.get_dtype())
        except (safetensors.SafetensorError, OSError) as error:
            raise ValueError(f"{directory}/{name} is damaged or truncated: {error}") from None
    return stored


def _instead(directory: pathlib.Path) -> str:
    """What a directory without safetensors has, and what to do with it."""
    found = {path.name for path in directory.iterdir()}
    loose = sorted(name for name in found if name.endswith(".safetensors"))
    pickles = sorted(name for name in found if name.endswith((".bin", ".pt", ".pth", ".ckpt")))
    for names, how in (
        (loose, f"name them in {INDEX}, or a single one {SINGLE}"),
        (pickles, "load it with transformers and save_pretrained it, which writes safetensors"),
        (sorted(name for name in found if name.endswith(".gguf")),
         "convert it: python -m dars_jax.policy.gguf"),
        (sorted(name for name in found if name.endswith((".h5", ".msgpack"))),
         "load it with transformers and save_pretrained it"),
    ):  # fmt: skip
        if names:
            return f", but {', '.join(names[:3])}{', …' * (len(names) > 3)}: {how}"
    return ": is the download complete?"


def _check(directory: pathlib.Path, stored: dict[str, Stored], config: ModelConfig) -> None:
    expected = expected_shapes(config)
    found = {name for name in stored if not name.endswith("rotary_emb.inv_freq")}
    if config.tied_head and _HEAD in found and _EMBEDDING in found:
        found.remove(_HEAD)
        _check_tied(directory, stored[_HEAD], stored[_EMBEDDING])
    for kind, names in (
        ("lacks", expected.keys() - found),
        ("has unknown", found - expected.keys()),
    ):
        if names:
            shown = ", ".join(sorted(names)[:3]) + (", …" if len(names) > 3 else "")
            tied = {_HEAD} == names and kind == "lacks"
            why = "; tie_word_embeddings in config.json is not true" if tied else ""
            raise ValueError(f"{directory} {kind} {len(names)} tensor(s): {shown}{why}")
    for name, shape in expected.items():
        if stored[name].shape != shape:
            raise ValueError(
                f"{directory}: {name} has shape {stored[name].shape}, config.json asks for {shape}"
            )
        if stored[name].dtype not in _DTYPES:
            raise ValueError(
                f"{directory}: {name} is {stored[name].dtype}; supported: {', '.join(_DTYPES)}"
            )


def _check_tied(directory: pathlib.Path, head: Stored, embedding: Stored) -> None:
    """Some trainers write a tied head as well; it has to be the embedding."""
    same = head.shape == embedding.shape and all(
        np.array_equal(head.read((rows,)), embedding.read((rows,)))
        for rows in chunks(range(head.shape[0]), math.prod(head.shape[1:]) * 4)
    )
    if not same:
        raise ValueError(
            f"{directory}: tie_word_embeddings is set, but {_HEAD} differs from {_EMBEDDING}"
        )


def _plan_shards(config: ModelConfig, itemsize: int, max_shard_bytes: int) -> list[int]:
    """How many tensors go into each file; a tensor larger than the limit has one to itself."""
    counts, filled = [0], 0
    for shape in expected_shapes(config).values():
        size = math.prod(shape) * itemsize
        if counts[-1] and filled + size > max_shard_bytes:
            counts.append(0)
            filled = 0
        counts[-1] += 1
        filled += size
    return counts


def _tensors(params: Params, dtype: np.dtype) -> Iterator[tuple[str, np.ndarray]]:
    """Name and stored form of every tensor, in the order of `expected_shapes`."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if leaf.is_fully_addressable:
            host = jax.device_get(leaf)
        else:
            host = multihost_utils.process_allgather(leaf, tiled=True)
        for name, tensor in to_stored(host, layout_of(path)):
            # The writer takes the bytes as they lie: they have to lie in C order.
            yield name, tensor.astype(dtype, order="C", copy=False)
