"""Which gradient reaches which part, and where distribution matching comes to rest."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_runs import perturbed
from tiny_defocus import SIDE_PX, config_of

from bokeh_jax import diffusion
from bokeh_jax.errors import InvalidInput
from bokeh_jax.leaf_names import leaves_by_name
from bokeh_jax.models.byte_text import prompt_bytes
from bokeh_jax.models.focus_transformer import likeliest
from bokeh_jax.objectives.distribution_matching import (
    deep_camera,
    fake_loss,
    head_losses,
    matching_loss,
    score,
)
from bokeh_jax.objectives.few_steps import few_step_samples
from bokeh_jax.objectives.focus_matching import FocusMatchingConfig
from bokeh_jax.objectives.lens_chain import photographs_made, relative, through_the_lens
from bokeh_jax.objectives.matching_config import MatchingConfig
from bokeh_jax.optics import Exif
from bokeh_jax.training.network import abstract_network
from bokeh_jax.training.task import loss_of, matching_networks

BATCH = 2


@pytest.fixture(scope="module")
def config():
    # One update in a few is deep, so that with both keys below one example is and one is not.
    return config_of("defocus", "nowhere", matching={"num_steps": 2, "deep_rate": 0.5})


@pytest.fixture(scope="module")
def params(config):
    """Random: to make a fresh network is to compile one, and its zeros hide gradients."""
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract_network(config))
    return jax.tree.map(jnp.asarray, perturbed(zeros, 0, 0.1))


@pytest.fixture(scope="module")
def batch():
    """No view without a lens, no disparity: nothing that makes a pair with the photograph."""
    rng = np.random.default_rng(0)
    size = (BATCH, SIDE_PX, SIDE_PX)
    return {
        "caption": jnp.stack([jnp.asarray(prompt_bytes(text, 8)) for text in ("near", "far")]),
        "photograph": jnp.asarray(rng.integers(0, 256, (*size, 3)).astype(np.uint8)),
        "camera": jnp.asarray([[100.0, 100.0, 1.4], [70.0, 100.0, 1.4]]),
    }


@pytest.fixture(scope="module")
def made(config, params, batch):
    """(gradients of matching and adversarial loss, of the focus loss, all parts of the loss)."""
    keys = jax.random.split(jax.random.key(3), BATCH)

    @jax.jit
    def both(params):
        def parts(params):
            _, found = loss_of(config)(params, dict(batch), keys)
            weight = config.matching.adversarial_weight
            judged = found["matching_loss"] + weight * found["adversarial_loss"]
            return (judged, found["focus_loss"]), found

        _, back, found = jax.vjp(parts, params, has_aux=True)
        one, zero = jnp.float32(1.0), jnp.float32(0.0)
        return back((one, zero))[0], back((zero, one))[0], found

    return both(params)


def moved(tree):
    """Parts of the network of which some parameter has a gradient; all are finite."""
    sizes = {name: float(np.abs(leaf).max()) for name, leaf in leaves_by_name(tree).items()}
    assert np.isfinite(list(sizes.values())).all()
    return {name.split("/")[0] for name, size in sizes.items() if size > 0}


def parts_moved(gradients, *names):
    """Which parts of the focus transformer have slopes."""
    named = leaves_by_name(gradients)
    return {n for n in names if any(np.abs(v).max() > 0 for k, v in named.items() if n in k)}


def test_photographs_move_generator_and_length_through_lens_and_depth(made):
    """A depth that was chosen has no slope by the attention: that has its own loss."""
    gradients, _, found = made
    assert moved(gradients) == {"dit", "text", "focus"}
    assert parts_moved(gradients, "focus/query", "focus/scale") == {"focus/scale"}
    assert found["blur_px"] > 0.1, "a lens that does nothing would have no gradient to show"


def test_the_focus_loss_moves_the_focus_transformer_alone_and_all_of_it(made):
    _, gradients, _ = made
    assert moved(gradients) == {"focus"}
    names = ("focus/query", "focus/scale", "focus/block_0")
    assert parts_moved(gradients, *names) == set(names)


def test_given_scenes_are_those_of_the_dataset_and_train_the_focus_alone(config, params, batch):
    settings = dataclasses.replace(config.matching, scenes="given")
    config = dataclasses.replace(config, matching=settings)
    rng = np.random.default_rng(1)
    size = (BATCH, SIDE_PX, SIDE_PX)
    given = batch | {
        "image": jnp.asarray(rng.integers(0, 256, (*size, 3)).astype(np.uint8)),
        "disparity": jnp.asarray(rng.integers(0, 65536, size).astype(np.uint16)),
    }
    keys = jax.random.split(jax.random.key(3), BATCH)

    @jax.jit
    def gradients_and_scenes(params):
        def brightness(params):
            taken = photographs_made(
                params, given, keys, networks=matching_networks(config), matching=settings
            )
            return jnp.sum(taken.photograph**2), (taken.scene, taken.disparity)

        gradients, made = jax.grad(brightness, has_aux=True)(params)
        return gradients, *made

    gradients, scene, disparity = gradients_and_scenes(params)
    np.testing.assert_allclose(scene, np.asarray(given["image"]) / 127.5 - 1.0, atol=1e-6)
    np.testing.assert_allclose(disparity, np.asarray(given["disparity"]) / 65535.0, atol=1e-6)
    assert moved(gradients) == {"focus"}


def test_a_mirrored_batch_is_the_same_to_a_run_that_mirrors(config, params, batch):
    settings = dataclasses.replace(
        config.matching, scenes="given", score_weight=0.0, adversarial_weight=0.0
    )
    rng = np.random.default_rng(1)
    size = (BATCH, SIDE_PX, SIDE_PX)
    given = batch | {
        "image": rng.integers(0, 256, (*size, 3)).astype(np.uint8),
        "disparity": rng.integers(0, 65536, size).astype(np.uint16),
    }
    turned = {name: np.asarray(given[name])[:, :, ::-1] for name in ("image", "disparity")}
    turned |= {"photograph": np.asarray(given["photograph"])[:, :, ::-1]}
    keys = jax.random.split(jax.random.key(3), BATCH)

    def parts(batch, flip_rate):
        augment = dataclasses.replace(config.simulation.augment, flip_rate=flip_rate)
        simulation = dataclasses.replace(config.simulation, augment=augment)
        asked = dataclasses.replace(config, matching=settings, simulation=simulation)
        return jax.jit(loss_of(asked))(params, batch, keys)[1]

    ours, theirs, other = parts(given, 0.0), parts(given | turned, 1.0), parts(given | turned, 0.0)
    for name, value in ours.items():
        np.testing.assert_allclose(theirs[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    assert abs(float(other["focus_loss"] - ours["focus_loss"])) > 1e-5


def test_without_scores_the_head_alone_moves_the_generator(config, params, batch, made):
    """Nothing of teacher and fake score is in the program: it runs without their parameters."""
    settings = dataclasses.replace(config.matching, score_weight=0.0, adversarial_weight=3.0)
    keys = jax.random.split(jax.random.key(3), BATCH)
    known = {name: tree for name, tree in params.items() if name not in ("teacher", "fake")}
    loss, found = jax.jit(
        lambda params: loss_of(dataclasses.replace(config, matching=settings))(
            params | {"teacher": {}, "fake": {}}, dict(batch), keys
        )
    )(known)
    assert found["matching_loss"] == found["fake_loss"] == 0.0
    np.testing.assert_allclose(found["head_loss"], made[2]["head_loss"], rtol=1e-5)
    expected = found["head_loss"] + 3.0 * found["adversarial_loss"] + found["focus_loss"]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_the_loss_is_the_sum_of_its_parts(made, config):
    *_, found = made
    weight = config.matching.adversarial_weight
    expected = found["matching_loss"] + found["fake_loss"] + found["head_loss"]
    expected += found["focus_loss"]
    np.testing.assert_allclose(
        found["loss"], expected + weight * found["adversarial_loss"], rtol=1e-6
    )


def test_the_score_learns_from_what_is_made_and_does_not_move_it(config, params, batch):
    networks = matching_networks(config)
    x = jax.random.normal(jax.random.key(0), (BATCH, SIDE_PX, SIDE_PX, 3))
    asked = {name: batch[name] for name in ("caption", "camera")}
    times, noise = jnp.asarray([0.3, 0.8]), jax.random.normal(jax.random.key(1), x.shape)
    fake = jax.jit(
        jax.grad(lambda p, x: fake_loss(p, x, asked, times, noise, networks)[0], (0, 1))
    )(params["fake"], x)
    assert moved(fake[0]) == {"dit", "text", "exif_tokens"}
    assert float(jnp.abs(fake[1]).max()) == 0.0


def test_each_of_the_heads_losses_moves_its_own(config, params, batch):
    """Of (L_head, L_adv, L_focus): the head; the photograph; the focus transformer."""
    networks, exif = matching_networks(config), Exif.from_fields(batch["camera"])
    scene = jax.random.uniform(jax.random.key(5), (BATCH, SIDE_PX, SIDE_PX, 3), minval=-0.9)
    keys = jax.random.split(jax.random.key(3), BATCH)

    def losses(params, scene, photograph):
        taken = through_the_lens(params, scene, exif, networks=networks, matching=config.matching)
        taken = taken._replace(photograph=photograph)
        return head_losses(params, batch, taken, keys, networks=networks, matching=config.matching)

    photograph = jnp.flip(scene, axis=1)
    slopes = jax.jit(jax.jacrev(losses, (0, 1, 2)))(params, scene, photograph)
    sizes = [(moved(tree), *(float(jnp.abs(x).max()) > 0 for x in rest)) for tree, *rest in slopes]
    assert sizes == [({"head"}, False, False), (set(), False, True), ({"focus"}, False, False)]


def test_the_head_is_told_the_given_depth_or_the_networks(config, params, batch):
    """Given: of the dataset, whatever a depth network would say; else the network's."""
    networks, exif = matching_networks(config), Exif.from_fields(batch["camera"])
    scene = jax.random.uniform(jax.random.key(5), (BATCH, SIDE_PX, SIDE_PX, 3), minval=-0.9)
    keys = jax.random.split(jax.random.key(3), BATCH)

    def head(params, scenes):
        settings = dataclasses.replace(config.matching, scenes=scenes)
        taken = through_the_lens(
            params, scene, exif, scene[..., 0], networks=networks, matching=settings
        )
        return head_losses(params, batch, taken, keys, networks=networks, matching=settings)[0]

    for scenes, follows in (("given", False), ("made", True)):
        slopes = jax.jit(jax.grad(lambda depth, s=scenes: head(params | {"depth": depth}, s)))
        before, after = (
            jax.jit(head, static_argnums=1)(params | {"depth": depth}, scenes)
            for depth in (params["depth"], jax.tree.map(lambda leaf: -leaf, params["depth"]))
        )
        assert (float(before) != float(after)) == follows
        assert moved({"depth": slopes(params["depth"])}) == set(), "it is frozen"


