"""Raw rows from TFDS, the hub, JSON lines and parquet, numbered; prompts.py says what they mean."""

import contextlib
import io
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dars_jax.data import disk, hub

MAX_LINE_BYTES = 1_000_000
_LFS = b"version https://git-lfs."

# A line of JSON, not yet looked at, or a row, or why it is none.
Raw = bytes | Mapping[str, Any] | ValueError


def read_rows(source: str, data_dir: str | None = None) -> Iterator[tuple[int, Raw]]:
    """(row number from 0, row) in stored order. Blank lines have a number but are not yielded.

    Args:
      source: `tfds:NAME:SPLIT`, `hf://ORG/NAME/FILES` (see hub.py), a `.jsonl` or `.json` file of
        JSON lines, or a `.parquet` file.
      data_dir: where TFDS datasets lie; None means TFDS's own default.

    Raises:
      FileNotFoundError: there is no such file or prepared dataset.
      OSError: the disk is full, see disk.filling.
      ValueError: the source has no such form, cannot be fetched, or the file is damaged.
    """
    if source.startswith("tfds:"):
        name, _, split = source.removeprefix("tfds:").partition(":")
        if not name or not split:
            raise ValueError(f"{source}: a TFDS source is written tfds:NAME:SPLIT")
        return enumerate(_tfds_rows(name, split, data_dir))
    if source.startswith(hub.SCHEME):
        return _numbered(hub.dataset_files(source))
    path = Path(source)
    if path.suffix not in (".jsonl", ".json", ".parquet"):
        raise ValueError(f"{source}: a source is tfds:NAME:SPLIT, hf://ORG/NAME/FILES, a .jsonl or "
                         "a .parquet file")  # fmt: skip
    if not path.is_file():
        raise FileNotFoundError(f"{source}: no such file")
    if is_lfs_pointer(path):
        raise ValueError(f"{source} is a git-lfs pointer, not the file: run git lfs pull")
    return _numbered([path])


def name_of(source: str) -> str:
    """What a source is called: a file's stem, NAME_SPLIT of TFDS, NAME_FILES of the hub."""
    if source.startswith("tfds:"):
        return source.removeprefix("tfds:").replace(":", "_")
    name = hub.parse(source) if source.startswith(hub.SCHEME) else None
    if name:
        inner = name.files.rstrip("/").removesuffix(Path(name.files).suffix).replace("/", "_")
        return f"{name.repo.partition('/')[2]}_{inner}"
    return Path(source).stem


def is_lfs_pointer(path: Path) -> bool:
    """Whether the file is what git leaves in place of a large one that was not fetched."""
    with path.open("rb") as file:
        return file.read(len(_LFS)) == _LFS


def parse_row(raw: Raw) -> Mapping[str, Any]:
    """The row as a mapping; ValueError says what is wrong with the line."""
    if isinstance(raw, ValueError):
        raise raw
    if not isinstance(raw, bytes):
        return raw
    if len(raw) > MAX_LINE_BYTES:
        raise ValueError(f"the line is longer than {MAX_LINE_BYTES:,} bytes")
    try:
        row = json.loads(raw)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"a line must be a JSON object, this is a {type(row).__name__}")
    return row


def _numbered(files: Iterable[Path]) -> Iterator[tuple[int, Raw]]:
    """The rows of one file after another, counted through."""
    rows = itertools.chain.from_iterable(
        _parquet_rows(path) if path.suffix == ".parquet" else _lines(path) for path in files
    )
    return ((n, row) for n, row in enumerate(rows) if not isinstance(row, bytes) or row.strip())


def _lines(path: Path) -> Iterator[bytes]:
    """The lines; of one that is too long only the first MAX_LINE_BYTES + 1 bytes."""
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE_BYTES + 1):
            rest = line
            while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
                rest = file.readline(MAX_LINE_BYTES + 1)
            yield line


def _parquet_rows(path: Path) -> Iterator[Raw]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                try:
                    yield from batch.to_pylist()
                except UnicodeDecodeError:  # text that is none: which row?
                    yield from (_parquet_row(batch.slice(i, 1)) for i in range(batch.num_rows))
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a readable parquet file: {error}") from error


def _parquet_row(row: Any) -> Raw:
    """A table of one row -> the row, or what is wrong with it."""
    try:
        return row.to_pylist()[0]
    except UnicodeDecodeError:
        for name, column in zip(row.schema.names, row.columns, strict=True):
            try:
                column.to_pylist()
            except UnicodeDecodeError as error:
                return ValueError(f"{name} is not UTF-8: {error}")
        raise


def _tfds_rows(name: str, split: str, data_dir: str | None) -> Iterable[Mapping[str, Any]]:
    """Nothing is downloaded, and TensorFlow is imported only for file formats that need it."""
    import tensorflow_datasets as tfds

    if name == "countdown":
        from dars_jax.tasks.countdown_tfds import Countdown

        tfds.disable_progress_bar()
        builder = Countdown(data_dir=data_dir, file_format="array_record")
        with (
            contextlib.redirect_stdout(io.StringIO()),  # it would announce a download
            disk.filling(builder.data_dir),  # written beside, and renamed when it is whole
        ):
            builder.download_and_prepare()  # returns at once if it was prepared before
    else:
        try:
            builder = tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir)
        except tfds.core.registered.DatasetNotFoundError as error:
            raise FileNotFoundError(f"tfds:{name}: not prepared: {error}") from error
    if builder.info.file_format in tfds.core.FileFormat.with_random_access():
        rows = builder.as_data_source(split=split)
        return (rows[index] for index in range(len(rows)))
    in_order = tfds.ReadConfig(interleave_cycle_length=1)
    return tfds.as_numpy(builder.as_dataset(split=split, read_config=in_order))
