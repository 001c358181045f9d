"""Collectives of real programs for eight devices, against what was written into them."""

# Lines are as long as the compiler writes them.
# ruff: noqa: E501

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bokeh_jax.chips import Chip
from bokeh_jax.commands.hlo_text import executed, instructions
from bokeh_jax.commands.plan_collectives import (
    Mesh,
    axes_of,
    collectives,
    group_of,
    largest_gather_bytes,
    link_rate,
)

ROWS, COLUMNS, TURNS = 16, 32, 5
PLANE = 4 * ROWS * COLUMNS
AXES = {"data": 2, "fsdp": 2, "tensor": 2}
CUBE = tuple((x, y, z) for x in range(2) for y in range(2) for z in range(2))
# 100 bytes a second along each of three lines of two chips, where half of the links are used.
CHIP = Chip(1.0, 1.0, 1, link_bytes_per_s=600.0, slice_bytes_per_s=10.0, link_dimensions=3)
MESH = Mesh(AXES, CUBE, (0,) * 8)


@pytest.fixture(scope="module")
def programs():
    path = Path(__file__).parent / "plan_programs.py"
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found.pop("devices") == list(range(8))
    return found


@pytest.mark.parametrize(
    ("name", "kind", "axes", "count", "result", "times", "sent", "seconds"),
    [
        ("gather", "all-gather", "data+fsdp", 4, PLANE, 1, PLANE * 3 / 4, PLANE * 3 / 4 / 200),
        ("scatter", "reduce-scatter", "tensor", 2, PLANE // 2, 1, PLANE / 2, PLANE / 2 / 100),
        ("reduce_in_loop", "all-reduce", "fsdp", 2, PLANE // 2, TURNS, PLANE / 2, PLANE / 200),
        ("swap", "all-to-all", "fsdp", 2, PLANE // 2, 1, PLANE / 4, PLANE / 400),
        ("shift", "collective-permute", "tensor", 2, PLANE // 2, 1, PLANE / 2, PLANE / 200),
    ],
)
def test_what_a_program_exchanges(programs, name, kind, axes, count, result, times, sent, seconds):
    (one,) = collectives(executed(programs[name]), MESH, CHIP)
    assert (one.kind, one.axes, one.group_size, one.times) == (kind, axes, count, times)
    assert (one.result_bytes, one.sent_bytes) == (result, sent)
    assert one.seconds == pytest.approx(seconds)


def test_the_largest_gather_may_be_written_as_a_sum(programs):
    every = [
        one
        for name in ("gather", "scatter", "reduce_in_loop")
        for one in collectives(executed(programs[name]), MESH, CHIP)
    ]
    assert largest_gather_bytes(every) == PLANE
    assert largest_gather_bytes(every[1:]) == PLANE // 2
    assert largest_gather_bytes(every[1:2]) == 0


def parsed(groups, opcode="all-gather", result="f32[8]{0}"):
    text = f"  %one = {result} {opcode}(%x), channel_id=1, {groups}, dimensions={{0}}"
    (found,) = instructions(text)
    assert found.opcode == opcode
    return found


@pytest.mark.parametrize(
    ("groups", "first", "axes"),
    [
        ("replica_groups={{0,2,4,6},{1,3,5,7}}", [0, 2, 4, 6], "data+fsdp"),
        ("replica_groups=[4,2]<=[8]", [0, 1], "tensor"),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", [0, 4], "data"),
        ("replica_groups=[4,2]<=[2,2,2]T(0,2,1)", [0, 2], "fsdp"),
        ("replica_groups={}", list(range(8)), "data+fsdp+tensor"),
        ("replica_groups=mesh['a'=4,'b'=2] {'b'}", [0, 1], "tensor"),
        ("replica_groups=mesh['a'=4,'b'=2] {'a'}", [0, 2, 4, 6], "data+fsdp"),
        (
            "replica_groups=mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'a'}",
            [0, 1, 2, 3],
            "fsdp+tensor",
        ),
        ("replica_groups=mesh['a'=8] {'a':(1)2}", [0, 4], "data"),
        ("replica_groups=mesh['a'=8] {'a':(2)2}", [0, 2], "fsdp"),
        ("replica_groups=mesh['a'=8] {'a':(4)2}", [0, 1], "tensor"),
    ],
)
def test_every_way_to_write_groups(groups, first, axes):
    group = group_of(parsed(groups), MESH)
    assert group == first
    assert axes_of(group, MESH) == axes


def test_groups_in_an_unknown_way_are_an_error():
    with pytest.raises(ValueError, match="unknown way"):
        group_of(parsed("replica_groups=odd"), MESH)


@pytest.mark.parametrize(
    ("opcode", "result", "size"),
    [
        ("all-gather-start", "(f32[2]{0}, f32[8]{0:T(8)})", 32),
        ("all-gather-start", "(f32[2]{0}, bf16[3]{0}, f32[8]{0}, bf16[12]{0}, u32[], u32[])", 56),
        ("all-reduce-start", "(f32[2]{0}, bf16[4]{0})", 16),
        ("collective-permute-start", "(f32[8]{0}, f32[8]{0}, u32[]{:S(2)}, u32[]{:S(2)})", 32),
    ],
)
def test_what_starts_one_holds_its_operands_too(opcode, result, size):
    text = f"""HloModule m
ENTRY %main (x: f32[8]) -> f32[8] {{
  %one = {result} {opcode}(%x), replica_groups={{{{0,1}}}}, source_target_pairs={{{{0,1}}}}
  ROOT %two = f32[8]{{0}} {opcode.removesuffix("-start")}-done(%one)
}}
"""
    (one,) = collectives(executed(text), MESH, CHIP)
    assert (one.result_bytes, one.asynchronous) == (size, True)


def test_rings_have_twice_the_links_of_lines():
    def rate(side, group):
        places = tuple((x, y, 0) for x in range(side) for y in range(side))
        return link_rate(group, Mesh({"data": side**2}, places, (0,) * side**2), CHIP)

    assert rate(2, [0, 1]) == 100
    assert rate(4, [0, 1, 2, 3]) == 200
    assert rate(4, range(16)) == 400


def test_between_slices_the_network_carries_a_share_of_each_chip():
    # Two slices of four chips in a line of links: of 8 results a chip, a fourth crosses.
    places = ((0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)) * 2
    mesh = Mesh({"data": 2, "fsdp": 4}, places, (0,) * 4 + (1,) * 4)
    text = """HloModule m
ENTRY %main (x: f32[100]) -> f32[100] {
  ROOT %one = f32[100]{0} all-reduce(%x), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
}
"""
    (one,) = collectives(executed(text), mesh, CHIP)
    inside, across = 2 * 400 * 3 / 4, 2 * 100 * 1 / 2
    assert one.sent_bytes == inside + across
    assert one.seconds == pytest.approx(inside / 200 + across / 10)


def test_what_is_sent_to_the_runtime_that_joins_slices():
    mesh = Mesh({"data": 2, "fsdp": 2}, ((0, 0, 0), (0, 0, 1)) * 2, (0, 0, 1, 1))
    text = """HloModule m
ENTRY %main (x: bf16[100]) -> bf16[100] {
  %one = (bf16[100]{0}, u32[], token[]) send(%x, %after), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  %two = token[] send-done(%one), channel_id=2
  ROOT %plain = (bf16[100]{0}, u32[], token[]) send(%x, %after), channel_id=3
}
"""
    (one,) = collectives(executed(text), mesh, CHIP)
    assert (one.kind, one.axes, one.group_size) == ("all-reduce", "data", 2)
    assert (one.result_bytes, one.sent_bytes, one.asynchronous) == (200, 200, True)
    assert one.seconds == pytest.approx(20)
