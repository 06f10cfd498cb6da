"""How the text of a compiled TPU program is read: loops, cycles, collectives, waiting, copies."""

import pytest

from dars_jax.tpu import hlo, hlo_traffic

TEXT = """HloModule m, is_scheduled=true

%scatter.clone (p: bf16[8,128]) -> bf16[4,128] {
  %p = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.1 = bf16[8,128]{1,0} all-reduce(%p), channel_id=7, replica_groups=[2,4]<=[8]
  ROOT %dynamic-slice.1 = bf16[4,128]{1,0} dynamic-slice(%all-reduce.1), dynamic_slice_sizes={4}
}

%start.1 (p.1: bf16[8,128]) -> (bf16[8,128], bf16[16,128]) {
  %p.1 = bf16[8,128]{1,0} parameter(0)
  %all-gather.1 = bf16[16,128]{1,0} all-gather(%p.1), channel_id=3, replica_groups={{0,1},{2,3}}
  ROOT %custom-call.1 = (bf16[8,128], bf16[16,128]) custom-call(%all-gather.1), \
custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.2 (p.2: bf16[8,128]) -> bf16[16,128] {
  %p.2 = bf16[8,128]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[16,128]{1,0} all-gather(%p.2), channel_id=3, \
replica_groups={{0,1},{2,3}}
}

%write.1 (p.3: f32[64,128], q.3: f32[1,128]) -> f32[64,128] {
  %p.3 = f32[64,128]{1,0} parameter(0)
  %q.3 = f32[1,128]{1,0} parameter(1)
  ROOT %dynamic-update-slice.3 = f32[64,128]{1,0} dynamic-update-slice(%p.3, %q.3)
}

%body.1 (t: (s32[], f32[64,128], s32[])) -> (s32[], f32[64,128], s32[]) {
  %t = (s32[], f32[64,128]{1,0}, s32[]) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %x = f32[64,128]{1,0} get-tuple-element(%t), index=1
  %n = s32[] get-tuple-element(%t), index=2
  %two = s32[] constant(2)
  %row = f32[1,128]{1,0} broadcast(%i)
  %written = f32[64,128]{1,0} fusion(%x, %row), kind=kLoop, calls=%write.1, \
backend_config={"window_config":{"estimated_cycles":"70"},"aliasing_operands":{"lists":\
[{"indices":["0","2"]}]}}
  %copied = f32[64,128]{1,0} copy(%written), backend_config={"estimated_cycles":"300"}
  %kernel = f32[64,128]{1,0} custom-call(%copied), custom_call_target="tpu_custom_call", \
backend_config={"custom_call_config":{"body":"{
 a
}}, metadata={op_name="a_kernel"}
  %next = s32[] add(%i, %two)
  ROOT %out = (s32[], f32[64,128]{1,0}, s32[]) tuple(%next, %copied, %n)
}

%condition.1 (t.1: (s32[], f32[64,128], s32[])) -> pred[] {
  %t.1 = (s32[], f32[64,128]{1,0}, s32[]) parameter(0)
  %i.1 = s32[] get-tuple-element(%t.1), index=0
  %n.1 = s32[] get-tuple-element(%t.1), index=2
  ROOT %lt = pred[] compare(%i.1, %n.1), direction=LT
}

ENTRY %main (a: bf16[8,128], b: f32[64,128]) -> f32[64,128] {
  %a = bf16[8,128]{1,0} parameter(0)
  %b = f32[64,128]{1,0} parameter(1)
  %s = bf16[4,128]{1,0} fusion(%a), kind=kCustom, calls=%scatter.clone
  %g0 = (bf16[8,128]{1,0}, bf16[16,128]{1,0}) fusion(%a), kind=kCustom, calls=%start.1
  %g1 = bf16[16,128]{1,0} fusion(%a), kind=kOutput, calls=%async_collective_fusion.2
  %c0 = (bf16[8,128]{1,0}, bf16[8,128]{1,0}, u32[]) collective-permute-start(%a), \
source_target_pairs={{0,1},{1,0}}
  %c1 = bf16[8,128]{1,0} collective-permute-done(%c0)
  %zero = s32[] constant(1)
  %seven = s32[] constant(8)
  %start = (s32[], f32[64,128]{1,0}, s32[]) tuple(%zero, %b, %seven)
  %while.1 = (s32[], f32[64,128]{1,0}, s32[]) while(%start), condition=%condition.1, body=%body.1
  ROOT %result = f32[64,128]{1,0} get-tuple-element(%while.1), index=1
}
"""


