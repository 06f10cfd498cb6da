"""The word problems: right answers count, wrong ones do not, and the splits share nothing."""

import json
import re

from dars_jax.tasks import word_problems


def test_every_answer_follows_from_the_numbers_of_its_story():
    for text, answer in word_problems.problems(seed=1, count=300):
        x, y = (int(n) for n in re.findall(r"\d+", text))
        expected = {
            "gets": x + y,
            "gives away": x - y,
            "bags": x * y,
            "were added": y - x,
        }
        (story,) = [value for key, value in expected.items() if key in text]
        assert int(answer) == story > 0


def test_the_last_number_of_a_response_decides():
    assert word_problems.check("Tom has 3 + 4 = 7 apples.", "7")
    assert word_problems.check("There are 1,200 coins", "1200")
    assert word_problems.check("The answer is 7.0", "7")
    assert not word_problems.check("7 apples and 4 pears", "7")
    assert not word_problems.check("seven", "7")
    assert not word_problems.check("The answer is 77", "7")
    assert not word_problems.check("The answer is 7.5", "7")


def test_train_and_test_files_share_no_problem(tmp_path):
    word_problems.main([str(tmp_path)])
    rows = {
        name: [json.loads(line) for line in (tmp_path / f"{name}.jsonl").open()]
        for name in ("train", "test")
    }
    assert len(rows["train"]) == word_problems.NUM_TRAIN
    assert len(rows["test"]) == word_problems.NUM_TEST
    assert not {r["problem"] for r in rows["train"]} & {r["problem"] for r in rows["test"]}