def test_photographs_are_focused_on_drawn_depths_and_in_use_on_the_likeliest(config, params, batch):
    networks, exif = matching_networks(config), Exif.from_fields(batch["camera"])
    scene = jax.random.uniform(jax.random.key(5), (BATCH, SIDE_PX, SIDE_PX, 3), minval=-0.9)
    seed = jax.random.key(3)

    @jax.jit
    def taken(seeds):
        keys = None if seeds is None else jax.random.split(seeds, BATCH)
        return through_the_lens(
            params, scene, exif, scene[..., 0], keys, networks=networks, matching=config.matching
        )

    drawn = [taken(jax.random.fold_in(seed, index)).photograph for index in range(8)]
    assert len({np.asarray(photograph[0]).tobytes() for photograph in drawn}) > 1
    used = taken(None)
    lens = exif.lens(likeliest(used.answer), used.answer.scale_m, SIDE_PX)
    most_px = config.matching.max_blur_fraction * SIDE_PX
    radius_px = jnp.minimum(jnp.abs(lens.signed_radius_px(scene[..., 0])), most_px)
    np.testing.assert_allclose(used.radius_px, jnp.mean(radius_px, axis=(1, 2)), rtol=1e-5)


def test_depth_and_focus_follow_the_scene(config, params):
    networks, exif = matching_networks(config), Exif.from_fields(jnp.asarray([[50.0, 50.0, 1.4]]))
    scene = jax.random.uniform(jax.random.key(5), (1, SIDE_PX, SIDE_PX, 3), minval=-0.9, maxval=0.9)

    def said(scene):
        taken = through_the_lens(params, scene, exif, networks=networks, matching=config.matching)
        return taken.disparity[0, 3, 5], taken.answer.focus_disparity[0]

    for row in jax.jit(jax.jacrev(said))(scene):
        assert float(jnp.abs(row).max()) > 0


