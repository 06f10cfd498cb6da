"""Evaluation: figures against paper and pencil, answers from elsewhere, benchmarks."""

import json

import numpy as np
import pytest

from dars_jax.commands import cli, generations
from dars_jax.data import prompts
from dars_jax.evaluation import benchmarks, report, scores
from dars_jax.rewards import MathGrader

# Two files: 3 problems with 4 answers each, 1 problem with 4.  Right answers: 0, 1, 4 and 2.
#   Avg@4: (0 + 1/4 + 1) / 3 = 5/12 and 1/2; micro (0 + 1/4 + 1 + 1/2) / 4 = 7/16, macro 11/24.
#   Pass@2: 0, 1 - C(3,2)/C(4,2) = 1/2, 1 and 1 - C(2,2)/C(4,2) = 5/6: 1/2, 5/6 and 7/12.
#   Pass@4: 0, 1, 1 and 1: 2/3, 1 and 3/4.
EASY = [("e1", "3", "4 5 6 7"), ("e2", "\\frac{1}{2}", "0.5 2 3 4"), ("e3", "7", "7 7 7.0 7")]
HARD = [("h1", "\\sqrt{8}", "2\\sqrt{2} 3 2\\sqrt{2} 1")]


def write_benchmark(path, problems):
    rows = [{"id": i, "problem": f"Problem {i}?", "answer": gold} for i, gold, _ in problems]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_generations(path, problems):
    rows = [
        {"id": i, "response": f"It is \\boxed{{{answer}}}."}
        for i, _, answers in problems
        for answer in answers.split()
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def files(tmp_path):
    """The two benchmarks as a command-line argument, and their generations."""
    easy = write_benchmark(tmp_path / "easy.jsonl", EASY)
    hard = write_benchmark(tmp_path / "hard.jsonl", HARD)
    return f"{easy},{hard}", write_generations(tmp_path / "theirs.jsonl", HARD + EASY)


@pytest.fixture(scope="module")
def grader():
    with MathGrader(num_workers=1) as grader:
        yield grader


def score(generations_file, argument, grader, output):
    loaded = [benchmarks.load(path) for path in benchmarks.find(argument)]
    return generations.score(generations_file, loaded, grader, "math", output)


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# Answers produced elsewhere -----------------------------------------------------------------------


def test_the_command_reproduces_figures_computed_by_hand(files, tmp_path, fresh_python):
    argument, theirs = files
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: print('jax' in sys.modules, file=sys.stderr)"
    )
    done = fresh_python("-c", code, "launch/evaluate.py", "--generations", theirs,
                        "--benchmarks", argument)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.split()[-1] == "False"  # no JAX, no configuration
    output = tmp_path / "theirs_evaluation"
    report = json.loads((output / "report.json").read_text())
    easy, hard = report["benchmarks"]["easy"], report["benchmarks"]["hard"]
    whole = report["overall"]
    assert [easy["avg"], hard["avg"]] == pytest.approx([5 / 12, 1 / 2], abs=1e-15)
    assert whole["avg"] == pytest.approx(7 / 16, abs=1e-15)  # the macro average would be 11/24
    assert easy["pass_at"] == pytest.approx({"1": 5 / 12, "2": 1 / 2, "4": 2 / 3}, abs=1e-15)
    assert hard["pass_at"] == pytest.approx({"1": 1 / 2, "2": 5 / 6, "4": 1}, abs=1e-15)
    assert whole["pass_at"] == pytest.approx({"1": 7 / 16, "2": 7 / 12, "4": 3 / 4}, abs=1e-15)
    assert hard["pass_interval"]["2"] == pytest.approx([5 / 6, 5 / 6])  # of one problem
    assert whole["response_length"] is None
    table = (output / "report.md").read_text()
    assert "| **all problems** | 4 | 43.8 | 75.0 (k = 4) |" in table
    assert "paper" not in table  # its rows are about five other files
    assert table in done.stdout
    assert (output / "pass_at_k.png").read_bytes().startswith(b"\x89PNG")
    assert len(lines_of(output / "grades.jsonl")) == 16


