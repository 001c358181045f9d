"""Photographs as scenes: framing, colours, splits, what is skipped and what is refused."""

import io
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageCms
from tiny_photos import FRAMES, only_scene, pair, photo, ramp, scene_names

from bokeh_jax.errors import InvalidInput
from data_pipeline.frames import FrameSizes
from data_pipeline.photos import PhotoSource
from data_pipeline.photos.splits import held_out
from data_pipeline.source import SceneSource, SkippedScene


def test_it_is_a_source_of_scenes(tmp_path):
    pair(tmp_path)
    source = PhotoSource(tmp_path)
    assert isinstance(source, SceneSource)
    assert source.name == "photos"
    assert source.frames == FrameSizes()


def test_wide_photograph_and_smaller_map_are_cut_to_the_same_frame(tmp_path):
    """A vertical edge at the same place of both stays at the same place of both."""
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[:, 80:] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    disparity = np.zeros((32, 64), np.float32)
    disparity[:, 40:] = 1
    np.save(tmp_path / "a.disparity.npy", disparity)
    scene = only_scene(tmp_path)
    # The square is columns 32 to 96 of the photograph, so the edge is 3/4 along.
    expected = np.zeros((16, 16), np.float32)
    expected[:, 12:] = 1
    np.testing.assert_array_equal(scene.disparity, expected)
    assert (np.abs(scene.image[..., 0] / 255 - expected) < 0.1).all()
    assert scene.provenance["size_px"] == [64, 128]
    # In a frame of its own shape nothing is cut: the edge is 5/8 along.
    whole = only_scene(tmp_path, frames=FrameSizes((16,), ("2:1", "1:1"), 4))
    assert whole.frame == (12, 24)
    assert (whole.disparity[0] == (np.arange(24) >= 15)).all()
    assert ((whole.image[0, :, 0] > 127) == (np.arange(24) >= 15)).all()


def test_maps_are_not_blended_across_an_outline(tmp_path):
    photo(tmp_path / "a.png", 100, 100)
    disparity = np.random.default_rng(0).choice(np.array([0.1, 0.9], np.float32), (100, 100))
    np.save(tmp_path / "a.disparity.npy", disparity)
    assert set(np.unique(only_scene(tmp_path).disparity)) == {np.float32(0.1), np.float32(0.9)}


# How a photograph lies in its file, by orientation: as EXIF 2.32 defines them, 0th row and column.
_STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: np.swapaxes(upright, 0, 1),
    6: lambda upright: np.swapaxes(upright[::-1], 0, 1)[::-1, ::-1],
    7: lambda upright: np.swapaxes(upright[::-1, ::-1], 0, 1),
    8: lambda upright: np.swapaxes(upright[::-1], 0, 1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_photograph_follows_its_orientation_tag(tmp_path, orientation):
    upright = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(_STORED[orientation](upright)))
    stored.save(tmp_path / "a.png", exif=exif)
    np.save(tmp_path / "a.disparity.npy", ramp(16, 24))
    scene = only_scene(tmp_path, frames=FrameSizes((20,), ("3:2",)))
    assert scene.frame == (16, 24)
    np.testing.assert_array_equal(scene.image, upright)
    np.testing.assert_array_equal(scene.disparity, ramp(16, 24))


def test_large_jpegs_are_reduced_without_a_visible_change(tmp_path):
    """The shortcut against the whole, on a photograph's kind of content, cut and turned."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))
    image = coarse.resize((603, 405), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", quality=95, subsampling=0, exif=exif)
    image.save(tmp_path / "b.png", exif=exif)
    for name in "ab":
        np.save(tmp_path / f"{name}.disparity.npy", ramp(67, 45))
    frames = FrameSizes((64,))
    source = PhotoSource(tmp_path, frames, heldout_fraction=0.0)
    first, second = (source.scene("train", index).image.astype(int) for index in (0, 1))
    assert np.abs(first - second).mean() < 1.0
    assert np.abs(first - second).max() <= 6


def test_colours_are_brought_to_srgb(tmp_path):
    """A profile with red and green swapped says that the file's red is green."""
    Image.new("RGB", (16, 16), (200, 60, 60)).save(tmp_path / "a.png")
    np.save(tmp_path / "a.disparity.npy", ramp())
    plain = only_scene(tmp_path).image[0, 0]
    np.testing.assert_array_equal(plain, (200, 60, 60))
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    Image.new("RGB", (16, 16), (200, 60, 60)).save(tmp_path / "a.png", icc_profile=bytes(profile))
    np.testing.assert_allclose(only_scene(tmp_path).image[0, 0], (60, 200, 60), atol=3)
    Image.new("RGB", (16, 16), (200, 60, 60)).save(tmp_path / "a.png", icc_profile=b"garbage")
    np.testing.assert_array_equal(only_scene(tmp_path).image[0, 0], plain)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (Image.new("L", (16, 16), 90), (90, 90, 90)),
        (Image.new("RGBA", (16, 16), (10, 20, 30, 40)), (10, 20, 30)),
        (Image.fromarray(np.full((16, 16), 0x7F00, np.uint16)), (127, 127, 127)),
        (Image.new("RGB", (16, 16), (10, 20, 30)).quantize(4), (10, 20, 30)),
    ],
)
def test_kinds_of_pixels(tmp_path, stored, expected):
    pair(tmp_path)
    stored.save(tmp_path / "a.png")
    np.testing.assert_array_equal(only_scene(tmp_path).image[3, 5], expected)