def test_where_fake_and_teacher_agree_nothing_pulls(config, params, batch):
    networks = matching_networks(config)
    x = jax.random.normal(jax.random.key(0), (BATCH, SIDE_PX, SIDE_PX, 3))
    asked = {name: batch[name] for name in ("caption", "camera")}
    times, noise = jnp.asarray([0.3, 0.8]), jax.random.normal(jax.random.key(1), x.shape)

    def pull(fake):
        predictors = (score(part, asked, networks=networks) for part in (params["teacher"], fake))
        return jax.grad(lambda x: matching_loss(x, *predictors, times, noise))(x)

    assert float(jnp.abs(pull(params["teacher"])).max()) == 0.0
    assert float(jnp.abs(pull(params["fake"])).max()) > 0.0


def test_matching_moves_a_gaussian_onto_the_teachers():
    """Made: N(mean, 1); real: N(2, 1). The best x̂ of both are known, so there is no network."""

    def best(mean):
        def predict(x_t, times):
            t = diffusion.flow.per_example(times, x_t.ndim)
            share = (1.0 - t) / ((1.0 - t) ** 2 + t**2)
            return mean + share * (x_t - (1.0 - t) * mean)

        return predict

    @jax.jit
    def pull(mean, key):
        draw, of_time, of_noise = jax.random.split(key, 3)
        z = jax.random.normal(draw, (256, 1))
        times = jax.random.uniform(of_time, (256,), minval=0.02, maxval=0.98)
        noise = jax.random.normal(of_noise, z.shape)
        still = jax.lax.stop_gradient(mean)
        return jax.grad(lambda m: matching_loss(m + z, best(2.0), best(still), times, noise))(mean)

    assert (
        pull(jnp.float32(-1.0), jax.random.key(0)) < 0 < pull(jnp.float32(4.0), jax.random.key(0))
    )
    assert pull(jnp.float32(2.0), jax.random.key(0)) == 0.0
    mean = jnp.float32(-1.0)
    for step in range(60):
        mean = mean - 0.2 * pull(mean, jax.random.fold_in(jax.random.key(1), step))
    assert abs(float(mean) - 2.0) < 0.02


