"""Scores {response, gold} rows: python -m dars_jax.rewards FILE.jsonl"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence

from dars_jax.rewards.grader import OUTSIDE, Context, Grade, GradingError, Verdict, as_forms
from dars_jax.rewards.sum_grader import load_grader

_MAX_LINE = 16 * 2**20  # characters


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; 0 if every row could be read, 1 otherwise."""
    parser = argparse.ArgumentParser(
        prog="python -m dars_jax.rewards",
        description="Scores the answers in FILE and prints verdicts and the mean reward.",
    )
    parser.add_argument("file", help='rows {"response": text, "gold": text or list of texts}')
    parser.add_argument(
        "--grader",
        default="math",
        help="math, math_verify, module:function, FILE.py:function, or a sum",
    )
    parser.add_argument("--out", help="write {line, reward, verdict} rows to this file")
    arguments = parser.parse_args(argv)
    try:
        rows = list(_rows(arguments.file))
        grader = load_grader(arguments.grader)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    try:
        grades = grader.grade(
            [row[1] for row in rows], [row[2] for row in rows], [row[3] for row in rows]
        )
    except GradingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        grader.close()
    if arguments.out:
        with open(arguments.out, "w", encoding="utf-8") as out:
            for (line, *_), grade in zip(rows, grades, strict=True):
                row = {"line": line, "reward": grade.reward, "verdict": grade.verdict.name.lower()}
                if grade.parts:
                    row["rewards"] = dict(zip(grader.parts, grade.parts, strict=True))
                out.write(json.dumps(row) + "\n")
    print(table(grades))
    return 0


def table(grades: Sequence[Grade]) -> str:
    """Rows per verdict and the mean reward."""
    lines = [f"{'verdict':<12}{'rows':>9}{'share':>9}"]
    for verdict in Verdict:
        count = sum(grade.verdict == verdict for grade in grades)
        share = count / len(grades) if grades else 0.0
        lines.append(f"{verdict.name.lower():<12}{count:>9,}{share:>9.1%}")
    judged = [grade.reward for grade in grades if grade.verdict not in OUTSIDE]
    mean = sum(judged) / len(judged) if judged else 0.0
    lines.append(f"{'mean reward':<12}{len(judged):>9,}{mean:>9.4f}")
    return "\n".join(lines)


def _rows(path: str) -> Iterator[tuple[int, str, tuple[str, ...], Context]]:
    """(line number, response, gold forms, the rest); ValueError names file:line."""
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                if len(line) > _MAX_LINE:
                    raise ValueError(f"line is longer than {_MAX_LINE:,} characters")
                row = json.loads(line)
                if not isinstance(row, dict) or not isinstance(row.get("response"), str):
                    raise ValueError('need an object with "response" (text) and "gold"')
                others = {k: v for k, v in row.items() if k not in ("response", "gold")}
                context = Context(number - 1, others.get("prompt"), others, others.get("tokens"),
                                  others.get("finished"))  # fmt: skip
                yield number, row["response"], as_forms(row.get("gold") or ""), context
            except (ValueError, TypeError, RecursionError) as error:
                raise ValueError(f"{path}:{number}: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
