import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bokeh_jax import simulation
from bokeh_jax.optics import Lens, composite_layers, srgb_to_linear, visible_disparity
from bokeh_jax.simulation import (
    AugmentConfig,
    CameraConfig,
    Cameras,
    SimulationConfig,
    draw_scenes,
    margin_for,
    sample_cameras,
    seen_through,
)
from data_pipeline.layered import LayeredSource

SIZE_PX, RADIUS_PX, STORED_PX = 12, 2.0, 24
FRAME = (SIZE_PX, SIZE_PX)
# Operation by operation they would take ten times as long.
crop_scene = jax.jit(simulation.crop_scene, static_argnames=("frame", "max_radius_px"))
photograph = jax.jit(simulation.photograph, static_argnames="max_radius_px")
photograph_pairs = jax.jit(simulation.photograph_pairs, static_argnums=2)
physics_guess = jax.jit(simulation.physics_guess, static_argnames="max_radius_px")
simulate_pairs = jax.jit(simulation.simulate_pairs, static_argnums=2)
SIMULATION = SimulationConfig(
    size_px=SIZE_PX,
    frame_multiple_px=4,
    cameras=CameraConfig(blur_fraction_min=0.05, blur_fraction_max=2.0 / 12),
)


@pytest.fixture(scope="module")
def batch():
    source = LayeredSource(size_px=STORED_PX, seed=2, max_layers=3)
    scenes = [source.scene("train", index) for index in range(3)]
    layers = np.zeros((3, 3, STORED_PX, STORED_PX, 4), np.uint8)
    planes = np.zeros((3, 3, 3), np.float32)
    for row, scene in enumerate(scenes):
        count = len(scene.layers)
        layers[row, :count] = scene.layers
        planes[row, :count] = scene.layer_disparity
    return {
        "layers": jnp.asarray(layers),
        "layer_disparity": jnp.asarray(planes),
        "layer_gain": jnp.ones((3, 3)),
        "scene_id": jnp.arange(3, dtype=jnp.int32),
    }


def record_of(batch, row):
    return {name: value[row] for name, value in batch.items() if name != "scene_id"}


def photograph_one(scene, *, focus_disparity, blur_px):
    lens = Lens(
        focus_disparity=jnp.full((1, 1), focus_disparity), blur_px=jnp.full((1, 1), blur_px)
    )
    scenes = jax.tree.map(lambda leaf: leaf[None], scene)
    return photograph(scenes, lens, max_radius_px=RADIUS_PX)[0, 0]


def whole_frame(record):
    """All in focus and disparity of the stored frame."""
    alpha = record["layers"][..., 3:].astype(jnp.float32) / 255.0
    color = srgb_to_linear(record["layers"][..., :3].astype(jnp.float32) / 255.0)
    layers = jnp.concatenate([color, alpha], axis=-1)
    disparity = visible_disparity(layers[..., 3], record["layer_disparity"])
    return np.asarray(composite_layers(layers)), np.asarray(disparity)


def test_the_centre_crop_is_the_centre(batch):
    record = record_of(batch, 0)
    scene = crop_scene(record, None, frame=FRAME, max_radius_px=RADIUS_PX)
    image, disparity = whole_frame(record)
    first = (STORED_PX - SIZE_PX) // 2
    window = slice(first, first + SIZE_PX)
    np.testing.assert_allclose(scene.image, image[window, window], atol=1e-6)
    np.testing.assert_allclose(scene.disparity, disparity[window, window], atol=1e-5)


def test_a_random_crop_moves_pixels_and_planes_together(batch):
    record = record_of(batch, 1)
    image, disparity = whole_frame(record)
    margin_px, offsets = margin_for(RADIUS_PX), set()
    for index in range(12):
        key = jax.random.fold_in(jax.random.key(0), index)
        scene = crop_scene(record, key, frame=FRAME, max_radius_px=RADIUS_PX)
        found = [
            (row, column)
            for row in range(STORED_PX - SIZE_PX + 1)
            for column in range(STORED_PX - SIZE_PX + 1)
            if np.allclose(
                scene.image, image[row : row + SIZE_PX, column : column + SIZE_PX], atol=1e-6
            )
        ]
        assert len(found) == 1
        row, column = found[0]
        seen = disparity[row : row + SIZE_PX, column : column + SIZE_PX]
        np.testing.assert_allclose(scene.disparity, seen, atol=1e-5)
        # Light from beyond the frame stays available on every side.
        assert margin_px <= min(row, column)
        assert max(row, column) + SIZE_PX + margin_px <= STORED_PX
        offsets.add(found[0])
    assert len(offsets) > 4


