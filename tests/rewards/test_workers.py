"""Nothing an answer does, and nothing that happens to a worker, changes another verdict."""

import ast
import logging
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

import dars_jax.rewards
from dars_jax.rewards import FunctionGrader, Grade, MathGrader, Verdict, load_grader

PACKAGE = pathlib.Path(dars_jax.rewards.__file__).parent
# About 0.1 CPU-seconds of honest work: far over a limit of 20 ms, far under one of 1 s.
SLOW = r"\sum_{k=1}^{1900}\sin(\sqrt{k+%d})"


def rows(count, seed=0):
    rng = random.Random(seed)
    pairs = []
    for _ in range(count):
        a, b = rng.randint(2, 30), rng.randint(2, 30)
        pairs.append(
            (rf"\boxed{{\frac{{{a * b}}}{{{a * 2}}}+{rng.randint(0, 1)}}}", rf"\frac{{{b}}}{{2}}")
        )
    return [p[0] for p in pairs], [p[1] for p in pairs]


def test_one_two_and_eight_workers_in_any_order_and_from_a_thread_agree():
    responses, golds = rows(400)
    responses += [r"\boxed{9^{9^{9^{9}}}}", r"\boxed{(((9!)!)!)!}", r"\boxed{\int x dx}"]
    golds += ["4", "4", "4"]
    results = []
    for num_workers in (1, 2, 8):
        order = list(range(len(responses)))
        random.Random(num_workers).shuffle(order)

        def work(num_workers=num_workers, order=order):
            with MathGrader(num_workers=num_workers) as grader:
                grades = grader.grade([responses[i] for i in order], [golds[i] for i in order])
                results.append(dict(zip(order, grades, strict=True)))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert results[0] == results[1] == results[2]
    assert results[0][400].verdict == results[0][401].verdict == Verdict.TOO_BIG
    assert sum(grade.reward for grade in results[0].values()) > 100


def test_the_cpu_limit_ends_one_answer_and_no_other(caplog):
    bombs = [rf"\boxed{{{SLOW % k}}}" for k in range(4)]
    responses, golds = rows(200)
    with MathGrader(cpu_limit_s=0.02) as grader:
        grades = grader.grade(bombs + responses, ["4"] * 4 + golds)
        assert [grade.verdict for grade in grades[:4]] == [Verdict.TIMED_OUT] * 4
        assert "4 of 204 responses timed out" in caplog.text
        assert grader.counters()["worker_deaths"] == 4
        # The time-outs are remembered: nobody dies a second time.
        assert grader.grade(bombs, ["4"] * 4) == grades[:4]
        counters = grader.counters()
        assert (counters["cache_hits"], counters["worker_deaths"]) == (4, 0)
    with MathGrader() as grader:
        assert grader.grade(responses, golds) == grades[4:]


def test_no_warning_without_timeouts(caplog):
    responses, golds = rows(300)
    with caplog.at_level(logging.WARNING), MathGrader() as grader:
        grader.grade(responses, golds)
    assert caplog.text == ""


def test_a_large_trainer_does_not_wear_its_workers_out():
    ballast = np.ones(600 * 2**17)  # 600 MB, over what a worker may use
    responses, golds = rows(60)
    with MathGrader(num_workers=1) as grader:
        grader.grade(responses[:30], golds[:30])
        before = grader.worker_ids()
        grader.grade(responses[30:], golds[30:])
        assert grader.worker_ids() == before and len(before) == 1
    assert ballast[-1] == 1


def test_killed_workers_lose_nothing():
    responses = [rf"\boxed{{{SLOW % k}}}" for k in range(12)] + rows(300)[0]
    golds = ["4"] * 12 + rows(300)[1]
    with MathGrader() as grader:
        expected = grader.grade(responses, golds)
    with MathGrader() as grader:
        for i, (response, gold) in enumerate(zip(responses, golds, strict=True)):
            grader.submit(i, response, gold)
        finished, kills = [], 0
        while len(finished) < len(responses):
            finished += grader.collect(wait=False)
            if len(finished) > 40 * kills and kills < 6:
                os.kill(random.Random(kills).choice(grader.worker_ids()), signal.SIGKILL)
                kills += 1
        assert grader.counters()["worker_deaths"] >= 3
    assert [grade for _, grade in sorted(finished, key=lambda pair: pair[0])] == expected


def test_streaming_and_batches_do_not_disturb_each_other():
    responses, golds = rows(50)
    with MathGrader() as grader:
        for i in range(50):
            grader.submit(i, responses[i], golds[i])
        with pytest.raises(ValueError, match="request 7 is submitted already"):
            grader.submit(7, responses[7], golds[7])
        batch = grader.grade(responses[:20], golds[:20])
        collected = dict(grader.collect(wait=True))
        assert [collected[i] for i in range(50)] == grader.grade(responses, golds)
        assert batch == [collected[i] for i in range(20)]
        assert grader.collect(wait=True) == []


def test_counters_are_per_reading():
    with MathGrader() as grader:
        grader.grade([r"\boxed{1}", r"\boxed{2}", "none"], ["1"] * 3)
        counters = grader.counters()
        assert (counters["correct"], counters["wrong"], counters["no_answer"]) == (1, 1, 1)
        assert counters["fast_path"] == 2
        assert not any(grader.counters().values())


