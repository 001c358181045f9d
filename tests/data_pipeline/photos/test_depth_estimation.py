"""Photographs without a map: an estimator of one's own, and the one of Hugging Face."""

import dataclasses
import importlib.util
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_photos import FRAMES, only_scene, pair, photo, ramp

from bokeh_jax.errors import InvalidInput
from data_pipeline.photos import DepthEstimator, HuggingFaceDepth, PhotoSource
from data_pipeline.photos.depth_estimation import relative_disparity
from data_pipeline.source import SkippedScene

HAS_INTEROP = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))


@dataclasses.dataclass(frozen=True)
class RedIsNear:
    """An estimator of a user's own: what is red is near, at half of the resolution."""

    gain: float = 1.0
    usable: bool = True

    def recipe(self) -> dict[str, Any]:
        return {"estimator": "red", "gain": self.gain}

    def check(self) -> None:
        if not self.usable:
            raise InvalidInput("red is missing; allowed: red")

    def __call__(self, images):
        return [(self.gain * im[::2, ::2, 0] / 255).astype(np.float32) for im in images]


def test_an_estimator_gives_what_no_file_does(tmp_path):
    pixels = photo(tmp_path / "a.png", 32, 48)
    assert isinstance(RedIsNear(), DepthEstimator)
    scene = only_scene(tmp_path, estimator=RedIsNear())
    # The middle 32 columns of 48, at half the resolution.
    expected = pixels[::2, 8:40:2, 0].astype(np.float32) / 255
    np.testing.assert_array_equal(scene.disparity, expected)
    assert scene.disparity_range_per_m is None
    assert scene.provenance["disparity_from"] == "estimate"


def test_large_photographs_are_estimated_small(tmp_path):
    """The estimator sees 1024 pixels of a longer photograph, whole and with all their detail."""
    seen = []

    class Spy(RedIsNear):
        def __call__(self, images):
            seen.extend(images)
            return super().__call__(images)

    pixels = photo(tmp_path / "detail.png", 256, 512)
    (tmp_path / "detail.png").unlink()
    Image.fromarray(pixels.repeat(4, 0).repeat(4, 1)).save(tmp_path / "a.jpg", quality=95)
    only_scene(tmp_path, estimator=Spy())
    (image,) = seen
    assert image.shape == (512, 1024, 3)
    assert np.abs(image[::2, ::2].astype(int) - pixels).mean() < 25
    assert image.std() > 0.9 * pixels.std()


def test_a_map_beside_the_photograph_goes_first(tmp_path):
    pair(tmp_path)
    scene = only_scene(tmp_path, estimator=RedIsNear(usable=False))
    np.testing.assert_array_equal(scene.disparity, ramp())
    assert scene.provenance["disparity_from"] == "disparity"


def test_an_estimator_that_cannot_work_is_refused_at_once(tmp_path):
    photo(tmp_path / "a.png")
    with pytest.raises(InvalidInput, match="red is missing"):
        PhotoSource(tmp_path, estimator=RedIsNear(usable=False))


@pytest.mark.parametrize("gain", [1.5, -1.0, np.nan])
def test_estimates_that_are_no_disparity_are_skipped(tmp_path, gain):
    photo(tmp_path / "a.png")
    with pytest.raises(SkippedScene, match=r"not finite or outside \[0, 1\]") as caught:
        only_scene(tmp_path, estimator=RedIsNear(gain=gain))
    assert caught.value.damaged


def test_estimates_of_other_proportions_are_skipped(tmp_path):
    class Narrow(RedIsNear):
        def __call__(self, images):
            return [disparity[:, ::2] for disparity in super().__call__(images)]

    photo(tmp_path / "a.png")
    with pytest.raises(SkippedScene, match="that the estimator made is 4x8 px and its photograph"):
        only_scene(tmp_path, estimator=Narrow())


def test_the_recipe_and_other_processes_know_the_estimator(tmp_path):
    photo(tmp_path / "a.png")
    source = PhotoSource(tmp_path, FRAMES, heldout_fraction=0.0, estimator=RedIsNear())
    assert source.recipe()["estimator"] == {"estimator": "red", "gain": 1.0}
    scene = pickle.loads(pickle.dumps(source)).scene("train", 0)
    np.testing.assert_array_equal(scene.disparity, source.scene("train", 0).disparity)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("disparity", [[0.0, 0.25, 1.0]]), ("depth", [[1.0, 3 / 7, 0.0]])],
)
def test_networks_outputs_as_relative_disparity(kind, expected):
    output = np.array([[1.0, 2.0, 5.0]]) if kind == "disparity" else np.array([[1.0, 2.0, 8.0]])
    np.testing.assert_allclose(relative_disparity(output, kind), expected, rtol=1e-6)
    assert (relative_disparity(np.full((2, 2), 3.0), kind) == 0).all()


