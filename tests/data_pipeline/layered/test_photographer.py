"""The photographer's pictures: what the thin lens says by hand, sharp subjects, nothing leaked."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from bokeh_jax.errors import InvalidInput
from bokeh_jax.optics import Lens
from data_pipeline.frames import FrameSizes
from data_pipeline.layered import LayeredSource, SceneStyle, textures
from data_pipeline.layered.parts import Part
from data_pipeline.layered.photographer import (
    RIM_PX,
    STREAM,
    PhotographerSource,
    take_photograph,
)
from data_pipeline.layered.subjects import _window_mean, choose_subject
from data_pipeline.source import PhotoScene, SceneSource

SIZE_PX = 48
BLUR_FRACTION = 0.12


@pytest.fixture(scope="module")
def photographs() -> textures.Textures:
    return textures.load_textures()


@pytest.fixture(scope="module")
def source(photographs) -> PhotographerSource:
    scenes = LayeredSource(size_px=SIZE_PX, seed=2, max_layers=2, textures=photographs)
    return PhotographerSource(scenes, max_blur_fraction=BLUR_FRACTION, deep_rate=0.1)


@pytest.fixture(scope="module")
def scenes(source) -> list[PhotoScene]:
    return [source.scene("train", index) for index in range(40)]


def _composition(source: PhotographerSource, split: str, index: int):
    return source.scenes.composition(
        split,
        index,
        stream=STREAM,
        margin_share=source.max_blur_fraction,
        rim_px=RIM_PX,
    )


def _radius_by_hand(scene: PhotoScene) -> np.ndarray:
    """Unsigned radius of blur [h, w] in pixels, of the thin lens, from EXIF and the focus."""
    camera, s_f = scene.camera, scene.hidden.focus_distance_m
    low, high = scene.disparity_range_per_m
    z = 1 / np.maximum(low + (high - low) * scene.disparity.astype(np.float64), 1e-12)
    f = camera.focal_length_mm / 1e3
    sensor_m = 0.036 * camera.focal_length_mm / camera.focal_length_35mm_mm
    diameter_m = f / camera.f_number * np.abs(z - s_f) / z * f / (s_f - f)
    return diameter_m / 2 * scene.frame[1] / sensor_m


def _mean_over_disc(linear: np.ndarray, x: int, y: int, radius: float) -> np.ndarray:
    """Mean of a picture, linear between its pixels, over a disc around a pixel."""
    k = np.arange(4000) + 0.5
    distance, angle = radius * np.sqrt(k / 4000), k * np.pi * (1 + np.sqrt(5))
    u, v = x + distance * np.cos(angle), y + distance * np.sin(angle)
    left, top = np.floor(u).astype(int), np.floor(v).astype(int)
    p, q = (u - left)[:, None], (v - top)[:, None]
    rows = [(1 - p) * linear[top + i, left] + p * linear[top + i, left + 1] for i in (0, 1)]
    return ((1 - q) * rows[0] + q * rows[1]).mean(axis=0)


def _decode(encoded: np.ndarray) -> np.ndarray:
    value = encoded / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _encode(linear: np.ndarray) -> np.ndarray:
    power = 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, power)


def test_background_is_blurred_as_the_thin_lens_says(source, scenes):
    """From what is stored: EXIF, metric disparity and the hidden focus; compared in the picture."""
    checked, exact, wider = 0, [], []
    for index, scene in enumerate(scenes):
        shares = _composition(source, "train", index).seen()
        radius = _radius_by_hand(scene)
        linear = _decode(scene.image)
        near_px = int(np.ceil(BLUR_FRACTION * SIZE_PX)) + 2
        own = _window_mean(shares[-1], near_px) > 1 - 1e-9
        for y, x in np.argwhere(own & (radius > 1.5))[::3]:
            got = scene.defocused[y, x].astype(float)
            right = _encode(_mean_over_disc(linear, x, y, radius[y, x]))
            wrong = _encode(_mean_over_disc(linear, x, y, 1.3 * radius[y, x]))
            exact.append(np.abs(got - right).max())
            wider.append(np.abs(got - wrong).max())
            checked += 1
    assert checked >= 30
    # A third of the difference is the rounding of two pictures to 255 levels.
    assert np.mean(exact) < 0.7
    assert np.quantile(exact, 0.95) < 1.5
    assert np.mean(wider) > 3 * np.mean(exact)


def test_the_lens_of_the_renderer_is_that_of_exif(scenes):
    """K of EXIF and the hidden focus, as everything else in the project computes it."""
    for scene in scenes[:10]:
        camera = scene.camera
        lens = Lens.from_camera(
            focal_length_m=camera.focal_length_mm / 1e3,
            f_number=camera.f_number,
            focus_distance_m=scene.hidden.focus_distance_m,
            sensor_width_m=0.036 * camera.focal_length_mm / camera.focal_length_35mm_mm,
            width_px=SIZE_PX,
        )
        low, high = scene.disparity_range_per_m
        metric = (low + (high - low) * scene.disparity).astype(np.float32)
        radius = np.abs(np.asarray(lens.signed_radius_px(jnp.asarray(metric))))
        np.testing.assert_allclose(radius, _radius_by_hand(scene), atol=2e-3)
        assert radius.max() <= BLUR_FRACTION * SIZE_PX * 1.001


def test_the_subject_is_sharp_and_marked(source, scenes):
    checked = 0
    for index, scene in enumerate(scenes):
        x, y = (int(share * SIZE_PX) for share in scene.hidden.subject_xy)
        assert scene.mask[y, x] >= 200
        low, high = scene.disparity_range_per_m
        assert low + (high - low) * scene.disparity[y, x] == pytest.approx(
            1 / scene.hidden.focus_distance_m, rel=1e-4
        )
        seen = _composition(source, "train", index).seen()
        layer = np.abs(seen * 255 - scene.mask).max(axis=(1, 2)).argmin()
        assert np.abs(seen[layer] * 255 - scene.mask).max() <= 0.51
        # Where nothing else is seen within the reach of blur, and the plane leans little.
        alone = _window_mean(seen[layer], int(np.ceil(BLUR_FRACTION * SIZE_PX)) + 2) > 1 - 1e-9
        sharp = alone & (_radius_by_hand(scene) < 0.05)
        if sharp.any():
            difference = scene.image[sharp].astype(int) - scene.defocused[sharp]
            assert np.abs(difference).max() <= 10
            assert np.abs(difference).mean() < 1
            checked += 1
    assert checked >= 8


def test_what_is_stored_keeps_the_contract(source, scenes):
    assert isinstance(source, SceneSource)
    assert source.name == "photographer"
    assert source.num_scenes("train") is None
    for index, scene in enumerate(scenes):
        assert scene.image.shape == scene.defocused.shape == (SIZE_PX, SIZE_PX, 3)
        assert scene.image.dtype == scene.defocused.dtype == scene.mask.dtype == np.uint8
        assert scene.disparity.dtype == np.float32
        assert 0 <= scene.disparity.min() <= scene.disparity.max() <= 1
        assert scene.camera.subject_distance_m is None
        # The focus is nowhere but in the hidden part.
        told = json.dumps([scene.caption, scene.provenance, dataclasses.asdict(scene.camera)])
        assert f"{scene.hidden.focus_distance_m:.3f}" not in told
        assert set(scene.provenance) == {"textures", "silhouettes", "body", "lens"}
        made = _composition(source, "train", index)
        shares = made.seen()[..., None]
        margin = made.margin_px
        # The planes go on as they were composed, the margin being cut off.
        y, x = np.mgrid[:SIZE_PX, :SIZE_PX] + margin
        a, b, c = made.planes.T.astype(np.float64)[:, :, None, None]
        nearest = (made.layers[:, margin:-margin, margin:-margin, 3] >= 128).argmax(axis=0)
        expected = np.take_along_axis(a * x + b * y + c, nearest[None], axis=0)[0]
        np.testing.assert_allclose(scene.disparity, expected, atol=1e-5)
        inner = made.layers[:, margin:-margin, margin:-margin, :3]
        expected = _encode((shares * _decode(inner)).sum(axis=0))
        assert np.abs(scene.image - expected).max() < 0.6


def test_some_photographs_are_deep(photographs):
    scenes = LayeredSource(size_px=16, max_layers=2, textures=photographs)
    for rate, expected in ((0.0, False), (1.0, True)):
        source = PhotographerSource(scenes, deep_rate=rate)
        numbers = [source.scene("train", index).camera.f_number for index in range(12)]
        assert all((number >= 16) == expected for number in numbers)


def test_frames_of_all_shapes_and_rich_scenes(photographs):
    frames = FrameSizes(sizes_px=(24,), ratios=("3:2", "2:3"))
    style = SceneStyle(transparency_rate=1.0, lights_rate=1.0, hair_rate=0.5)
    scenes = LayeredSource(
        frames=frames, style=style, max_layers=4, min_gap=0.05, textures=photographs
    )
    source = PhotographerSource(scenes)
    made = [source.scene("eval_heldout", index) for index in range(8)]
    assert {scene.frame for scene in made} == set(frames.frames())
    assert any("lights" in scene.caption for scene in made)
    for scene in made:
        assert scene.mask.shape == scene.disparity.shape == scene.frame
        names = {name for name in scene.provenance["textures"] if name}
        assert names <= set(photographs.held_out)
        # The backdrop's own frame width, from EXIF, is that of a real sensor.
        width_mm = 36 * scene.camera.focal_length_mm / scene.camera.focal_length_35mm_mm
        assert 3 < width_mm < 44


def test_lights_out_of_focus_are_brighter_than_white_would_be(photographs):
    """A light's disc holds the light of its gain, which the picture in focus cuts off."""
    size, margin = 32, 8
    layers = np.zeros((2, size, size, 4), np.uint8)
    layers[0, 16, 16] = 255
    layers[1, ..., 3] = 255
    part = Part(role="lights", kind="", alpha=layers[0, ..., 3], words="")
    scenes = LayeredSource(size_px=16, max_layers=2, textures=photographs)
    made = dataclasses.replace(
        scenes.composition("train", 0),
        layers=layers,
        planes=np.array([[0, 0, 0.9], [0, 0, 0.1]], np.float32),
        gains=np.array([20, 1], np.float32),
        parts=(part, part),
        photographs=(None, None),
        margin_px=margin,
    )
    # A radius of 3 px for the light: it spreads over about 28 pixels.
    image, photograph, disparity = take_photograph(made, made.planes, Lens(0.1, 3.75), 4.0)
    assert disparity[8, 8] == pytest.approx(0.9)
    assert image[8, 8].min() > 1
    assert photograph[8, 8, 0] == pytest.approx(_encode(np.array(20 / (9 * np.pi))) / 255, rel=0.05)
    assert _decode(255 * photograph).sum() / 3 == pytest.approx(20, rel=0.03)


