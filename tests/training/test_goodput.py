import pytest
from hypothesis import given
from hypothesis import strategies as st

from bokeh_jax.errors import InvalidInput
from bokeh_jax.training.accounting import Spent
from bokeh_jax.training.goodput import CATEGORIES, Event, GoodputRecord, Ledger


def add_up(*events):
    ledger = Ledger()
    for event in events:
        ledger.add(event)
    return {name: seconds for name, seconds in ledger.seconds.items() if seconds}


def test_every_second_of_a_run_has_its_place():
    assert add_up(
        Event("start", 1000.0),
        Event("loop", 1030.0, 0, {"compile": 20.0}),
        Event("steps", 1060.0, 20, {"checkpoint": 2.0, "data_wait": 3.0, "panel": 5.0}),
        Event("steps", 1070.0, 30),
        Event("end", 1074.0, 30),
    ) == {
        "startup": 10.0, "compile": 20.0, "checkpoint": 2.0, "data_wait": 3.0, "panel": 5.0,
        "steps": 30.0, "shutdown": 4.0,
    }  # fmt: skip


def test_steps_made_again_do_not_count():
    # Killed after step 40, restarted from step 25: 15 of the second interval's 20 steps were lost.
    assert add_up(
        Event("start", 0.0),
        Event("loop", 1.0, 0),
        Event("steps", 21.0, 20),
        Event("steps", 41.0, 40),
        Event("start", 50.0),
        Event("loop", 53.0, 25),
        Event("steps", 68.0, 40),
    ) == {
        "startup": 4.0, "down": 9.0, "steps": 20.0 + 5.0 + 15.0, "repeated": 15.0,
    }  # fmt: skip


def test_a_run_that_goes_back_twice_loses_each_step_once():
    ledger = Ledger()
    for event in (
        Event("start", 0.0),
        Event("loop", 0.0, 0),
        Event("steps", 10.0, 10),
        Event("loop", 10.0, 4),  # within one process, as after a batch that was not finite
        Event("steps", 16.0, 10),
        Event("loop", 16.0, 2),
        Event("steps", 24.0, 10),
    ):
        ledger.add(event)
    assert ledger.seconds["steps"] == pytest.approx(10.0)
    assert ledger.seconds["repeated"] == pytest.approx(14.0)
    assert ledger.percent["steps"] == pytest.approx(100 * 10 / 24)


def test_clocks_that_disagree_make_no_negative_time():
    found = add_up(
        Event("start", 100.0),
        Event("loop", 90.0, 0, {"compile": 5.0}),
        Event("steps", 94.0, 3, {"checkpoint": 6.0, "panel": 2.0}),
    )
    assert found == {"checkpoint": 3.0, "panel": 1.0}


@st.composite
def histories(draw):
    now, step, events = 0.0, 0, [Event("start", 0.0)]
    for _ in range(draw(st.integers(1, 12))):
        now += draw(st.floats(0.0, 50.0))
        kind = draw(st.sampled_from(["start", "loop", "steps", "steps", "end"]))
        if kind == "loop":
            step = draw(st.integers(0, step))
        if kind == "steps":
            step += draw(st.integers(0, 9))
        seconds = {"checkpoint": draw(st.floats(0.0, 60.0))} if kind == "steps" else {}
        events.append(Event(kind, now, step, seconds))
    return events


@given(histories())
def test_the_parts_are_never_negative_and_their_sum_is_the_time(events):
    ledger = Ledger()
    for event in events:
        ledger.add(event)
    assert ledger.seconds.keys() == CATEGORIES.keys()
    assert all(seconds >= -1e-9 for seconds in ledger.seconds.values())
    assert sum(ledger.seconds.values()) == pytest.approx(events[-1].time, abs=1e-6)


def test_a_process_goes_on_with_the_record_of_a_killed_one(tmp_path):
    path, now = tmp_path / "goodput.jsonl", [0.0]
    first = GoodputRecord(path, 1000.0, lambda: now[0])
    now[0] = 1010.0
    first.loop_begins(0, compile_seconds=4.0)
    now[0] = 1030.0
    first.steps_done(20, Spent(9.0, 1.0, 2.0, 3.0))
    assert first.goodput_percent == pytest.approx(100 * 14 / 30)
    # A kill in the middle of a line.
    with path.open("a") as file:
        file.write('{"event": "steps", "ti')
    second = GoodputRecord(path, 1050.0, lambda: now[0])
    now[0] = 1060.0
    second.loop_begins(10, compile_seconds=5.0)
    now[0] = 1075.0
    second.steps_done(25, Spent())
    now[0] = 1080.0
    second.ends(25)
    # 7 of the first 14 s count, and the 15 s after.
    assert second.goodput_percent == pytest.approx(100 * 22 / 80)
    assert second.summary() == (
        "goodput 27.5 % of 80 s since the first start; between processes 25.0 %, starting and "
        "restoring 13.8 %, compiling 11.2 %, steps made again after a restart 8.8 %, leaving "
        "6.2 %, pictures 3.8 %, the loop waited for saves 2.5 %, the device waited for data 1.2 %"
    )
    # What stands in the file is what was added up.
    third = GoodputRecord(path, 1080.0, lambda: now[0])
    assert third.goodput_percent == pytest.approx(second.goodput_percent)


@pytest.mark.parametrize(
    "line", ['{"step": 5}', '{"event": "lunch", "time": 1}', '{"event": "start"}']
)
def test_a_file_that_is_no_record_is_named(tmp_path, line):
    path = tmp_path / "goodput.jsonl"
    path.write_text('{"event": "start", "time": 1.0}\n' + line + "\n")
    with pytest.raises(InvalidInput, match=r"goodput.jsonl, line 2 is .*; allowed: the lines"):
        GoodputRecord(path, 5.0)
