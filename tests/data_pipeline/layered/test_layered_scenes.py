"""Layered scenes: what is in them, in which order, and that they are functions of their index."""

import dataclasses
import hashlib
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bokeh_jax.errors import InvalidInput
from data_pipeline.frames import FrameSizes
from data_pipeline.layered import (
    COMPACT,
    PLAIN,
    RICH,
    LayeredSource,
    SceneStyle,
    composition,
    lights,
    textures,
)
from data_pipeline.layered.canvas import Canvas
from data_pipeline.layered.composition import compose
from data_pipeline.layered.lights import GAINS
from data_pipeline.layered.silhouettes import SILHOUETTES, disc
from data_pipeline.layered.translucent import MAX_ALPHA
from data_pipeline.source import SPLITS, SceneSource

SIZE_PX = 32
EVERYTHING = SceneStyle(transparency_rate=1.0, lights_rate=1.0, hair_rate=0.5)


@pytest.fixture(scope="module")
def photographs() -> textures.Textures:
    return textures.load_textures()


@pytest.fixture(scope="module")
def source(photographs) -> LayeredSource:
    return LayeredSource(size_px=SIZE_PX, seed=3, textures=photographs)


@pytest.fixture(scope="module")
def scenes(source) -> list:
    return [source.scene("train", index) for index in range(60)]


def _plane_values(planes: np.ndarray, frame: tuple[int, int]) -> np.ndarray:
    """Disparity [l, height + 1, width + 1] at every corner of every pixel."""
    y, x = np.mgrid[: frame[0] + 1, : frame[1] + 1].astype(np.float32)
    a, b, c = (planes[:, i, None, None] for i in range(3))
    return a * x + b * y + c


# Planes ------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(2, 8),
    height=st.integers(16, 1024),
    width=st.integers(16, 1024),
    gap=st.floats(0.001, 0.07),
)
def test_planes_keep_order_gap_and_range_over_the_frame(seed, count, height, width, gap):
    planes = composition._planes(np.random.default_rng(seed), count, (height, width), gap)
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], np.float32)
    values = planes[:, :2] @ corners.T + planes[:, 2:]
    assert (values[:-1] - values[1:]).min() >= gap
    assert values.min() >= 0
    assert values.max() <= 1


def test_planes_use_the_whole_range_and_lean():
    frame = (SIZE_PX, 2 * SIZE_PX)
    planes = [composition._planes(np.random.default_rng(i), 4, frame, 0.06) for i in range(200)]
    values = np.stack([_plane_values(p, frame) for p in planes])
    assert values[:, 0].max() > 0.97
    assert values[:, -1].min() < 0.03
    slopes = np.abs(np.stack(planes)[..., :2] * frame[::-1]).sum(axis=-1)
    assert np.quantile(slopes, 0.1) < 0.01
    assert np.quantile(slopes, 0.9) > 0.1


# Invariants of every style -----------------------------------------------------------------------


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    frame=st.sampled_from([(24, 24), (24, 43), (36, 24), (48, 27)]),
    max_layers=st.integers(2, 8),
    style=st.sampled_from([PLAIN, RICH, EVERYTHING]),
    margin_px=st.sampled_from([0, 5]),
)
def test_every_scene_keeps_what_scenes_promise(
    photographs, seed, frame, max_layers, style, margin_px
):
    made = compose(
        (seed, 0, 1),
        frame,
        photographs.train,
        max_layers=max_layers,
        style=style,
        margin_px=margin_px,
    )
    stored = (frame[0] + 2 * margin_px, frame[1] + 2 * margin_px)
    count = len(made.parts)
    assert 2 <= count <= max_layers
    assert made.layers.shape == (count, *stored, 4)
    assert (made.layers[-1, ..., 3] == 255).all()
    values = _plane_values(made.planes, stored)
    assert (values[:-1] - values[1:]).min() >= 0.06
    assert values.min() >= 0
    assert values.max() <= 1
    seen = made.seen()
    assert seen.shape == (count, *frame)
    np.testing.assert_allclose(seen.sum(axis=0), 1, atol=1e-9)
    roles = [part.role for part in made.parts]
    assert roles[-1] == "backdrop"
    assert roles.count("backdrop") == 1
    assert "thing" in roles
    least = {"lights": composition.MIN_LIGHTS_VISIBLE, "backdrop": composition.MIN_FAR_VISIBLE}
    for layer, gain, part, name, share in zip(
        made.layers, made.gains, made.parts, made.photographs, seen, strict=True
    ):
        # A disc that stands in for things without a place is the one exception.
        assert share.mean() >= least.get(part.role, composition.MIN_VISIBLE)
        if part.role == "lights":
            assert GAINS[0] <= gain <= GAINS[1]
            assert name is None
            # No light has the colour of what is not lit.
            assert layer[layer[..., 3] > 0][:, :3].max(axis=-1).min() > 60
        else:
            assert gain == 1
        if part.role == "translucent":
            assert 0 < layer[..., 3].max() <= MAX_ALPHA
        if part.role in ("thing", "backdrop"):
            assert name in photographs.train