def test_light_from_beyond_the_frame_is_real(source):
    """What is stored around the frame is blurred into it and is not in the picture in focus."""
    made = next(
        c for c in (_composition(source, "train", i) for i in range(20)) if len(c.parts) == 2
    )
    margin = made.margin_px
    other = made.layers.copy()
    other[-1, :, :margin, :3] = 255 - other[-1, :, :margin, :3]
    changed = dataclasses.replace(made, layers=other)
    lens = Lens(0.9, BLUR_FRACTION * SIZE_PX)
    planes = made.planes
    before = take_photograph(made, planes, lens, BLUR_FRACTION * SIZE_PX)
    after = take_photograph(changed, planes, lens, BLUR_FRACTION * SIZE_PX)
    np.testing.assert_array_equal(before[0], after[0])
    difference = np.abs(before[1] - after[1]).max(axis=(0, 2))
    assert difference[:2].min() > 0.02
    assert difference[margin + 2 :].max() < 1e-3


# Subjects ----------------------------------------------------------------------------------------


def _shares(*boxes) -> tuple[tuple[Part, ...], np.ndarray]:
    alpha = np.zeros((len(boxes) + 1, 40, 40), np.uint8)
    for layer, box in zip(alpha, boxes, strict=False):
        layer[box] = 255
    alpha[-1] = 255
    roles = ["thing"] * len(boxes) + ["backdrop"]
    opacity = alpha / 255
    seen = opacity * np.cumprod(np.concatenate([np.ones((1, 40, 40)), 1 - opacity]), axis=0)[:-1]
    parts = tuple(
        Part(role=role, kind="", alpha=a, words="") for role, a in zip(roles, alpha, strict=True)
    )
    return parts, seen


