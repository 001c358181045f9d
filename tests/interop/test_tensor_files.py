"""Folders of safetensors, whole and damaged: what is in them, and what is wrong with them."""

import json
import pickle
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from bokeh_jax.errors import InvalidInput
from bokeh_jax.interop.tensor_files import open_tensor_files, read_config

TYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
INDEX = "model.safetensors.index.json"


def some(seed=0, dtype=np.float32):
    random = np.random.default_rng(seed)
    return {
        f"matrix{seed}": random.normal(size=(6, 5)).astype(dtype),
        f"scalar{seed}": np.asarray(1.5, dtype),
    }


def write_sharded(folder, index=None):
    """Two files and their index, or another index."""
    save_file(some(0), folder / "model-1.safetensors")
    save_file(some(1), folder / "model-2.safetensors")
    where = {name: f"model-{1 + int(name[-1])}.safetensors" for name in some(0) | some(1)}
    (folder / INDEX).write_text(json.dumps({"weight_map": where | (index or {})}))


@pytest.mark.parametrize("name", ["diffusion_pytorch_model", "model"])
@pytest.mark.parametrize("dtype", TYPES)
def test_a_folder_with_one_file(tmp_path, name, dtype):
    given = some(dtype=TYPES[dtype])
    save_file(given, tmp_path / f"{name}.safetensors")
    files = open_tensor_files(tmp_path)
    assert {name: (i.shape, i.dtype) for name, i in files.tensors.items()} == {
        "matrix0": ((6, 5), dtype),
        "scalar0": ((), dtype),
    }
    for index in [(), (slice(2, 4),), (slice(None), slice(1, 3)), (slice(5, 6), slice(0, 0))]:
        found = files.read("matrix0", index)
        assert found.dtype == TYPES[dtype]
        np.testing.assert_array_equal(found, given["matrix0"][index])
    assert files.read("scalar0").shape == ()
    assert files.read("scalar0") == given["scalar0"]


def test_a_file_by_its_name(tmp_path):
    path = tmp_path / "any name.safetensors"
    save_file(some(), path)
    assert set(open_tensor_files(path).tensors) == set(some())


def test_several_files_and_an_index(tmp_path):
    write_sharded(tmp_path)
    files = open_tensor_files(tmp_path)
    for name, value in (some(0) | some(1)).items():
        np.testing.assert_array_equal(files.read(name), value)


def test_other_types_are_refused_when_read(tmp_path):
    save_file({"count": np.zeros(3, np.int64)}, tmp_path / "model.safetensors")
    files = open_tensor_files(tmp_path)
    assert files.tensors["count"].dtype == "I64"
    with pytest.raises(InvalidInput, match=r"tensor count of .* is I64; allowed: F32, F16, BF16"):
        files.read("count")


def truncated(path):
    path.write_bytes(path.read_bytes()[:-7])


def lengthened(path):
    path.write_bytes(path.read_bytes() + b"more")


def header_alone(path):
    path.write_bytes(path.read_bytes()[:30])


def emptied(path):
    path.write_bytes(b"")


def no_json(path):
    path.write_bytes(struct.pack("<Q", 8) + b"{broken}" + bytes(100))


def no_offsets(path):
    path.write_bytes(struct.pack("<Q", 8) + b'{"a":{}}' + bytes(100))


def overlapping(path):
    header = json.dumps(
        {name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in ("a", "b")}
    ).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (truncated, r"it has \d+ bytes; allowed: \d+ bytes, as its header says"),
        (lengthened, r"it has \d+ bytes; allowed: \d+ bytes, as its header says"),
        (header_alone, r"30 bytes, its header has \d+ bytes; allowed: a whole"),
        (emptied, r"0 bytes, no header; allowed: a whole"),
        (no_json, r"its header is not readable \(.*\); allowed: a whole"),
        (no_offsets, r"its header is not readable \(.*\); allowed: a whole"),
        (overlapping, r"its header is not consistent \(.*\); allowed: a whole"),
    ],
)
def test_damaged_files_are_named_with_what_was_expected(tmp_path, damage, named):
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file(some(), path)
    damage(path)
    with pytest.raises(InvalidInput, match=f"{path.name} is damaged: {named}") as caught:
        open_tensor_files(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_damaged_later_is_refused_too(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(some(), path)
    files = open_tensor_files(tmp_path)
    truncated(path)
    with pytest.raises(InvalidInput, match="is damaged"):
        files.read("matrix0")
    path.unlink()
    with pytest.raises(InvalidInput, match=r"model.safetensors cannot be read"):
        files.read("matrix0")


def test_there_must_be_safetensors(tmp_path):
    with pytest.raises(InvalidInput, match=r"nowhere does not exist; allowed: a folder of"):
        open_tensor_files(tmp_path / "nowhere")
    with pytest.raises(InvalidInput, match=r"holds none of those; allowed: diffusion_pytorch_mod"):
        open_tensor_files(tmp_path)


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "model.pt", "pytorch_model.ckpt"])
def test_nothing_is_unpickled(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InvalidInput, match=f"holds only {name}, and nothing is unpickled"):
        open_tensor_files(tmp_path)
    with pytest.raises(InvalidInput, match=r"is not a .safetensors file"):
        open_tensor_files(tmp_path / name)
    (tmp_path / name).rename(tmp_path / "model.safetensors")
    with pytest.raises(InvalidInput, match="is damaged"):
        open_tensor_files(tmp_path)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", r"index.json is not JSON \(.*\); allowed: a whole JSON file"),
        ("[]", "index.json is a list; allowed: a JSON object"),
        ("{}", "index.json has no weight_map; allowed: names"),
        ('{"weight_map": {"a": 1}}', "index.json has no weight_map; allowed: names"),
        ('{"weight_map": {"a": "x.safetensors"}}', "names x.safetensors, which is absent"),
        ('{"weight_map": {"a": "../x.safetensors"}}', r"names '../x.safetensors'; allowed"),
        ('{"weight_map": {"a": "x.bin"}}', r"names 'x.bin'; allowed: .safetensors files"),
    ],
)
def test_an_index_that_is_none(tmp_path, text, named):
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(InvalidInput, match=named):
        open_tensor_files(tmp_path)


@pytest.mark.parametrize(
    "entry",
    [{"matrix0": "model-2.safetensors"}, {"other": "model-1.safetensors"}],
    ids=["in another", "in none"],
)
def test_an_index_of_other_tensors(tmp_path, entry):
    write_sharded(tmp_path, entry)
    ((name, file),) = entry.items()
    with pytest.raises(InvalidInput, match=f"tensor {name} is not in .*{file}, where"):
        open_tensor_files(tmp_path)


def test_a_tensor_in_two_files(tmp_path):
    write_sharded(tmp_path)
    save_file(some(0) | some(1), tmp_path / "model-2.safetensors")
    with pytest.raises(InvalidInput, match=r"is in .*model-1.safetensors and .*model-2.safeten"):
        open_tensor_files(tmp_path)


def test_config_json(tmp_path):
    with pytest.raises(InvalidInput, match=r"config.json cannot be read \(No such file"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"patch_size": ')
    with pytest.raises(InvalidInput, match=r"config.json is not JSON"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"patch_size": 1}')
    assert read_config(tmp_path) == {"patch_size": 1}
