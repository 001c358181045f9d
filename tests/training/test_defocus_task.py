"""The task 'defocus' and its teacher in the one loop: real steps, their parts, and a resume."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from PIL.ExifTags import IFD, Base
from tiny_defocus import READS_EXIF, SIDE_PX, build_photographs, config_of, save_parts, save_run

from bokeh_jax import config as config_lib
from bokeh_jax.cli import main
from bokeh_jax.errors import InvalidInput
from bokeh_jax.evaluation.aperture_control import scene_change
from bokeh_jax.inference.generator import Camera, FocusModel, Generator
from bokeh_jax.inference.token_camera import TokenCamera
from bokeh_jax.leaf_names import leaves_by_name
from bokeh_jax.training import checkpoint, network, preflight, sharding
from bokeh_jax.training.frozen import digest, frozen_parameters
from bokeh_jax.training.pretrained_runs import leaves_of_runs
from bokeh_jax.training.state import make_optimizer
from bokeh_jax.training.train import train
from bokeh_jax.training.writers import METRICS_FILE, read_metrics

TRAINED = {"dit", "text", "focus", "fake", "head"}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return build_photographs(tmp_path_factory.mktemp("photographs") / "data")


@pytest.fixture(scope="module")
def parts(photographs, tmp_path_factory):
    return save_parts(tmp_path_factory.mktemp("parts"), photographs)


@pytest.fixture(scope="module")
def config(photographs, parts):
    return config_of(
        "defocus", photographs, pretrained=parts, matching={"num_steps": 2, "fake_updates": 4}
    )


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "whole"
    settings = dataclasses.replace(config.training, image_every_steps=4)
    drawn = dataclasses.replace(config, training=settings)
    return workdir, train(drawn, workdir, visible=False).state


@pytest.fixture(scope="module")
def saved(config, tmp_path_factory):
    """A run with random weights: no step is compiled for it."""
    frozen, _ = frozen_parameters(config, sharding.make_mesh(config.mesh, jax.devices()[:1]))
    return save_run(tmp_path_factory.mktemp("saved") / "run", config, 9, digest(frozen))


def averaged(workdir):
    return leaves_by_name(checkpoint.load_params(workdir, 7))


def test_parts_come_from_their_runs(config, parts):
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
    frozen, _ = frozen_parameters(config, mesh)
    assert set(frozen) == {"depth", "teacher"}
    state = sharding.placed_state(config, mesh)
    begun, said = leaves_of_runs(config, state.params)
    assert len(said) == 3, "depth is frozen, the other three are where training starts"
    for name, leaf in averaged(parts["teacher"]).items():
        np.testing.assert_array_equal(leaves_by_name(frozen["teacher"])[name], leaf)
        np.testing.assert_array_equal(begun[f"fake/{name}"], leaf)
    for key, source in (("dit", "generator"), ("text", "generator"), ("focus", "focus")):
        for name, leaf in averaged(parts[source]).items():
            if name.startswith(f"{key}/"):
                np.testing.assert_array_equal(begun[name], leaf)
    assert {name.split("/")[0] for name in begun} == TRAINED - {"head"}
    assert set(state.params) == TRAINED


# A step of all parts takes half a minute to compile. `make test`: the gradients of the same loss in
# tests/objectives, and the loop with what is frozen in test_frozen.py.
@pytest.mark.long
def test_every_trained_part_moves_in_real_steps(run, config):
    workdir, state = run
    lines = read_metrics(workdir / METRICS_FILE)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    names = ("loss", "matching_loss", "adversarial_loss", "fake_loss", "head_loss", "blur_px")
    assert all(np.isfinite(line[name]) for line in lines for name in names)
    first = leaves_by_name(checkpoint.load_params(workdir, 2, use_ema=False))
    last = leaves_by_name(state.params)
    assert set(state.params) == TRAINED
    assert checkpoint.read_step(workdir, 4).record.frozen
    for part in TRAINED:
        moved = [
            not np.array_equal(first[name], last[name])
            for name in last
            if name.startswith(f"{part}/")
        ]
        assert any(moved), part


@pytest.mark.long
def test_a_resumed_run_is_the_whole_one(run, config, tmp_path):
    workdir, state = run
    shutil.copytree(workdir, tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "checkpoints" / "4")
    again = train(config, tmp_path / "half", visible=False).state
    pairs = zip(*map(jax.tree.leaves, (state, again)), strict=True)
    assert all(np.array_equal(ours, theirs) for ours, theirs in pairs)


def test_what_makes_photographs_learns_more_slowly_than_what_judges_them(config):
    """Adam's updates of equal gradients are equal: a quarter of them for the generator's parts."""
    slow, fast = ("dit", "text", "focus"), ("fake", "head")
    params = {part: {"bias": jnp.zeros(2)} for part in (*slow, *fast)}
    optimizer = make_optimizer(config)
    state = optimizer.init(params)
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(2):  # The first has rate 0.
            updates, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
    sizes = {part: float(leaf["bias"][0]) for part, leaf in updates.items()}
    assert len({sizes[part] for part in fast}) == 1
    assert sizes["fake"] < 0
    np.testing.assert_allclose([4 * sizes[part] for part in slow], 3 * [sizes["fake"]], rtol=1e-6)


def test_gradients_of_a_part_are_clipped_by_its_own_norm(config):
    """As large a gradient of the fake score as there may be leaves the others' alone."""
    optimizer = make_optimizer(config)
    params = {part: {"bias": jnp.zeros(1)} for part in ("focus", "fake")}
    small, large = ({"bias": jnp.full(1, value)} for value in (0.5, 1e6))
    state = optimizer.init(params)
    with jax.numpy_dtype_promotion("standard"):
        _, state = optimizer.update({"focus": small, "fake": large}, state, params)
    moments = optax.tree.get(state, "mu")
    np.testing.assert_allclose(moments["focus"]["bias"], (1 - config.optimizer.beta1) * 0.5)
    np.testing.assert_allclose(moments["fake"]["bias"], 1 - config.optimizer.beta1, rtol=1e-5)


