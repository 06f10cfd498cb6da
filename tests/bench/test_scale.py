"""What costs grow with: each measure at a tiny size has its fields, and its parts add up."""

import json

import numpy as np
import pytest

from dars_jax import distributed
from dars_jax.allocator import ALLOCATORS
from dars_jax.bench import __main__ as bench
from dars_jax.bench import scale, scale_parts, scale_runs
from dars_jax.bench.work import Work
from dars_jax.policy.decoder import ARCHITECTURES

WORK = Work(prompts=2, samples=4, prompt_tokens=8, new_tokens=8)


def test_fewer_slots_take_more_steps_for_the_same_tokens():
    few, many = (scale_parts.slots(size, 1, WORK) for size in (2, 8))
    assert few["decode_steps"] > many["decode_steps"] >= WORK.new_tokens - 1
    assert min(few["tokens_per_s"], many["tokens_per_s"], few["ms_per_decode_step"]) > 0


def test_a_replica_is_timed_with_many_and_with_few_dispatches():
    line = scale_parts.replicas(1, 1, WORK)
    assert line["slots_per_replica"] == 64 and line["decode_steps"] >= WORK.new_tokens - 1
    difference = line["ms_looked_at_each"] - line["ms_per_decode_step"]
    assert line["ms_per_dispatch"] == pytest.approx(difference * 16 / 15)


def test_the_schedulers_calls_are_counted_and_its_seconds_add_up():
    line = scale_parts.scheduler(8, 1)
    assert line["rollouts"] >= 8 * 8 and line["dispatches"] > 1
    parts = sum(x for name, x in line.items() if name.endswith("_ms_per_dispatch"))
    assert parts * line["dispatches"] == pytest.approx(1e3 * line["seconds"])


def test_every_allocator_is_timed():
    assert [*scale_parts.decide(10, 1)] == [f"{name}_ms" for name in ALLOCATORS]


def test_made_up_answers_are_all_packed():
    prompts, rollouts = scale_parts.made_up(100)
    assert len(prompts) == 2 and (rollouts.length >= 2).all()
    batch = scale_parts.assembled(prompts, rollouts)
    assert batch.token_count.sum() == rollouts.length.sum()
    np.testing.assert_array_equal(
        np.sort(batch.target[batch.weight > 0]), np.repeat(np.arange(100) + 1, rollouts.length)
    )
    line = scale_parts.assemble(100, 1)
    assert line["tokens"] == rollouts.length.sum() and line["peak_bytes"] > line["batch_bytes"]


def test_answers_take_every_way_through_the_grader():
    line = scale_parts.grade(256, 1)
    assert line["fast_path"] + line["cache_hits"] + line["worker_items"] == 256
    assert min(line[k] for k in ("fast_path", "cache_hits", "worker_items")) >= 256 / 16
    assert line["correct"] == 256 * 3 / 8  # two spelled like the gold, one reduced
    assert line["sum_answers_per_s"] > 0


def test_a_checkpoint_has_weights_and_two_moments():
    line = scale_parts.checkpoint("tiny", 1)
    assert 12 * line["params"] <= line["state_bytes"] < 12.01 * line["params"]
    assert line["disk_bytes"] > 0.8 * line["state_bytes"]
    assert line["published_bytes"] == 4 * line["params"]  # float32 here
    large = scale_parts.checkpoint("qwen2.5-math-7b", 1)
    assert large["params"] == ARCHITECTURES["qwen2.5-math-7b"].num_params()
    assert large["state_bytes"] == 12 * large["params"]


@pytest.fixture
def few(base_policy, monkeypatch):
    """Steps of few prompts, for programs that compile fast."""
    plain = scale_runs.config

    def config(prompts, steps):
        made = plain(prompts, steps)
        made.update_from_flattened_dict({
            "rollout.slots": 64, "learner.micro_batch_rows": 32, "rollout.n_max": 8,
        })  # fmt: skip
        return made

    monkeypatch.setattr(scale_runs, "config", config)


