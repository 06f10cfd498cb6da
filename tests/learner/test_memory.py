"""What "auto" becomes: a question of memory, by arithmetic that the TPU compiler confirms."""

import math
import types

import pytest

from dars_jax.learner import memory
from dars_jax.policy import decoder

GIB = 2**30


def work(name="qwen2.5-math-7b", mesh=(4, 16, 4), rows=1, moments="float32"):
    return memory.Work(decoder.ARCHITECTURES[name], mesh, rows, row_tokens=4096, micro_batches=160,
                       chunk=1024, itemsize=2, moments=moments)  # fmt: skip


def chosen(memory_gib, gather="auto", remat="auto", **settings):
    return memory.choose(work(**settings), memory_gib * GIB, gather, remat)


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


def test_unlimited_memory_recomputes_nothing():
    assert memory.choose(work(), math.inf, "auto", "auto") == ("epoch", "none")


@pytest.mark.parametrize(
    ("kind", "size"), [("TPU v5 lite", 15.75), ("TPU v5", 95.74), ("TPU v6 lite", 31.25)]
)
def test_the_memory_of_known_chips(kind, size):
    class Device:
        platform, device_kind, coords = "tpu", kind, (0, 0, 0)

    assert memory.hardware([Device()]) == memory.Hardware("tpu", size * GIB, (1, 1, 1))


def test_the_torus_of_a_slice_is_what_its_coordinates_span():
    def slice_of(*places):
        kind = {"platform": "tpu", "device_kind": "TPU v5 lite"}
        return memory.hardware([types.SimpleNamespace(**kind, coords=at) for at in places]).torus

    assert slice_of(*((x, y, 0) for x in range(2) for y in range(4))) == (2, 4, 1)
    assert slice_of((0, 0, 0), (1, 3, 0)) == (1,)  # a part of a slice


def test_a_gpu_has_the_memory_that_its_allocator_may_take():
    gpu = types.SimpleNamespace(platform="gpu", memory_stats=lambda: {"bytes_limit": 60 * GIB})
    assert memory.hardware([gpu]) == memory.Hardware("gpu", 60 * GIB)
