"""What the memory of a device decides, and what is said where it is too small."""

import dataclasses
import math

import pytest

from dars_jax.learner import memory
from dars_jax.learner.memory import GIB, Hardware
from dars_jax.policy import decoder
from dars_jax.setup import arms, fit, plan, presets, remedy

CHIPS = {"v5e": 15.75, "v6e": 31.25, "v5p": 95.74}


def made(config, chip="v5e", torus=(1, 1), **settings):
    """(plan, what it was decided by) on a TPU slice."""
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in settings.items()})
    hardware = Hardware("tpu", CHIPS[chip] * GIB, torus)
    got = plan.validate(config, math.prod(torus), hardware=hardware)
    attention = got.update.attention
    return got, fit.Case(config, got.model, got.mesh_shape, hardware, attention)


@pytest.mark.parametrize("name", presets.SMALL)
@pytest.mark.parametrize("chip", ["v5e", "v6e"])
def test_what_is_left_to_the_plan_fits_and_little_more_would(name, chip):
    torus = (1, 1) if name in ("qwen2.5-0.5b", "qwen3-0.6b") else (8, 8)
    got, case = made(arms.dars_b_small(name), chip, torus)
    assert not got.misfit
    assert fit.bytes_of_engine(case) <= fit.ENGINE_SHARE * case.hardware.memory
    assert fit.bytes_of_update(case) <= memory.SHARE * case.hardware.memory
    prompts = -(-got.config.rollout.num_prompts // got.num_replicas)
    if got.slots < min(prompts * got.config.rollout.n_pre, 512):
        more = case.but(rollout__slots=got.slots + 8)
        assert fit.bytes_of_engine(more) > fit.ENGINE_SHARE * case.hardware.memory


def test_the_paper_s_pod_gets_by_arithmetic_the_slots_that_its_preset_names():
    config = arms.dars_b("qwen2.5-math-7b")
    named = config.rollout.slots
    free = {"rollout__slots": 0, "rollout__prefixes": 0}
    assert made(config, torus=(16, 16), **free)[0].slots == named == 192


def test_sizes_that_are_given_are_kept():
    got, _ = made(arms.dars_b_small(), rollout__slots=16, rollout__prefixes=5,
                     learner__micro_batch_rows=4)  # fmt: skip
    assert (got.slots, got.prefixes, got.batch.rows) == (16, 5, 4)
    assert plan.decode_config(got, (0,)).slots == 16


def test_a_micro_batch_has_enough_tokens_for_every_chip_and_fewer_where_they_do_not_fit():
    short = {"data__max_prompt_tokens": 128, "rollout__max_tokens": 384, "learner__row_tokens": 512}
    assert made(arms.dars_b_small(), "v6e", **short)[0].batch.rows * 512 == 4096
    config = arms.dars_b("qwen2.5-math-7b")
    assert made(config, torus=(16, 16))[0].batch.rows == 256
    assert made(config, torus=(8, 8))[0].batch.rows == 64
    assert made(arms.dars_b_small())[0].batch.rows == 2
    assert made(arms.dars_b_small(), rollout__num_prompts=490)[0].batch.rows == 1


def test_memory_without_a_limit_asks_for_all_that_is_of_use():
    config = arms.dars_b().unlock()
    config.rollout.slots = config.rollout.prefixes = config.learner.micro_batch_rows = 0
    config.rollout.num_prompts, config.rollout.prefill_batch = 40, 4
    got = plan.validate(config, 2)
    assert (got.slots, got.prefixes) == (20 * 8, 20)  # of 20 prompts a replica
    assert got.batch.rows == 2 * 64


@pytest.mark.parametrize("name", ["qwen2.5-math-1.5b", "qwen2.5-math-7b", "llama-3.1-8b"])
@pytest.mark.parametrize("torus", [(2, 4, 1), (16, 16, 1), (2, 2, 2), (4, 4, 8)])
def test_the_mesh_of_a_slice_is_one_that_the_policy_divides_over(name, torus):
    got, _ = made(arms.dars_b(name), torus=torus)
    data, fsdp, tensor = got.mesh_shape
    assert data * fsdp * tensor == math.prod(torus) and fsdp in (1, *torus)
    assert tensor <= got.model.num_kv_heads and "torus" in got.choices[0]
    explicit = {"mesh__data": data, "mesh__fsdp": fsdp, "mesh__tensor": tensor}
    again, _ = made(arms.dars_b(name), torus=torus, **explicit)
    assert again.mesh_shape == got.mesh_shape and again.update == got.update


def test_a_vocabulary_that_does_not_divide_keeps_the_mesh_from_splitting_it():
    model = dataclasses.replace(decoder.ARCHITECTURES["qwen3-8b"], vocab_size=151_670)
    hardware = Hardware("tpu", CHIPS["v5e"] * GIB, (8, 8))
    got = plan.validate(arms.dars_b("qwen3-8b"), 64, model, hardware)
    assert got.mesh_shape == (4, 8, 2)


def test_a_mesh_is_chosen_on_tpus_only():
    assert plan.validate(arms.dars_b("qwen2.5-math-7b"), 8).mesh_shape == (1, 8, 1)


# What is said ------------------------------------------------------------------------------------


def test_prompts_are_named_with_a_number_that_fits_where_nothing_else_does():
    got, case = made(arms.dars_b_small(), rollout__num_prompts=3072)
    (number,) = numbers_after("rollout.num_prompts=", got.misfit)
    assert "the update" in got.misfit and 64 < number < 3072
    assert not made(arms.dars_b_small(), rollout__num_prompts=number)[0].misfit
    assert fit.bytes_of_update(case.but(rollout__num_prompts=number + 1)) > (
        memory.SHARE * case.hardware.memory
    )


def test_slots_are_named_with_a_number_that_fits_where_the_preset_has_more():
    got, case = made(arms.dars_b("qwen2.5-math-1.5b"), "v6e", rollout__num_prompts=128)
    assert "sampling" in got.misfit and "num_prompts" not in got.misfit
    (slots,), (prefixes,) = (numbers_after(f"rollout.{key}=", got.misfit)
                             for key in ("slots", "prefixes"))  # fmt: skip
    settings = {"rollout__slots": slots, "rollout__prefixes": prefixes}
    assert not made(case.config, "v6e", **settings)[0].misfit


def test_nothing_is_advised_that_is_so_already():
    _, case = made(arms.dars_b_small(), learner__micro_batch_rows=2, policy__remat="mlp")
    said = remedy.remedy(case, "update")
    # one chip: nothing to gather, nothing to split
    assert said == "it would fit with learner.micro_batch_rows=1, or with policy.remat=full"
    _, case = made(case.config, learner__micro_batch_rows=1, policy__remat="full")
    assert remedy.remedy(case, "update") == "it would fit with optimizer.moments=factored"
    _, case = made(case.config, optimizer__moments="factored")
    said = remedy.remedy(case, "update")
    assert "num_prompts" in said
    assert not any(word in said for word in ("micro_batch_rows", "remat", "moments"))


def test_weights_that_are_too_large_by_themselves_are_told_with_the_devices_they_need():
    got, _ = made(arms.dars_b_small("qwen2.5-math-1.5b"))
    assert "the update" in got.misfit and "sampling" in got.misfit
    (least,) = numbers_after("must be ", got.misfit)
    bytes_of_all = 12 * got.model.num_params()
    assert least == math.ceil(bytes_of_all / (0.85 * 15.75 * GIB)) == 2
    assert "lora.rank=16" in got.misfit
    assert not made(arms.dars_b_small("qwen2.5-math-1.5b"), lora__rank=16)[0].misfit


def numbers_after(key, text):
    """The whole numbers that follow a key in a text."""
    parts = text.split(key)[1:]
    return [int(part.split()[0].strip(",;")) for part in parts]