def test_subjects_are_near_or_central_and_well_inside():
    parts, seen = _shares(np.s_[0:12, 0:12], np.s_[14:26, 14:26])
    chosen = [choose_subject(np.random.default_rng(i), parts, seen) for i in range(300)]
    counts = np.bincount([subject.layer for subject in chosen], minlength=3) / 300
    # 0.45 + 0.2/3, 0.35 + 0.2/3, 0.2/3
    np.testing.assert_allclose(counts, [0.517, 0.417, 0.067], atol=0.08)
    for subject in chosen:
        x, y = subject.point_px
        assert seen[subject.layer, y, x] == 1
    # Anywhere on it but along its outline, where other things would be seen beside it.
    points = {subject.point_px for subject in chosen if subject.layer == 0}
    assert len(points) > 50
    assert all(1 <= x <= 10 and 1 <= y <= 10 for x, y in points)


def test_holes_in_a_thing_are_not_focused_on():
    """A hole of one pixel hardly lessens what is seen around it, but shows something else."""
    seen = np.zeros((2, 100, 100))
    seen[0, 20:80, 20:80] = 1
    seen[0, 24:80:7, 24:80:7] = 0
    seen[1] = 1 - seen[0]
    parts, _ = _shares(np.s_[0:1, 0:1])
    for index in range(200):
        subject = choose_subject(np.random.default_rng(index), parts, seen)
        x, y = subject.point_px
        assert seen[subject.layer, y, x] == 1


