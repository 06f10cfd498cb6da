"""The journal of a step: what is on disk is what was noted, or it is not used."""

import threading
import types

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from dars_jax.config import defaults, flatten
from dars_jax.records import journal
from dars_jax.rewards import Grade, Verdict
from dars_jax.types import Prompts

IDENTITY = {"step": 3, "weights": "00c0ffee", "settings": "a", "prompts": "b", "device": "cpu"}
FLOATS = st.floats(width=32, allow_nan=False)


def completion(request, length=3, stage=0):
    ids = np.arange(request, request + length, dtype=np.int32)
    return request, stage, ids, (-0.1 * ids - 1e-3).astype(np.float32)


def same(one, other):
    return one[:2] == other[:2] and all(
        x.dtype == y.dtype and x.tobytes() == y.tobytes()
        for x, y in zip(one[2:], other[2:], strict=True)
    )


@st.composite
def contents(draw):
    lengths = draw(st.lists(st.integers(1, 5), max_size=4))
    completions = [completion(7 * i, n, draw(st.integers(0, 3))) for i, n in enumerate(lengths)]
    parts = draw(st.integers(0, 2))
    grades = [
        (draw(st.integers(0, 2**31 - 1)), Grade(draw(FLOATS), draw(st.sampled_from(Verdict)),
                                               tuple(draw(FLOATS) for _ in range(parts))))
        for _ in range(draw(st.integers(0, 3)))
    ]  # fmt: skip
    return completions, grades


@hypothesis.given(contents())
def test_a_segment_says_what_it_was_given(noted):
    completions, grades = noted
    identity, got, got_grades = journal.decode(journal.encode(IDENTITY, completions, grades))
    assert identity == IDENTITY and got_grades == grades
    assert len(got) == len(completions) and all(map(same, got, completions))


GRADES = [(0, Grade(1.0, Verdict.CORRECT, (1.0, 0.25))), (9, Grade(0.5, Verdict.WRONG, (0.0, 2.0)))]
SEGMENT = journal.encode(IDENTITY, [completion(0), completion(9, 5)], GRADES)


def test_a_flipped_bit_anywhere_is_noticed():
    for place in range(len(SEGMENT)):
        for bit in range(8):
            content = bytearray(SEGMENT)
            content[place] ^= 1 << bit
            with pytest.raises(journal.DamagedError, match="checksum"):
                journal.decode(bytes(content))


def test_a_segment_without_its_end_or_with_more_is_noticed():
    for length in range(len(SEGMENT)):
        with pytest.raises(journal.DamagedError):
            journal.decode(SEGMENT[:length])
    with pytest.raises(journal.DamagedError):
        journal.decode(SEGMENT + b"\0")


@pytest.fixture
def opened(tmp_path):
    """Opens the journal of a step in a directory; what it says goes to `said`."""
    said, journals = [], []

    def open_it(directory=tmp_path / "step_000003", **changes):
        journals.append(journal.StepJournal(directory, IDENTITY | changes, said.append))
        return journals[-1]

    yield types.SimpleNamespace(step=open_it, said=said, directory=tmp_path / "step_000003")
    for one in journals:
        one.close()


def fill(opened, segments=3, **changes):
    """A journal with one completion and its grade in each segment."""
    for i in range(segments):
        one = opened.step(**changes)  # an earlier run each: it ends with a segment of its own
        one.sampled([completion(i)])
        one.graded([(i, Grade(float(i % 2), Verdict(i % 2)))])
        one.close()
    return sorted(opened.directory.iterdir())


def test_what_was_noted_is_there_for_the_next_run(opened):
    files = fill(opened)
    assert [f.name for f in files] == [f"host0000_{i:06d}" for i in range(3)]
    found = opened.step()
    assert found.held == {0: 0, 1: 0, 2: 0} and not opened.said
    for i in range(3):
        assert same((i, 0, *found.completion(i)), completion(i))
        assert found.grade(i) == Grade(float(i % 2), Verdict(i % 2))
    assert found.completion(3) is None and found.grade(3) is None


def test_a_damaged_segment_is_named_and_its_rollouts_are_missing(opened):
    files = fill(opened)
    content = bytearray(files[1].read_bytes())
    content[-9] ^= 4
    files[1].write_bytes(content)
    files[2].write_bytes(files[2].read_bytes()[:-4])
    assert opened.step().held == {0: 0}
    assert [str(f) in line for f, line in zip(files[1:], opened.said, strict=True)] == [True, True]
    assert [f.name for f in opened.directory.iterdir()] == ["host0000_000000"]


def test_a_segment_that_is_lost_or_was_never_whole_is_missing_without_a_word(opened):
    files = fill(opened)
    files[0].unlink()
    files[1].rename(files[1].with_name(files[1].name + ".partial"))
    assert opened.step().held == {2: 0} and not opened.said


def test_a_grade_without_its_answer_is_not_used(opened):
    one = opened.step()
    one.graded([(5, Grade(1.0, Verdict.CORRECT))])
    one.close()
    assert opened.step().grade(5) is None


def test_a_reward_that_failed_is_asked_again(opened):
    one = opened.step()
    one.sampled([completion(5)])
    one.graded([(5, Grade(0.0, Verdict.FAILED))])
    one.close()
    found = opened.step()
    assert found.held == {5: 0} and found.grade(5) is None


