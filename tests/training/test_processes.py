"""One run in several processes: the same answers, the same weights but for rounding."""

import collections
import hashlib
import itertools
import json
import re
import shutil
import signal
import socket

import jax
import numpy as np
import processes
import pytest

from dars_jax import distributed
from dars_jax.config import flatten
from dars_jax.records import journal, metrics
from dars_jax.records.checkpoint import Checkpoints
from dars_jax.rollout import exchange
from dars_jax.setup import build
from dars_jax.tasks import countdown
from dars_jax.training import loop
from dars_jax.types import Ragged, Rollouts

ROUNDING = ("loss", "entropy", "kl", "grad_norm", "logprob_gap", "logprob_gap_max",
            "clip_fraction")  # fmt: skip
OF_THE_MESH = ("slot_occupancy", "decode_steps", "rollouts_recovered")
LONGEST = 600  # seconds a group of processes may take, on a machine with other work


def without_clock(row):
    clock = [k for k in row if k.startswith("seconds") or k.endswith("_per_s")]
    return {k: v for k, v in row.items() if k not in (*clock, *OF_THE_MESH)}


def assert_same_rows(got, expected):
    assert len(got) == len(expected)
    for row, wanted in zip(map(without_clock, got), map(without_clock, expected), strict=True):
        assert {k: v for k, v in row.items() if k not in ROUNDING} == {
            k: v for k, v in wanted.items() if k not in ROUNDING
        }
        for name in ROUNDING:
            assert row[name] == pytest.approx(wanted[name], rel=1e-3, abs=1e-5), name


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Three steps on one device: settings, workdir, what was graded, state after a step."""
    directory = tmp_path_factory.mktemp("alone")
    settings = {"policy.path": str(processes.write_policy(directory / "policy"))}
    for name, problems in (("train", countdown.train_problems()[:20]),
                           ("test", countdown.test_problems()[:3])):  # fmt: skip
        settings[f"data.{name}"] = str(directory / f"{name}.jsonl")
        processes.write_problems(directory / f"{name}.jsonl", problems)
    config = processes.config(settings | {"train.num_steps": 3})
    parts = build.make_parts(build.make_plan(config), print)
    workdir, notes = directory / "run", directory / "notes"
    workdir.mkdir()
    notes.mkdir()
    with pytest.MonkeyPatch.context() as patch, build.make_grader(parts.plan) as grader:
        patch.setenv("ANSWERS", str(notes))
        patch.setattr(journal.Journals, "drop", lambda self, before: None)
        loop.Trainer(parts, grader, workdir, metrics.Console(3)).run()

    def state(workdir, step):
        checkpoints = Checkpoints(workdir / "checkpoints", flatten(config), keep=9)
        restored = checkpoints.restore(step, build.initial_state(parts), parts.shardings)
        checkpoints.close()
        return jax.device_get(restored)

    return settings, workdir, notes, state


def assert_same_weights(state, one, other, step):
    before = state(one, step - 1).params
    for x, y, z in zip(*map(jax.tree.leaves, (state(one, step).params, state(other, step).params,
                                              before)), strict=True):  # fmt: skip
        np.testing.assert_allclose(x, y, atol=1e-5)
        assert np.abs(x - z).max() > 1e-5 or not x.any()


def leave_a_part(directory):
    """Of a step's journal two in three rollouts, half of them graded, as if of hosts 0 and 2."""
    completions, grades = [], []
    for file in sorted(directory.iterdir()):
        identity, some, graded = journal.decode(file.read_bytes())
        completions, grades = completions + some, grades + graded
        file.unlink()
    for remainder, name in enumerate(("host0000_000004", "host0002_000001")):
        mine = [c for c in completions if c[0] % 3 == remainder]
        known = [(r, grade) for r, grade in grades if r % 6 == remainder]
        journal.write(directory / name, journal.encode(identity, mine, known))
    return sum(c[0] % 3 < 2 for c in completions), sum(r % 6 < 2 for r, _ in grades)


@pytest.fixture(scope="module")
def in_four(alone, tmp_path_factory):
    """The second step in 4 processes of 2 devices, continuing the first of one device.

    One device had begun with it; what its journal has left: rollouts, and grades of them.
    """
    settings, before, _, _ = alone
    workdir, notes = (tmp_path_factory.mktemp("four") / name for name in ("run", "notes"))
    shutil.copytree(before, workdir)
    for gone in (workdir / "checkpoints" / "2", workdir / "checkpoints" / "3"):
        shutil.rmtree(gone)
    for gone in ("step_000002", "step_000003"):
        for file in (workdir / "eval").glob(f"{gone}.*"):
            file.unlink()
    notes.mkdir()
    left = leave_a_part(workdir / "journal" / "step_000001")
    changes = {"train.num_steps": 2, "checkpoint.keep": 1}
    commands = processes.commands(4, workdir, settings | changes)
    with processes.group(commands, devices=2, notes=notes) as group:
        done = [process.communicate(timeout=LONGEST) for process in group]
    assert [process.returncode for process in group] == [0] * 4, done
    return workdir, notes, done, left