def test_depths_of_zero_and_less_do_not_divide():
    disparity = relative_disparity(np.array([[-1.0, 0.0, 1e-3, 1.0]]), "depth")
    np.testing.assert_allclose(disparity, [[1, 1, 1, 0]])


def _model_folder(path, *names: str):
    path.mkdir(exist_ok=True)
    for name in names:
        (path / name).write_text("{}")
    return path


def test_folders_without_a_model_are_refused(tmp_path):
    photo(tmp_path / "a.png")
    with pytest.raises(InvalidInput, match=r"depth model .*none has no config.json; allowed: a"):
        PhotoSource(tmp_path, estimator=HuggingFaceDepth(tmp_path / "none"))
    model = HuggingFaceDepth(_model_folder(tmp_path / "m", "config.json"))
    with pytest.raises(InvalidInput, match="has no weights; allowed: a "):
        PhotoSource(tmp_path, estimator=model)


def test_without_the_packages_the_message_says_what_to_install(tmp_path):
    """In a process of its own, where neither can be found."""
    model = _model_folder(tmp_path / "m", "config.json", "model.safetensors")
    code = (
        "import sys, importlib.util\n"
        "find = importlib.util.find_spec\n"
        "missing = ('torch', 'transformers')\n"
        "importlib.util.find_spec = lambda n, *a: None if n in missing else find(n, *a)\n"
        "from pathlib import Path\n"
        "from data_pipeline.photos import HuggingFaceDepth\n"
        f"HuggingFaceDepth(Path({str(model)!r})).check()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "estimating depth needs torch and transformers, not installed" in done.stderr
    assert "bokeh-jax[interop]" in done.stderr


def test_the_recipe_follows_the_weights(tmp_path):
    model = _model_folder(tmp_path / "m", "config.json", "model.safetensors")
    before = HuggingFaceDepth(model).recipe()
    assert HuggingFaceDepth(model).recipe() == before
    assert HuggingFaceDepth(model, output="depth").recipe() != before
    (model / "model.safetensors").write_text("other")
    assert HuggingFaceDepth(model).recipe() != before


@pytest.mark.skipif(not HAS_INTEROP, reason="torch and transformers are not installed")
def test_a_network_of_hugging_face(tmp_path):
    """Depth Anything, tiny, with random weights: the pipeline, and both meanings of its output."""
    transformers = importlib.import_module("transformers")
    torch = importlib.import_module("torch")
    torch.manual_seed(0)
    config = transformers.DepthAnythingConfig(
        backbone_config=transformers.Dinov2Config(
            hidden_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
            out_features=["stage1", "stage2", "stage3", "stage4"],
            reshape_hidden_states=False,
            apply_layernorm=True,
        ),
        reassemble_hidden_size=16,
        neck_hidden_sizes=[4, 8, 12, 16],
        fusion_hidden_size=8,
        head_hidden_size=8,
        patch_size=14,
    )
    folder = tmp_path / "model"
    transformers.DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    processor = transformers.DPTImageProcessor(
        size={"height": 56, "width": 56}, keep_aspect_ratio=True, ensure_multiple_of=14
    )
    processor.save_pretrained(folder)
    photos = tmp_path / "photos"
    photos.mkdir()
    photo(photos / "a.png", 40, 60)
    near = only_scene(photos, estimator=HuggingFaceDepth(folder)).disparity
    assert near.shape == (16, 16)
    assert np.ptp(near) > 0
    far = only_scene(photos, estimator=HuggingFaceDepth(folder, output="depth")).disparity
    order = np.argsort(near.ravel())
    assert (np.diff(far.ravel()[order]) <= 1e-6).all()
    broken = HuggingFaceDepth(_model_folder(tmp_path / "b", "config.json", "model.safetensors"))
    with pytest.raises(InvalidInput, match="cannot be loaded"):
        only_scene(photos, estimator=broken)
