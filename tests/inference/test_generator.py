"""`Generator` and `bokeh-jax generate` on real, tiny runs: one scene, any lens."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import IFD, Base

from bokeh_jax import config as config_lib
from bokeh_jax.cli import main
from bokeh_jax.errors import InvalidInput
from bokeh_jax.inference.generator import Camera, FocusModel, GeneratedScene, Generator
from bokeh_jax.models import focus_transformer
from bokeh_jax.models.focus_transformer import FocusConfig
from bokeh_jax.optics import Lens, linear_to_srgb, render_defocus, srgb_to_linear
from bokeh_jax.training.train import train

TEXT = {"max_bytes": 24, "hidden_dim": 16, "num_heads": 2, "num_blocks": 1, "num_tokens": 2}
DEPTH = {
    "hidden_dim": 16,
    "num_heads": 2,
    "num_blocks": 1,
    "patch_px": 4,
    "position_grid": 4,
    "out_blocks": (1,),
    "neck_dims": (8,),
    "resize_factors": (1.0,),
    "fusion_dim": 8,
    "last_dim": 4,
    "working_size_px": 16,
}
CAMERA = Camera(f_number=2.0, focal_length_mm=50.0)
FOCUS = FocusConfig(patch_size=4, hidden_dim=16, num_heads=1, num_blocks=1, rope_axes_dim=(4, 6, 6))


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """A generator and a depth network, trained for two steps each by the one loop."""
    folder, base = tmp_path_factory.mktemp("runs"), json.loads(config_lib.to_json(tiny))
    base["training"] |= {"num_steps": 2, "checkpoint_every_steps": 2, "image_every_steps": 2}
    base["optimizer"] |= {"warmup_steps": 1}
    base["sampler"] |= {"num_steps": 2, "guidance_scale": 1.5}
    model = base["model"] | {"reference_as": "tokens", "text_dim": 16, "pooled_dim": 16}
    tasks = {
        "generate": {"model": model, "text": TEXT},
        "depth": {"depth": base["depth"] | DEPTH},
    }
    for task, changes in tasks.items():
        train(config_lib.resolve(base | changes | {"task": task}), str(folder / task))
    return folder


@pytest.fixture(scope="module")
def focus_model():
    start = focus_transformer.init_params(FOCUS, jax.random.key(0))
    draw = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: leaf + jnp.asarray(0.3 * draw.normal(size=leaf.shape), jnp.float32), start
    )
    return FocusModel(FOCUS, params)


@pytest.fixture(scope="module")
def scene(focus_model):
    """Not generated: a disparity that is known."""
    draw = np.random.default_rng(0)
    disparity = np.where(np.arange(16)[None] < 8, 0.8, 0.2) * np.ones((16, 1))
    return GeneratedScene(
        "two halves", 0, draw.uniform(0, 1, (16, 16, 3)), disparity.astype(np.float32), focus_model
    )


def test_panels_of_both_tasks_are_drawn(runs):
    for task in ("generate", "depth"):
        events = b"".join(p.read_bytes() for p in (runs / task / "tensorboard").iterdir())
        assert b"panel" in events, task


def test_the_same_prompt_and_seed_make_the_same_scene(runs):
    generator = Generator.from_checkpoint(runs / "generate", depth=runs / "depth")
    first, again = (generator.scene("a disc of brick", seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.image, again.image)
    assert first.image.shape == (16, 16, 3)
    assert first.disparity.shape == (16, 16)
    assert np.abs(generator.scene("a disc of brick", seed=4).image - first.image).max() > 1e-3
    assert np.abs(generator.scene("a disc of brick", seed=3, num_steps=1).image - first.image).max()


def test_a_photograph_is_the_lens_blur_of_the_scene(scene):
    taken = scene.photograph(CAMERA, (0.1, 0.5), scale_m=0.2)
    # K = w f / (2 N σ) = 16 · 0.05 / (4 · 0.2) = 1 px.
    lens = Lens(focus_disparity=0.8, blur_px=1.0)
    expected = linear_to_srgb(
        render_defocus(
            srgb_to_linear(jnp.asarray(scene.image, jnp.float32)),
            jnp.asarray(scene.disparity),
            lens,
            max_radius_px=1.0,
        )
    )
    np.testing.assert_allclose(taken.image, np.clip(expected, 0, 1), atol=1e-4)
    assert taken.focus.disparity == pytest.approx(0.8)
    # Equation (3) of optics.exif: s = f (1 + σ / (δ W)).
    assert taken.focus_distance_m == pytest.approx(0.05 * (1 + 0.2 / (0.8 * 0.036)), rel=1e-5)
    assert taken.focus.attention is None


def test_a_distance_is_where_the_point_at_it_is(scene):
    at_point = scene.photograph(CAMERA, (0.1, 0.5), scale_m=0.2)
    by_distance = scene.photograph(CAMERA, at_point.focus_distance_m, scale_m=0.2)
    assert by_distance.focus.disparity == pytest.approx(0.8, rel=1e-4)
    np.testing.assert_allclose(by_distance.image, at_point.image, atol=1e-4)


def test_a_narrow_aperture_shows_the_scene_as_it_is(scene):
    deep = scene.photograph(Camera(f_number=900.0, focal_length_mm=50.0), (0.1, 0.5), scale_m=0.2)
    np.testing.assert_allclose(deep.image, scene.image, atol=2e-3)
    change = [
        np.abs(
            scene.photograph(Camera(n, 50.0), (0.1, 0.5), scale_m=0.2).image - scene.image
        ).mean()
        for n in (1.4, 2.8, 5.6, 22.0)
    ]
    assert change == sorted(change, reverse=True)


def test_focus_is_found_by_the_transformer_unless_it_is_asked_for(scene, focus_model):
    found = scene.find_focus(CAMERA)
    answer = focus_transformer.apply(
        FOCUS,
        focus_model.params,
        jnp.asarray(2 * scene.image - 1, jnp.float32)[None],
        jnp.asarray(scene.disparity)[None],
        CAMERA.exif(),
    )
    assert found.disparity == pytest.approx(float(focus_transformer.likeliest(answer)[0]))
    assert found.scale_m == pytest.approx(float(answer.scale_m[0]), rel=1e-5)
    np.testing.assert_allclose(found.attention, answer.attention.reshape(4, 4), atol=1e-6)
    asked = scene.find_focus(CAMERA, (0.9, 0.5))
    assert asked.disparity == pytest.approx(0.2)
    assert asked.scale_m == pytest.approx(found.scale_m)
    assert scene.find_focus(CAMERA, scale_m=0.5).scale_m == 0.5


@pytest.mark.parametrize(
    ("camera", "focus", "scale_m", "said"),
    [
        (CAMERA, (1.2, 0.5), None, r"focus is \(1.2, 0.5\); allowed: x,y each from 0"),
        (CAMERA, 0.01, None, "focus is 0.01 m; allowed: finite and beyond the focal length"),
        (CAMERA, (0.1, 0.5), -1.0, "scale is -1.0 m; allowed: finite and above 0"),
        (CAMERA, (0.1, 0.5), 0.001, "the largest blur radius is 121 px; allowed: up to half"),
    ],
)
def test_what_cannot_be_photographed_is_named(scene, camera, focus, scale_m, said):
    with pytest.raises(InvalidInput, match=said):
        scene.photograph(camera, focus, scale_m)


def test_what_is_missing_is_named(scene):
    with pytest.raises(InvalidInput, match=r"f-number is 0\.0; allowed: finite and above 0"):
        Camera(0.0, 50.0)
    bare = GeneratedScene("", 0, scene.image, scene.disparity)
    with pytest.raises(InvalidInput, match="focus is 'auto' without a focus model"):
        bare.photograph(CAMERA)
    flat = GeneratedScene("", 0, scene.image, None)
    with pytest.raises(InvalidInput, match="the scene has no depth"):
        flat.photograph(CAMERA, (0.5, 0.5))


def test_the_command_writes_one_scene_through_several_lenses(runs, tmp_path, capsys):
    out = tmp_path / "out"
    asked = [f"--checkpoint={runs / 'generate'}", f"--depth-model={runs / 'depth'}"]
    asked += ["--focus=0.5,0.5", "--sweep=f-number=2,900", f"--out={out}"]
    assert main(["generate", "a disc of brick", *asked]) == 0
    names = {path.name for path in out.iterdir()}
    assert names == {
        "all_in_focus.png",
        "depth.png",
        "photograph.f2.png",
        "photograph.f900.png",
        "contact_sheet.png",
    }
    sharp, deep = (
        np.asarray(Image.open(out / name), np.int32)
        for name in ("all_in_focus.png", "photograph.f900.png")
    )
    assert np.abs(sharp - deep).max() <= 1
    with Image.open(out / "depth.png") as depth:
        assert depth.mode == "I;16"
    with Image.open(out / "photograph.f2.png") as opened:
        exif = opened.getexif()
        details = exif.get_ifd(IFD.Exif)
    assert exif[Base.ImageDescription] == "a disc of brick"
    assert float(details[Base.FNumber]) == 2.0
    assert float(details[Base.FocalLength]) == 50.0
    assert details[Base.FocalLengthIn35mmFilm] == 50
    assert float(details[Base.SubjectDistance]) > 0.05
    assert "f/2, 50 mm, focus at disparity" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--focus=near", "--focus is 'near'; allowed: auto, a point x,y, or a distance"),
        ("--sweep=iso=100", "--sweep is 'iso=100'; allowed: f-number=1.4,2.8 or focus="),
        ("--sweep=f-number=a", "--sweep f-number has 'a'; allowed: numbers"),
        ("--steps=0", "--steps is 0; allowed: 1 or more"),
        ("--f-number=-2", "f-number is -2.0; allowed: finite and above 0"),
        ("--focus=auto", "focus is 'auto' without a focus model"),
        ("--checkpoint=DEPTH", "is a run with task='depth'; allowed: 'generate'"),
        ("--depth-model=GENERATE", "is a run with task='generate'; allowed: 'depth'"),
        ("--focus-model=DEPTH", "is a run with task='depth'; allowed: 'focus' or 'defocus'"),
    ],
)
def test_bad_values_are_refused_and_nothing_is_written(runs, tmp_path, capsys, option, said):
    option = option.replace("DEPTH", str(runs / "depth")).replace(
        "GENERATE", str(runs / "generate")
    )
    asked = [f"--checkpoint={runs / 'generate'}", f"--depth-model={runs / 'depth'}"]
    asked += ["--focus=0.5,0.5", f"--out={tmp_path / 'out'}", option]
    assert main(["generate", "a disc", *asked]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_depth_run_serves_where_a_depth_model_does(runs, tmp_path):
    photo = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(photo)
    asked = [f"--depth-model={runs / 'depth'}", "--focus=0.5,0.5", "--blur=0.05"]
    assert main(["render", str(photo), *asked, f"--out={tmp_path / 'out.png'}"]) == 0
    with Image.open(tmp_path / "out.png") as blurred:
        assert blurred.size == (32, 24)


def test_the_bench_of_apertures_scores_captions_of_the_dataset(runs, tmp_path, capsys):
    asked = [f"--checkpoint={runs / 'generate'}", f"--depth-model={runs / 'depth'}"]
    asked += ["--scenes=2", "--f-numbers=22,2", "--scale=0.2", f"--out={tmp_path}"]
    assert main(["bench", "apertures", *asked]) == 0
    rows = (tmp_path / "apertures.csv").read_text().splitlines()
    assert len(rows) == 3
    assert rows[0].startswith("prompt,violations,lvcorr_rank")
    assert "before a backdrop" in rows[1]
    means = json.loads((tmp_path / "apertures.json").read_text())
    # Two networks that have seen two batches: the lens is right all the same.
    assert means["whole_psnr_db"]["mean"] > 20
    assert "whole_psnr_db: " in capsys.readouterr().out


def test_the_bench_needs_a_depth_network_from_somewhere(runs, tmp_path, capsys):
    asked = [f"--checkpoint={runs / 'generate'}", "--scenes=1", f"--out={tmp_path / 'out'}"]
    assert main(["bench", "apertures", *asked]) == 2
    assert "has no depth network of its own; allowed: a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--f-numbers=2", "--f-numbers is '2'; allowed: two or more numbers"),
        ("--scenes=0", "--scenes is 0; allowed: 1 or more"),
        ("--prompts=nowhere.txt", "--prompts nowhere.txt cannot be read"),
        ("--split=test", "split is 'test'; allowed in"),
    ],
)
def test_bad_values_of_the_bench_are_refused(runs, tmp_path, capsys, option, said):
    asked = [f"--checkpoint={runs / 'generate'}", f"--depth-model={runs / 'depth'}"]
    assert main(["bench", "apertures", *asked, f"--out={tmp_path / 'out'}", option]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
