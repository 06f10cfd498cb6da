"""Lines of metrics that are damaged are named; what is not a line as it was written is not kept."""

import json

import pytest

from dars_jax.commands import startup
from dars_jax.records import metrics


@pytest.fixture
def file(tmp_path):
    log = metrics.MetricsLog(tmp_path, 0)
    for step in (1, 2, 3, 4):
        log.write(step, {"loss": 1.0 / step})
    log.close()
    return tmp_path / "metrics.jsonl"


def opened(file, last_step):
    """What is said when the run goes on behind a step."""
    said = []
    metrics.MetricsLog(file.parent, last_step, None, said.append).close()
    return said


def test_lines_behind_the_last_step_go_without_a_word(file):
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines) + lines[0][:9])  # half a line of a run that was killed
    assert opened(file, 3) == [] and file.read_bytes() == b"".join(lines[:3])
    assert opened(file, 3) == []


@pytest.mark.parametrize(
    "line", [b"{", b"", b"7", b"[]", b'{"step": "2"}', b'{"step": 2.5}', b"\xff"]
)
def test_a_damaged_line_is_named_and_nothing_is_changed(file, line):
    lines = file.read_bytes().splitlines(keepends=True)
    damaged = b"".join([lines[0], line + b"\n", *lines[2:]])
    file.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2, is damaged: .*same command"):
        opened(file, 4)
    assert file.read_bytes() == damaged


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda lines: [], id="empty"),
        pytest.param(lambda lines: lines[:2], id="cut off"),
        pytest.param(lambda lines: [*lines[:3], lines[3][:-4]], id="cut off in a line"),
        pytest.param(lambda lines: lines[:1] + lines[2:], id="one missing"),
        pytest.param(lambda lines: [*lines, lines[-1]], id="one twice"),
        pytest.param(
            lambda lines: [lines[0], lines[1].replace(b'"step": 2', b'"step": 6'), *lines[2:]],
            id="another step",
        ),
    ],
)
def test_steps_without_their_line_are_said(file, damage):
    file.write_bytes(b"".join(damage(file.read_bytes().splitlines(keepends=True))))
    (said,) = opened(file, 4)
    assert said.startswith(f"WARNING: {file} is damaged: of the 4 steps")


def test_a_file_that_is_gone_is_said_but_for_a_new_run(file):
    file.unlink()
    assert opened(file, 0) == []
    file.unlink()
    assert len(opened(file, 4)) == 1


def test_a_stored_configuration_that_is_damaged_is_named(tmp_path):
    file = tmp_path / "config.json"
    for content in (b"", b"[1]", b'{"seed": ', b"\xff\xfe"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"config\.json is damaged: .*NAME@COMMIT"):
            startup.stored_settings(file)
    file.write_text(json.dumps({"seed": 3}))
    assert startup.stored_settings(file) == {"seed": 3}