def test_rates_are_the_share_of_scenes_and_of_things(photographs):
    style = SceneStyle(transparency_rate=0.25, lights_rate=0.5, hair_rate=0.3)
    rng = np.random.default_rng(9)
    roles = [composition._roles(rng, 3, 4, style) for _ in range(1500)]
    assert np.mean(["translucent" in r for r in roles]) == pytest.approx(0.25, abs=0.05)
    assert np.mean(["lights" in r for r in roles]) == pytest.approx(0.5, abs=0.05)
    assert {r.count("thing") for r in roles} == {3}
    # Lights stand anywhere, mostly behind all things.
    places = [r.index("lights") + 1 == len(r) for r in roles if "lights" in r]
    assert 0.6 < np.mean(places) < 0.85
    assert {r.index("lights") for r in roles if "lights" in r} == {0, 1, 2, 3, 4}

    def kinds(role: str, count: int) -> list[str]:
        canvas = Canvas(16, 16)
        drawn = (
            composition._draw_part(rng, rng, role, canvas, photographs.train, style)
            for _ in range(count)
        )
        return [part.kind for part, _ in drawn]

    assert np.mean([kind == "hair" for kind in kinds("thing", 300)]) == pytest.approx(0.3, abs=0.1)
    assert set(kinds("lights", 30)) == {"lights_scattered", "lights_clumps", "lights_string"}
    assert set(kinds("translucent", 40)) == {"smoke", "glass_edge", "glass_polygon", "glass_ring"}


def test_lights_of_small_frames_are_no_smaller_than_can_be_seen(monkeypatch):
    monkeypatch.setattr(lights, "NUM_LIGHTS", (1, 1))
    drawn = [lights.draw_lights(np.random.default_rng(i), Canvas(24, 24)) for i in range(60)]
    # Those on a string are in the frame.
    areas = [p.alpha.sum() / 255 for p in drawn if p.kind == "lights_string"]
    expected = np.pi * lights.MIN_RADIUS_PX**2
    assert len(areas) > 10
    assert np.median(areas) == pytest.approx(expected, rel=0.25)
    assert min(areas) > 0.4 * expected


def test_two_layers_have_no_room_for_lights_and_panes(photographs):
    for index in range(20):
        made = compose((1, 0, index), (24, 24), photographs.train, max_layers=2, style=EVERYTHING)
        assert [part.role for part in made.parts] == ["thing", "backdrop"]


def test_things_are_placed_within_what_is_seen_past_the_margin(photographs):
    """The margin is cut off before it is asked how much of a thing is seen."""
    made = [
        compose((2, 0, i), (20, 20), photographs.train, max_layers=5, margin_px=20)
        for i in range(30)
    ]
    for scene in made:
        alpha = scene.layers[..., 20:-20, 20:-20, 3]
        np.testing.assert_array_equal(scene.seen(), composition.visible_shares(alpha))
        assert scene.seen().mean(axis=(1, 2))[:-1].min() >= composition.MIN_VISIBLE


