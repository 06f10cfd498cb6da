"""Models and datasets by their names on the Hugging Face hub.

    Qwen/Qwen3-0.6B                      a model, where no directory has that name
    hf://openai/gsm8k/main/test          files of a dataset: one, shards, or all of a folder

`@REVISION` behind the name is a branch, a tag or a commit.  A run keeps the commit, see `pin`, and
a commit is fetched once, into huggingface_hub's own cache.  Nothing is executed and nothing
unpickled: of a model come safetensors, JSON and tokenizer files, of a dataset parquet and JSON
lines.
"""

import contextlib
import dataclasses
import fnmatch
import functools
import glob
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dars_jax.data import disk

SCHEME = "hf://"
CONFIG_FILES = ("config.json", "adapter_config.json")  # what decides whether a model can run
_MODEL_FILES = (
    "*.safetensors", "*.json", "tokenizer.model", "merges.txt", "chat_template.jinja",
)  # fmt: skip
_ELSEWHERE = ("*/*", "consolidated*")  # folders, and the same weights in another layout
_ROW_FILES = (".parquet", ".jsonl", ".json")

_NAME = r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>refs/(?:convert|pr)/[\w-]+|[\w.-]+))?"
_MODEL = re.compile(_NAME)
_DATASET = re.compile(rf"{SCHEME}{_NAME}/(?P<files>[^@]+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclasses.dataclass(frozen=True)
class HubName:
    """A place on the hub, taken apart."""

    kind: str  # "model" or "dataset"
    repo: str  # ORG/NAME
    revision: str  # "" is the main branch
    files: str = ""  # of a dataset: a file, what its shards begin with, or a folder

    def __str__(self) -> str:
        name = f"{self.repo}@{self.revision}" if self.revision else self.repo
        return name if self.kind == "model" else f"{SCHEME}{name}/{self.files}"

    def patterns(self) -> tuple[str, ...]:
        """Of a dataset's files that are meant."""
        stem = glob.escape(self.files.rstrip("/"))
        if self.files.endswith(_ROW_FILES):
            return (stem,)
        return tuple(f"{stem}{rest}{end}" for rest in ("", "-*-of-*", "/*") for end in _ROW_FILES)


def parse(value: str) -> HubName | None:
    """A name on the hub; None for the path of something that is here, or of no such form.

    Raises:
      ValueError: it begins with hf:// and does not go on as a name.
    """
    if value.startswith(SCHEME):
        if not (found := _DATASET.fullmatch(value)):
            raise ValueError(f"{value}: a dataset of the hub is written hf://ORG/NAME/FILES or "
                             "hf://ORG/NAME@REVISION/FILES")  # fmt: skip
        return HubName("dataset", found["repo"], found["revision"] or "", found["files"])
    found = _MODEL.fullmatch(value)
    if not found or Path(value).expanduser().exists():
        return None
    return HubName("model", found["repo"], found["revision"] or "")


def pin(value: str, before: str = "") -> str:
    """The value; a name on the hub with the commit that it stands for now.

    Args:
      before: what a run to go on with has pinned.  A name without a revision keeps its commit.

    Raises:
      ValueError: there is no such name, nothing to use under it, or no way to ask.
    """
    if not (name := parse(value)) or _COMMIT.fullmatch(name.revision):
        return value
    if not name.revision and before:
        old = parse(before)
        if old and dataclasses.replace(old, revision="") == name:
            return before
    hub = _library(name)
    with _told(name):
        info = hub.HfApi().repo_info(name.repo, repo_type=name.kind, revision=name.revision or None)
    _check(name, [sibling.rfilename for sibling in info.siblings or ()])
    return str(dataclasses.replace(name, revision=info.sha))


def model_directory(path: str, files: tuple[str, ...] = _MODEL_FILES) -> Path:
    """The directory of a policy: the path, or where the hub's files of that name have been put.

    Args:
      files: patterns of those to fetch, where it is a name.

    Raises:
      ValueError: it is a name that cannot be fetched.
      OSError: the disk is full, see disk.filling.
    """
    name = parse(path)
    return _fetch(name, files, _ELSEWHERE) if name else Path(path)


def dataset_files(source: str) -> list[Path]:
    """The files of a dataset on the hub, in the order of their names.

    Raises:
      ValueError: they cannot be fetched, or there are none.
      OSError: the disk is full, see disk.filling.
    """
    name = parse(source)
    assert name is not None  # of this scheme
    root = _fetch(name, name.patterns())
    files = {path for pattern in name.patterns() for path in root.glob(pattern)}
    if not files:
        raise ValueError(f"{source}: the dataset has {_none(name)}")
    return sorted(files)


@functools.cache  # what one process has of a branch stays the same
def _fetch(name: HubName, files: tuple[str, ...], without: tuple[str, ...] = ()) -> Path:
    hub = _library(name)
    with _told(name), disk.filling(hub.constants.HF_HUB_CACHE):
        return Path(hub.snapshot_download(
            name.repo, repo_type=name.kind, revision=name.revision or None,
            allow_patterns=list(files), ignore_patterns=list(without),
        ))  # fmt: skip


def _library(name: HubName) -> Any:
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise ValueError(
            f"{name}: {_not_here(name)}to fetch it from the Hugging Face hub takes "
            "huggingface_hub: pip install 'dars_jax[hub]', or give a path"
        ) from None
    return huggingface_hub


def _not_here(name: HubName) -> str:
    return "there is no such directory; " if name.kind == "model" else ""


@contextlib.contextmanager
def _told(name: HubName) -> Iterator[None]:
    """Errors of the library as one line with the way out; no part of a token is in it."""
    from huggingface_hub import constants, errors

    where = constants.ENDPOINT
    page = f"{where}/{'datasets/' * (name.kind == 'dataset')}{name.repo}"
    try:
        yield
    except errors.GatedRepoError:
        told = (f"its owner wants its terms accepted first: do so at {page}, and set HF_TOKEN to a "
                "token of that account")  # fmt: skip
    except errors.RepositoryNotFoundError:
        told = (f"{_not_here(name)}{where} has no {name.kind} {name.repo} that this account may "
                "see: is it spelt right? A private one needs HF_TOKEN")  # fmt: skip
    except errors.RevisionNotFoundError:
        told = f"{page} has no revision {name.revision!r}: name a branch, a tag or a commit"
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        token = ": is HF_TOKEN still valid?" if status in (401, 403) else ": try again later"
        told = f"{where} answered with status {status}{token}"
    # the HTTP library's own error, under the name by which this version of huggingface_hub has it
    except (OSError, errors.HTTPError) as error:
        if isinstance(error, OSError) and error.errno in disk.FULL:
            raise
        told = (
            f"{_not_here(name)}{where} cannot be reached ({type(error).__name__}): give a path, or "
            f"where the cache has it its commit, {name.repo}@COMMIT"
        )
    else:
        return
    raise ValueError(f"{name}: {told}") from None


def _check(name: HubName, files: list[str]) -> None:
    """Raises ValueError unless there is something to use; before anything large is fetched."""
    if name.kind == "dataset":
        if not any(fnmatch.fnmatchcase(f, p) for f in files for p in name.patterns()):
            rows = [f for f in files if f.endswith(_ROW_FILES)]
            raise ValueError(f"{name}: the dataset has {_none(name)}, but "
                             f"{_some(rows) or 'no files of these forms at all'}")  # fmt: skip
        return
    top = [file for file in files if "/" not in file]
    if not set(top) & set(CONFIG_FILES):
        raise ValueError(f"{name}: no model in Hugging Face's layout, for it has no config.json, "
                         f"but {_some(top) or 'no files'}")  # fmt: skip
    if not any(file.endswith(".safetensors") for file in top):
        raise ValueError(f"{name}: no weights as safetensors: load it with transformers and "
                         f"save_pretrained it, which does. There is {_some(top)}")  # fmt: skip


def _none(name: HubName) -> str:
    stem = name.files.rstrip("/")
    if name.files.endswith(_ROW_FILES):
        return f"no file {stem}"
    return f"no {stem}.parquet or .jsonl, no {stem}-00000-of-… and nothing like it in {stem}/"


def _some(files: list[str]) -> str:
    return ", ".join(sorted(files)[:6]) + ", …" * (len(files) > 6)