def test_a_second_grader_stands_beside_the_first_with_what_they_differ_on(files, tmp_path, capsys):
    argument, theirs = files
    lines = theirs.read_text().splitlines()
    lines[5] = json.dumps({"id": "e1", "response": "so it is 3"})  # of 4: without a box
    theirs.write_text("\n".join(lines))
    assert generations.evaluate(theirs, argument, tmp_path / "o", None, "math_verify") == 0
    row = {"benchmark": "easy", "id": "e1", "sample": 1, "gold": ["3"], "answer": "so it is 3",
           "first": "no_answer", "second": "correct"}  # fmt: skip
    assert lines_of(tmp_path / "o" / "differences.jsonl") == [row]
    also = json.loads((tmp_path / "o" / "report.json").read_text())["also"]
    assert (also["grader"], also["answers"], also["differences"]) == ("math_verify", 16, 1)
    assert also["benchmarks"]["easy"]["avg"] == pytest.approx((1 / 4 + 1 / 4 + 1) / 3)
    table = (tmp_path / "o" / "report.md").read_text()
    assert "| **all problems** | 43.8 | 75.0 (k = 4) | 50.0 | 100.0 (k = 4) | 1 |" in table
    assert "| e1 #1 | `3` | `so it is 3` | no_answer | correct |" in table
    assert table in capsys.readouterr().out


def test_problems_with_more_answers_weigh_no_more(tmp_path, grader):
    # e1: 0 of 4; e2: 1 of 1.  By answers it would be 1/5.
    file = write_benchmark(tmp_path / "easy.jsonl", EASY[:2])
    theirs = write_generations(tmp_path / "g.jsonl", [EASY[0], ("e2", "", "1/2")])
    evaluation = score(theirs, str(file), grader, tmp_path / "out")
    assert evaluation.overall.avg == 1 / 2
    assert evaluation.overall.pass_at == {1: 1 / 2}  # k up to the fewest answers
    assert "problems have 1 to 4 answers" in report.to_markdown(evaluation)


def test_the_alternative_form_of_an_answer_counts(tmp_path, grader):
    file = tmp_path / "minerva.jsonl"
    row = {"id": "m", "problem": "How bright?", "answer": "3.83e35",
           "answer_latex": "3.83 \\times 10^{35}"}  # fmt: skip
    file.write_text(json.dumps(row) + "\n")
    theirs = tmp_path / "g.jsonl"
    answers = ["3.83e35", "3.83\\cdot 10^{35}", "3.83 e \\cdot 35"]
    theirs.write_text(
        "".join(json.dumps({"id": "m", "response": f"\\boxed{{{a}}}"}) + "\n" for a in answers)
    )
    score(theirs, str(file), grader, tmp_path / "out")
    rewards = [grade["reward"] for grade in lines_of(tmp_path / "out" / "grades.jsonl")]
    assert rewards[:2] == [1, 1]