@pytest.mark.parametrize("what", IDENTITY)
def test_rollouts_of_another_step_or_other_weights_are_not_used(opened, what):
    fill(opened, 1)
    assert opened.step(**{what: "another"}).held == {}
    assert f"not used but removed: it is of other {what}" in opened.said[0]
    assert not list(opened.directory.iterdir())


def test_segments_swapped_between_steps_are_not_used(opened, tmp_path):
    (mine,) = fill(opened, 1)
    other = opened.step(tmp_path / "step_000004", step=4)
    other.sampled([completion(8)])
    other.close()
    theirs = tmp_path / "step_000004" / "host0000_000000"
    a, b = mine.read_bytes(), theirs.read_bytes()
    mine.write_bytes(b), theirs.write_bytes(a)
    assert opened.step().held == {}
    assert opened.step(tmp_path / "step_000004", step=4).held == {}
    assert len(opened.said) == 2 and all("other step" in line for line in opened.said)


def test_the_one_who_notes_never_waits_for_the_disk(opened, monkeypatch):
    disk, reached = threading.Event(), threading.Event()

    def slow(path, content):
        reached.set()
        disk.wait(10)

    monkeypatch.setattr(journal, "write", slow)
    monkeypatch.setattr(journal, "MOST", 6)
    one = opened.step()
    one.sampled([completion(0)])
    assert reached.wait(10)  # the thread is busy now
    one.sampled([completion(1)])
    one.sampled([completion(2)])  # beyond what may wait: 6 numbers each
    disk.set()
    one.close()
    assert ["too slow" in line for line in opened.said] == [True]


def test_a_full_disk_is_told_once_and_ends_nothing(opened, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal, "write", full)
    monkeypatch.setattr(journal, "SHARE", 0)
    one = opened.step()
    for i in range(3):
        one.sampled([completion(i)])
    one.close()
    assert ["No space left" in line for line in opened.said] == [True]


def test_the_next_step_does_not_wait_for_what_is_left_of_this_one(tmp_path, monkeypatch):
    disk, files = threading.Event(), []

    def slow(path, content):
        disk.wait(10)
        files.append(path.parent.name)

    monkeypatch.setattr(journal, "write", slow)
    journals = journal.Journals(tmp_path, flatten(defaults()), print)
    for step in (0, 1):
        one = journals.open(step, {"a": jnp.ones(3)}, Prompts((), np.zeros(0), ()))
        one.sampled([completion(0)])
    assert not files
    disk.set()
    journals.close()
    assert sorted(files) == ["step_000000", "step_000001"]


def test_journals_go_when_a_checkpoint_has_their_step(tmp_path):
    for step in (0, 4, 5, 12):
        (tmp_path / f"step_{step:06d}").mkdir()
        (tmp_path / f"step_{step:06d}" / "host0000_000000").write_bytes(SEGMENT)
    journals = journal.Journals(tmp_path, {}, print)
    journals.drop(5)
    journals.close()
    assert {p.name for p in tmp_path.iterdir()} == {"step_000005", "step_000012"}
    journals.forget(12)
    assert {p.name for p in tmp_path.iterdir()} == {"step_000005"}


def test_any_element_changes_the_checksum_of_weights_and_its_place_counts():
    params = {"a": jnp.arange(6, dtype=jnp.float32).reshape(2, 3), "b": jnp.ones(3, jnp.bfloat16)}
    sums = {journal.checksum(params)}
    for name, leaf in params.items():
        for i in range(leaf.size):
            bits = jax.lax.bitcast_convert_type(leaf, jnp.uint16 if name == "b" else jnp.uint32)
            bits = bits.reshape(-1).at[i].add(1).reshape(leaf.shape)
            changed = jax.lax.bitcast_convert_type(bits, leaf.dtype)
            sums.add(journal.checksum(params | {name: changed}))
    sums.add(journal.checksum(params | {"a": params["a"][::-1]}))
    assert len(sums) == 1 + 6 + 3 + 1


def test_the_identity_of_a_step_is_all_that_decides_its_rollouts(tmp_path):
    reward = tmp_path / "mine.py"
    reward.write_text("def half(response, answer): return 0.5")
    config = flatten(defaults()) | {"reward.name": f"math + 0.5 * {reward}:half"}
    params = {"a": jnp.arange(6, dtype=jnp.float32).reshape(2, 3)}

    def of(step=3, params=params, first=5, **changes):
        settings = config | {k.replace("__", "."): v for k, v in changes.items()}
        prompts = Prompts((np.array([first, 6], np.int32),), np.array([7]), (("1 + 2",),))
        return journal.identity_of(settings, step, params, prompts)

    def what(other):
        return {key for key, value in of().items() if other[key] != value}

    assert what(of(mesh__data=4, train__num_steps=7, data__train="elsewhere.jsonl")) == set()
    assert what(of(step=4)) == {"step"}
    assert what(of(seed=1)) == what(of(rollout__temperature=0.5)) == {"settings"}
    assert what(of(first=8)) == {"prompts"}
    assert what(of(params={"a": params["a"] + 1})) == {"weights"}
    before = of()
    reward.write_text("def half(response, answer): return 0.25")
    assert what(before) == {"reward"}
