"""A record holds its scene exactly, always as the same bytes, and says what is wrong with it."""

import copy
import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_source import photo

from data_pipeline.hidden import decode_hidden
from data_pipeline.records import (
    check_scene,
    decode_png,
    decode_scene,
    digest_scene,
    encode_png,
    encode_scene,
    features,
    parse_record,
    serialize_record,
)
from data_pipeline.source import CameraExif, HiddenTruth, LayeredScene, PhotoScene

RNG = np.random.default_rng(0)


def layered(count=3, height=8, width=6, seed=0):
    rng = np.random.default_rng(seed)
    return LayeredScene(
        layers=rng.integers(0, 256, (count, height, width, 4), np.uint8),
        layer_disparity=rng.standard_normal((count, 3)).astype(np.float32),
        layer_gain=rng.random(count, np.float32),
        caption="a café",
        provenance={"b": 1, "a": [2]},
    )


def altered(scene, **changes):
    """A scene that its own class, whose shapes are checked here, would refuse."""
    changed = copy.copy(scene)
    for name, value in changes.items():
        object.__setattr__(changed, name, value)
    return changed


def stored(scene, **options):
    return parse_record(serialize_record(encode_scene(scene, "toy", **options)))


@settings(max_examples=25)
@given(st.integers(1, 5), st.integers(1, 20), st.integers(1, 20), st.integers(0, 3))
def test_layers_are_kept_exactly_and_filled_up(count, height, width, more):
    scene = layered(count, height, width)
    found = decode_scene(stored(scene), "layered", (height, width), count + more)
    np.testing.assert_array_equal(found["layers"][:count], scene.layers)
    np.testing.assert_array_equal(found["layer_disparity"][:count], scene.layer_disparity)
    np.testing.assert_array_equal(found["layer_gain"][:count], scene.layer_gain)
    assert len(found["layers"]) == len(found["layer_gain"]) == count + more
    assert not found["layers"][count:].any()
    assert not found["layer_disparity"][count:].any()
    assert (found["layer_gain"][count:] == 1).all()


@settings(max_examples=25)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 99))
def test_photographs_are_kept_and_disparity_to_half_a_level(height, width, seed):
    scene = photo(np.random.default_rng(seed), height, width)
    found = decode_scene(stored(scene), "photographs", (height, width), 0)
    assert set(found) == {"image", "disparity"}
    np.testing.assert_array_equal(found["image"], scene.image)
    assert found["disparity"].dtype == np.uint16
    error = np.abs(found["disparity"] / 65535 - scene.disparity.astype(np.float64))
    assert error.max() <= 0.5 / 65535 + 1e-7


def test_ends_of_the_disparity_range():
    ramp = np.array([[0, 1, 0.25]], np.float32)
    scene = PhotoScene(image=np.zeros((1, 3, 3), np.uint8), disparity=ramp)
    found = decode_scene(stored(scene), "photographs", (1, 3), 0)["disparity"]
    assert found.tolist() == [[0, 65535, 16384]]


def test_all_that_is_beside_a_photograph_is_kept():
    scene = photo(RNG, 8, 6)
    values = stored(scene)
    np.testing.assert_array_equal(decode_png(values["defocused"]), scene.defocused)
    np.testing.assert_array_equal(decode_png(values["mask"]), scene.mask)
    assert values["disparity_range_per_m"].tolist() == [0.25, 2.0]
    assert values["caption"] == b"noise"
    assert values["source"] == b"toy"
    assert values["provenance"] == b'{"photograph": "noise.jpg"}'
    hidden = decode_hidden(values)
    assert hidden["focus_distance_m"] == 2.5
    assert hidden["subject_xy"].tolist() == [0.25, 0.75]
    np.testing.assert_array_equal(hidden["camera"], [50, np.nan, 1.5, np.nan])
    np.testing.assert_array_equal(hidden["disparity_range_per_m"], [0.25, 2.0])


@pytest.mark.parametrize(
    "scene",
    [
        layered(),
        PhotoScene(image=np.zeros((2, 2, 3), np.uint8), disparity=np.zeros((2, 2), np.float32)),
    ],
)
def test_what_is_unknown_is_stored_as_such(scene):
    values = stored(scene)
    assert values["defocused"] == values["mask"] == b""
    for name in ("disparity_range_per_m", "camera", "hidden"):
        assert np.isnan(values[name]).all()
    assert values["caption"] == scene.caption.encode()


def test_colours_are_not_swapped():
    """By the library's own decoder and by OpenCV alone: the first channel is red."""
    image = np.zeros((8, 8, 3), np.uint8)
    image[..., 0] = 200
    scene = PhotoScene(image=image, disparity=np.zeros((8, 8), np.float32))
    for options in ({}, {"jpeg_quality": 95}):
        record = serialize_record(encode_scene(scene, "toy", **options))
        red, green, blue = features().deserialize_example_np(record)["frames"][4, 4]
        assert red > 190 > 20 > max(green, blue)
        red, green, blue = decode_scene(parse_record(record), "photographs", (8, 8), 0)["image"][
            4, 4
        ]
        assert red > 190 > 20 > max(green, blue)
        bgr = cv2.imdecode(
            np.frombuffer(parse_record(record)["frames"], np.uint8), cv2.IMREAD_COLOR
        )
        assert bgr[4, 4, 2] > 190


def test_jpeg_keeps_the_resolution_of_colours():
    """Columns of one luminance and alternating colours: subsampling would make them grey."""
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, ::2], image[:, 1::2] = (200, 60, 60), (60, 130, 60)
    scene = PhotoScene(image=image, disparity=np.zeros((32, 32), np.float32))
    values = stored(scene, jpeg_quality=95)
    assert values["frames"].startswith(b"\xff\xd8")
    found = decode_scene(values, "photographs", (32, 32), 0)["image"]
    assert np.abs(found.astype(int) - image).max() < 25
    coarse = stored(scene, jpeg_quality=20)
    assert len(coarse["frames"]) < len(values["frames"])