def test_visible_shares_of_half_opaque_layers():
    alpha = np.array([[[255, 0, 51]], [[255, 51, 255]], [[255, 255, 255]]], np.uint8)
    expected = [[[1, 0, 0.2]], [[0, 0.2, 0.8]], [[0, 0.8, 0]]]
    np.testing.assert_allclose(composition.visible_shares(alpha), expected)


# The source --------------------------------------------------------------------------------------


def test_scene_arrays_are_as_the_contract_says(scenes, source):
    assert isinstance(source, SceneSource)
    assert source.name == "layered"
    assert source.num_scenes("train") is None
    for scene in scenes:
        assert scene.layers.dtype == np.uint8
        assert scene.layer_disparity.dtype == scene.layer_gain.dtype == np.float32
        count = len(scene.layer_disparity)
        assert scene.layers.shape == (count, SIZE_PX, SIZE_PX, 4)
        assert (scene.layer_gain == 1).all()
        made_from = json.loads(json.dumps(scene.provenance))
        assert len(made_from["textures"]) == len(made_from["silhouettes"]) == count
        assert len(set(made_from["textures"])) == count
        values = _plane_values(scene.layer_disparity, (SIZE_PX, SIZE_PX))
        assert (values[:-1] - values[1:]).min() >= source.min_gap
    assert {len(scene.layers) for scene in scenes} == {2, 3, 4, 5}


def test_a_scene_without_any_visible_silhouette_gets_a_disc(monkeypatch, source):
    monkeypatch.setattr(composition, "MIN_VISIBLE", 2.0)
    scene = source.scene("train", 0)
    expected = disc(Canvas(SIZE_PX, SIZE_PX), 0.25).alpha
    np.testing.assert_array_equal(scene.layers[0, ..., 3], expected)
    assert len(scene.layers) == 2


def test_textures_are_rich_at_the_stored_size(scenes):
    details = [textures.detail_of(layer[..., :3]) for scene in scenes for layer in scene.layers]
    assert np.median(details) > 0.03
    assert np.mean(np.array(details) > 0.01) > 0.95


def test_all_silhouettes_and_training_textures_occur(scenes, photographs):
    kinds = {kind for scene in scenes for kind in scene.provenance["silhouettes"]}
    assert kinds == set(SILHOUETTES) | {"full"}
    names = {name for scene in scenes for name in scene.provenance["textures"]}
    assert names == set(photographs.train)


def test_frames_are_drawn_from_all_shapes(photographs):
    frames = FrameSizes(sizes_px=(16, 24), ratios=("1:1", "3:2", "9:16"))
    source = LayeredSource(frames=frames, textures=photographs, max_layers=2)
    drawn = [source.scene("train", index).frame for index in range(80)]
    assert set(drawn) == set(frames.frames())
    assert min(drawn.count(frame) for frame in frames.frames()) >= 4
    # Neighbouring scenes do not follow a cycle that shards or mixtures could fall in step with.
    assert len({tuple(drawn[i : i + 3]) for i in range(78)}) > 30


def _content(scene) -> str:
    digest = hashlib.sha256(scene.layers.tobytes() + scene.layer_disparity.tobytes())
    digest.update(scene.layer_gain.tobytes() + scene.caption.encode())
    digest.update(json.dumps(scene.provenance).encode())
    return digest.hexdigest()


@pytest.mark.parametrize("style", [PLAIN, RICH])
def test_scene_is_a_function_of_seed_split_and_index(photographs, style):
    def source(seed: int) -> LayeredSource:
        return LayeredSource(size_px=SIZE_PX, seed=seed, textures=photographs, style=style)

    keys = [(3, "train", 7), (3, "train", 8), (4, "train", 7), (3, "eval_seen", 7)]
    keys.append((3, "eval_heldout", 7))
    made = {key: _content(source(key[0]).scene(*key[1:])) for key in keys}
    assert len(set(made.values())) == 5
    # Made again in another order, by a source that has been sent to another process.
    sent = pickle.loads(pickle.dumps(source(3)))
    for key in reversed(keys):
        if key[0] == 3:
            assert _content(sent.scene(*key[1:])) == made[key]


