"""Which checkpoints stay, and what happens where they cannot be written."""

import contextlib
import dataclasses
import os
import resource
import subprocess

import jax
import pytest

from bokeh_jax.config import resolve
from bokeh_jax.errors import InvalidInput
from bokeh_jax.training import checkpoint
from bokeh_jax.training.saver import open_saver
from bokeh_jax.training.state import create_state


@pytest.fixture(scope="module")
def state(tiny):
    return jax.jit(lambda: create_state(tiny))()


def keeping(tiny, **training):
    changes = {"checkpoint_every_steps": 2, "keep_checkpoints": 2} | training
    return dataclasses.replace(tiny, training=dataclasses.replace(tiny.training, **changes))


def position(step):
    return checkpoint.DataPosition(step, 0, "fingerprint")


def save_all(config, workdir, state, steps):
    with open_saver(workdir, config) as saver:
        for step in steps:
            saver.save(state, position(step))


def test_the_newest_stay_and_every_kth(tiny, state, tmp_path):
    config = keeping(tiny, keep_every_steps=4)
    save_all(config, tmp_path, state, range(2, 16, 2))
    assert checkpoint.steps(tmp_path) == [4, 8, 12, 14]
    # What an earlier process has kept, the next one judges alike.
    save_all(config, tmp_path, state, [16, 18])
    assert checkpoint.steps(tmp_path) == [4, 8, 12, 16, 18]
    save_all(keeping(tiny), tmp_path, state, [20])
    assert checkpoint.steps(tmp_path) == [18, 20]


@pytest.mark.parametrize("keep_every_steps", [-7, 3, 10])
def test_what_is_never_saved_cannot_stay(keep_every_steps):
    with pytest.raises(InvalidInput, match=r"keep_every_steps is -?\d+; allowed: 0, or a multiple"):
        resolve({"training": {"checkpoint_every_steps": 7, "keep_every_steps": keep_every_steps}})


@contextlib.contextmanager
def largest_file(size_bytes):
    """Files beyond this size cannot be written, as on a full disk: a limit of the system."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_save_that_fails_is_reported_by_the_next_and_costs_no_good_one(
    tiny, state, tmp_path, capfd
):
    config = keeping(tiny, keep_checkpoints=1)
    save_all(config, tmp_path, state, [2])
    with (
        pytest.raises(InvalidInput, match=r"could not be written to .*File too large") as found,
        largest_file(100_000),
    ):
        save_all(config, tmp_path, state, [4, 6, 8])
    assert "the newest whole one is step 2; allowed: a folder" in str(found.value)
    assert str(found.value).count("\n") == 0
    assert capfd.readouterr().err == ""
    assert checkpoint.steps(tmp_path) == [2]
    checkpoint.verify(tmp_path, 2)
    # With room again the same command goes on, and the remains are gone.
    save_all(config, tmp_path, state, [4])
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["4"]


def test_a_last_save_that_fails_is_reported_at_the_end(tiny, state, tmp_path):
    config = keeping(tiny)
    with (
        pytest.raises(InvalidInput, match=r"File too large.*; there is none before it"),
        largest_file(100_000),
    ):
        save_all(config, tmp_path, state, [2])
    assert checkpoint.steps(tmp_path) == []


def test_why_a_run_ends_is_not_hidden_by_a_save_that_fails(tiny, state, tmp_path):
    class Saved(Exception):
        pass

    def save_and_raise():
        with open_saver(tmp_path, keeping(tiny)) as saver:
            saver.save(state, position(2))
            raise Saved

    with pytest.raises(Saved), largest_file(100_000):
        save_and_raise()


def test_a_folder_that_cannot_be_made_is_named(tiny, tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    with (
        pytest.raises(InvalidInput, match=r"to .*/checkpoints \((File exists|Not a directory)\)"),
        open_saver(tmp_path, keeping(tiny)),
    ):
        pytest.fail("opened")


@contextlib.contextmanager
def mounted(folder, options):
    """A file system of its own, in memory; skipped where this user may not mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("this user may not mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_keeps_the_last_good_one(tiny, state, tmp_path):
    config = keeping(tiny, keep_checkpoints=1)
    save_all(config, tmp_path / "measured", state, [2])
    used = sum(path.stat().st_size for path in (tmp_path / "measured").rglob("*"))
    with mounted(tmp_path / "small", f"size={int(1.5 * used)}") as workdir:
        save_all(config, workdir, state, [2])
        with pytest.raises(InvalidInput, match=r"No space left on device.* is step 2; allowed"):
            save_all(config, workdir, state, [4])
        checkpoint.verify(workdir, 2)
        assert checkpoint.steps(workdir) == [2]


def test_a_disk_that_may_only_be_read_is_named(tiny, tmp_path):
    with (
        mounted(tmp_path / "still", "ro") as workdir,
        pytest.raises(InvalidInput, match=r"Read-only file system\); there is none before it"),
        open_saver(workdir, keeping(tiny)),
    ):
        pytest.fail("opened")