def test_few_steps_differentiate_the_last_alone():
    """f(x, t) = a x: after k steps A = a x_k, and only that a has a gradient."""
    keys = jax.random.split(jax.random.key(0), 3)

    def samples(a, last):
        return few_step_samples(
            lambda a: lambda x, times: a * x, a, keys, (4,), num_steps=3, last=last
        )

    one = jnp.asarray([0, 1, 2])
    value, slope = jax.jvp(lambda a: samples(a, one), (jnp.float32(0.5),), (jnp.float32(1.0),))
    np.testing.assert_allclose(value, 0.5 * slope, rtol=1e-6)
    # In use all steps are taken, and the first step's noise is the image's own.
    np.testing.assert_array_equal(samples(jnp.float32(0.5), None)[2], value[2])
    first = jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, 0), (4,)))(keys)
    np.testing.assert_allclose(value[0], 0.5 * first[0], rtol=1e-6)
    noise = jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, 1), (4,)))(keys)
    # t = 2/3 after the first of three steps.
    np.testing.assert_allclose(value[1], 0.5 * (0.5 * first[1] / 3 + 2 * noise[1] / 3), rtol=1e-5)


def test_a_deep_camera_sees_as_much_and_has_a_small_opening():
    camera = jnp.asarray([[4.2, 26.0, 1.8]])
    exif, deep = Exif.from_fields(camera), Exif.from_fields(deep_camera(camera, MatchingConfig()))
    np.testing.assert_allclose(
        deep.focal_length_m / deep.sensor_width_m,
        exif.focal_length_m / exif.sensor_width_m,
        rtol=1e-6,
    )
    assert deep.f_number[0] == 22.0
    np.testing.assert_allclose(deep.opening_radius_m, 0.026 / 44.0, rtol=1e-6)


def test_depth_is_brought_to_its_own_range():
    d = relative(jnp.asarray([[[3.0, 5.0], [4.0, 7.0]], [[2.0, 2.0], [2.0, 2.0]]]))
    np.testing.assert_allclose(d, [[[0.0, 0.5], [0.25, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])


def test_latents_have_the_same_parts(config, batch):
    """Shapes alone: with a codec the scores work on latents, lens and depth on pixels."""
    coder = {
        "block_out_channels": (4, 8),
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 2,
        "compute_dtype": "float32",
    }
    latent = config_of(
        "defocus",
        "nowhere",
        codec={"kind": "autoencoder", "autoencoder": coder},
        model=dataclasses.asdict(config.model) | {"image_channels": 4, "patch_size": 2},
    )
    tree = abstract_network(latent)
    keys = jax.random.split(jax.random.key(3), BATCH)
    gradient = jax.eval_shape(
        jax.grad(lambda params: loss_of(latent)(params, dict(batch), keys)[0]), tree
    )
    assert gradient["dit"]["img_in"]["kernel"].shape[0] == 4 * 2 * 2


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("num_steps", 5, "num_steps is 5; allowed: 1 to 4"),
        ("fake_updates", 0, "fake_updates"),
        ("deep_rate", 1.5, "deep_rate is 1.5; allowed: 0 to 1"),
    ],
)
def test_settings_that_are_refused(field, value, line):
    with pytest.raises(InvalidInput, match=line):
        MatchingConfig(**{field: value})


def test_a_loss_of_nothing_is_refused():
    with pytest.raises(InvalidInput, match=r"all 0; allowed: one above 0"):
        MatchingConfig(
            score_weight=0.0, adversarial_weight=0.0, focus=FocusMatchingConfig(weight=0.0)
        )


def test_a_head_that_nothing_asks_is_not_in_the_program(config, params, batch):
    settings = dataclasses.replace(
        config.matching, adversarial_weight=0.0, focus=FocusMatchingConfig(weight=0.0)
    )
    known = {name: tree for name, tree in params.items() if name != "head"}
    keys = jax.random.split(jax.random.key(3), BATCH)
    _, found = jax.eval_shape(
        loss_of(dataclasses.replace(config, matching=settings)), known, dict(batch), keys
    )
    assert "head_loss" in found