def test_what_is_hardly_seen_is_no_subject():
    parts, seen = _shares(np.s_[0:3, 0:3])
    assert {choose_subject(np.random.default_rng(i), parts, seen).layer for i in range(30)} == {1}


def test_window_means_of_a_ramp():
    ramp = np.arange(7.0)[None, :] * np.ones((5, 1))
    mean = _window_mean(ramp, 1)
    assert mean.shape == (5, 7)
    assert mean[2, 3] == pytest.approx(3)
    assert mean[0, 0] == pytest.approx(2 * (0 + 1) / 9)


# Purity ------------------------------------------------------------------------------------------

WORKER = """
import hashlib, sys
from data_pipeline.layered import LayeredSource, RICH
from data_pipeline.layered.photographer import PhotographerSource
source = PhotographerSource(LayeredSource(size_px=16, seed=4, max_layers=2, style=RICH))
made = {}
for index in map(int, sys.argv[1:]):
    scene = source.scene("eval_seen", index)
    arrays = (scene.image, scene.defocused, scene.disparity, scene.mask)
    told = repr((scene.caption, scene.camera, scene.hidden, scene.disparity_range_per_m))
    content = b"".join(array.tobytes() for array in arrays) + told.encode()
    made[index] = hashlib.sha256(content).hexdigest()
print(sorted(made.items()))
"""


def test_workers_make_the_same_bytes_in_any_order():
    """Two processes, one of them on a single core, make the same scenes in opposite orders."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PYTHONWARNINGS": "ignore",
    }
    cores = sorted(os.sched_getaffinity(0))
    workers = []
    for order, allowed in ((("0", "1", "2"), cores), (("2", "1", "0"), cores[:1])):
        command = [sys.executable, "-c", WORKER, *order]
        os.sched_setaffinity(0, allowed)
        try:
            workers.append(
                subprocess.Popen(
                    command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
                )
            )
        finally:
            os.sched_setaffinity(0, cores)
    answers = [worker.communicate(timeout=120) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], answers
    assert answers[0][0] == answers[1][0]
    assert len(eval(answers[0][0])) == len({digest for _, digest in eval(answers[0][0])}) == 3


def test_photographs_are_functions_of_seed_split_and_index(source, photographs, scenes):
    def digest(scene: PhotoScene) -> str:
        arrays = (scene.image, scene.defocused, scene.disparity, scene.mask)
        return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()

    again = source.scene("train", 7)
    assert digest(again) == digest(scenes[7])
    assert (again.camera, again.hidden) == (scenes[7].camera, scenes[7].hidden)
    others = [source.scene("eval_seen", 7), source.scene("train", 8)]
    assert len({digest(scene) for scene in (again, *others)}) == 3
    # The layered source of the same seed shows other scenes.
    assert source.scenes.scene("train", 7).provenance["textures"] != again.provenance["textures"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_blur_fraction": 0.001}, r"max_blur_fraction is 0.001; allowed: 0.005 to 0.2"),
        ({"max_blur_fraction": 0.3}, r"max_blur_fraction is 0.3; allowed"),
        ({"deep_rate": 1.5}, r"deep_rate is 1.5; allowed: 0 to 1"),
    ],
)
def test_bad_photographer_values_are_refused(source, changes, message):
    with pytest.raises(InvalidInput, match=message):
        dataclasses.replace(source, **changes)


def test_recipe_names_everything_that_changes_photographs(source):
    recipes = [source.recipe()] + [
        dataclasses.replace(source, **change).recipe()
        for change in (
            {"scenes": dataclasses.replace(source.scenes, seed=9)},
            {"max_blur_fraction": 0.1},
            {"deep_rate": 0.2},
            {"name": "other"},
        )
    ]
    assert len({json.dumps(recipe) for recipe in recipes}) == len(recipes)
