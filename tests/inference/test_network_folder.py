"""A network in plain files: comes back as it was, and what is not one is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_runs import perturbed

from bokeh_jax.errors import InvalidInput
from bokeh_jax.evaluation.metrics import psnr_db
from bokeh_jax.inference import Refocuser, TakenWith, network_folder
from bokeh_jax.inference.request import lens_blur
from bokeh_jax.leaf_names import leaves_by_name
from bokeh_jax.models import init_params
from bokeh_jax.optics import Lens, linear_to_srgb
from bokeh_jax.simulation import crop_scene, disparity_at, photograph
from data_pipeline.layered import LayeredSource


@pytest.fixture(scope="module")
def network(tiny):
    params = jax.jit(lambda: init_params(tiny.model, jax.random.key(0), 16, 16))()
    return Refocuser(tiny, jax.device_put(perturbed(params, 1)), step=7)


@pytest.fixture
def folder(network, tmp_path):
    network_folder.write_network(
        tmp_path, network.config, network.params, step=7, use_ema=True, dtype="float32"
    )
    return tmp_path


def test_it_comes_back_as_it_was(network, folder):
    found = Refocuser.from_checkpoint(folder)
    assert found.config == network.config
    assert found.step == 7
    ours, theirs = leaves_by_name(network.params), leaves_by_name(found.params)
    assert list(ours) == list(theirs)
    for name, leaf in ours.items():
        np.testing.assert_array_equal(theirs[name], leaf)


def test_half_precision_rounds_and_halves(network, tmp_path, folder):
    half = tmp_path / "half"
    half.mkdir()
    network_folder.write_network(half, network.config, network.params, step=7, use_ema=True)
    sizes = [(path / network_folder.WEIGHTS_FILE).stat().st_size for path in (half, folder)]
    assert sizes[0] < 0.6 * sizes[1]
    _, params, _ = network_folder.read_network(half)
    for ours, theirs in zip(jax.tree.leaves(network.params), jax.tree.leaves(params), strict=True):
        assert theirs.dtype == np.float32
        np.testing.assert_allclose(theirs, ours, rtol=2**-8)


def test_files_of_another_network_are_refused(network, folder):
    path = folder / "config.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    fields["config"]["model"]["num_single_blocks"] += 1
    path.write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"model\.safetensors holds \d+ of the network's \d+ "):
        network_folder.read_network(folder)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(InvalidInput, match="lacks 'config' or 'step'"):
        network_folder.read_network(folder)


def test_the_released_network_is_whole_and_small():
    network = Refocuser.released()
    size = (network_folder.RELEASED / network_folder.WEIGHTS_FILE).stat().st_size
    assert size <= 16e6
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(network.params))
    card = (network_folder.RELEASED / "README.md").read_text(encoding="utf-8")
    assert f"{sum(leaf.size for leaf in jax.tree.leaves(network.params)):,} parameters" in card
    assert f"{network.step:,} steps" in card


def test_the_released_network_mends_what_the_lens_blur_cannot():
    """A photograph of held-out textures, defocused by a known lens, asked for all in focus and for
    its other plane: nearer to the truth than the lens blur that knows the same, at three times the
    size of training."""
    source = LayeredSource(size_px=112, seed=5, max_layers=2)
    scene = source.scene("eval_heldout", 0)
    record = {
        "layers": jnp.asarray(scene.layers),
        "layer_disparity": jnp.asarray(scene.layer_disparity),
        "layer_gain": jnp.asarray(scene.layer_gain),
    }
    cropped = crop_scene(record, None, frame=(96, 96), max_radius_px=4.0)
    points = ((0.5, 0.5), (0.05, 0.05))
    planes = disparity_at(cropped.disparity, jnp.asarray(points))
    lenses = Lens(planes[jnp.asarray([0, 1, 0])][None], jnp.asarray([[3.0, 3.0, 0.0]]))
    batch = jax.tree.map(lambda leaf: leaf[None], cropped)
    photographs = jnp.clip(photograph(batch, lenses, max_radius_px=4.0)[0], 0.0, 1.0)
    taken, refocused, sharp = np.asarray(linear_to_srgb(photographs))
    disparity = np.asarray(cropped.disparity)
    own, network = TakenWith(points[0], 3.0 / 96), Refocuser.released()
    for focus, blur, truth in ((points[1], 3.0 / 96, refocused), (points[1], 0.0, sharp)):
        answer = network(taken, focus=focus, blur=blur, disparity=disparity, taken_with=own)
        assert answer.num_tiles > 9
        physics = lens_blur(taken, disparity, focus, blur, taken_with=own)
        ours, theirs = (psnr_db(image[None], truth[None])[0] for image in (answer.image, physics))
        assert ours > theirs + 0.5, (blur, ours, theirs)
