"""docs/machines.md and the heads of presets say what was compiled, and presets are still that."""

import json
import math
import pathlib
import re

import pytest

from dars_jax.learner.memory import GIB, SHARE, Hardware
from dars_jax.setup import arms, fit, plan, presets
from dars_jax.tpu import topology

REPO = pathlib.Path(__file__).resolve().parent.parent.parent
PAGE = (REPO / "docs" / "machines.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("| ").split("|")]
    for line in PAGE.splitlines()
    if re.match(r"\| (\[v\d|\d+ GiB)", line)
]
TPUS = [row for row in ROWS if row[0].startswith("[")]
GPUS = [row for row in ROWS if not row[0].startswith("[")]


def case_of(preset, devices, hardware):
    """(plan of `FILE.py:POLICY` in backquotes, what it was decided by)."""
    arm, policy = preset.strip("`").split(".py:")
    config = arms.ARMS[arm](policy)
    made = plan.validate(config, devices, hardware=hardware)
    case = fit.Case(config, made.model, made.mesh_shape, hardware, made.update.attention)
    return made, case


def fits(case, prompts):
    case = case.but(rollout__num_prompts=prompts, rollout__slots=0, rollout__prefixes=0)
    memory = case.hardware.memory
    update, engine = fit.bytes_of_update(case), fit.bytes_of_engine(case)
    return update <= SHARE * memory and engine <= fit.ENGINE_SHARE * memory


def check_most_prompts(case, said):
    most = int(said.replace(",", ""))
    assert fits(case, most)
    assert most == 3072 or not fits(case, most + 1)


@pytest.mark.parametrize("row", TPUS, ids=[f"{row[0][1:8]} {row[1].strip('`')}" for row in TPUS])
def test_a_preset_is_what_was_compiled_and_its_row_says_what_came_of_it(row):
    slice_, preset, *peaks, memory, prompts, seconds, most, whole = row
    name, file = re.fullmatch(r"\[(.*)\]\((.*)\)", slice_).groups()
    lines = (REPO / "docs" / file).read_text().splitlines()
    *programs, step = map(json.loads, lines)
    where = topology.parse(name)
    limit = where.chip.hbm_gib * GIB
    made, case = case_of(preset, where.num_chips, Hardware("tpu", limit, where.shape))
    assert made.sizes() == step["plan"]
    assert (step["topology"], step["num_layers"]) == (name, made.model.num_layers)
    assert step["complete"] and step["fits"] and not made.misfit
    found = {p["program"]: p for p in programs}
    assert peaks == [f"{found[p]['peak'] / GIB:.1f}" for p in ("update", "prefill", "decode")]
    assert float(memory) == where.chip.hbm_gib == found["update"]["memory"] / GIB
    assert int(prompts) == step["plan"]["num_prompts"]
    assert seconds == f"{step['step_seconds']:.0f} s"
    assert whole == f"{step['step_seconds'] * 3072 / int(prompts) / 3600:.1f} h"
    check_most_prompts(case, most)


@pytest.mark.parametrize("row", TPUS, ids=[f"{row[0][1:8]} {row[1].strip('`')}" for row in TPUS])
def test_the_arithmetic_of_the_plan_is_near_the_compiler(row):
    file = re.search(r"\((.*)\)", row[0])[1]
    *programs, step = map(json.loads, (REPO / "docs" / file).read_text().splitlines())
    where = topology.parse(step["topology"])
    hardware = Hardware("tpu", where.chip.hbm_gib * GIB, where.shape)
    _, case = case_of(row[1], where.num_chips, hardware)
    found = {p["program"]: p["peak"] for p in programs}
    assert fit.bytes_of_update(case) == pytest.approx(found["update"], rel=0.1)
    assert fit.bytes_of_engine(case) == pytest.approx(found["decode"], rel=0.05)


@pytest.mark.parametrize("row", GPUS, ids=[f"{row[0]} {row[1].strip('`')}" for row in GPUS])
def test_a_gpu_s_row_is_the_plan_s_arithmetic(row):
    memory, preset, update, sampling, of, prompts, most = row
    limit = 0.75 * int(memory.split()[0]) * GIB
    made, case = case_of(preset, 1, Hardware("gpu", limit))
    assert (float(of) * GIB, int(prompts)) == (limit, made.config.rollout.num_prompts)
    assert update == f"{fit.bytes_of_update(case) / GIB:.1f}"
    assert sampling == f"{fit.bytes_of_engine(case) / GIB:.1f}"
    check_most_prompts(case, most)


def test_every_small_preset_has_a_row_and_the_head_of_its_file_says_the_same():
    head = (REPO / "configs" / "dars_b_small.py").read_text()
    said = {tuple(line.split()) for line in head.splitlines() if " GiB " in line}
    known = presets.SMALL | {f"{name},lora": sizes for name, sizes in presets.SMALL_LORA.items()}
    expected = set()
    for slice_, preset, *peaks, memory, prompts, seconds, _, _ in TPUS:
        file, policy = preset.strip("`").split(":")
        if file == "dars_b_small.py":
            name = re.match(r"\[(.*)\]", slice_)[1]
            _, prompt, answer = known[policy]
            line = (f"{policy} {prompts} {prompt} + {answer} {name} {max(peaks, key=float)} of "
                    f"{memory} GiB {seconds}")  # fmt: skip
            expected.add(tuple(line.split()))
    assert said == expected
    assert {line[0] for line in said} == set(known)


def test_the_learning_rate_of_a_small_batch_lies_between_the_paper_s():
    rate = {n: arms.dars_b_small(n).optimizer.learning_rate for n in ("qwen3-0.6b", "qwen3-8b")}
    assert rate["qwen3-0.6b"] == pytest.approx(1e-6 / math.sqrt(2))  # 64 prompts, half of 128
    assert 1e-6 < rate["qwen3-8b"] < 5e-6
    with pytest.raises(ValueError, match=r"no small batch for 'countdown': expected one of qwen2"):
        arms.dars_b_small("et")


def test_adapters_take_ten_times_the_rate_of_the_weights():
    config = arms.dars_b_small("qwen2.5-math-1.5b,lora")
    assert config.lora.rank == 16
    assert config.optimizer.learning_rate == pytest.approx(1e-5 / math.sqrt(2))
    with pytest.raises(ValueError, match=r"no small batch with adapters for 'qwen3-8b'"):
        arms.dars_b_small("qwen3-8b,lora")