def test_a_stored_frame_without_room_for_the_margin_is_refused(batch):
    with pytest.raises(ValueError, match=r"24x24 px; .* needs at least 34x34 px"):
        crop_scene(record_of(batch, 0), None, frame=FRAME, max_radius_px=10.0)


def test_without_blur_a_photograph_is_all_in_focus(batch):
    scene = crop_scene(record_of(batch, 2), None, frame=FRAME, max_radius_px=RADIUS_PX)
    shot = photograph_one(scene, focus_disparity=0.3, blur_px=0.0)
    np.testing.assert_allclose(shot, scene.image, atol=1e-5)


def test_photographs_and_layered_scenes_agree_where_nothing_is_hidden(batch):
    record = record_of(batch, 0)
    one_layer = {
        "layers": record["layers"][1:2].at[..., 3].set(255),
        "layer_disparity": jnp.array([[0.01, 0.0, 0.3]]),
        "layer_gain": jnp.ones(1),
    }
    scene = crop_scene(one_layer, None, frame=FRAME, max_radius_px=RADIUS_PX)
    flat = {
        "image": one_layer["layers"][0, ..., :3],
        "disparity": jnp.broadcast_to(
            np.rint(65535 * (0.3 + 0.01 * np.arange(STORED_PX))).astype(np.uint16), (24, 24)
        ),
    }
    photo = crop_scene(flat, None, frame=(STORED_PX, STORED_PX), max_radius_px=RADIUS_PX)
    layered = photograph_one(scene, focus_disparity=0.9, blur_px=3.0)
    window = slice(6, 18)
    whole = photograph_one(photo, focus_disparity=0.9, blur_px=3.0)[window, window]
    np.testing.assert_allclose(layered, whole, atol=2e-3)


def test_pairs_hold_what_their_cameras_see(batch):
    keys = jax.random.split(jax.random.key(1), 3)
    pairs = jax.jit(lambda batch, keys: simulate_pairs(batch, keys, SIMULATION))(batch, keys)
    assert pairs.targets.shape == (3, 2, SIZE_PX, SIZE_PX, 3)
    np.testing.assert_allclose(pairs.weights.sum(axis=1), 1.0, atol=1e-6)
    # The weights prefer, at each target's focus point, that target.
    for row in range(3):
        for target in range(2):
            x, y = np.minimum(
                (np.asarray(pairs.cameras.focus_points[row, target]) * 12).astype(int), 11
            )
            assert pairs.weights[row, target, y, x] >= 0.5


def test_one_scene_is_simulated_alike_in_any_batch(batch):
    keys = jax.random.split(jax.random.key(1), 3)
    simulate = jax.jit(lambda batch, keys: simulate_pairs(batch, keys, SIMULATION))
    whole = simulate(batch, keys)
    alone = simulate({name: value[2:] for name, value in batch.items()}, keys[2:])
    np.testing.assert_allclose(whole.targets[2], alone.targets[0], atol=1e-5)
    np.testing.assert_array_equal(whole.cameras.focus_points[2], alone.cameras.focus_points[0])


def test_the_guess_is_exact_for_a_sharp_reference_of_one_surface(batch):
    record = record_of(batch, 0)
    flat = {
        "layers": record["layers"][1:2].at[..., 3].set(255)[None],
        "layer_disparity": jnp.array([[[0.0, 0.0, 0.2]]]),
        "layer_gain": jnp.ones((1, 1)),
    }
    scenes = jax.vmap(
        lambda record: crop_scene(record, None, frame=FRAME, max_radius_px=RADIUS_PX)
    )(flat)
    sharp = Lens(focus_disparity=jnp.zeros(1), blur_px=jnp.zeros(1))
    target = Lens(focus_disparity=jnp.full((1, 2), 0.9), blur_px=jnp.full((1, 2), 2.0))
    cameras = Cameras(
        reference=sharp,
        targets=target,
        focus_points=jnp.zeros((1, 2, 2)),
        reference_point=jnp.zeros((1, 2)),
    )
    pairs = photograph_pairs(scenes, cameras, SIMULATION)
    first = jax.tree.map(lambda leaf: leaf[:, 0], target)
    guess = physics_guess(pairs.reference, pairs.disparity, first, max_radius_px=RADIUS_PX)
    # Away from the border, where the frame's edge is replicated.
    inner = slice(3, -3)
    np.testing.assert_allclose(guess[0, inner, inner], pairs.targets[0, 0, inner, inner], atol=1e-4)