def test_records_are_written_in_one_canonical_order():
    """Else the same scene would make other bytes in another process."""
    record = serialize_record(encode_scene(layered(), "toy"))
    # Alphabetical, but that a name stands before its own beginning.
    names = sorted(features(), key=lambda name: name + "~")
    places = [record.index(b"\n" + bytes([len(name)]) + name.encode()) for name in names]
    assert places == sorted(places)


def test_every_feature_is_described():
    assert all(features()[name].doc.desc for name in features() if name != "kind")
    assert features()["kind"].names == ["layered", "photographs"]


def test_the_digest_sees_every_field():
    one = photo(np.random.default_rng(0), 4, 5)
    changes = {
        "image": one.image[:, ::-1].copy(),
        "disparity": one.disparity / 2,
        "defocused": None,
        "mask": None,
        "disparity_range_per_m": (0.25, 2.5),
        "caption": "else",
        "camera": CameraExif(focal_length_mm=51.0, f_number=1.5),
        "hidden": HiddenTruth(2.5, (0.25, 0.5)),
        "provenance": {},
    }
    assert set(changes) == {field.name for field in dataclasses.fields(one)}
    digests = {digest_scene(dataclasses.replace(one, **{k: v})) for k, v in changes.items()}
    assert len(digests | {digest_scene(one)}) == len(changes) + 1
    assert digest_scene(one) == digest_scene(photo(np.random.default_rng(0), 4, 5))
    # The same bytes in another shape are another scene.
    flat = dataclasses.replace(layered(1, 8, 6), layers=layered(1, 8, 6).layers.reshape(1, 6, 8, 4))
    assert digest_scene(flat) != digest_scene(layered(1, 8, 6))


PHOTO = encode_scene(photo(RNG, 8, 6), "toy")
LAYERED = encode_scene(layered(), "toy")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (LAYERED, "its kind is layered, not photographs"),
        (
            PHOTO | {"frames": encode_png(np.zeros((6, 8, 3), np.uint8))},
            r"frames has uint8 \[6, 8, 3\]",
        ),
        (PHOTO | {"frames": encode_png(np.zeros((8, 6, 4), np.uint8))}, r"not uint8 \[8, 6, 3\]"),
        (
            PHOTO | {"disparity": encode_png(np.zeros((8, 5), np.uint16))},
            r"disparity has uint16 \[8, 5\]",
        ),
        (PHOTO | {"disparity": encode_png(np.zeros((8, 6), np.uint8))}, "not uint16"),
        (PHOTO | {"frames": PHOTO["frames"][:40]}, "cannot be decoded"),
        (PHOTO | {"frames": b""}, "cannot be decoded"),
    ],
)
def test_photographs_of_another_shape_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        decode_scene(parse_record(serialize_record(values)), "photographs", (8, 6), 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"layer_gain": np.ones(2, np.float32)},
            r"layer_gain has float32 \[2\], not float32 \[3\]",
        ),
        (
            {"layer_gain": np.full(3, np.inf, np.float32)},
            "layer_gain has values that are not finite",
        ),
        (
            {"layer_disparity": np.full((3, 3), np.nan, np.float32)},
            "layer_disparity has values that are not finite",
        ),
        ({"layer_disparity": np.ones((2, 3), np.float32)}, r"not uint8 \[16, 6, 4\]"),
        ({"layer_disparity": np.ones((0, 3), np.float32)}, "0 layers, not 1 to 3"),
        ({"layer_disparity": np.ones((4, 3), np.float32)}, "4 layers, not 1 to 3"),
    ],
)
def test_layers_of_another_shape_are_refused(changes, message):
    record = serialize_record(LAYERED | changes)
    with pytest.raises(ValueError, match=message):
        decode_scene(parse_record(record), "layered", (8, 6), 3)


@pytest.mark.parametrize("record", [b"", b"\x00" * 40, serialize_record(LAYERED)[:-30]])
def test_what_is_no_record_is_refused(record):
    with pytest.raises(ValueError, match=r"it lacks camera|[Pp]ars"):
        decode_scene(parse_record(record), "layered", (8, 6), 3)


@pytest.mark.parametrize(
    ("scene", "changes", "message"),
    [
        (
            photo(RNG, 4, 5),
            {"disparity": np.full((4, 5), np.nan, np.float32)},
            "that are not finite",
        ),
        (
            photo(RNG, 4, 5),
            {"disparity": np.full((4, 5), 1.01, np.float32)},
            "1.01 to 1.01, not within",
        ),
        (photo(RNG, 4, 5), {"disparity": np.full((4, 5), -0.01, np.float32)}, "from -0.01"),
        (photo(RNG, 4, 5), {"disparity": np.zeros((5, 4), np.float32)}, r"float32 \[5, 4\]"),
        (photo(RNG, 4, 5), {"mask": np.zeros((5, 4), np.uint8)}, r"mask is \[5, 4\], not \[4, 5\]"),
        (photo(RNG, 4, 5), {"defocused": np.zeros((5, 4, 3), np.uint8)}, r"defocused is \[5, 4\]"),
        (layered(), {"layer_gain": np.ones(2, np.float32)}, r"layer_gain has float32 \[2\]"),
        (
            layered(),
            {"layer_disparity": np.full((3, 3), np.inf, np.float32)},
            "that are not finite",
        ),
    ],
)
def test_scenes_that_no_record_may_hold(scene, changes, message):
    check_scene(scene)
    with pytest.raises(ValueError, match=message):
        check_scene(altered(scene, **changes))