def test_a_style_may_choose_silhouettes(photographs):
    source = LayeredSource(size_px=SIZE_PX, seed=3, textures=photographs, style=COMPACT)
    drawn = {
        kind
        for index in range(60)
        for kind in source.scene("train", index).provenance["silhouettes"][:-1]
    }
    assert drawn == {"blob", "polygon", "star"}
    recipes = [dataclasses.replace(source, style=style).recipe() for style in (PLAIN, COMPACT)]
    assert recipes[1]["style"]["silhouettes"] == ["blob", "polygon", "star"]
    # What was built before silhouettes could be chosen is still found to be the same dataset.
    assert set(recipes[0]["style"]) == {"transparency_rate", "lights_rate", "hair_rate"}
    with pytest.raises(InvalidInput, match=r"silhouettes has 'cube'; allowed: blob, cluster"):
        SceneStyle(silhouettes=("star", "cube"))


def test_held_out_photographs_never_reach_a_training_scene(photographs):
    """Other held-out pixels change held-out scenes only; other training pixels the rest only."""
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    source = LayeredSource(size_px=SIZE_PX, seed=3, textures=photographs, style=EVERYTHING)

    def exchanged(group: str) -> LayeredSource:
        names = getattr(photographs, group)
        other = dataclasses.replace(photographs, **{group: dict.fromkeys(names, noise)})
        return dataclasses.replace(source, textures=other)

    for index in range(6):
        for split in SPLITS:
            before = source.scene(split, index).layers
            held_out = split == "eval_heldout"
            with_other_held_out = exchanged("held_out").scene(split, index).layers
            with_other_train = exchanged("train").scene(split, index).layers
            assert np.array_equal(before, with_other_held_out) == (not held_out)
            assert np.array_equal(before, with_other_train) == held_out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size_px": 8}, "size_px is 8; allowed: 16 to 4096"),
        ({"seed": -1}, "seed is -1; allowed: 0 to 4294967295"),
        ({"max_layers": 1}, "max_layers is 1; allowed: 2 to 8"),
        ({"min_gap": 0.0}, "min_gap is 0.0; allowed"),
        ({"min_gap": 0.2}, "min_gap is 0.2; allowed"),
    ],
)
def test_bad_source_values_are_refused(photographs, changes, message):
    with pytest.raises(InvalidInput, match=message):
        LayeredSource(textures=photographs, **changes)


RATES = [f.name for f in dataclasses.fields(SceneStyle) if f.name.endswith("_rate")]


@pytest.mark.parametrize("field", RATES)
def test_rates_beyond_a_probability_are_refused(field):
    for value in (-0.1, 1.1):
        with pytest.raises(InvalidInput, match=f"{field} is {value}; allowed: 0 to 1"):
            SceneStyle(**{field: value})


def test_unknown_split_is_refused(source):
    with pytest.raises(InvalidInput, match="split is 'test'; allowed: train, eval_seen, eval_"):
        source.scene("test", 0)
    with pytest.raises(InvalidInput, match="split is 'test'"):
        source.num_scenes("test")


def test_recipe_names_everything_that_changes_scenes(source, photographs):
    noise = np.zeros((100, 100, 3), np.uint8)
    recipes = [source.recipe()] + [
        dataclasses.replace(source, **change).recipe()
        for change in (
            {"size_px": 33},
            {"frames": FrameSizes(sizes_px=(SIZE_PX,), ratios=("3:2",))},
            {"seed": 4},
            {"max_layers": 4},
            {"min_gap": 0.05},
            {"style": RICH},
            {"name": "other"},
            {"textures": textures.Textures({"a": noise}, photographs.held_out, "other")},
        )
    ]
    assert len({json.dumps(recipe) for recipe in recipes}) == len(recipes)