def test_captions_and_masks(tmp_path):
    pair(tmp_path)
    bare = only_scene(tmp_path)
    assert bare.caption == ""
    assert bare.mask is None
    (tmp_path / "a.json").write_text('{"caption": "a dog\\n on grass", "other": 1}')
    mask = np.zeros((32, 32), np.uint8)
    mask[:, :10] = 255
    Image.fromarray(mask).save(tmp_path / "a.mask.png")
    scene = only_scene(tmp_path)
    assert scene.caption == "a dog on grass"
    assert scene.mask is not None
    np.testing.assert_array_equal(scene.mask, mask[::2, ::2])
    (tmp_path / "a.json").write_text('{"caption": null}')
    assert only_scene(tmp_path).caption == ""
    (tmp_path / "a.txt").write_text("a cat\n")
    assert only_scene(tmp_path).caption == "a cat"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"{", "caption .*a.json cannot be read; allowed: UTF-8 text, or a JSON"),
        ("a.json", b'{"caption": 3}', "caption .*a.json cannot be read"),
        ("a.json", b"[]", "caption .*a.json cannot be read"),
        ("a.txt", b"\xff\xfe\xfa", "caption .*a.txt cannot be read"),
        ("a.mask.png", b"\x89PNG", r"mask .*a.mask.png cannot be read .*; allowed: a whole PNG"),
    ],
)
def test_damage_beside_a_photograph_skips_it(tmp_path, name, content, message):
    pair(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SkippedScene, match=message) as caught:
        only_scene(tmp_path)
    assert caught.value.damaged


def test_masks_must_fit_and_have_8_bits(tmp_path):
    pair(tmp_path)
    Image.new("L", (16, 24)).save(tmp_path / "a.mask.png")
    with pytest.raises(SkippedScene, match=r"a.mask.png is 16x24 px"):
        only_scene(tmp_path)
    Image.fromarray(ramp().astype(np.uint16)).save(tmp_path / "a.mask.png")
    with pytest.raises(SkippedScene, match=r"has mode I;16; allowed: 8 bits"):
        only_scene(tmp_path)


def test_damaged_photographs_are_skipped_and_the_others_are_not(tmp_path):
    for index, name in enumerate("abc"):
        pair(tmp_path, name, seed=index)
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b.png").write_bytes(b"no image")
    source = PhotoSource(tmp_path, FRAMES, heldout_fraction=0.0)
    skipped, kept = {}, []
    for index in range(3):
        try:
            kept.append(source.scene("train", index).provenance["photograph"])
        except SkippedScene as error:
            skipped[error.what] = error.reason if error.damaged else ""
    assert kept == ["c.png"]
    assert set(skipped) == {"a.png", "b.png"}
    for reason in skipped.values():
        assert "cannot be read" in reason
        assert "\n" not in reason
        # The manifest is the same at every run.
        assert "0x" not in reason


