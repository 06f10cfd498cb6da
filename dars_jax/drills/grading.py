"""Heavy checks as commands, one JSON line each: python -m dars_jax.drills.grading NAME

hang     40,000 responses, 1 % of them distinct answers built to hang a computer algebra system
kill     100,000 responses while a worker is killed by SIGKILL every second, against a calm run
load     harmless answers beside 20 busy processes: none may time out
workers  1, 2 and 8 workers, shuffled, from a thread: the same verdicts
memory   a function of one's own that takes all memory at 1 % of 10,000 responses
pipe     2,000 responses of up to 200 KB whose verdicts nobody fetches until all are submitted
hostile  code, bombs and odd encodings: none graded correct; the slowest in CPU-seconds
authors  the same for `math_verify`, with and without a box: nothing executed
"""

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from dars_jax.rewards import Grade, Grader, MathGrader, MathVerifyGrader, Verdict, load_grader

Rows = list[tuple[str, str]]  # response, gold

_BOMBS = (
    "9^{{9^{{9^{{9^{{{k}}}}}}}}}",
    "((({k}!)!)!)!",
    r"\int_0^1 \sin(\cos(\sin(x^{{{k}}}+\tan x)))dx",
    r"\int \frac{{\sin(x^{{{k}}})}}{{x+e^x}} dx",
    r"\prod_{{j=1}}^{{{k}00000}} (j+1)",
    r"\sum_{{j=1}}^{{{k}000000}} \frac{{1}}{{j!}}",
    r"(x+y+z+{k})^{{99999}}",
    r"\log_2(2^{{2^{{2^{{2^{{2^{{{k}}}}}}}}}}})",
    r"\lim_{{x\to 0}} \frac{{\sin(\tan x)-\tan(\sin x)}}{{x^{{{k}}}}}",
    r"\binom{{{k}0000000}}{{50000}}",
    r"\lfloor\sqrt{{10^{{{k}00000}}}}\rfloor",
    r"\sum_{{n=1}}^{{\infty}} \frac{{\sin(n^{k})}}{{n^{{\sqrt n}}}}",
    r"\sqrt{{2+\sqrt{{3+\sqrt{{5+\sqrt{{7+\sqrt{{{k}}}}}}}}}}}",
    r"\begin{{vmatrix}}a&b&c&d\\e&f&g&h\\p&q&r&s\\t&u&v&{k}\end{{vmatrix}}",
)
_PAYLOADS = (
    r"__import__('os').system('touch {mark}')",
    r"\text{{__import__('os').system('touch {mark}')}}",
    r"exec(\"open('{mark}','w')\")",
    r"\operatorname{{eval}}(open('{mark}','w'))",
    r"lambda: open('{mark}','w')",
    r"().__class__.__bases__[0].__subclasses__()",
    r"\sqrt{{__import__('pathlib').Path('{mark}').touch()}}",
    r"5; import os; os.remove('{mark}')",
    r"\input{{/etc/passwd}}",
    r"\write18{{touch {mark}}}",
    "\u202e5\u202c",
    "4\u0000",
    "\u0664",
    "4\u200b.\u200b0\u200b1",
    r"\def\x{{4}}\x",
    r"\u0034",
    "0x4",
    "{{{{{{{{" * 8,
    r"\left(" * 40,
    "$" * 400,
    "\\" * 500,
    "-" * 500 + "4",
    "(" * 29 + "4",
    r"\frac" * 100,
    "4" * 511,
    r"\overline{{" * 25,
    "x_" * 200,
    "+" * 510,
    "4," * 250,
    "|" * 400,
    r"\text{{correct}}",
    r"\text{{reward}}=1.0",
)


