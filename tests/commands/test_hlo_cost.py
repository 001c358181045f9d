"""Counting what a compiled program does: loops as often as they run."""

import jax
import jax.numpy as jnp
import pytest

from bokeh_jax.commands.hlo_cost import count_program

SIDE = 8
PRODUCT = 2 * SIDE**3
# Additions and comparisons of counters, a handful a turn.
FEW_A_TURN = 20


def counted(function, *arguments):
    """The count of a function, and XLA's own."""
    program = jax.jit(function).lower(*arguments).compile()
    client = jax.devices("cpu")[0].client
    return count_program(program.as_text(), client), program.cost_analysis()


def repeated(function, turns):
    return lambda x: jax.lax.scan(lambda x, _: (function(x), None), x, None, length=turns)[0]


def test_without_loops_it_is_xlas_own_count():
    count, own = counted(lambda x, y: x @ y, *[jnp.ones((SIDE, SIDE))] * 2)
    assert count.flops == own["flops"] == PRODUCT
    assert count.bytes_accessed == own["bytes accessed"] == 3 * 4 * SIDE**2


def test_loops_within_loops_count_as_often_as_they_run():
    # Rounded in between, so that no two products are the same.
    inner = repeated(lambda x: jnp.round(x) @ x, 3)
    count, own = counted(repeated(lambda x: inner(jnp.round(x)) @ x, 5), jnp.ones((SIDE, SIDE)))
    # Each turn rounds a plane, which is an operation a pixel.
    turns = 5 * 3 + 5
    assert own["flops"] < 3 * PRODUCT
    wanted = turns * (PRODUCT + SIDE**2)
    assert wanted <= count.flops <= wanted + turns * FEW_A_TURN
    # A turn reads a product's two factors and writes one plane at the least.
    assert count.bytes_accessed >= turns * 3 * 4 * SIDE**2 > own["bytes accessed"] / 3


def test_a_loop_in_a_branch_and_in_a_call_is_found():
    loop = jax.jit(repeated(lambda x: jnp.round(x) @ x, 7))

    def either(x):
        return jax.lax.cond(x[0, 0] > 0, loop, lambda x: x, x)

    count, _ = counted(either, jnp.ones((SIDE, SIDE)))
    wanted = 7 * (PRODUCT + SIDE**2)
    assert wanted <= count.flops <= wanted + 8 * FEW_A_TURN


# As the TPU's compiler writes a loop: the limit is a constant of the condition.
TPU_LOOP = """HloModule jit_loop, is_scheduled=true

%body (state: (s32[], f32[4])) -> (s32[], f32[4]) {
  %state = (s32[], f32[4]{0:T(128)}) parameter(0)
  %turn = s32[]{:T(128)} get-tuple-element(%state), index=0
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%turn, %one)
  %x = f32[4]{0:T(128)} get-tuple-element(%state), index=1
  %y = f32[4]{0:T(128)} add(%x, %x), metadata={op_name="add" stack_frame_id=3}
  ROOT %out = (s32[], f32[4]{0:T(128)}) tuple(%next, %y)
}

%condition (state.1: (s32[], f32[4])) -> pred[] {
  %state.1 = (s32[], f32[4]{0:T(128)}) parameter(0)
  %turn.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  %limit = s32[]{:T(128)} constant(6)
  ROOT %lt = pred[]{:T(512)} compare(%turn.1, %limit), direction=LT
}

ENTRY %main (start: (s32[], f32[4])) -> (s32[], f32[4]) {
  %start = (s32[], f32[4]{0:T(128)}) parameter(0)
  ROOT %loop = (s32[], f32[4]{0:T(128)}) while(%start), condition=%condition, body=%body
}
"""


def test_turns_are_read_from_the_condition():
    client = jax.devices("cpu")[0].client
    # Five additions a turn, and the comparison that the loop is counted with once.
    assert count_program(TPU_LOOP, client).flops == 6 * 5 + 1


@pytest.mark.parametrize(
    ("old", "new"), [("direction=LT", "direction=NE"), ("constant(6)", "add(%turn.1, %turn.1)")]
)
def test_a_loop_without_a_known_end_is_an_error(old, new):
    client = jax.devices("cpu")[0].client
    with pytest.raises(ValueError, match="number of turns"):
        count_program(TPU_LOOP.replace(old, new), client)
