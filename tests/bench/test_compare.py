"""Commands side by side: the ratios of the same round, a file that grows, bad input in one line."""

import json
import shlex
import sys

import pytest

from dars_jax.bench import __main__ as bench
from dars_jax.bench import compare


def prints(*lines: object, code: int = 0) -> str:
    """A command that prints lines and ends with an exit code."""
    said = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    return shlex.join([sys.executable, "-c", f"print({said!r}); raise SystemExit({code})"])


def line(program, of, number, speed, **more):
    return {"program": program, "of": of, "round": number, "tokens_per_s": speed, **more}


def test_ratios_are_of_the_same_round_and_the_median_stands_before_its_range():
    lines = [line("ours", "update", i, 100.0 * (i + 1), matmul_share=0.5) for i in range(3)]
    lines += [line("peer", "update", i, 50.0) for i in range(3)]
    lines += [line("ours", "rollout", 0, 30.0), line("peer", "rollout", 1, 10.0)]
    assert compare.table(lines).splitlines() == [
        "| their time / ours | update | rollout |",
        "| --- | --- | --- |",
        "| ours, tokens per second | 200 (100–300) | 30 |",
        "| peer | 4.00 (2.00–6.00) |  |",
        "| nothing but matrix products | 0.50 (0.50–0.50) |  |",
    ]


def test_a_peers_share_of_matrix_products_is_not_taken_for_ours():
    lines = [line("ours", "update", 0, 1.0), line("peer", "update", 0, 1.0, matmul_share=0.9)]
    assert "matrix products" not in compare.table(lines)


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["bench", "compare", *map(str, arguments)])
    bench.main()


def test_the_command_adds_rounds_to_its_file_and_prints_it_again(tmp_path, monkeypatch, capsys):
    file = tmp_path / "speed.jsonl"
    entries = [
        "ours:step=" + prints("loading", {"tokens_per_s": 30}),
        "peer:step=" + prints("{'loss': 1}", {"tokens_per_s": 1}, {"tokens_per_s": 10}),
    ]
    run(monkeypatch, "--file", file, "--rounds", 2, *entries)
    run(monkeypatch, "--file", file, "--rounds", 1, *entries)
    capsys.readouterr()
    run(monkeypatch, "--file", file)
    assert "| peer | 3.00 (3.00–3.00) |" in capsys.readouterr().out
    assert [x["round"] for x in compare.read(file)] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("ours=x", "PROGRAM:WORK=COMMAND"),
        ("ours:step=" + prints({"tokens_per_s": 1}, code=3), "exit code 3"),
        ("ours:step=" + prints("hello"), "tokens_per_s"),
    ],
)
def test_what_cannot_be_compared_is_one_line(entry, message, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, "--file", tmp_path / "speed.jsonl", entry)
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert message in said.splitlines()[-1]
    assert "Traceback" not in said


def test_no_rounds_are_refused(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, "--file", tmp_path / "speed.jsonl", "--rounds", 0)
    assert end.value.code == 2 and "--rounds must be at least 1, got 0" in capsys.readouterr().err


def test_a_file_that_is_no_comparison_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        compare.read(tmp_path / "none.jsonl")
    (tmp_path / "other.jsonl").write_text('{"what": "update"}\n')
    with pytest.raises(ValueError, match="other lines"):
        compare.read(tmp_path / "other.jsonl")