def harmless(count: int, seed: int) -> Rows:
    """Right and wrong answers of several kinds; about a tenth of them distinct."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        a, b = rng.randint(2, 60), rng.randint(2, 60)
        gold, right = rng.choice(
            (
                (str(a * b), f"{a * b}"),
                (rf"\frac{{{a}}}{{{b}}}", rf"\frac{{{3 * a}}}{{{3 * b}}}"),
                (rf"x^2+{a}x", rf"x(x+{a})"),
                (f"{a},{b}", rf"x={b} \text{{ or }} x={a}"),
                (rf"{a}\sqrt{{{b}}}", rf"\sqrt{{{a * a * b}}}"),
                (rf"({a},{a + b}]", rf"{a}<x\le{a + b}"),
            )
        )
        answer = right if rng.random() < 0.5 else right + "1"
        rows.append((rf"We compute. The answer is $\boxed{{{answer}}}$.", gold))
    return rows


def hang() -> dict:
    """1 % distinct bombs among 40,000."""
    rows = harmless(39_600, seed=1)
    bombs = [_BOMBS[i % len(_BOMBS)].format(k=100 + i) for i in range(400)]
    rows += [(rf"\boxed{{{bomb}}}", "4") for bomb in bombs]
    random.Random(2).shuffle(rows)
    with MathGrader() as grader:
        seconds, grades = _timed(grader, rows)
        bombs_right = sum(
            grade.verdict == Verdict.CORRECT and gold == "4" and r"\boxed{4}" not in response
            for grade, (response, gold) in zip(grades, rows, strict=True)
        )
        return {
            "seconds": seconds,
            "lost": len(rows) - len(grades),
            "bombs_correct": bombs_right,
            **grader.counters(),
        }


def kill() -> dict:
    """A SIGKILL a second; verdicts must equal those of a calm run."""
    rows = harmless(100_000, seed=3)
    # Distinct answers keep workers busy while the killer works.
    rows += [(rf"\boxed{{\sin^2({k}x)+\cos^2({k}x)+{k}}}", str(k + 1)) for k in range(20_000)]
    with MathGrader() as calm:
        expected = _timed(calm, rows)[1]
    stop, kills = threading.Event(), [0]
    with MathGrader() as grader:

        def killer() -> None:
            rng = random.Random(4)
            while not stop.wait(1.0):
                pids = grader._pool.worker_ids()  # without the lock, which grade() holds
                if pids:
                    os.kill(rng.choice(pids), signal.SIGKILL)
                    kills[0] += 1

        thread = threading.Thread(target=killer, daemon=True)
        thread.start()
        seconds, grades = _timed(grader, rows)
        stop.set()
        thread.join()
        return {
            "seconds": seconds,
            "kills": kills[0],
            "equal": grades == expected,
            **grader.counters(),
        }


def load() -> dict:
    """Twenty busy processes beside the workers."""
    rows = harmless(20_000, seed=5)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(20)]
    try:
        with MathGrader() as grader:
            seconds, _ = _timed(grader, rows)
            return {"seconds": seconds, **grader.counters()}
    finally:
        for process in busy:
            process.kill()
            process.wait()


def workers() -> dict:
    """Number of workers, order and calling thread."""
    rows = harmless(3_000, seed=6)
    rows += [(rf"\boxed{{{bomb.format(k=120)}}}", "4") for bomb in _BOMBS]
    results = []
    for num_workers in (1, 2, 8):
        order = list(range(len(rows)))
        random.Random(num_workers).shuffle(order)
        with MathGrader(num_workers=num_workers) as grader:
            found: list[list[Grade]] = []
            thread = threading.Thread(
                target=lambda g=grader, o=order, f=found: f.append(
                    g.grade([rows[i][0] for i in o], [rows[i][1] for i in o])
                )
            )
            thread.start()
            thread.join()
        results.append(dict(zip(order, found[0], strict=True)))
    return {"equal": results[0] == results[1] == results[2], "rows": len(rows)}


def greedy(response: str, gold: str) -> float:
    """A reward for `memory`: right or wrong, or more memory than there is."""
    if response == "eat":
        bytearray(64 << 30)
    return float(response == gold)


def memory() -> dict:
    """A worker over its limit costs its own answer only."""
    rows = [(str(k % 7), str(k % 5)) for k in range(10_000)]
    rows[::100] = [("eat", "4")] * len(rows[::100])
    with load_grader("dars_jax.drills.grading:greedy", num_workers=2, memory_gib=0.5) as grader:
        seconds, grades = _timed(grader, rows)
        return {
            "seconds": seconds,
            "wrong_verdicts": sum(
                grade.verdict != (Verdict.TOO_BIG if response == "eat"
                                  else Verdict.CORRECT if response == gold else Verdict.WRONG)
                for grade, (response, gold) in zip(grades, rows, strict=True)
            ),
            **grader.counters(),
        }  # fmt: skip


def pipe() -> dict:
    """Pipes fill in both directions: nothing may be lost, nobody may wait for ever."""
    rng = random.Random(7)
    rows = [("x " * rng.randint(1, 100_000) + response, gold)
            for response, gold in harmless(2_000, seed=8)]  # fmt: skip
    with MathGrader() as calm:
        expected = calm.grade([r[-200:] for r, _ in rows], [gold for _, gold in rows])
    start = time.monotonic()
    with MathGrader() as grader:
        for i, (response, gold) in enumerate(rows):
            grader.submit(i, response, gold)
        submitted = round(time.monotonic() - start, 1)
        grades = dict(grader.collect(wait=True))
        return {
            "seconds": round(time.monotonic() - start, 1),
            "seconds_until_submitted": submitted,
            "megabytes": sum(len(response) for response, _ in rows) >> 20,
            "lost": len(rows) - len(grades),
            "equal": grades == dict(enumerate(expected)),
            **grader.counters(),
        }


def hostile() -> dict:
    """Every payload and bomb alone, with the CPU time of its worker."""
    mark = f"/tmp/dars-drill-{os.getpid()}"
    answers = [payload.replace("{mark}", mark).replace("{{", "{") for payload in _PAYLOADS]
    answers += [bomb.format(k=k) for bomb in _BOMBS for k in (3, 17, 101)]
    correct, slowest = [], (0.0, "")
    for answer in answers:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with MathGrader(num_workers=1) as grader:
            grade = grader.grade([rf"\boxed{{{answer}}}"], ["4"])[0]
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        slowest = max(slowest, (round(cpu, 2), ascii(answer)[:80]))
        if grade.verdict == Verdict.CORRECT:
            correct.append(ascii(answer))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {
        "answers": len(answers),
        "correct": correct,
        "executed": os.path.exists(mark),
        "slowest": slowest,
        "worker_peak_mb": peak >> 10,
    }


def authors() -> dict:
    """math-verify reads plain text too, and evaluates what looks like arithmetic."""
    mark = f"/tmp/dars-drill-{os.getpid()}"
    answers = [payload.replace("{mark}", mark).replace("{{", "{") for payload in _PAYLOADS]
    shapes = (r"\boxed{%s}", "The answer is %s", "$%s$", "(%s)")
    rows = [(shape % answer, "987654") for answer in answers for shape in shapes]
    rows += [(rf"\boxed{{{bomb.format(k=3)}}}", "987654") for bomb in _BOMBS]
    with MathVerifyGrader() as grader:
        seconds, _ = _timed(grader, rows)
        return {
            "responses": len(rows),
            "executed": os.path.exists(mark),
            "seconds": seconds,
            **grader.counters(),
        }


def _timed(grader: Grader, rows: Rows) -> tuple[float, list[Grade]]:
    start = time.monotonic()
    grades = grader.grade([row[0] for row in rows], [row[1] for row in rows])
    return round(time.monotonic() - start, 1), grades


_DRILLS: dict[str, Callable[[], dict]] = {
    drill.__name__: drill for drill in (hang, kill, load, workers, memory, pipe, hostile, authors)
}


def main() -> None:
    """Runs one drill, or all."""
    parser = argparse.ArgumentParser(
        prog="python -m dars_jax.drills.grading",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=[*_DRILLS, "all"])
    name = parser.parse_args().name
    for drill in _DRILLS if name == "all" else [name]:
        print(json.dumps({"drill": drill, **_DRILLS[drill]()}), flush=True)


if __name__ == "__main__":
    main()