def test_splits_share_no_photograph_and_keep_all(tmp_path):
    for index in range(20):
        pair(tmp_path, f"{index:02}", seed=index)

    def names(seed: int, fraction: float = 0.21) -> dict[str, set[str]]:
        source = PhotoSource(tmp_path, FRAMES, seed=seed, heldout_fraction=fraction)
        splits = ("train", "eval_seen", "eval_heldout")
        return {split: set(scene_names(source, split)) for split in splits}

    split = names(0)
    assert [len(split[name]) for name in ("train", "eval_seen", "eval_heldout")] == [15, 0, 5]
    assert not split["train"] & split["eval_heldout"]
    assert names(0) == split
    assert names(1) != split
    # One photograph more leaves nearly every other where it was.
    pair(tmp_path, "20", seed=20)
    assert len(split["eval_heldout"] - names(0)["eval_heldout"]) <= 1
    assert len(names(0, 0.0)["eval_heldout"]) == 0
    assert len(names(0, 0.01)["eval_heldout"]) == 1


def test_a_share_is_not_rounded_up_for_its_last_bit():
    keys = [str(number) for number in range(100)]
    kept, held = held_out(keys, [key.encode() for key in keys], seed=0, fraction=0.07)
    assert (len(kept), len(held)) == (93, 7)
    assert sorted(kept + held) == list(range(100))


@pytest.mark.parametrize("seed", range(4))
def test_copies_of_a_photograph_are_on_one_side(tmp_path, seed):
    """Ten photographs, each there three times under names that rank apart."""
    for index in range(10):
        for copy in "xyz":
            pair(tmp_path, f"{copy}{index}", seed=index)
    source = PhotoSource(tmp_path, FRAMES, seed=seed, heldout_fraction=0.3)
    train, heldout = (
        [name[1:] for name in scene_names(source, split)] for split in ("train", "eval_heldout")
    )
    assert len(train) + len(heldout) == 30
    assert 9 <= len(heldout) <= 11
    assert not set(train) & set(heldout)


def test_recipe_follows_the_files_content_and_the_settings(tmp_path):
    pair(tmp_path)

    def recipe(**fields) -> str:
        return json.dumps(PhotoSource(tmp_path, **fields).recipe(), sort_keys=True)

    before = recipe()
    assert recipe() == before
    assert str(tmp_path) not in before
    changed = [
        {"frames": FrameSizes((32,))},
        {"seed": 1},
        {"heldout_fraction": 0.2},
        {"normalize": True},
        {"disparity_unit": "metric"},
        {"map_kind": "disparity"},
        {"depth_unit_m": 0.001},
        {"invalid": "fill"},
        {"max_invalid_share": 0.2},
        {"max_blur_px": 1.0},
        {"name": "mine"},
    ]
    assert len({before, *(recipe(**fields) for fields in changed)}) == 12
    seen = {before}
    np.save(tmp_path / "a.disparity.npy", ramp()[::-1])
    seen.add(recipe())
    photo(tmp_path / "a.png", seed=1)
    seen.add(recipe())
    (tmp_path / "a.txt").write_text("words")
    seen.add(recipe())
    Image.new("L", (16, 16)).save(tmp_path / "a.mask.png")
    seen.add(recipe())
    for name in ("a.png", "a.disparity.npy", "a.txt", "a.mask.png"):
        (tmp_path / name).rename(tmp_path / name.replace("a.", "b.", 1))
    seen.add(recipe())
    assert len(seen) == 6


def test_it_takes_its_digests_along_to_other_processes(tmp_path):
    """What a process got is not read again: the files may be gone for all the splits know."""
    for index in range(4):
        pair(tmp_path, str(index), seed=index)
    source = PhotoSource(tmp_path, FRAMES, heldout_fraction=0.5)
    sent = pickle.dumps(source)
    expected = scene_names(source, "eval_heldout")
    recipe = source.recipe()
    for path in tmp_path.glob("*.disparity.npy"):
        path.write_bytes(b"")
    received = pickle.loads(sent)
    assert received == source
    assert received.recipe() == recipe
    for index, name in enumerate(expected):
        with pytest.raises(SkippedScene, match=name):
            received.scene("eval_heldout", index)


def test_blurred_photographs_are_dropped_and_not_damaged(tmp_path):
    edge = np.zeros((64, 64, 3), np.uint8)
    edge[:, 32:] = 255
    Image.fromarray(edge).save(tmp_path / "a.png")
    np.save(tmp_path / "a.disparity.npy", ramp())
    frames = FrameSizes((64,))
    assert only_scene(tmp_path, frames=frames, max_blur_px=1.0).frame == (64, 64)
    slope = np.clip((np.arange(64) - 22) / 20, 0, 1) * 255
    edge[:] = slope[:, None].astype(np.uint8)
    Image.fromarray(edge).save(tmp_path / "a.png")
    only_scene(tmp_path, frames=frames)
    with pytest.raises(SkippedScene, match=r"edges are blurred by \d.\d\d px; allowed: 1 ") as e:
        only_scene(tmp_path, frames=frames, max_blur_px=1.0)
    assert not e.value.damaged