def test_a_known_camera_leaves_only_the_missing_blur():
    rng = np.random.default_rng(0)
    reference = jnp.asarray(rng.uniform(size=(3, 16, 16, 3)), jnp.float32)
    disparity = jnp.asarray(rng.uniform(size=(3, 16, 16)), jnp.float32)
    camera = Lens(focus_disparity=jnp.full(3, 0.2), blur_px=jnp.full(3, 3.0))
    sharp = Lens(focus_disparity=jnp.full(3, 0.7), blur_px=jnp.zeros(3))
    given = jnp.array([1.0, 1.0, 0.0])

    def guess(lens, reference_lens):
        return physics_guess(
            reference,
            disparity,
            lens,
            max_radius_px=4.0,
            reference_lens=reference_lens,
            reference_camera_given=given,
        )

    plain = physics_guess(reference, disparity, camera, max_radius_px=4.0)
    same = guess(camera, camera)
    # The camera that took it: nothing is missing. Not told so: blurred as if all in focus.
    np.testing.assert_array_equal(same[:2], reference[:2])
    # To the last bits: which layers of the blur are skipped depends on the batch's other scenes.
    np.testing.assert_array_max_ulp(np.asarray(same[2]), np.asarray(plain[2]), maxulp=4)
    # A sharp reference lacks all of the blur; an asked blur of 0 cannot bring sharpness back.
    np.testing.assert_allclose(guess(camera, sharp), plain, atol=1e-5)
    np.testing.assert_array_equal(guess(sharp, camera), reference)


def test_missing_blur_adds_up_in_variance():
    """An edge blurred with radius r spreads with variance r²/4, and variances of blurs add up: the
    missing blur on top of radius 3 must spread it as radius 5 does."""
    edge = jnp.broadcast_to((jnp.arange(48) >= 24).astype(jnp.float32)[:, None], (1, 8, 48, 3))
    plane = jnp.full((1, 8, 48), 1.0)
    lens = lambda blur: Lens(focus_disparity=jnp.zeros(1), blur_px=jnp.full(1, blur))  # noqa: E731

    @jax.jit
    def guess(image, asked, taken, given):
        return physics_guess(
            image,
            plane,
            asked,
            max_radius_px=5.0,
            reference_lens=taken,
            reference_camera_given=given,
        )

    def variance(image):
        spread = np.diff(np.asarray(image)[0, 4, :, 0].astype(np.float64))
        position = np.arange(len(spread))
        mean = (spread * position).sum()
        return (spread * (position - mean) ** 2).sum()

    sharp, unknown, known = lens(0.0), jnp.zeros(1), jnp.ones(1)
    taken = guess(edge, lens(3.0), sharp, unknown)
    at_three, at_five = variance(taken), variance(guess(edge, lens(5.0), sharp, unknown))
    # Every blur interpolates linearly between pixels, which spreads by another 1/6.
    np.testing.assert_allclose(at_three, 9 / 4 + 1 / 6, rtol=0.01)
    # Half the resolution, which has its kernels of five pixels from, adds a fortieth.
    np.testing.assert_allclose(at_five, 25 / 4 + 1 / 6, rtol=0.03)
    np.testing.assert_allclose(
        variance(guess(taken, lens(5.0), lens(3.0), known)), at_five + 1 / 6, rtol=0.02
    )
    np.testing.assert_allclose(
        variance(guess(taken, lens(5.0), lens(3.0), unknown)), at_three + at_five, rtol=0.02
    )