def test_four_processes_take_the_step_that_one_device_takes(alone, in_four):
    _, expected, _, state = alone
    workdir, _, _, left = in_four
    rows = processes.rows(workdir)
    assert_same_rows(rows, processes.rows(expected)[:2])
    assert_same_weights(state, expected, workdir, 2)
    assert rows[1]["rollouts_recovered"] == left[0] > 40
    assert not [p for p in (workdir / "journal").iterdir() if p.name < "step_000002"]


def test_every_process_grades_its_own_answers_and_together_they_sample_the_same(alone, in_four):
    _, expected, notes, _ = alone
    # one device graded 12 answers before each step and after the last
    count = [row["num_rollouts"] for row in processes.rows(expected)]
    (everything,) = processes.answers(notes)
    start = 12 + count[0] + 12
    second = everything[start : start + count[1] + 12]
    graded = processes.answers(in_four[1])
    assert len(graded) == 4 and min(map(len, graded)) > 0
    got, want = (collections.Counter(x) for x in (itertools.chain(*graded), second))
    known = in_four[3][1]  # in the journal
    assert not got - want and (want - got).total() == known > 20


def test_one_process_speaks_and_writes(alone, in_four):
    _, expected, _, _ = alone
    workdir, _, ((summary, console), *others), _ = in_four
    assert "8 x cpu in 4 processes" in console and "step 2/2" in console
    assert re.search(r"Pass@4 +\d\.\d+ -> \d\.\d+  [+-]\d\.\d+  \([+-]\d\.\d+ to ", summary)
    assert summary.splitlines()[-1].startswith("Pass@1 before")
    assert (workdir / "pass_at_k.png").read_bytes().startswith(b"\x89PNG")
    for out, error in others:
        assert "step" not in error and "Pass@1" not in out + error
    for name in ("step_000000", "step_000001", "step_000002"):
        file = f"eval/{name}.jsonl"
        assert (workdir / file).read_bytes() == (expected / file).read_bytes()
    assert not list(workdir.rglob("*.partial"))
    assert "step 2 has" in console and "rollouts in its journal" in console
    assert [p.name for p in workdir.glob(".*")] == [".lock"]


def test_four_processes_note_every_file_of_a_checkpoint_and_then_remove_the_one_before(in_four):
    (newest,) = (in_four[0] / "checkpoints").iterdir()
    found = {}
    for path in newest.rglob("*"):
        if path.is_file() and path.name != "manifest.json":
            content = path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            found[path.relative_to(newest).as_posix()] = [len(content), digest]
    noted = json.loads((newest / "manifest.json").read_text())
    assert newest.name == "2" and noted["step"] == 2 and noted["files"] == found
    assert all(any(f"process_{i}" in name for name in found) for i in range(4))


@pytest.fixture(scope="module")
def in_two(alone, in_four, tmp_path_factory):
    """The third step in 2 processes of 4 devices; then the second one gets a SIGTERM."""
    settings, _, _, _ = alone
    workdir, notes = (tmp_path_factory.mktemp("two") / name for name in ("run", "notes"))
    shutil.copytree(in_four[0], workdir)
    notes.mkdir()
    commands = processes.commands(2, workdir, settings | {"train.num_steps": 1000})
    with (
        processes.group(commands, devices=4, notes=notes) as group,
        processes.alarm(LONGEST, group),
    ):
        for line in group[0].stderr:
            if line.startswith("step 3/1000  reward"):
                group[1].send_signal(signal.SIGTERM)
                break
        done = [process.communicate(timeout=LONGEST) for process in group]
    return workdir, [process.returncode for process in group], done


def test_a_run_goes_on_in_another_number_of_processes(alone, in_two):
    _, expected, _, state = alone
    workdir, _, _ = in_two
    assert_same_rows(processes.rows(workdir)[:3], processes.rows(expected))
    assert_same_weights(state, expected, workdir, 3)


def test_a_signal_to_one_process_stops_all_with_the_state_saved(in_two):
    workdir, codes, ((_, console), _) = in_two
    assert codes == [143, 143]
    assert "stopped by SIGTERM" in console
    last = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert last == processes.rows(workdir)[-1]["step"] >= 3


# Without training --------------------------------------------------------------------------------