def test_lengths_are_reported_if_every_line_has_them(tmp_path, grader):
    file = write_benchmark(tmp_path / "hard.jsonl", HARD)
    line = {"id": "h1", "response": "", "length": 10, "truncated": True}
    theirs = tmp_path / "g.jsonl"
    theirs.write_text(json.dumps(line) + "\n" + json.dumps(line | {"length": 20}) + "\n")
    report = score(theirs, str(file), grader, tmp_path / "out").overall
    assert (report.response_length, report.truncated_share) == (15, 1)
    with theirs.open("a") as opened:
        opened.write(json.dumps({"id": "h1", "response": ""}) + "\n")
    report = score(theirs, str(file), grader, tmp_path / "out").overall
    assert (report.response_length, report.truncated_share) == (None, None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "e1"', r"theirs.jsonl:17: not JSON"),
        ('["e1"]', r"theirs.jsonl:17: a line must be a JSON object"),
        ('{"id": "e1"}', r"theirs.jsonl:17: no field 'response'; there are 'id'"),
        ('{"id": "e1", "response": null}', r"theirs.jsonl:17: response must be text, got None"),
        ('{"id": ["e1"], "response": ""}', r"theirs.jsonl:17: id must be text or a number"),
        ('{"id": "e9", "response": ""}', r"theirs.jsonl:17: id 'e9' is in none of easy, hard"),
        ('{"id": "e1", "response": "", "length": -1}', r":17: length must be a number of tokens"),
        ('{"id": "e1", "response": "", "truncated": 1}', r":17: truncated must be true or false"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_graded(files, tmp_path, line, message):
    argument, theirs = files
    with theirs.open("a") as opened:
        opened.write(line + "\n")
    with pytest.raises(ValueError, match=message):
        score(theirs, argument, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_problems_without_an_answer_are_counted_and_named(files, tmp_path):
    argument, theirs = files
    write_generations(theirs, EASY[1:])
    with pytest.raises(ValueError, match=r"easy 1 of 3 \(e1\); hard 1 of 1 \(h1\)"):
        score(theirs, argument, None, tmp_path / "out")
    theirs.write_text("\n")
    with pytest.raises(ValueError, match="no generations"):
        score(theirs, argument, None, tmp_path / "out")


def test_an_id_in_two_benchmarks_or_twice_in_one_is_refused(files, tmp_path):
    _, theirs = files
    one = write_benchmark(tmp_path / "one.jsonl", EASY)
    two = write_benchmark(tmp_path / "two.jsonl", EASY[2:])
    with pytest.raises(ValueError, match="id 'e3' stands in one and in two"):
        score(theirs, f"{one},{two}", None, tmp_path / "out")
    write_benchmark(one, [*EASY, EASY[0]])
    with pytest.raises(ValueError, match=r"one.jsonl:4: id 'e1' stands in line 1 too"):
        score(theirs, str(one), None, tmp_path / "out")


# Benchmarks ---------------------------------------------------------------------------------------


def test_a_directory_gives_the_published_benchmarks_only(tmp_path):
    for name in ("minerva", "aime24", "gsm8k_train"):
        write_benchmark(tmp_path / f"{name}.jsonl", EASY)
    assert [path.stem for path in benchmarks.find(str(tmp_path))] == ["aime24", "minerva"]
    both = benchmarks.find(f"{tmp_path},{tmp_path}/gsm8k_train.jsonl")
    assert [path.stem for path in both] == ["aime24", "minerva", "gsm8k_train"]
    (remark,) = benchmarks.load(both[0]).remarks()
    assert remark == "AIME24: 3 problems, the paper has 30"
    assert benchmarks.load(both[2]).remarks() == []


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("", "--benchmarks is empty"),
        ("nowhere", "--benchmarks nowhere: neither a directory nor a .jsonl file"),
        (".", r"--benchmarks .: none of aime24.jsonl, .* is in this directory"),
        ("a.jsonl,sub/a.jsonl", "names a twice"),
    ],
)
def test_benchmarks_that_are_not_there_are_named(tmp_path, monkeypatch, argument, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    for file in ("a.jsonl", "sub/a.jsonl"):
        write_benchmark(tmp_path / file, EASY)
    with pytest.raises(ValueError, match=message):
        benchmarks.find(argument)


def test_the_papers_rows_stand_beside_all_five_benchmarks(tmp_path):
    reports = {name: one_problem(name) for name in benchmarks.PUBLISHED}
    loaded, answers = zip(*reports.values(), strict=True)
    evaluation = report.summarize("a", {}, loaded, answers, 0)
    table = report.to_markdown(evaluation)
    assert "| paper: Qwen2.5-Math-7B, DARS-HW-Breadth | 1,560 | 58.4 | 83.4 (k = 128) |" in table
    assert "- OlympiadBench: 1 problems, the paper has 675" in table
    without = report.summarize("a", {}, loaded[1:], answers[1:], 0)
    assert "DARS-HW-Breadth" not in report.to_markdown(without)


def one_problem(name):
    examples = prompts.Examples((prompts.Example(0, "?", ("1",), name, None),),
                                        0, 0, 0, 0)  # fmt: skip
    right = np.array([True, False])
    answers = scores.Answers(1, np.zeros(2, int), right.astype(float), right, None, None)
    return benchmarks.Benchmark(name, examples, ("0",)), answers


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--generations", "g.jsonl"], "--generations needs --benchmarks"),
        (["--generations", "g.txt", "--benchmarks", "B"], "g.txt: expected a .jsonl file"),
        (["--generations", "g.jsonl", "--benchmarks", "B"], "g.jsonl: no such file"),
        (["--generations", "g.jsonl", "--benchmarks", "B", "--num_samples", "2"], "--num_samples"),
        ([], "--config is missing"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(tmp_path, fresh_python, arguments, message):
    file = write_benchmark(tmp_path / "easy.jsonl", EASY)
    arguments = [str(file) if argument == "B" else argument for argument in arguments]
    done = fresh_python("launch/evaluate.py", *arguments)
    assert done.returncode == cli.EXIT_USAGE
    assert message in done.stderr and len(done.stderr.splitlines()) == 1
