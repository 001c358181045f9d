import jax
import numpy as np
import pytest
from random_runs import perturbed

from bokeh_jax.errors import InvalidInput
from bokeh_jax.inference import Refocuser, TakenWith
from bokeh_jax.inference.photo_file import resize
from bokeh_jax.inference.refocuser import working_size
from bokeh_jax.inference.request import lens_blur
from bokeh_jax.models import init_params


@pytest.fixture(scope="module")
def untrained(tiny):
    """Start values: the network's own part of every answer is exactly zero."""
    params = jax.jit(lambda: init_params(tiny.model, jax.random.key(0), 16, 16))()
    return Refocuser(tiny, params, step=0)


@pytest.fixture(scope="module")
def scene():
    rng = np.random.default_rng(0)
    image = rng.uniform(size=(24, 36, 3)).astype(np.float32)
    disparity = np.zeros((24, 36), np.float32)
    disparity[:, 18:] = 1.0
    return image, disparity


def test_with_disparity_an_untrained_network_adds_nothing_to_the_lens_blur(untrained, scene):
    image, disparity = scene
    result = untrained(image, focus=(0.9, 0.5), blur=0.1, disparity=disparity)
    expected = lens_blur(image, disparity, (0.9, 0.5), 0.1)
    np.testing.assert_allclose(result.image, expected, atol=1e-5)
    assert result.full_resolution
    # The focus point is on the near half, which stays as it is away from the edge.
    np.testing.assert_allclose(result.image[:, 24:], image[:, 24:], atol=1e-4)
    assert result.image[:, :12].std() < 0.6 * image[:, :12].std()


def test_blur_that_is_known_to_be_there_is_not_added_again(untrained, scene):
    image, disparity = scene
    asked = {"focus": (0.9, 0.5), "blur": 0.1, "disparity": disparity}
    sharp = untrained(image, **asked, taken_with=TakenWith())
    np.testing.assert_allclose(sharp.image, untrained(image, **asked).image, atol=1e-5)
    # Taken as it is asked for: nothing is missing.
    same = untrained(image, **asked, taken_with=TakenWith((0.8, 0.1), 0.1))
    np.testing.assert_allclose(same.image, image, atol=1e-5)
    # Three fifths of the radius are there: four fifths are missing.
    some = untrained(image, **asked, taken_with=TakenWith((0.8, 0.1), 0.06))
    rest = untrained(image, focus=(0.9, 0.5), blur=0.08, disparity=disparity)
    # At the edge the bound of the radius decides on the layers.
    for part in (np.s_[:, :12], np.s_[:, 24:]):
        np.testing.assert_allclose(some.image[part], rest.image[part], atol=1e-3)


@pytest.mark.parametrize(
    ("taken", "said"),
    [
        (TakenWith((0.5, 1.5), 0.0), "focus is (0.5, 1.5); allowed"),
        (TakenWith((0.5, 0.5), -1.0), "blur is -1.0; allowed"),
        (TakenWith((0.5, 0.5), 0.1), "taken_with has blur 0.1 without disparity; allowed"),
    ],
)
def test_a_camera_that_cannot_have_been_is_refused(untrained, scene, taken, said):
    with pytest.raises(InvalidInput) as found:
        untrained(scene[0], focus=(0.5, 0.5), blur=0.1, taken_with=taken)
    assert said in str(found.value)


def test_all_steps_in_one_program_answer_as_step_by_step(tiny, scene):
    params = jax.jit(lambda: init_params(tiny.model, jax.random.key(0), 16, 16))()
    network = Refocuser(tiny, jax.device_put(perturbed(params, 1)), step=0)
    asked = {
        "focus": (0.9, 0.5),
        "blur": 0.1,
        "disparity": scene[1],
        "num_steps": 3,
        "detail": "whole",
    }
    told = []
    shown = network(scene[0], **asked, on_step=lambda done, total: told.append(done))
    assert told == [1, 2, 3]
    whole = network(scene[0], **asked)
    np.testing.assert_allclose(whole.image, shown.image, atol=2e-5)
    assert np.abs(whole.image - lens_blur(scene[0], scene[1], (0.9, 0.5), 0.1)).max() > 1e-2


def test_without_disparity_it_returns_the_photograph_at_working_size(untrained, scene):
    image, _ = scene
    result = untrained(image, focus=(0.9, 0.5), blur=0.1)
    assert result.working_size_px == (12, 20)
    assert not result.full_resolution
    expected = resize(np.clip(resize(image, 12, 20), 0, 1), 24, 36)
    np.testing.assert_allclose(result.image, np.clip(expected, 0, 1), atol=1e-4)


def test_bytes_and_floats_are_one_photograph(untrained, scene):
    image, disparity = scene
    levels = np.uint8(np.rint(image * 255))
    from_bytes = untrained(levels, focus=(0.1, 0.5), blur=0.1, disparity=disparity)
    from_floats = untrained(
        (levels / 255.0).astype(np.float32), focus=(0.1, 0.5), blur=0.1, disparity=disparity
    )
    np.testing.assert_allclose(from_bytes.image, from_floats.image, atol=1e-6)


def test_steps_are_reported(untrained, scene):
    image, disparity = scene
    told = []
    untrained(
        image,
        focus=(0.1, 0.5),
        blur=0.1,
        disparity=disparity,
        num_steps=3,
        guidance_scale=2.0,
        detail="whole",
        on_step=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("height_px", "width_px", "expected"),
    [(512, 512, (32, 32)), (512, 1024, (24, 44)), (3000, 100, (176, 4)), (20, 20, (32, 32))],
)
def test_working_sizes_keep_area_and_aspect(height_px, width_px, expected):
    assert working_size(height_px, width_px, 32, 4) == expected