def test_a_layers_gain_makes_lights_brighter_than_white_until_the_photograph_is_taken(batch):
    record = record_of(batch, 0) | {"layer_gain": jnp.asarray([6.0, 1.0, 1.0])}
    record["layers"] = record["layers"].at[0, ..., 3].set(255)
    dark = record | {"layer_gain": jnp.ones(3)}
    plain = crop_scene(dark, None, frame=FRAME, max_radius_px=RADIUS_PX)
    lit = crop_scene(record, None, frame=FRAME, max_radius_px=RADIUS_PX)
    np.testing.assert_allclose(lit.layers[0, ..., :3], 6 * plain.layers[0, ..., :3], atol=1e-5)
    np.testing.assert_array_equal(lit.layers[1:], plain.layers[1:])
    alpha = plain.layers[0, 3:-3, 3:-3, 3:]
    nearest = lit.layers[0, 3:-3, 3:-3, :3] * alpha
    behind = plain.image - plain.layers[0, 3:-3, 3:-3, :3] * alpha
    np.testing.assert_allclose(lit.image, nearest + behind, atol=1e-5)
    assert float(lit.layers.max()) > 1.5
    scenes = jax.tree.map(lambda leaf: leaf[None], lit)
    keys = jax.random.split(jax.random.key(4), 1)
    cameras = jax.vmap(lambda d, k: sample_cameras(k, d, SIMULATION.cameras))(
        scenes.disparity, keys
    )
    pairs = photograph_pairs(scenes, cameras, SIMULATION)
    assert float(pairs.reference.max()) == 1.0
    assert float(pairs.targets.max()) == 1.0


def test_a_person_with_another_map_focuses_on_its_value_at_the_point(batch):
    keys = jax.random.split(jax.random.key(5), 3)
    pairs = simulate_pairs(batch, keys, SIMULATION)
    other = 1.0 - pairs.disparity
    seen = seen_through(pairs.cameras, other)
    np.testing.assert_allclose(
        seen.targets.focus_disparity, 1 - pairs.cameras.targets.focus_disparity, atol=1e-6
    )
    np.testing.assert_allclose(
        seen.reference.focus_disparity, 1 - pairs.cameras.reference.focus_disparity, atol=1e-6
    )
    np.testing.assert_array_equal(seen.targets.blur_px, pairs.cameras.targets.blur_px)


def test_a_frame_that_is_not_square_is_simulated_with_blur_in_its_own_width(batch):
    wide = {
        name: value[:, :, :, :24] if name == "layers" else value for name, value in batch.items()
    }
    wide["layers"] = jnp.concatenate([wide["layers"], wide["layers"]], axis=3)
    config = dataclasses.replace(SIMULATION, size_px=12)
    pairs = simulate_pairs(wide, jax.random.split(jax.random.key(6), 3), config)
    assert pairs.targets.shape == (3, 2, 8, 16, 3)
    assert config.max_radius_px(16) == 3.0
    assert float(pairs.cameras.targets.blur_px.max()) <= 16 * 2.0 / 12
    assert config.needed_px((24, 48), layered=True) == (8 + 2 * 4, 16 + 2 * 4)
    assert config.needed_px((24, 48), layered=False) == (8, 16)


def test_flips_and_colors_reach_the_pairs():
    random = np.random.default_rng(3)
    batch = {
        "image": jnp.asarray(random.integers(0, 256, (2, 12, 12, 3), np.uint8)),
        "disparity": jnp.asarray(random.integers(0, 65536, (2, 12, 12), np.uint16)),
        "scene_id": jnp.arange(2, dtype=jnp.int32),
    }
    keys = jax.random.split(jax.random.key(8), 2)

    def scenes(**fields):
        config = dataclasses.replace(SIMULATION, augment=AugmentConfig(**fields))
        return draw_scenes(batch, keys, config)[0]

    plain, flipped = scenes(flip_rate=0.0), scenes(flip_rate=1.0)
    np.testing.assert_array_equal(flipped.disparity, plain.disparity[:, :, ::-1])
    np.testing.assert_array_equal(flipped.image, plain.image[:, :, ::-1])
    brighter = scenes(flip_rate=0.0, exposure_stops=2.0)
    gain = np.asarray(brighter.image.sum(axis=(1, 2, 3)) / plain.image.sum(axis=(1, 2, 3)))
    np.testing.assert_allclose(
        brighter.image, gain[:, None, None, None] * plain.image, rtol=1e-5, atol=1e-6
    )
    # Each scene has its own exposure.
    assert abs(gain[0] - gain[1]) > 0.01