def test_the_parts_of_a_step_are_the_step(few):
    line = scale_runs.step(8, 1)
    assert line["rollouts"] == 64 and 64 <= line["tokens"] <= 8 * 64
    parts = {k: x for k, x in line.items() if k.endswith("_ms_per_prompt")}
    assert {f"{k}_ms_per_prompt" for k in (*scale_runs.IN_ROLLOUTS, *scale_runs.AFTER)} < {*parts}
    assert sum(parts.values()) == pytest.approx(line["ms_per_prompt"])
    assert line["ms_per_prompt"] == pytest.approx(1e3 * line["seconds"] / 8)
    assert min(parts.values()) >= 0 and line["cpu_seconds"] > 0


def test_what_is_exchanged_is_counted_in_bytes(monkeypatch):
    monkeypatch.setattr(distributed, "gather", lambda x: np.stack([x, x, x]))
    counted = scale_runs.exchanged()
    got = distributed.gather(np.arange(10, dtype=np.int32))
    assert got.shape == (3, 10)
    assert (counted["sent"], counted["received"], counted["exchanges"]) == (40, 80, 1)
    assert counted["exchange_s"] >= 0 and counted["waiting_s"] >= 0


def test_two_processes_do_the_work_of_one(base_policy):
    one, two = (scale_runs.hosts(count, 1, prompts=8) for count in (1, 2))
    assert (one["rollouts"], one["tokens"]) == (two["rollouts"], two["tokens"])
    assert (one["exchanges"], one["sent_bytes"], one["received_bytes"]) == (0, 0, 0)
    # nobody needs all tokens and log-probs of the other
    assert two["exchanges"] > 2 and 0 < two["received_bytes"] < 8 * two["tokens"]


def test_a_point_runs_in_a_process_of_its_own_and_tells_of_others():
    line = scale.point("checkpoint", "qwen2.5-math-7b", 1)
    assert line["size"] == "qwen2.5-math-7b" and line["others_cores"] >= 0


def call(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["bench", "scale", *map(str, arguments)])
    bench.main()


def test_the_command_prints_a_line_for_each_size_and_tables_of_them(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(scale, "point", lambda what, size, repeats: {
        "size": size, "seconds": 0.5 * repeats, "tokens": 12345, "others_cores": 0.0,
    })  # fmt: skip
    call(monkeypatch, "--what", "grade", "--sizes", 2, 4, "--repeats", 3)
    said = capsys.readouterr().out
    machine, *lines = map(json.loads, said.splitlines())
    assert machine["what"] == "machine" and machine["cores"] >= 1 and "jax" in machine["versions"]
    assert [(x["of"], x["size"], x["seconds"]) for x in lines] == [
        ("grade", "2", 1.5), ("grade", "4", 1.5)
    ]  # fmt: skip
    (tmp_path / "lines.jsonl").write_text(said)
    call(monkeypatch, "--read", tmp_path / "lines.jsonl")
    table = capsys.readouterr().out.splitlines()
    assert table[2:6] == ["| answers | 2 | 4 |", "| --- | --- | --- |",
                          "| seconds | 1.5 | 1.5 |", "| tokens | 12,345 | 12,345 |"]  # fmt: skip
    call(monkeypatch, "--what", "grade", "--sizes", 2, "--markdown", "--repeats", 3)
    assert "| seconds | 1.5 |" in capsys.readouterr().out


def test_a_file_without_such_lines_is_refused_in_one_line(monkeypatch, capsys, tmp_path):
    (tmp_path / "lines.jsonl").write_text('{"what": "rollout"}\n')
    with pytest.raises(SystemExit):
        call(monkeypatch, "--read", tmp_path / "lines.jsonl")
    assert capsys.readouterr().err.strip() == "error: no lines of `bench scale`"