@pytest.fixture(scope="module")
def written():
    return hlo.parse(TEXT)


def test_a_bound_that_the_loop_carries_is_a_known_trip_count(written):
    (loop,) = {site.loops[-1] for site in hlo.sites(written) if site.loops}
    assert loop.known == 4  # 1, 3, 5, 7
    assert hlo.cycles(hlo.sites(written)) == 4 * (70 + 300)


def test_async_chains_count_once_and_a_fused_reduce_scatter_by_its_name(written):
    found = hlo_traffic.collectives(written, hlo.sites(written))
    # the permute's tuple holds its operand and a counter of 4 bytes beside the result
    assert [(c.kind, c.bytes, c.group, c.asynchronous) for c in found] == [
        ("reduce-scatter", 8 * 128 * 2, 4, False),
        ("all-gather", 16 * 128 * 2, 2, True),
        ("collective-permute", 8 * 128 * 2 + 4, 2, True),
    ]


def test_a_copy_is_told_from_an_update_in_place(written):
    large = hlo_traffic.large_ops(written, hlo.sites(written), at_least=64 * 128 * 4)
    assert {op.site.op.name: op.in_place for op in large} == {
        "written": True,
        "copied": False,
        "kernel": False,
    }


def test_a_kernel_may_span_lines_that_look_like_an_end(written):
    kernel = written.computations["body.1"]["kernel"]
    assert 'op_name="a_kernel"' in kernel.attributes and not kernel.is_root
    assert hlo.root(written.computations["body.1"]).name == "out"


def test_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        hlo.parse("loss 0.3\n")


# A gather on another core while the chip copies for 70 cycles and runs a loop of 3 x 20.
MEANWHILE = """HloModule m, is_scheduled=true

%gathering (p: bf16[8,128]) -> bf16[16,128] {
  %p = bf16[8,128]{1,0} parameter(0)
  ROOT %all-gather.1 = bf16[16,128]{1,0} all-gather(%p), channel_id=1, replica_groups=[2,2]<=[4]
}, execution_thread="sparsecore"

%body (t: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
  %t = (s32[], bf16[8,128]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %x = bf16[8,128]{1,0} get-tuple-element(%t), index=1
  %y = bf16[8,128]{1,0} copy(%x), backend_config={"estimated_cycles":"20"}
  ROOT %out = (s32[], bf16[8,128]{1,0}) tuple(%i, %y)
}

%condition (t.1: (s32[], bf16[8,128])) -> pred[] {
  %t.1 = (s32[], bf16[8,128]{1,0}) parameter(0)
  ROOT %go = pred[] constant(true)
}

ENTRY %main (a: bf16[8,128]) -> bf16[16,128] {
  %a = bf16[8,128]{1,0} parameter(0)
  %g0 = ((bf16[8,128]{1,0}), bf16[16,128]{1,0}) call-start(%a), \
async_execution_thread="sparsecore", to_apply=%gathering
  %busy = bf16[8,128]{1,0} copy(%a), backend_config={"estimated_cycles":"70"}
  %zero = s32[] constant(0)
  %start = (s32[], bf16[8,128]{1,0}) tuple(%zero, %busy)
  %while.1 = (s32[], bf16[8,128]{1,0}) while(%start), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"3"}}
  %g1 = bf16[16,128]{1,0} call-done(%g0)
  %last = bf16[8,128]{1,0} get-tuple-element(%while.1), index=1
  ROOT %sync = bf16[16,128]{1,0} all-gather(%last), channel_id=2, replica_groups=[2,2]<=[4]
}
"""


@pytest.mark.parametrize(("link", "waited"), [(100, [0, 100]), (150, [20, 150])])
def test_the_chip_waits_for_what_it_does_not_compute_meanwhile(link, waited):
    module = hlo.parse(MEANWHILE)
    sites = hlo.sites(module)
    found = hlo_traffic.collectives(module, sites)
    assert [(c.kind, c.bytes, c.asynchronous) for c in found] == [
        ("all-gather", 16 * 128 * 2, True),
        ("all-gather", 16 * 128 * 2, False),
    ]
    assert hlo_traffic.waits(sites, found, lambda c: link) == waited


def test_starts_that_nothing_follows_hide_nothing(written):
    sites = hlo.sites(written)
    found = hlo_traffic.collectives(written, sites)
    assert hlo_traffic.waits(sites, found, lambda c: 100) == [100, 100, 100]
