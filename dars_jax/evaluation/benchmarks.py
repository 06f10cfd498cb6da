"""The paper's benchmarks, found by file name, and what it reports on them.

A benchmark is a file of JSON lines {id, problem, answer [, answer_latex]}.  Importing this module
loads no JAX.
"""

import dataclasses
import hashlib
from pathlib import Path

from dars_jax.data import prompts, sources
from dars_jax.data.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Published:
    """A benchmark as the paper has it."""

    title: str
    num_problems: int


PUBLISHED = {
    "aime24": Published("AIME24", 30),
    "amc_2022_2023_83": Published("AMC 2022/23", 83),
    "math500": Published("MATH-500", 500),
    "minerva": Published("Minerva", 272),
    "olympiadbench_675": Published("OlympiadBench", 675),
}

# arXiv 2508.13755, micro averages over the 1,560 problems: Avg@128 and Pass@128, percent.
PAPER_ROWS = (
    ("Qwen2.5-Math-1.5B", "RLVR", 49.6, 79.6),
    ("Qwen2.5-Math-1.5B", "DARS-HW", 50.0, 82.1),
    ("Qwen2.5-Math-1.5B", "DARS-ET-Breadth", 52.5, 80.8),
    ("Qwen2.5-Math-1.5B", "DARS-HW-Breadth", 52.4, 82.2),
    ("Qwen2.5-Math-7B", "RLVR", 55.3, 81.4),
    ("Qwen2.5-Math-7B", "DARS-HW", 57.3, 83.5),
    ("Qwen2.5-Math-7B", "DARS-HW-Breadth", 58.4, 83.4),
    ("Llama-3.1-8B", "base", 3.25, 52.7),
    ("Llama-3.1-8B", "DARS-HW-Breadth", 21.8, 68.7),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Benchmark:
    """The problems of one file, or of any other source of prompts."""

    name: str
    examples: prompts.Examples
    ids: tuple[str, ...]  # of examples.rows; NAME-ROW where the row states none

    @property
    def title(self) -> str:
        """For people."""
        return PUBLISHED[self.name].title if self.name in PUBLISHED else self.name

    def fingerprint(self) -> str:
        """Changes with any prompt, token, accepted form or their order."""
        digest = hashlib.sha256()
        for row in self.examples.rows:
            digest.update(repr((row.uid, row.prompt, row.answer, row.tokens.tolist())).encode())
        return digest.hexdigest()

    def remarks(self) -> list[str]:
        """What keeps its figures from being comparable with the paper's."""
        found, remarks = len(self.examples.rows), []
        if self.name in PUBLISHED and found != PUBLISHED[self.name].num_problems:
            published = PUBLISHED[self.name].num_problems
            remarks.append(f"{self.title}: {found:,} problems, the paper has {published:,}")
        if self.examples.dropped_too_long:
            remarks.append(
                f"{self.title}: {self.examples.dropped_too_long} prompts are over the token limit "
                "and were not asked; they count nowhere"
            )
        return remarks


def find(argument: str) -> list[Path]:
    """Files of a comma-separated list: JSON-lines files, and directories that hold PUBLISHED ones.

    Raises:
      ValueError: a path that is neither, a directory without any, two files of one name.
    """
    files: list[Path] = []
    for path in map(Path, filter(None, argument.split(","))):
        if path.is_dir():
            here = [path / f"{name}.jsonl" for name in PUBLISHED]
            if not any(file.is_file() for file in here):
                known = ", ".join(f"{name}.jsonl" for name in PUBLISHED)
                raise ValueError(f"--benchmarks {path}: none of {known} is in this directory")
            files += [file for file in here if file.is_file()]
        elif path.is_file() and path.suffix == ".jsonl":
            files.append(path)
        else:
            raise ValueError(f"--benchmarks {path}: neither a directory nor a .jsonl file")
    for i, file in enumerate(files):
        for other in files[:i]:
            if file.stem == other.stem:
                raise ValueError(f"--benchmarks names {file.stem} twice: {other} and {file}")
    if not files:
        raise ValueError("--benchmarks is empty: name a directory or .jsonl files")
    return files


def load(path: Path) -> Benchmark:
    """The problems and answers of a file, without tokens; raises as prompts.load_examples does."""
    tokenizer = _NoTokenizer()  # type: ignore[abstract]  # without a chat nothing else is asked of it
    examples = prompts.load_examples(str(path), tokenizer, chat=False, max_prompt_tokens=1)
    return identify(str(path), examples, None)


def identify(source: str, examples: prompts.Examples, data_dir: str | None) -> Benchmark:
    """Adds a name and the ids that the rows of the source state.

    Raises:
      ValueError: an id is no text or number, or stands twice; as `file:line: what is wrong`.
    """
    name = sources.name_of(source)
    usable = {row.uid for row in examples.rows}
    ids: dict[str, int] = {}  # id -> row number, in stored order
    for number, raw in sources.read_rows(source, data_dir):
        if number not in usable:
            continue
        stated = sources.parse_row(raw).get("id", f"{name}-{number}")
        if isinstance(stated, bytes):
            stated = stated.decode()
        if isinstance(stated, bool) or not isinstance(stated, str | int):
            raise ValueError(f"{source}:{number + 1}: id must be text or a number, got {stated!r}")
        if str(stated) in ids:
            first = ids[str(stated)] + 1
            raise ValueError(f"{source}:{number + 1}: id {stated!r} stands in line {first} too")
        ids[str(stated)] = number
    return Benchmark(name, examples, tuple(ids))


class _NoTokenizer(Tokenizer):
    """For those who need the answers only: every prompt is one token long."""

    def encode_prompt(self, text: str) -> list[int]:
        return [0]
