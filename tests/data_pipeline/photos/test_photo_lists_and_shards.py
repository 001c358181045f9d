"""Photographs named by a list, and in tar shards: the same scenes as from a folder."""

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from tiny_photos import FRAMES, only_scene, pair, photo, ramp, scene_names

from bokeh_jax.errors import InvalidInput
from data_pipeline.photos import PhotoSource
from data_pipeline.photos.places import find_photos
from data_pipeline.source import PhotoScene, SkippedScene


def _same(first: PhotoScene, second: PhotoScene) -> None:
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.disparity, second.disparity)
    assert first.caption == second.caption
    assert (first.mask is None) == (second.mask is None)
    if first.mask is not None and second.mask is not None:
        np.testing.assert_array_equal(first.mask, second.mask)


def _lines(path: Path, *records) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def _photo_with_all(folder: Path, name: str = "a") -> None:
    pair(folder, name)
    (folder / f"{name}.json").write_text('{"caption": "a dog"}')
    photo(folder / f"{name}.mask.png", seed=1)


def _shard(path: Path, folder: Path, rename=lambda name: name) -> Path:
    with tarfile.open(path, "w") as tar:
        for file in sorted(folder.iterdir()):
            tar.add(file, rename(file.name))
    return path


def _add(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_a_list_of_objects_names_every_file(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    _photo_with_all(data)
    in_folder = only_scene(data)
    (tmp_path / "maps").mkdir()
    (data / "a.disparity.npy").rename(tmp_path / "maps" / "x.npy")
    (data / "a.mask.png").rename(tmp_path / "maps" / "m.png")
    record = {"image": "data/a.png", "disparity": "maps/x.npy", "mask": "maps/m.png"}
    by_list = only_scene(_lines(tmp_path / "l.jsonl", record))
    _same(by_list, in_folder)
    assert by_list.provenance["photograph"] == "data/a.png"
    record |= {"caption": "a cat", "key": "own"}
    own = only_scene(_lines(tmp_path / "l.jsonl", record))
    assert (own.caption, own.provenance["photograph"]) == ("a cat", "own")


def test_a_list_of_paths_finds_the_maps_beside(tmp_path):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        _photo_with_all(tmp_path / name)
    (tmp_path / "l.txt").write_text(f"x/a.png\n\n{tmp_path}/y/a.png\n")
    source = PhotoSource(tmp_path / "l.txt", FRAMES, heldout_fraction=0.0)
    assert sorted(scene_names(source, "train")) == sorted(["x/a.png", f"{tmp_path}/y/a.png"])
    _same(source.scene("train", 0), only_scene(tmp_path / "x"))


def test_a_line_may_say_the_unit_and_the_kind(tmp_path):
    photo(tmp_path / "a.png")
    np.save(tmp_path / "m.npy", 2 * ramp() + 2)
    lines = tmp_path / "l.jsonl"
    metric = {"image": "a.png", "disparity": "m.npy", "disparity_unit": "metric"}
    assert only_scene(_lines(lines, metric)).disparity_range_per_m == (2, 4)
    # A list of relative maps with `normalize` may still have a metric line.
    scene = only_scene(_lines(lines, metric), normalize=True)
    assert scene.disparity_range_per_m == (2, 4)
    relative = metric | {"disparity_unit": "relative"}
    with pytest.raises(SkippedScene, match="goes from 2 to 4"):
        only_scene(_lines(lines, relative), disparity_unit="metric")
    depth = only_scene(_lines(lines, {"image": "a.png", "depth": "m.npy"}))
    assert depth.disparity_range_per_m == (0.25, 0.5)
    # What the line names goes before what lies beside, of whichever kind.
    np.save(tmp_path / "a.disparity.npy", ramp())
    depth = only_scene(_lines(lines, {"image": "a.png", "depth": "m.npy"}))
    assert depth.disparity_range_per_m == (0.25, 0.5)
    both = {"image": "a.png", "depth": "m.npy", "disparity": "m.npy"}
    with pytest.raises(InvalidInput, match="line 1 has disparity and depth; allowed: one"):
        only_scene(_lines(lines, both))
    assert only_scene(_lines(lines, both), map_kind="depth").disparity_range_per_m == (0.25, 0.5)


def test_the_recipe_follows_what_a_list_says(tmp_path):
    photo(tmp_path / "a.png")
    np.save(tmp_path / "m.npy", ramp() + 1)
    first = {"image": "a.png", "disparity": "m.npy"}
    records = [
        first,
        first | {"disparity_unit": "metric"},
        first | {"caption": "a dog"},
        first | {"caption": "a cat"},
        first | {"key": "own"},
        {"image": "a.png", "depth": "m.npy"},
    ]
    lists = [_lines(tmp_path / f"{index}.jsonl", record) for index, record in enumerate(records)]
    recipes = [json.dumps(PhotoSource(path).recipe()) for path in lists]
    assert len(set(recipes)) == len(records)
    assert json.dumps(PhotoSource(_lines(tmp_path / "again.jsonl", first)).recipe()) == recipes[0]


def test_what_a_list_names_and_is_not_there_is_damage(tmp_path):
    pair(tmp_path)
    lines = _lines(
        tmp_path / "l.jsonl",
        {"image": "a.png"},
        {"image": "gone.png"},
        {"image": "a.png", "disparity": "gone.npy", "key": "no map"},
    )
    source = PhotoSource(lines, FRAMES, heldout_fraction=0.0)
    skipped = {}
    for index in range(3):
        try:
            source.scene("train", index)
        except SkippedScene as error:
            skipped[error.what] = error.reason if error.damaged else ""
    assert set(skipped) == {"gone.png", "no map"}
    assert "gone.png cannot be read" in skipped["gone.png"]
    assert "gone.npy cannot be read" in skipped["no map"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no photographs; allowed: one a line"),
        ("a.png", "line 1 is no JSON"),
        ('{"image": "a.png"}\n["a.png"]', "line 2 is .*; allowed: one object a line"),
        ('{"image": 3}', "line 1 is .*; allowed: one object a line, of texts"),
        ('{"disparity": "a.npy"}', "line 1 has the keys disparity; allowed: image and any of"),
        ('{"image": "a.png", "dept": "b"}', "has the keys dept, image; allowed: image and"),
        ('{"image": "a.png", "disparity_unit": "m"}', "has disparity_unit 'm'; allowed: relative"),
        ('{"image": "a.png"}\n\n{"image": "a.png"}', "has 'a.png' on lines 1 and 3"),
        ("\xff", "cannot be read .*; allowed: UTF-8 text"),
    ],
)
def test_lists_that_are_none_are_refused(tmp_path, text, message):
    pair(tmp_path)
    (tmp_path / "l.jsonl").write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidInput, match=message):
        PhotoSource(tmp_path / "l.jsonl")


