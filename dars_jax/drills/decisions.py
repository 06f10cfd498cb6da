"""Where math-verify decides otherwise than `math`, pair by pair, with the reason.

    python -m dars_jax.drills.decisions tests/rewards/math_verify_pairs.jsonl

Files have rows {gold, answer, reason}; lines without a gold are notes.  Prints a table of all pairs
on which both differ, and the count.  A difference without a reason is undecided: exit code 1.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from dars_jax.rewards import load_grader


def table(rows: Sequence[dict]) -> tuple[list[str], int]:
    """(lines of a table in Markdown, how many differences have no reason)."""
    verdicts = []
    for name in ("math_verify", "math"):
        with load_grader(name) as grader:
            responses = [rf"\boxed{{{row['answer']}}}" for row in rows]
            grades = grader.grade(responses, [row["gold"] for row in rows])
            verdicts.append([grade.reward == 1.0 for grade in grades])
    lines = ["| gold | answer | math-verify | here | reason |", "| --- | --- | --- | --- | --- |"]
    undecided = 0
    for row, theirs, ours in zip(rows, *verdicts, strict=True):
        if theirs != ours:
            reason = row.get("reason", "")
            undecided += not reason
            words = ["equal" if equal else "differ" for equal in (theirs, ours)]
            cells = [_code(row["gold"]), _code(row["answer"]), *words, reason or "undecided"]
            lines.append("| " + " | ".join(cells) + " |")
    lines += ["", f"{len(lines) - 2} of {len(rows)} pairs, {undecided} undecided."]
    return lines, undecided


def _code(text: str) -> str:
    return "`" + " ".join(text.split()).replace("`", "'").replace("|", r"\|")[:120] + "`"


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; 1 if a difference is undecided."""
    parser = argparse.ArgumentParser(
        prog="python -m dars_jax.drills.decisions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pairs", nargs="+", metavar="PAIRS.jsonl")
    rows = []
    for path in parser.parse_args(argv).pairs:
        with open(path, encoding="utf-8") as file:
            rows += [row for line in file if "gold" in (row := json.loads(line))]
    lines, undecided = table(rows)
    print("\n".join(lines))
    return 1 if undecided else 0


if __name__ == "__main__":
    sys.exit(main())
