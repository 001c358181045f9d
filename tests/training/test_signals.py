"""Signals to one process that only waits for them; whole jobs: test_exact.py."""

import signal
import subprocess
import threading

import pytest
from real_jobs import free_port, run_ready

from bokeh_jax.training.preemption import EXIT_PREEMPTED, stop_requests

# As in a compilation: the main thread is in C, where neither a signal nor Python's handlers end it.
IN_C = """
import ctypes
libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
def never_comes_back():
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)
"""
BEFORE_THE_FIRST_STEP = """
with stop_requests() as requested:
    print("ready", flush=True)
    never_comes_back()
"""
IN_THE_LOOP = """
import time
with stop_requests() as requested:
    step = 0
    while not requested(step):
        step += 1
        if step == 3:
            print("ready", flush=True)
        time.sleep(0.02)
    print("left", flush=True)
"""
STUCK_IN_THE_LOOP = """
with stop_requests() as requested:
    assert not requested(0)
    print("ready", flush=True)
    never_comes_back()
"""


def running(program, *arguments):
    header = "from bokeh_jax.training.preemption import stop_requests" + IN_C
    return run_ready(header + program, *arguments)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_before_the_first_step_a_process_leaves_at_once_wherever_it_is(number):
    (process,) = running(BEFORE_THE_FIRST_STEP, [])
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == EXIT_PREEMPTED
    assert "stopped by a signal before the first step" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_in_the_loop_it_leaves_at_a_step_s_boundary(number):
    (process,) = running(IN_THE_LOOP, [])
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "left\n")


def test_a_second_interrupt_ends_it_and_a_second_sigterm_does_not():
    (process,) = running(STUCK_IN_THE_LOOP, [])
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        process.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 128 + signal.SIGINT
    process.communicate()


def test_the_innermost_is_told_and_handlers_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    threads = threading.active_count()
    with stop_requests(), stop_requests() as requested:
        assert not requested(4)
        assert not requested(5)
        signal.raise_signal(signal.SIGTERM)
        steps = iter(range(6, 1000))
        while not requested(step := next(steps)):
            threading.Event().wait(0.01)
        assert requested(step), "it stays so"
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert threading.active_count() == threads


# Processes of one job, of different speed, which nothing but the agreement holds together.
OF_A_JOB = """
import sys, time
from bokeh_jax.training.hosts import Hosts, join
index, end = int(sys.argv[2]), sys.argv[3]
with stop_requests():
    join(Hosts(sys.argv[1], 3, index, 60))
    with stop_requests() as requested:
        if end == "never begins":
            print("ready", flush=True)
            never_comes_back()
        step = 500
        while step != int(end) and not requested(step):
            step += 1
            if step == 503:
                print("ready", flush=True)
            time.sleep(0.01 * (1 + 4 * index))
        print("left at", step, flush=True)
"""


def job_of_three(*ends):
    """Three processes of one job, all ready; each ends after a step, or never begins one."""
    address = f"localhost:{free_port()}"
    return running(OF_A_JOB, *([address, str(index), end] for index, end in enumerate(ends)))


def test_a_job_that_nobody_stops_ends_as_it_should():
    processes = job_of_three("510", "505", "504")
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert said == ["left at 510\n", "left at 505\n", "left at 504\n"]
    assert [process.returncode for process in processes] == [0, 0, 0]


def test_processes_of_different_speed_leave_at_the_same_step():
    processes = job_of_three("-1", "-1", "-1")
    processes[2].send_signal(signal.SIGTERM)
    said = {process.communicate(timeout=60)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(said) == 1
    (line,) = said
    assert int(line.removeprefix("left at ")) > 503


@pytest.mark.parametrize("told", [0, 1])
def test_where_one_has_not_begun_all_leave_at_once(told):
    """Process 0 keeps the board that the others read: it leaves last."""
    processes = job_of_three("never begins", "never begins", "-1")
    processes[told].send_signal(signal.SIGTERM)
    for process in processes:
        said, _ = process.communicate(timeout=60)
        assert process.returncode == EXIT_PREEMPTED
        assert "left at" not in said