PAYLOADS = [
    r"__import__('os').system('touch MARK')",
    r"\text{__import__('os').system('touch MARK')}",
    r"\operatorname{exec}(open('MARK','w'))",
    r"\sqrt{__import__('pathlib').Path('MARK').touch()}",
    r"lambda: open('MARK', 'w')",
    r"\write18{touch MARK}",
    r"\lim_{x\to 0} eval(open('MARK','w'))",
    "\u0664",
    "4\u200b\u0000",
    "-" * 400 + "4",
    "(" * 200 + "4" + ")" * 200,
    r"\frac" * 100,
    "9" * 400,
    r"4 \text{ or } 5",
    r"\text{correct}",
    r"2^{2^{2^{2^{2^{2}}}}}",
    r"\begin{matrix}" + "&".join("4" * 150) + r"\end{matrix}",
]


def test_hostile_answers_are_neither_run_nor_correct(tmp_path):
    mark = tmp_path / "mark"
    responses = [rf"\boxed{{{payload.replace('MARK', str(mark))}}}" for payload in PAYLOADS]
    with MathGrader() as grader:
        grades = grader.grade(responses, ["4"] * len(responses))
    assert [p for p, grade in zip(PAYLOADS, grades, strict=True) if grade.reward] == []
    assert Verdict.TIMED_OUT not in {grade.verdict for grade in grades}
    assert not mark.exists()


@pytest.mark.parametrize(
    "crime",
    [
        "open('/etc/passwd')",
        "ev" + "al('1')",
        "__import__('wave')",
        "os.system('true')",
        "__import__('socket').socket()",
        "os.fork()",
        "sys.modules['subprocess'].Popen('true')",
    ],
)
def test_a_sealed_worker_ends_when_it_leaves_its_task(crime):
    code = (
        "import os, sys, subprocess, socket; from dars_jax.rewards.worker import _Seal; "
        f"f = lambda: {crime}; s = _Seal(); s.close(); f(); os._exit(0)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parents[1])
    assert run.returncode == 99


def test_workers_have_no_environment_and_little_memory(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    with MathGrader(num_workers=1) as grader:
        # An infinite series needs sympy: the large kind of worker.
        assert grader.grade([r"\boxed{\sum_{k=0}^{\infty}2^{-k}}"], ["2"])[0].reward == 1.0
        process = pathlib.Path("/proc", str(grader.worker_ids()[0]))
        if process.exists():
            environment = (process / "environ").read_bytes()
            assert b"HF_TOKEN" not in environment
            peak = (process / "status").read_text().split("VmHWM:")[1].split()[0]
            assert int(peak) < 500 * 1024


def test_importing_the_package_loads_neither_jax_nor_sympy():
    code = (
        "import sys, dars_jax.rewards as r; g = r.MathGrader(); "
        r"assert g.grade([r'\boxed{2\cdot 2}'], ['4'])[0].reward == 1; g.close(); "
        "heavy = {'jax', 'flax', 'tensorflow', 'sympy', 'math_verify', 'mpmath'}; "
        "sys.exit(sorted(heavy & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parents[1])


def test_lint_no_answer_is_ever_evaluated_as_code():
    banned = {"eval", "exec", "compile", "sympify", "parse_expr", "lambdify", "S", "loads_pickle",
              "__import__", "literal_eval", "system", "popen", "unpickle"}  # fmt: skip
    modules = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "ast", "code"}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                regex = getattr(getattr(node.func, "value", None), "id", "") == "re"
                assert name not in banned or regex, f"{path}:{node.lineno}: {name}()"
            elif isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert not names & modules, f"{path}:{node.lineno}: {names & modules}"
                assert not names & {"parse_expr", "lambdify", "sympify"}, f"{path}:{node.lineno}"


def last_word(response, gold):
    return response.split()[-1] == gold


def broken(response, gold):
    raise KeyError("no such thing")


def test_a_function_of_ones_own_grades():
    with load_grader(f"{__name__}:last_word") as grader:
        assert grader.grade(["a b", "a c"], ["b", ["x", "c"]]) == [Grade(1.0, Verdict.CORRECT)] * 2
        grader.submit(5, "a b", "c")
        assert grader.collect(wait=True) == [(5, Grade(0.0, Verdict.WRONG))]
        assert grader.counters()["correct"] == 2
    assert FunctionGrader(lambda response, gold: 0.25).grade(["x"], ["y"])[0].reward == 0.25


def test_a_failing_function_is_named_and_never_a_silent_zero():
    with pytest.raises(RuntimeError, match=r"broken': it raised KeyError.*response 'r\\x1b'"):
        FunctionGrader(broken).grade(["r\x1b"], ["g"])
    with pytest.raises(RuntimeError, match="returned 7"):
        FunctionGrader(lambda response, gold: 7).grade(["r"], ["g"])


@pytest.mark.parametrize(
    ("name", "message"),
    [("maths", "write \"math\""), ("os:nope", "has no 'nope'"), ("no.such:f", "cannot be loaded"),
     ("os:sep", "not a function"), (":f", "write \"math\"")],
)  # fmt: skip
def test_a_wrong_grader_name_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        load_grader(name)


def test_bad_golds_and_settings_are_refused():
    with MathGrader() as grader:
        for gold in ("", [], [" "], [3]):
            with pytest.raises(ValueError, match="gold must be"):
                grader.grade([r"\boxed{1}"], [gold])
        with pytest.raises(ValueError, match="1 responses but 2 golds"):
            grader.grade([r"\boxed{1}"], ["1", "2"])
    with pytest.raises(ValueError, match="num_workers"):
        MathGrader(num_workers=0)
    with pytest.raises(ValueError, match="cpu_limit_s"):
        MathGrader(cpu_limit_s=0)
