"""The time of a step by hand: a program as the TPU's compiler writes it, with round numbers."""

# Lines are as long as the compiler writes them.
# ruff: noqa: E501

import pytest

from bokeh_jax.chips import Chip
from bokeh_jax.commands.hlo_text import executed
from bokeh_jax.commands.plan_collectives import Mesh, collectives
from bokeh_jax.commands.plan_time import Kernel, pallas_kernels, step_time

CHIP = Chip(
    flops_per_s=1000.0,
    bytes_per_s=100.0,
    memory_bytes=1,
    link_bytes_per_s=40.0,
    slice_bytes_per_s=1.0,
    clock_hz=10.0,
)
MESH = Mesh({"fsdp": 2}, ((0,), (1,)), (0, 0))

PROGRAM = """HloModule jit_step, is_scheduled=true

%fused (p: f32[5]) -> f32[5] {
  %p = f32[5]{0} parameter(0)
  ROOT %inside = f32[5]{0} sine(%p), backend_config={"window_config":{"estimated_cycles":"999"}}
}

%body (state: (s32[], f32[5])) -> (s32[], f32[5]) {
  %state = (s32[], f32[5]{0}) parameter(0)
  %turn = s32[] get-tuple-element(%state), index=0
  %x = f32[5]{0} get-tuple-element(%state), index=1
  %q = bf16[1,2,4,8]{3,2,1,0} fusion(%x), kind=kLoop, calls=%fused, backend_config={"window_config":{"estimated_cycles":"30"}}
  %splash_mha_fwd.1 = bf16[1,2,4,8]{3,2,1,0} custom-call(%q, %q, %q), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 384}"
}}, metadata={op_name="jit(step)/pallas_call"}
  %sum = f32[5]{0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add
  ROOT %next = (s32[], f32[5]{0}) tuple(%turn, %sum)
}

%condition (state.1: (s32[], f32[5])) -> pred[] {
  %state.1 = (s32[], f32[5]{0}) parameter(0)
  %turn.1 = s32[] get-tuple-element(%state.1), index=0
  %limit = s32[] constant(4)
  ROOT %lt = pred[] compare(%turn.1, %limit), direction=LT
}

ENTRY %main (start: (s32[], f32[5])) -> (s32[], f32[5]) {
  %start = (s32[], f32[5]{0}) parameter(0)
  %ahead = (f32[5]{0:S(1)}, f32[5]{0}, u32[]) copy-start(%start)
  %moved = f32[5]{0} dynamic-slice(%start), dynamic_slice_sizes={5}
  %priced = f32[5]{0} fusion(%moved), kind=kLoop, calls=%fused, backend_config={"window_config":{"estimated_cycles":"20"}}
  ROOT %loop = (s32[], f32[5]{0}) while(%start), condition=%condition, body=%body
}
"""


def test_every_part_by_hand():
    found = executed(PROGRAM)
    moved, kernels = collectives(found, MESH, CHIP), pallas_kernels(found)
    # Two products of 2 x 2 heads x 4 queries x 4 keys x 8 channels; four arrays of 128 bytes.
    assert kernels == [Kernel("splash_mha_fwd", 4, 1024.0, 512.0)]
    time = step_time(found, moved, kernels, 3.0, CHIP)
    # Four turns of 30 cycles and once 20, ten a second; what stands in fusions is theirs.
    assert time.cycles_seconds == pytest.approx(14.0)
    # XLA has counted 30 + 20 cycles' worth.
    assert time.roofline_seconds == pytest.approx(3.0 * 140 / 50)
    # 20 bytes read and 20 written; the comparison of every turn of the loop is not counted.
    assert time.unpriced_seconds == pytest.approx(0.4)
    # Bytes bind: 5.12 s, and 1024 operations at half of 1000 a second are 2.05 s.
    assert time.attention_seconds == pytest.approx(4 * 5.12)
    # 2 x 20 bytes x 1/2, over the half of the links that a line of two chips has.
    assert time.links_seconds == pytest.approx(4 * 20 / 20)
    assert time.asynchronous_links_seconds == 0
    for estimate, seconds in (("cycles", 14.0), ("roofline", 8.4)):
        work = seconds + 0.4 + 4 * 5.12
        assert time.predicted(estimate, hidden=False) == pytest.approx(work + 4.0)
        assert time.predicted(estimate, hidden=True) == pytest.approx(work)


def test_the_backward_kernel_has_five_products():
    (one,) = pallas_kernels(executed(PROGRAM.replace("splash_mha_fwd", "splash_mha_dkv")))
    assert one.flops == 1024.0 * 5 / 2


def test_links_that_need_longer_than_the_work_are_the_step():
    found = executed(PROGRAM)
    slow = collectives(found, MESH, Chip(1000.0, 100.0, 1, 0.04, 1.0, clock_hz=10.0))
    time = step_time(found, slow, [], 3.0, CHIP)
    assert time.predicted("roofline", hidden=True) == pytest.approx(4000.0)


def test_without_a_summary_the_roofline_is_the_cycles():
    time = step_time(executed(PROGRAM), [], [], -5.0, CHIP)
    assert time.roofline_seconds == time.cycles_seconds == pytest.approx(14.0)