def test_a_shard_gives_the_scenes_of_its_files(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    _photo_with_all(data)
    in_folder = only_scene(data)
    shard = _shard(tmp_path / "s.tar", data, rename=lambda name: f"set/{name}")
    shutil.rmtree(data)
    scene = only_scene(shard)
    _same(scene, in_folder)
    assert scene.provenance["photograph"] == "s.tar/set/a"


def test_shards_of_the_tar_program_are_read(tmp_path):
    """In the order and the format of another writer, with names that need a header of their own."""
    data = tmp_path / "data"
    long = "n" * 120
    (data / long).mkdir(parents=True)
    _photo_with_all(data / long, "m" * 90)
    subprocess.run(["tar", "-C", data, "-cf", tmp_path / "s.tar", "."], check=True)
    _same(only_scene(tmp_path / "s.tar"), only_scene(data / long))


@pytest.mark.parametrize("where", ["s-{008..011}.tar", "s-*.tar", "s-0{08..11}.tar"])
def test_ranges_and_patterns_of_shards(tmp_path, where):
    """Equal names in different shards are different photographs."""
    for number in range(8, 12):
        folder = tmp_path / str(number)
        folder.mkdir()
        pair(folder, seed=number)
        _shard(tmp_path / f"s-{number:03}.tar", folder)
    source = PhotoSource(str(tmp_path / where), FRAMES, heldout_fraction=0.25)
    names = scene_names(source, "train") + scene_names(source, "eval_heldout")
    assert len(scene_names(source, "train")) == 3
    assert sorted(names) == [f"s-{number:03}.tar/a" for number in range(8, 12)]
    for index, name in enumerate(scene_names(source, "train")):
        number = int(name[2:5])
        _same(source.scene("train", index), only_scene(tmp_path / str(number)))


def test_copies_in_shards_and_files_have_one_digest(tmp_path):
    """The same photograph in two shards is on one side of the splits."""
    data = tmp_path / "data"
    data.mkdir()
    for index in range(8):
        pair(data, str(index), seed=index)
    for number in range(3):
        _shard(tmp_path / f"s-{number}.tar", data)
    source = PhotoSource(str(tmp_path / "s-*.tar"), FRAMES, heldout_fraction=0.3)
    train, heldout = (
        {name.rpartition("/")[2] for name in scene_names(source, split)}
        for split in ("train", "eval_heldout")
    )
    assert len(train) + len(heldout) == 8
    assert not train & heldout


def test_what_is_no_photograph_in_a_shard_does_not_count(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    pair(data)
    members = {file.name: file.read_bytes() for file in data.iterdir()}
    names = ("a.left.png", "b.disparity.npy", "._a.png", ".png", "README", "a.cls")
    others = dict.fromkeys(names, b"")
    shard = _add(tmp_path / "s.tar", members | others)
    _same(only_scene(shard), only_scene(data))


def test_digests_in_a_shard_are_those_of_the_files(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    pair(data)
    shard = _shard(tmp_path / "s.tar", data)
    (photo_files,) = find_photos(shard, None)
    for part, name in zip(photo_files.parts(), ("a.png", "a.disparity.npy"), strict=True):
        content = (data / name).read_bytes()
        assert part.read() == content
        assert part.sha256() == hashlib.sha256(content).digest()
    shard.write_bytes(shard.read_bytes()[:600])
    assert [part.sha256() for part in photo_files.parts()] == [None, None]


def test_damage_in_a_shard_names_shard_and_member(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    pair(data)
    shard = _add(
        tmp_path / "s.tar",
        {"a.png": b"no image", "a.disparity.npy": (data / "a.disparity.npy").read_bytes()},
    )
    with pytest.raises(SkippedScene, match=r"photograph .*s.tar/a.png cannot be read") as caught:
        only_scene(shard)
    assert caught.value.what == "s.tar/a"
    source = PhotoSource(shard, FRAMES, heldout_fraction=0.0)
    shard.write_bytes(shard.read_bytes()[:515])
    with pytest.raises(SkippedScene, match=r"s.tar/a.png has 3 bytes; allowed: 8"):
        source.scene("train", 0)


def test_shards_that_are_none_are_refused(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    pair(data)
    whole = _shard(tmp_path / "s-0.tar", data).read_bytes()
    with pytest.raises(InvalidInput, match=r"2 of 3 are not there, first .*s-1.tar; allowed: tar"):
        PhotoSource(str(tmp_path / "s-{0..2}.tar"))
    with pytest.raises(InvalidInput, match=r"range of shards is \{3..1\}; allowed: the smaller"):
        PhotoSource(str(tmp_path / "s-{3..1}.tar"))
    with pytest.raises(InvalidInput, match=r"t-\*.tar: 0 of 0 are not there; allowed: tar files"):
        PhotoSource(str(tmp_path / "t-*.tar"))
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 16])
    with pytest.raises(InvalidInput, match=r"shard .*cut.tar cannot be read .*; allowed: a whole"):
        PhotoSource(tmp_path / "cut.tar")
    with tarfile.open(tmp_path / "zip.tar", "w:gz") as tar:
        tar.add(data / "a.png", "a.png")
    with pytest.raises(InvalidInput, match=r"zip.tar cannot be read .* without compression"):
        PhotoSource(tmp_path / "zip.tar")
    with pytest.raises(InvalidInput, match=r"shards .*none.tar have no photographs"):
        PhotoSource(_add(tmp_path / "none.tar", {"a.npy": b""}))
    two = _add(tmp_path / "two.tar", {"a.png": b"", "a.jpg": b""})
    with pytest.raises(InvalidInput, match=r"has for a the images a.png, a.jpg; allowed: one"):
        PhotoSource(two)
    (tmp_path / "x").mkdir()
    _shard(tmp_path / "x" / "s-0.tar", data)
    _shard(tmp_path / "x" / "s-1.tar", data)
    (tmp_path / "y").mkdir()
    _shard(tmp_path / "y" / "s-0.tar", data)
    with pytest.raises(InvalidInput, match="have equal names"):
        PhotoSource(str(tmp_path / "[xy]" / "s-*.tar"))
