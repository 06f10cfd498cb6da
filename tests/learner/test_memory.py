"""What "auto" becomes: a question of memory, by arithmetic that the TPU compiler confirms."""

import math

import pytest

from dars_jax.learner import memory
from dars_jax.policy import decoder

GIB = 2**30


def work(name="qwen2.5-math-7b", mesh=(4, 16, 4), rows=1, moments="float32"):
    return memory.Work(decoder.ARCHITECTURES[name], mesh, rows, row_tokens=4096, micro_batches=160,
                       chunk=1024, itemsize=2, moments=moments)  # fmt: skip


def chosen(memory_gib, gather="auto", remat="auto", **settings):
    return memory.choose(work(**settings), memory_gib * GIB, gather, remat)[:2]


def test_whole_weights_are_kept_where_they_fit():
    assert chosen(15.75)[0] == "layer"
    assert chosen(31.25)[0] == "layer"
    assert chosen(95.74, mesh=(4, 4, 4)) == ("epoch", "mlp")
    assert chosen(31.25, name="qwen2.5-math-1.5b")[0] == "epoch"


def test_activations_are_kept_as_far_as_memory_goes():
    order = ("full", "attention", "up", "mlp")
    kept = [order.index(chosen(size)[1]) for size in (10, 13, 15.75, 20, 31.25)]
    assert kept == sorted(kept) and kept[0] == 0 and kept[-1] == 3
    assert chosen(15.75, rows=2)[1] == "full"


def test_smaller_moments_leave_room_for_whole_weights():
    small = {"name": "qwen2.5-math-1.5b", "mesh": (1, 4, 1)}
    found = [chosen(15.75, moments=moments, **small)[0] for moments in ("float32", "factored")]
    assert found == ["layer", "epoch"]


def test_a_setting_that_is_given_is_not_changed():
    assert chosen(15.75, gather="epoch", remat="up") == ("epoch", "up")
    _, _, why = memory.choose(work(), 15.75 * GIB, "epoch", "up")
    assert "may not fit" in why


def test_unlimited_memory_recomputes_nothing():
    assert memory.choose(work(), math.inf, "auto", "auto")[:2] == ("epoch", "none")


@pytest.mark.parametrize(
    ("kind", "size"), [("TPU v5 lite", 15.75), ("TPU v5", 95.74), ("TPU v6 lite", 31.25)]
)
def test_the_memory_of_known_chips(kind, size):
    class Device:
        platform, device_kind = "tpu", kind

    assert memory.hardware(Device()).memory == size * GIB