def test_places_without_usable_photographs_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match="are not there; allowed: a folder, a list"):
        PhotoSource(tmp_path / "none")
    with pytest.raises(InvalidInput, match="has no photographs"):
        PhotoSource(tmp_path)
    for name in ("b", "a", "c"):
        photo(tmp_path / f"{name}.png")
    np.save(tmp_path / "b.disparity.npy", ramp())
    with pytest.raises(
        InvalidInput,
        match=r"2 of 3 photographs have no disparity or depth, first .*a.png; "
        r"allowed: a map beside each, .* \(--depth-model\)",
    ):
        PhotoSource(tmp_path)
    for name in ("a", "c"):
        np.save(tmp_path / f"{name}.disparity.npy", ramp())
    with pytest.raises(InvalidInput, match="3 of 3 photographs have no depth"):
        PhotoSource(tmp_path, map_kind="depth")
    np.savez(tmp_path / "a.disparity.npz", ramp())
    with pytest.raises(InvalidInput, match=r"a.disparity.npy, .*a.disparity.npz; allowed: one"):
        PhotoSource(tmp_path)
    (tmp_path / "list.csv").write_text("a.png")
    with pytest.raises(InvalidInput, match=r"photographs are .*list.csv; allowed: a folder"):
        PhotoSource(tmp_path / "list.csv")


def test_a_file_that_becomes_unreadable_is_damage(tmp_path):
    pair(tmp_path)
    source = PhotoSource(tmp_path, FRAMES, heldout_fraction=0.0)
    (tmp_path / "a.png").unlink()
    with pytest.raises(SkippedScene, match=r"file .*a.png cannot be read \(No such file"):
        source.scene("train", 0)


def test_hidden_files_do_not_count(tmp_path):
    pair(tmp_path)
    (tmp_path / "._a.png").write_bytes(b"")
    assert PhotoSource(tmp_path, heldout_fraction=0.0).num_scenes("train") == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"heldout_fraction": 1.0}, "heldout_fraction is 1.0; allowed: from 0 to below 1"),
        ({"normalize": True, "disparity_unit": "metric"}, "normalize is True"),
        ({"max_blur_px": 0.0}, "max_blur_px is 0.0; allowed: above 0"),
        ({"max_invalid_share": 0.0}, "max_invalid_share is 0.0; allowed: above 0 to 1"),
        ({"depth_unit_m": 0.0}, "depth_unit_m is 0.0; allowed: above 0, in metres"),
    ],
)
def test_bad_settings_are_refused(tmp_path, fields, message):
    pair(tmp_path)
    with pytest.raises(InvalidInput, match=message):
        PhotoSource(tmp_path, **fields)


def test_words_that_are_none_are_refused(tmp_path):
    """In a process of its own, without the checks of types that would find them first."""
    pair(tmp_path)
    words = ("disparity_unit", "map_kind", "invalid")
    code = (
        "from data_pipeline.photos import HuggingFaceDepth, PhotoSource\n"
        "from bokeh_jax.errors import InvalidInput\n"
        f"for word in {words}:\n"
        "    try: PhotoSource(%r, **{word: 'else'})\n"
        "    except InvalidInput as error: print(error)\n"
        "try: HuggingFaceDepth('x', output='else')\n"
        "except InvalidInput as error: print(error)\n" % str(tmp_path)
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "disparity_unit is 'else'; allowed: relative, metric",
        "map_kind is 'else'; allowed: disparity, depth",
        "invalid is 'else'; allowed: refuse, fill",
        "output of the depth model is 'else'; allowed: disparity, depth",
    ]


def test_unknown_splits_are_refused(tmp_path):
    pair(tmp_path)
    with pytest.raises(InvalidInput, match="split is 'test'"):
        PhotoSource(tmp_path).num_scenes("test")


def test_float_photographs_are_refused(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(ramp()).save(buffer, "TIFF")
    (tmp_path / "a.tif").write_bytes(buffer.getvalue())
    np.save(tmp_path / "a.disparity.npy", ramp())
    with pytest.raises(SkippedScene, match=r"photograph .*a.tif has mode F; allowed: 8 or 16 bits"):
        only_scene(tmp_path)
