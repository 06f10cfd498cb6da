"""Where the cycles of a compiled program go, read from HLO that was written by hand."""

import pytest

from dars_jax.tpu import hlo, profile
from dars_jax.tpu.profile import Product

# A product whose result is written into layer i of a stack, one that lies in VMEM, and a fill.
TEXT = """HloModule m, is_scheduled=true

%product.1 (stack: bf16[3,64,256], x: bf16[64,128], w: f32[5,128,256], i: s32[]) -> bf16[3,64,256] {
  %stack = bf16[3,64,256]{2,1,0} parameter(0)
  %x = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} parameter(1)
  %w = f32[5,128,256]{2,1,0} parameter(2)
  %i = s32[] parameter(3)
  %slice = f32[1,128,256]{2,1,0} dynamic-slice(%w, %i), dynamic_slice_sizes={1,128,256}
  %one = f32[128,256]{1,0} bitcast(%slice)
  %y = bf16[64,256]{1,0} convolution(%x, %one), dim_labels=bf_io->bf, \
metadata={op_name="jit(f)/while/body/transpose(jvp())/Block/Block._project/gate/dot_general"}
  %row = bf16[1,64,256]{2,1,0} bitcast(%y)
  ROOT %written = bf16[3,64,256]{2,1,0} dynamic-update-slice(%stack, %row, %i)
}

ENTRY %main (stack: bf16[3,64,256], x: bf16[64,128], w: f32[5,128,256], i: s32[]) -> s32[] {
  %a = bf16[3,64,256]{2,1,0} parameter(0)
  %b = bf16[64,128]{1,0:T(8,128)(2,1)S(1)} parameter(1)
  %c = f32[5,128,256]{2,1,0} parameter(2)
  %n = s32[] parameter(3)
  %p = bf16[3,64,256]{2,1,0} fusion(%a, %b, %c, %n), kind=kOutput, calls=%product.1, \
backend_config={"estimated_cycles":"70"}
  %fill = bf16[3,64,256]{2,1,0} broadcast(%n), backend_config={"estimated_cycles":"30"}, \
metadata={op_name="jit(f)/broadcast.7"}
  %sum = f32[64]{0:T(64)S(1)} reduce(%a, %n), backend_config={"estimated_cycles":"20"}, \
metadata={op_name="jit(f)/jvp(jit(silu))/rematted_computation/reduce_sum"}
  ROOT %r = s32[] copy(%n)
}
"""


@pytest.fixture(scope="module")
def found():
    module = hlo.parse(TEXT)
    return profile.groups(module, hlo.sites(module), lambda loops: f"level {len(loops)}")


def test_groups_have_a_kind_a_phase_and_a_name_and_the_largest_is_first(found):
    assert [(g.kind, g.phase, g.name, g.level, g.cycles) for g in found] == [
        ("product", "backward", "gate backward bf16[3,64,256]", "level 0", 70),
        ("movement", "", "broadcast.7 bf16[3,64,256]", "level 0", 30),
        ("arithmetic", "recomputed", "silu/reduce_sum recomputed f32[64]", "level 0", 20),
    ]


def test_of_a_slice_only_the_slice_counts_and_of_vmem_nothing(found):
    assert found[0].product == Product(64, 128, 256, "bf16")
    assert found[0].flops == 2 * 64 * 128 * 256
    assert found[0].bytes == 4 * 128 * 256 + 2 * 64 * 256 + 4  # the weight, the result, the index
    assert found[2].bytes == 2 * 3 * 64 * 256 + 4


# Products over heads, as the compiler writes them: (left, right, result, window, labels) -> what
# they are.  Twenty-eight heads of 128 features, 4096 tokens, 3584 wide.
@pytest.mark.parametrize(
    ("left", "right", "result", "window", "labels", "product"),
    [
        ("[4096,3584,1]", "[28,3584,128]", "[4096,28,128]", "{size=28 pad=27_27 rhs_reversal=1}",
         "bf0_0io->b0f", (4096, 3584, 28 * 128)),
        ("[4096,28,128]", "[28,128,3584]", "[4096,3584,1]", "{size=28}", "b0f_0io->bf0",
         (4096, 28 * 128, 3584)),
        ("[4096,224,2]", "[4096,18944,1]", "[224,2,18944]", "{size=1}", "fb0_io0->b0f",
         (448, 4096, 18944)),
    ],
)  # fmt: skip
def test_a_convolution_is_read_as_the_product_it_is(left, right, result, window, labels, product):
    text = TEXT.replace("bf16[64,128]{1,0:T(8,128)(2,1)S(1)} parameter(1)",
                        f"bf16{left}{{2,1,0}} parameter(1)")  # fmt: skip
    text = text.replace("%one = f32[128,256]{1,0}", f"%one = bf16{right}{{2,1,0}}")
    text = text.replace("%y = bf16[64,256]{1,0}", f"%y = bf16{result}{{2,1,0}}")
    text = text.replace("dim_labels=bf_io->bf", f"window={window}, dim_labels={labels}")
    module = hlo.parse(text)
    first = profile.groups(module, hlo.sites(module), lambda _: "")[0]
    assert first.product == Product(*product, "bf16")
