"""Checkpoints that are not what was saved: found, named, gone around."""

import dataclasses
import gc
import json
import shutil
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from etils.epath import testing

from bokeh_jax import config as config_lib
from bokeh_jax.cli import main
from bokeh_jax.errors import InvalidInput
from bokeh_jax.leaf_names import leaves_by_name
from bokeh_jax.training import checkpoint, hosts, sharding, storage
from bokeh_jax.training.checkpoint_record import DamagedCheckpoint, record_from_json
from bokeh_jax.training.checksums import checksums
from bokeh_jax.training.train import train


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished.workdir, tmp_path / "copy")


def data_file(workdir, step):
    """The file that holds the arrays."""
    files = (workdir / "checkpoints" / str(step) / "state").rglob("d/*")
    return max(files, key=lambda path: path.stat().st_size)


def flip(path, share):
    """Flips one bit at a place in a file, 0 to 1."""
    content = bytearray(path.read_bytes())
    content[int(share * (len(content) - 1))] ^= 4
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change_record(step_folder):
    """Another seed: JSON as good as before."""
    path = step_folder / "_CHECKPOINT_METADATA"
    text = path.read_text()
    assert '"seed": 0' in text
    path.write_text(text.replace('"seed": 0', '"seed": 1'))


DAMAGES = {
    "array bytes at the start": lambda step: flip(data_file(step.parent.parent, step.name), 0.05),
    "array bytes in the middle": lambda step: flip(data_file(step.parent.parent, step.name), 0.5),
    "array bytes at the end": lambda step: flip(data_file(step.parent.parent, step.name), 0.9),
    "arrays cut": lambda step: truncate(data_file(step.parent.parent, step.name)),
    "arrays gone": lambda step: data_file(step.parent.parent, step.name).unlink(),
    "manifest gone": lambda step: (step / "state" / "manifest.ocdbt").unlink(),
    "list of arrays cut": lambda step: truncate(step / "state" / "_METADATA"),
    "list of arrays gone": lambda step: (step / "state" / "_METADATA").unlink(),
    "record gone": lambda step: (step / "_CHECKPOINT_METADATA").unlink(),
    "record cut": lambda step: truncate(step / "_CHECKPOINT_METADATA"),
    "record changed": change_record,
    "state gone": lambda step: shutil.rmtree(step / "state"),
}


def assert_bitwise_equal(first, second):
    first, second = leaves_by_name(first), leaves_by_name(second)
    assert first.keys() == second.keys()
    for name, leaf in first.items():
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(second[name]), err_msg=name)


def test_a_checkpoint_holds_state_position_config_and_code(tiny, finished):
    workdir, state = finished
    record = checkpoint.verify(workdir, 12).record
    assert record.position.next_step == 12
    assert config_lib.from_json(json.dumps(record.config)) == tiny
    assert record.code_version == hosts.code_version()
    assert record.checksums == checksums(state)
    assert any(name.startswith("opt_state/") for name in record.checksums)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_every_damage_is_found(copy, capfd, damage):
    damage(copy / "checkpoints" / "12")
    with pytest.raises(DamagedCheckpoint, match=r"checkpoints/12 is damaged \(.+\)") as found:
        checkpoint.verify(copy, 12)
    assert str(found.value).count("\n") == 0
    assert checkpoint.verify(copy, 7).step == 7
    # Orbax's tracebacks stay out of the log.
    assert capfd.readouterr().err == ""


def test_a_changed_array_is_named_wherever_it_is_read(tiny, copy):
    flip(data_file(copy, 12), 0.5)
    with pytest.raises(DamagedCheckpoint, match=r"bytes of \S+/\S+ have changed") as found:
        checkpoint.verify(copy, 12)
    name = found.value.reason.split()[2]
    mesh = sharding.make_mesh(tiny.mesh)
    with pytest.raises(DamagedCheckpoint, match=name):
        checkpoint.restore(copy, 12, tiny, mesh)
    # What lies elsewhere can still be used.
    parts = {"params": False, "ema": True}
    for part, use_ema in parts.items():
        if name.startswith(part):
            with pytest.raises(DamagedCheckpoint, match=name):
                checkpoint.load_params(copy, 12, use_ema=use_ema)
        else:
            checkpoint.load_params(copy, 12, use_ema=use_ema)


def test_reading_in_groups_reads_everything(finished):
    workdir, state = finished
    stored = checkpoint.read_step(workdir, 12)
    groups = list(checkpoint.read_in_groups(stored, "params/dit/", group_bytes=40_000))
    assert len(groups) > 3
    read = {name: leaf for group in groups for name, leaf in group.items()}
    expected = {
        name: leaf for name, leaf in leaves_by_name(state).items() if name.startswith("params/dit/")
    }
    assert_bitwise_equal(read, expected)


def experiment_file(path, config):
    path.write_text(
        "import json\n"
        "from bokeh_jax.config import experiment\n"
        f"def get_config():\n    return experiment(**json.loads({config_lib.to_json(config)!r}))\n"
    )
    return path