def test_a_generator_may_stay_as_it_was(config, parts):
    settings = dataclasses.replace(config.matching, scenes="frozen")
    frozen = dataclasses.replace(config, matching=settings)
    names = leaves_by_name(network.abstract_network(frozen))
    trained = {name.split("/")[0] for name in names if network.is_trained(frozen, name)}
    assert trained == TRAINED - {"dit", "text"}
    alone = dataclasses.replace(
        frozen, matching=dataclasses.replace(settings, scenes="given", score_weight=0.0)
    )
    trained = {name.split("/")[0] for name in names if network.is_trained(alone, name)}
    assert trained == {"focus", "head"}
    nothing = dict.fromkeys(("generator", "teacher", "depth", "focus"), "")
    without = dataclasses.replace(alone.pretrained, **nothing)
    preflight.check_pretrained(dataclasses.replace(alone, pretrained=without))
    mesh = sharding.make_mesh(frozen.mesh, jax.devices()[:1])
    kept, said = frozen_parameters(frozen, mesh)
    assert set(kept) == {"dit", "text", "depth", "teacher"}
    assert not any("random" in line for line in said)
    for name, leaf in averaged(parts["generator"]).items():
        np.testing.assert_allclose(leaves_by_name(kept)[name], leaf, rtol=2**-8)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"pretrained": {"generator": ""}, "matching": {"scenes": "frozen"}}, "generator is ''"),
        ({"pretrained": {"teacher": ""}}, r"config key pretrained\.teacher is ''; allowed"),
        ({"pretrained": {"depth": ""}}, r"config key pretrained\.depth is ''; allowed"),
        ({"data": {"path": "LAYERED"}}, r"has scenes of kind 'layered' and task='defocus' learns"),
        ({"simulation": {"size_px": 12}}, r"has photographs of 16x16 px; allowed: 12x12 px"),
        ({"depth": {"patch_px": 8}}, r"multiples of depth\.patch_px=8"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(changes, line, config, dataset):
    values = json.loads(config_lib.to_json(config))
    for group, fields in changes.items():
        values[group] |= {
            name: str(dataset) if value == "LAYERED" else value for name, value in fields.items()
        }
    with pytest.raises(InvalidInput, match=line):
        preflight.check_dataset(config_lib.resolve(values))


def test_a_run_of_another_kind_is_no_teacher(config, parts):
    for other, line in (
        (parts["depth"], "a run with task='depth'; allowed: task='generate'"),
        (
            parts["generator"],
            r"which has generation\.images='all_in_focus'; allowed: 'photographs'",
        ),
    ):
        wrong = dataclasses.replace(
            config, pretrained=dataclasses.replace(config.pretrained, teacher=other)
        )
        mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
        with pytest.raises(InvalidInput, match=line):
            leaves_of_runs(wrong, sharding.placed_frozen(wrong, mesh))


def test_other_tasks_have_no_such_parts(photographs, parts):
    other = config_of("generate", photographs, pretrained={"teacher": parts["teacher"]})
    with pytest.raises(InvalidInput, match=r"pretrained\.teacher is .* as only task='defocus'"):
        leaves_of_runs(other, {})


def test_photographs_and_exif_are_what_the_teacher_is_trained_on(photographs, tmp_path):
    config = config_of("generate", photographs, generation=READS_EXIF | {"exif_dropout_rate": 0.0})
    trained = network.trained_part(config, network.abstract_network(config))
    assert set(trained) == {"dit", "text", "exif_tokens"}
    assert preflight.arrays_read(config) == {"text": False, "caption_bytes": 8, "taken": True}
    settings = dataclasses.replace(config.training, num_steps=5, checkpoint_every_steps=5)
    config = dataclasses.replace(config, training=settings)
    state = train(config, tmp_path, visible=False).state
    # Adam's moments tell which parameters had gradients.
    moments = leaves_by_name(state.opt_state)
    seen = [leaf for name, leaf in moments.items() if "nu" in name and "exif_tokens" in name]
    assert any(float(np.abs(leaf).max()) > 0 for leaf in seen)


def test_a_run_generates_with_its_own_depth_and_focus(saved, parts):
    generator = Generator.from_checkpoint(saved)
    assert generator.depth is not None
    np.testing.assert_array_equal(
        leaves_by_name(generator.depth.params)["head/conv3/kernel"],
        averaged(parts["depth"])["depth/head/conv3/kernel"],
    )
    scene = generator.scene("near", seed=1)
    assert scene.image.shape == (SIDE_PX, SIDE_PX, 3)
    again, other = generator.scene("near", seed=1), generator.scene("near", seed=2)
    np.testing.assert_array_equal(scene.image, again.image)
    assert np.abs(scene.image - other.image).max() > 1e-3
    taken = scene.photograph(Camera(8.0, 50.0))
    assert taken.focus.attention is not None
    with pytest.raises(InvalidInput, match="allowed: 2 and 1, which the run is trained for"):
        generator.scene("near", num_steps=3)


def test_the_focus_of_a_run_is_a_focus_model_elsewhere(saved, config):
    """`--focus-model` and `pretrained.focus` take what was learned without pairs."""
    own = {k: v for k, v in averaged(saved).items() if k.startswith("focus/")}
    model = FocusModel.from_checkpoint(saved)
    assert model.config == config.focus
    for name, leaf in leaves_by_name({"focus": model.params}).items():
        np.testing.assert_array_equal(own[name], leaf)
    other = dataclasses.replace(
        config, pretrained=dataclasses.replace(config.pretrained, generator="", focus=str(saved))
    )
    state = sharding.placed_state(other, sharding.make_mesh(other.mesh, jax.devices()[:1]))
    begun, _ = leaves_of_runs(other, state.params)
    assert own
    for name, leaf in own.items():
        np.testing.assert_array_equal(begun[name], leaf)


def test_a_run_whose_scenes_were_given_generates_nothing(photographs, tmp_path):
    """Its generator is random; what it has learned is a focus model."""
    matching = {"scenes": "given", "score_weight": 0.0}
    given = config_of("defocus", photographs, matching=matching)
    mesh = sharding.make_mesh(given.mesh, jax.devices()[:1])
    workdir = save_run(tmp_path / "given", given, 3, digest(frozen_parameters(given, mesh)[0]))
    with pytest.raises(InvalidInput, match=r"has no generator: its scenes were given"):
        Generator.from_checkpoint(workdir)
    assert FocusModel.from_checkpoint(workdir).config == given.focus


def test_the_command_finds_the_focus_once_for_a_sweep(saved, tmp_path, capsys):
    asked = [f"--checkpoint={saved}", "--sweep=f-number=8,22", f"--out={tmp_path}"]
    assert main(["generate", "near", *asked]) == 0
    distances = []
    for name in ("photograph.f8.png", "photograph.f22.png"):
        with Image.open(tmp_path / name) as opened:
            details = opened.getexif().get_ifd(IFD.Exif)
        distances.append(float(details[Base.SubjectDistance]))
    # The focus transformer is told of the f-number: asked twice, it answers twice.
    assert distances[0] == distances[1] > 0.05
    with Image.open(tmp_path / "focus_attention.png") as attention:
        assert attention.size == (SIDE_PX, SIDE_PX)
    assert " ± " in capsys.readouterr().out


def test_a_generator_of_photographs_is_told_of_its_camera(parts):
    with pytest.raises(InvalidInput, match="which have a lens's blur already"):
        Generator.from_checkpoint(parts["teacher"])
    with pytest.raises(InvalidInput, match=r"has generation\.exif_tokens=False"):
        TokenCamera.from_checkpoint(parts["generator"])
    camera = TokenCamera.from_checkpoint(parts["teacher"])
    wide, deep, unknown = (
        camera.photograph("near", settings)
        for settings in (Camera(1.4, 50.0), Camera(22.0, 50.0), None)
    )
    assert np.abs(wide - deep).max() > 1e-3
    assert np.abs(wide - unknown).max() > 1e-3
    np.testing.assert_array_equal(wide, camera.photograph("near", Camera(1.4, 50.0)))


def test_the_bench_of_apertures_asks_the_baseline_the_same(parts, tmp_path):
    names = (("checkpoint", "generator"), ("depth-model", "depth"), ("tokens", "teacher"))
    asked = [f"--{option}={parts[name]}" for option, name in names]
    asked += ["--split=train", "--scenes=2", "--f-numbers=22,2", "--scale=0.2", f"--out={tmp_path}"]
    assert main(["bench", "apertures", *asked]) == 0
    with (tmp_path / "apertures.csv").open() as file:
        rows = list(csv.DictReader(file))
    told = TokenCamera.from_checkpoint(parts["teacher"])
    for seed, row in enumerate(rows):
        wide, deep = (
            told.photograph(row["prompt"], Camera(n, 50.0), seed=seed) for n in (2.0, 22.0)
        )
        assert float(row["tokens_scene_change"]) == pytest.approx(scene_change(wide, deep))


def test_the_parts_of_the_small_config_are_those_of_their_own_configs():
    folder = Path(__file__).parents[2] / "configs"
    whole = config_lib.load(folder / "defocus_small.py")
    of_scene = ["focus.sees=scene", "focus.patch_size=4"]
    for name, changes, groups in (
        ("generate_small", [], ("model", "text")),
        ("exif_tokens_small", [], ("model", "text", "simulation")),
        ("depth_small", [], ("depth",)),
        ("focus_small", of_scene, ("focus",)),
    ):
        part = config_lib.load(folder / f"{name}.py", changes)
        for group in groups:
            assert getattr(part, group) == getattr(whole, group), (name, group)