MEET = """
import os, sys, time
from dars_jax import distributed
import numpy as np
distributed.join((f"localhost:{sys.argv[1]}", 2, int(sys.argv[2])))
with distributed.leaving():
    while True:
        distributed.gather(np.int32(0))
        if sys.argv[2] == sys.argv[3]:
            raise SystemExit(7) if sys.argv[4] == "fails" else os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize(("loser", "how"), [(0, "is killed"), (1, "fails")])
def test_a_process_that_dies_takes_the_other_along(loser, how):
    port = processes.free_port()
    commands = [["-c", MEET, port, i, loser, how] for i in range(2)]
    with processes.group(commands) as group:
        for process in group:
            process.communicate(timeout=60)
    assert group[loser].returncode == (7 if how == "fails" else -9)
    assert group[1 - loser].returncode not in (0, None)


def test_a_coordinator_that_is_not_there_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr(distributed, "_JOIN_SECONDS", 0)
    address = f"localhost:{processes.free_port()}"
    with pytest.raises(ValueError, match=f"no answer from --coordinator {address}"):
        distributed.join((address, 2, 1))


def test_a_port_in_use_is_told_in_one_line():
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("", 0))
        taken.listen()
        with pytest.raises(ValueError, match="in use"):
            distributed.join((f"localhost:{taken.getsockname()[1]}", 2, 0))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--coordinator=localhost:1", "--num_processes=2", "--process_id=2"),
         ("--process_id 2", "--num_processes 2")),
        (("--coordinator=localhost:1", "--process_id=0"), ("--num_processes is missing",)),
        (("--coordinator=localhost", "--num_processes=2", "--process_id=0"), ("HOST:PORT",)),
        (("--coordinator=localhost:1", "--num_processes=0", "--process_id=0"), ("num_processes",)),
    ],
    ids=["index too large", "one is missing", "no port", "no process"],
)  # fmt: skip
def test_a_wrong_flag_is_told_in_one_line(fresh_python, flags, words, tmp_path):
    done = fresh_python("launch/tpu_run.py", "--config", "configs/dars_b.py", "--workdir", tmp_path,
                        *flags, timeout=20)  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ") and all(word in line for word in words)


@pytest.mark.parametrize(
    ("names", "platforms", "chips", "hosts"),
    [
        ("t0,t1,t2,t3", "", ["/dev/accel0"], 4),
        ("localhost", "", ["/dev/accel0"], 1),
        ("t0,t1,t2,t3", "cpu", ["/dev/accel0"], 1),  # told to leave the chips alone
        ("t0,t1,t2,t3", "", [], 1),
    ],
)
def test_a_pod_is_a_machine_with_chips_and_neighbours(monkeypatch, names, platforms, chips, hosts):
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", names)
    monkeypatch.setenv("JAX_PLATFORMS", platforms or "tpu")
    monkeypatch.setattr(
        distributed.glob, "glob", lambda pattern: [x for x in chips if pattern[:8] == x[:8]]
    )
    assert distributed._pod_hosts() == hosts


def test_what_is_known_of_rollouts_survives_the_journey():
    rng = np.random.default_rng(0)
    length = np.array([3, 1, 8, 5, 2], np.int32)
    sent = Rollouts(
        prompt=np.array([0, 0, 2, 2, 7], np.int32),
        sample=np.array([0, 1, 0, 1, 0], np.int32),
        stage=np.array([0, 1, 0, 0, 0], np.int32),
        tokens=Ragged.of_rows(rng.integers(0, 2**31 - 1, (5, 8)).astype(np.int32), length),
        logprob=Ragged.of_rows(rng.normal(size=(5, 8)).astype(np.float32), length),
        length=length,
        truncated=np.array([0, 0, 1, 0, 1], bool),
        reward=np.array([0, 1, 0.25, 1 / 3, 1], np.float32),
        verdict=np.array([0, 1, 2, 0, 1], np.int8),
        parts=rng.normal(size=(5, 2)).astype(np.float32),
    )
    got = exchange.unpack(exchange.pack(sent))
    assert vars(sent).keys() - got.keys() == {"tokens", "logprob", "holder"}
    for name, x in got.items():
        np.testing.assert_array_equal(getattr(sent, name), x)
        assert getattr(sent, name).dtype == x.dtype, name
    nothing = sent.take(np.zeros(5, bool))
    assert len(exchange.unpack(exchange.pack(nothing))["prompt"]) == 0
    # one process
    assert exchange.gather(sent) is sent and exchange.send(sent, np.zeros(5, np.int32)) is sent
    assert exchange.count_tokens(sent, int(sent.tokens.flat.max())) == 1


def test_what_a_replica_reports_comes_from_the_process_that_holds_it(monkeypatch):
    # Process 1 of 2; replicas 0 and 2 belong to process 0, replica 1 to process 1.
    replicas = object.__new__(distributed.Replicas)
    replicas._owner, replicas.mine = np.array([0, 1, 0]), np.array([False, True, False])
    theirs = np.array([[10], [12]], np.int32)  # what process 0 sends: its replicas in order
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(distributed, "gather", lambda mine: np.stack([theirs, mine]))
    got = replicas.share(np.array([[99], [11], [99]], np.int32))
    assert got[:, 0].tolist() == [10, 11, 12]


@pytest.mark.parametrize("size", [0, 1, 5])
def test_a_vector_of_any_length_is_gathered_in_pieces(monkeypatch, size):
    monkeypatch.setattr(distributed, "_PIECE", 2)
    monkeypatch.setattr(distributed, "gather", lambda x: np.stack([x, x + (x.ndim == 0)]))
    mine, other = distributed.gather_ragged(np.arange(size, dtype=np.int32))
    assert mine.tolist() == list(range(size)) and len(other) == size + 1