def test_a_damaged_newest_ends_the_job_and_latest_good_goes_around_it(
    tiny, finished, copy, tmp_path, capfd
):
    truncate(data_file(copy, 12))
    before = sorted(copy.rglob("*"))
    config = experiment_file(tmp_path / "tiny.py", tiny)
    command = ["train", f"--config={config}", f"--workdir={copy}"]
    assert main(command) == 2
    said = capfd.readouterr().err
    assert said.startswith("error: newest checkpoint ")
    assert said.count("\n") == 1
    assert "checkpoints/12 is damaged" in said
    assert "the newest whole one is step 7; allowed: --restore=latest_good" in said
    assert sorted(copy.rglob("*")) == before

    assert main([*command, "--restore=latest_good"]) == 0
    said = capfd.readouterr().out
    assert f"resumed from {copy} at step 7" in said
    assert "checkpoints/12 is now 12.damaged" in said
    # Step 12 is saved again, where the damaged one was.
    assert (copy / "checkpoints" / "12.damaged").is_dir()
    assert checkpoint.steps(copy) == [7, 12]
    checkpoint.verify(copy, 12)
    mesh = sharding.make_mesh(tiny.mesh)
    assert_bitwise_equal(checkpoint.restore(copy, 12, tiny, mesh)[0], finished.state)


def test_where_all_are_damaged_nothing_starts_over(tiny, copy):
    for step in (7, 12):
        change_record(copy / "checkpoints" / str(step))
    with pytest.raises(InvalidInput, match=r"all 2 checkpoints of .* are damaged, the newest: its"):
        train(tiny, copy, visible=False, restore="latest_good")
    assert checkpoint.steps(copy) == [7, 12]


def test_a_second_damaged_one_of_a_step_gets_its_own_name(tiny, copy):
    (copy / "checkpoints" / "12.damaged").mkdir()
    change_record(copy / "checkpoints" / "12")
    enough = dataclasses.replace(tiny, training=dataclasses.replace(tiny.training, num_steps=7))
    train(enough, copy, visible=False, restore="latest_good")
    assert (copy / "checkpoints" / "12.damaged.2").is_dir()


def test_a_state_of_other_arrays_is_no_damage(tiny, finished):
    stored = checkpoint.read_step(finished.workdir, 12)
    lacking = dataclasses.replace(
        stored, tree=stored.tree | {"ema": {}, "more": stored.tree["ema"]}
    )
    with pytest.raises(InvalidInput, match=r"another model or optimizer: ema/\S+ is only here"):
        checkpoint.restore_stored(lacking, tiny, sharding.make_mesh(tiny.mesh))


def test_a_record_without_its_digest_is_no_record(finished):
    record = checkpoint.read_step(finished.workdir, 12).record
    values = json.loads(json.dumps(record.to_json()))
    assert record_from_json(dict(values)) == record
    del values["digest"]
    with pytest.raises(ValueError, match="is missing"):
        record_from_json(values)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32, jnp.uint8, jnp.bool_])
def test_a_checksum_sees_every_element_and_its_place(dtype):
    values = (np.arange(60).reshape(3, 4, 5) % 2).astype(dtype)
    whole = checksums({"x": jnp.asarray(values)})["x"]
    assert whole == checksums({"y": jnp.asarray(values)})["y"]
    seen = {whole}
    for index in range(60):
        changed = values.copy()
        changed.reshape(-1)[index] = 1 - changed.reshape(-1)[index]
        seen.add(checksums({"x": jnp.asarray(changed)})["x"])
    swapped = values[:, ::-1]
    seen.add(checksums({"x": jnp.asarray(swapped)})["x"])
    assert len(seen) == 1 + 60 + (not np.array_equal(swapped, values))
    assert 0 <= whole < 2**32


def test_steps_of_an_object_store_are_listed_where_they_lie():
    """`gs://` stays `gs://`: the listing asks epath's backend for that very path."""
    asked = []

    def isdir(_original, path):
        asked.append(str(path))
        return False

    with testing.mock_epath(isdir=isdir):
        assert checkpoint.steps("gs://bucket/run") == []
    assert asked == ["gs://bucket/run/checkpoints"]


_READ = """
import types

@types.coroutine
def wait():
    yield

async def read():
    try:
        await wait()
    except BaseException as error:
        raise Exception("given up") from error
"""


@pytest.mark.parametrize(("folder", "said"), [("orbax", []), ("ours", ["given up"])])
def test_only_a_read_of_orbax_is_given_up_in_silence(monkeypatch, folder, said):
    names = {}
    exec(compile(_READ, f"/{folder}/reading.py", "exec"), names)
    heard = []
    monkeypatch.setattr(sys, "unraisablehook", lambda met: heard.append(str(met.exc_value)))

    def read():
        started = names["read"]()
        started.send(None)
        # As a task and its loop hold each other: only the collector finds it.
        held = [started]
        held.append(held)
        raise OSError("no such array")

    assert storage.attempt(read) == (None, "no such array")
    gc.collect()
    assert heard == said


def test_a_read_leaves_older_objects_alone_and_gives_them_back():
    seen = []

    def read():
        seen.append(gc.get_freeze_count())
        raise OSError("no such array")

    assert storage.attempt(read) == (None, "no such array")
    assert seen[0] > 10_000
    assert gc.get_freeze_count() == 0
