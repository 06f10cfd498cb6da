"""Answers of a policy to benchmarks: sampled, stopped, continued, refused."""

import dataclasses
import json
import pathlib

import numpy as np
import policies
import pytest

from dars_jax.commands import evaluate
from dars_jax.config import defaults, flatten
from dars_jax.evaluation import answering, benchmarks, scores
from dars_jax.rewards import GradingError
from dars_jax.setup import base_policy, build
from dars_jax.tasks import countdown


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(("stored", "kept"), [(0, 0), (3, 0), (4, 1), (7, 1), (8, 2)])
@pytest.mark.parametrize("rest", [b"", b'{"half'])
def test_only_whole_chunks_survive_a_kill(tmp_path, stored, kept, rest):
    path = tmp_path / "answers.partial"
    path.write_bytes(b"".join(b"line %d\n" % i for i in range(stored)) + rest)
    with path.open("ab") as file:
        assert answering.keep_whole(file, 4) == kept
    assert path.read_bytes() == b"".join(b"line %d\n" % i for i in range(4 * kept))


PROBLEMS, SAMPLES, SLOTS = 10, 8, 4  # chunks of 8 * 4 / 8 = 4 problems


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A policy and 10 prompts with 8 answers each: config, parts, published params, benchmark."""
    directory = tmp_path_factory.mktemp("small")
    policy, path = policies.random(directory / "policy"), directory / "ours.jsonl"
    rows = [
        {"id": f"c{i}", "problem": p, "answer": countdown.answer_of(p)}
        for i, p in enumerate(countdown.test_problems()[:PROBLEMS])
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = defaults()
    config.eval.num_samples, config.rollout.slots = SAMPLES, SLOTS
    config.data.train = config.data.test = str(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base_policy, "base_policy", lambda *_: policy)
        parts = build.make_parts(build.make_plan(config), lambda _: None)
        params = parts.engine.load_params(build.initial_params(parts))
        yield config, parts, params, benchmarks.identify(str(path), parts.test, None)


def test_a_stopped_evaluation_continues_to_the_same_bytes(small, tmp_path):
    _, parts, params, benchmark = small
    options = {"noise": answering.EVALUATION_STEP}

    def stop(done, total, _):
        assert total == PROBLEMS * SAMPLES
        if done > 6 * SAMPLES:  # in the second chunk
            raise Killed

    with build.make_grader(parts.plan) as grader:
        straight, stopped = tmp_path / "straight.jsonl", tmp_path / "stopped.jsonl"
        whole = answering.answer(parts, params, grader, benchmark, straight, **options)
        with pytest.raises(Killed):
            answering.answer(parts, params, grader, benchmark, stopped, progress=stop, **options)
        partial = tmp_path / "stopped.partial"
        assert len(lines_of(partial)) == 4 * SAMPLES and not stopped.exists()
        with partial.open("a") as file:
            file.write('{"id": "c4", "respo')  # a power cut in the middle of a line
        seen = []
        again = answering.answer(parts, params, grader, benchmark, stopped,
                                progress=lambda done, *_: seen.append(done), **options)  # fmt: skip
        assert seen[0] >= 4 * SAMPLES  # what was there is not asked again
        assert stopped.read_bytes() == straight.read_bytes() and not partial.exists()
        np.testing.assert_array_equal(again.reward, whole.reward)
        # Other noise is another sample, and the trainer's evaluation is the first of the two.
        other = tmp_path / "other.jsonl"
        answering.answer(parts, params, grader, benchmark, other, noise=answering.noise_of("ours"))
        assert other.read_bytes() != straight.read_bytes()
        report = answering.evaluate(parts, params, grader, output=tmp_path / "t.jsonl")
    assert report == scores.report(whole, 0)
    texts = [[line["response"] for line in lines_of(p)] for p in (straight, tmp_path / "t.jsonl")]
    assert texts[0] == texts[1]
    first = lines_of(straight)[0]
    assert first["id"] == "c0" and first["length"] >= 1 and first["verdict"] in ("correct", "wrong")


def test_a_finished_file_is_read_and_a_wrong_one_refused(small, tmp_path):
    _, parts, _, benchmark = small
    line = {"reward": 1.0, "verdict": "correct", "length": 3, "truncated": False}
    output = tmp_path / "answers.jsonl"
    output.write_text((json.dumps(line) + "\n") * PROBLEMS * SAMPLES)
    answers = answering.answer(parts, None, None, benchmark, output, noise=-1)
    assert scores.report(answers, 0).pass_at[SAMPLES] == 1
    left_out = json.dumps(line | {"reward": 0.0, "verdict": "left_out"}) + "\n"
    output.write_text((json.dumps(line) + "\n") * (PROBLEMS * SAMPLES - 1) + left_out)
    answers = answering.answer(parts, None, None, benchmark, output, noise=-1)
    assert scores.report(answers, 0).avg == 1
    assert scores.report(answers, 0).num_samples == SAMPLES - 1
    output.write_text((json.dumps(line) + "\n") * (PROBLEMS - 1) * SAMPLES + left_out * SAMPLES)
    with pytest.raises(GradingError, match="left out all answers to 1 of 10 problems"):
        answering.answer(parts, None, None, benchmark, output, noise=-1)
    output.write_text(json.dumps(line) + "\n")
    with pytest.raises(ValueError, match=r"has 1 answers, expected 10 x 8"):
        answering.answer(parts, None, None, benchmark, output, noise=-1)


def test_the_run_writes_a_report_and_refuses_other_settings(small, tmp_path, capsys):
    config = small[0]
    file = pathlib.Path(config.data.test)
    output = tmp_path / "out"
    assert evaluate.evaluate(config, tmp_path / "work", [file], output) == 0
    report = json.loads((output / "report.json").read_text())
    assert report["protocol"]["answers per problem"] == SAMPLES
    assert report["overall"]["num_problems"] == PROBLEMS
    assert "| ours | 10 |" in capsys.readouterr().out
    before = (output / "report.json").read_bytes(), (output / "pass_at_k.png").read_bytes()
    assert evaluate.evaluate(config, tmp_path / "work", [file], output) == 0  # nothing left to do
    assert before == ((output / "report.json").read_bytes(),
                      (output / "pass_at_k.png").read_bytes())  # fmt: skip
    also = "dars_jax.tasks.countdown:check"  # the same once more
    assert evaluate.evaluate(config, tmp_path / "work", [file], output, None, also) == 0
    assert json.loads((output / "report.json").read_text())["also"]["differences"] == 0
    assert (output / "differences.jsonl").read_text() == ""
    changed = config.copy_and_resolve_references()
    changed.eval.temperature = 0.5
    with pytest.raises(SystemExit):
        evaluate.evaluate(changed, tmp_path / "work", [file], output)
    assert "eval.temperature: 1.0 before, 0.5 now" in capsys.readouterr().err
    other = json.dumps({"id": "c0", "problem": "Problem c0?", "answer": "3"})
    (tmp_path / "ours.jsonl").write_text(other + "\n")
    with pytest.raises(SystemExit):
        evaluate.evaluate(config, tmp_path / "work", [tmp_path / "ours.jsonl"], output)
    assert "ours: other problems" in capsys.readouterr().err


def test_a_checkpoint_is_evaluated_on_files_it_was_not_trained_on(small, tmp_path, capsys):
    config, parts, _, benchmark = small
    other = tmp_path / "other.jsonl"
    other.write_text(pathlib.Path(config.data.test).read_text())
    policies.checkpoint(config, tmp_path, [1, 2], parts.policy)
    before = flatten(config)
    assert evaluate.evaluate(config, tmp_path, [other], None) == 0
    assert flatten(config) == before
    out = capsys.readouterr().out
    assert out.startswith("# the embedded policy after 2 steps") and "| other | 10 |" in out
    output = tmp_path / "eval" / f"step_000002_n{SAMPLES}"
    assert len(lines_of(output / "answers" / "other.jsonl")) == PROBLEMS * SAMPLES
    # The prompts of the configuration: into the same directory, the same answers by either way.
    assert evaluate.evaluate(config, tmp_path, [], None) == 0
    answers = (output / "answers" / "ours.jsonl").read_bytes()
    assert answers != (output / "answers" / "other.jsonl").read_bytes()
    again = tmp_path / "again"
    assert evaluate.evaluate(config, tmp_path, [pathlib.Path(config.data.test)], again) == 0
    assert (again / "answers" / "ours.jsonl").read_bytes() == answers
    names = sorted(path.name for path in (output / "answers").iterdir())
    assert names == ["other.jsonl", "ours.jsonl"]
    assert json.loads((output / "settings.json").read_text())["benchmarks"].keys() == {
        "other", benchmark.name
    }  # fmt: skip


def test_a_prompt_over_the_limit_is_reported_not_asked(small):
    benchmark = small[3]
    cut = dataclasses.replace(benchmark.examples, dropped_too_long=2)
    remarks = dataclasses.replace(benchmark, examples=cut).remarks()
    assert remarks == ["ours: 2 prompts are over the token limit and were not asked; they count "
                       "nowhere"]  # fmt: skip
