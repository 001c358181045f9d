"""Depth Anything beside transformers' torch model, every weight random, float32."""

import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
from flax.linen import spmd
from PIL import Image
from tiny_depth import (
    PATCH_PX,
    WORKING_PX,
    image_processor,
    random_depth_model,
    save_depth_model,
)
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config
from transformers.models.dpt.image_processing_pil_dpt import get_resize_output_image_size

from bokeh_jax.cli import main
from bokeh_jax.commands.depth_estimator import DepthAnythingEstimator, depth_estimator
from bokeh_jax.errors import InvalidInput
from bokeh_jax.inference.depth import DepthModel, estimate_disparity, network_size
from bokeh_jax.interop.depth_files import load_depth_model
from bokeh_jax.interop.depth_names import UNUSED, depth_map
from bokeh_jax.interop.depth_settings import depth_config_from_transformers
from bokeh_jax.interop.weight_map import leaf_shapes, leaves_of, tensor_shapes
from bokeh_jax.leaf_names import leaves_by_name, tree_by_name
from bokeh_jax.models import depth_anything
from bokeh_jax.models.depth_config import DepthConfig
from bokeh_jax.models.interpolation import cubic_matrix, linear_matrix
from bokeh_jax.training.sharding_rules import RULES
from data_pipeline.photos import HuggingFaceDepth

TOLERANCE = 1e-5
KINDS = {"relative": 1, "metric": 20}


@dataclasses.dataclass
class Case:
    theirs: Any
    folder: Path
    config: DepthConfig
    params: dict[str, Any]

    @property
    def model(self) -> DepthModel:
        return DepthModel(self.config, self.params)


def case_of(kind: str, folder: Path) -> Case:
    theirs = random_depth_model(depth_estimation_type=kind, max_depth=KINDS[kind])
    save_depth_model(folder, theirs)
    return Case(theirs, folder, *load_depth_model(folder, "float32"))


@pytest.fixture(scope="module")
def relative(tmp_path_factory) -> Case:
    return case_of("relative", tmp_path_factory.mktemp("relative"))


@pytest.fixture(scope="module")
def metric(tmp_path_factory) -> Case:
    return case_of("metric", tmp_path_factory.mktemp("metric"))


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).uniform(0, 1, shape).astype(np.float32)


def normalised(config: DepthConfig, images: np.ndarray) -> torch.Tensor:
    mean, std = np.float32(config.image_mean), np.float32(config.image_std)
    return torch.from_numpy(((images - mean) / std).transpose(0, 3, 1, 2).copy())


def torch_depth(case: Case, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return case.theirs(normalised(case.config, images)).predicted_depth.numpy()


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        # As trained; other sizes and shapes, with odd numbers of patches.
        ("relative", (1, 56, 56)),
        ("relative", (2, 42, 70)),
        ("relative", (1, 112, 14)),
        ("metric", (1, 28, 98)),
    ],
)
def test_depth(kind, size, request):
    case: Case = request.getfixturevalue(kind)
    images = drawn(*size, 3)
    expected = torch_depth(case, images)
    ours = jax.jit(partial(depth_anything.depth, case.config))(case.params, images)
    assert ours.dtype == jnp.float32
    scale = np.abs(expected).max()
    assert np.std(expected) > 0.05 * scale, "too flat: the tolerance would mean something else"
    assert np.mean(expected > 0) > 0.7
    np.testing.assert_allclose(np.asarray(ours), expected, rtol=0, atol=TOLERANCE * scale)


def test_gradient_with_respect_to_the_image_and_the_parameters(relative):
    """Through attention in chunks and blocks that are computed again."""
    config = dataclasses.replace(relative.config, attention_chunk_tokens=4, remat="full")
    images, weights = drawn(1, 28, 42, 3), drawn(1, 28, 42)

    def loss(params, images):
        return jnp.sum(weights * depth_anything.depth(config, params, images)) / 40

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(relative.params, images)
    inputs = torch.from_numpy(images.copy()).requires_grad_()
    mean, std = (torch.tensor(values) for values in (config.image_mean, config.image_std))
    theirs = relative.theirs
    theirs.zero_grad()
    answer = theirs(((inputs - mean) / std).permute(0, 3, 1, 2)).predicted_depth
    (torch.sum(torch.from_numpy(weights) * answer) / 40).backward()
    assert inputs.grad is not None
    expected = inputs.grad.numpy()
    scale = np.abs(expected).max()
    assert scale > 0.01
    np.testing.assert_allclose(np.asarray(gradients[1]), expected, rtol=0, atol=TOLERANCE * scale)
    wanted = {n: t.grad.numpy() for n, t in theirs.named_parameters() if t.grad is not None}
    names = depth_map(config, wanted)
    for name, leaf in leaves_of(names, wanted).items():
        found, scale = np.asarray(leaves_by_name(gradients[0])[name]), max(1, np.abs(leaf).max())
        np.testing.assert_allclose(found, leaf, rtol=0, atol=1e-4 * scale, err_msg=name)


def test_low_precision_is_near(relative):
    config = dataclasses.replace(relative.config, compute_dtype="bfloat16")
    images = drawn(1, 56, 56, 3)
    low = jax.jit(partial(depth_anything.depth, config))(relative.params, images)
    assert low.dtype == jnp.float32
    exact = torch_depth(relative, images)
    error = np.sqrt(np.mean((np.asarray(low) - exact) ** 2)) / np.std(exact)
    assert 1e-4 < error < 0.1


@pytest.mark.parametrize(("size_in", "size_out"), [(4, 3), (5, 12), (37, 49), (1, 4), (3, 3)])
def test_interpolation_is_that_of_torch(size_in, size_out):
    line = torch.from_numpy(drawn(1, 1, size_in, 1))
    for matrix, mode, corners in (
        (cubic_matrix, "bicubic", False),
        (linear_matrix, "bilinear", True),
    ):
        expected = torch.nn.functional.interpolate(
            line, (size_out, 1), mode=mode, align_corners=corners
        )
        ours = matrix(size_in, size_out) @ line.numpy()[0, 0]
        np.testing.assert_allclose(ours, expected.numpy()[0, 0], rtol=0, atol=2e-6)


def published(size: str) -> DepthAnythingConfig:
    """The config of a published model, as transformers' conversion makes it."""
    width, heads, blocks, indices, neck, fusion = {
        "small": (384, 6, 12, [3, 6, 9, 12], [48, 96, 192, 384], 64),
        "base": (768, 12, 12, [3, 6, 9, 12], [96, 192, 384, 768], 128),
        "large": (1024, 16, 24, [5, 12, 18, 24], [256, 512, 1024, 1024], 256),
    }[size]
    backbone = Dinov2Config(
        hidden_size=width,
        num_attention_heads=heads,
        num_hidden_layers=blocks,
        image_size=518,
        patch_size=14,
        out_indices=indices,
        reshape_hidden_states=False,
    )
    return DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=width,
        neck_hidden_sizes=neck,
        fusion_hidden_size=fusion,
    )


@pytest.mark.parametrize("size", ["small", "base", "large"])
def test_every_tensor_of_the_published_sizes_has_its_parameter(size):
    with torch.device("meta"):
        model = DepthAnythingForDepthEstimation(published(size))
    tensors = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    config = getattr(DepthConfig, size)()
    table = depth_map(config, tensors)
    unused = {name for name in tensors if name.startswith(UNUSED)}
    assert len(unused) == 5
    assert tensor_shapes(table) == {n: s for n, s in tensors.items() if n not in unused}
    shapes = jax.eval_shape(lambda key: depth_anything.init_params(config, key), jax.random.key(0))
    assert leaf_shapes(table) == {n: leaf.shape for n, leaf in leaves_by_name(shapes).items()}
    fields = published(size).to_dict()
    assert depth_config_from_transformers(fields, {}) == config


def test_files_with_transformers_new_names(relative):
    """`state_dict` has them, `save_pretrained` writes those of the published files."""
    tensors = relative.theirs.state_dict()
    names = depth_map(relative.config, tensors)
    assert "backbone.encoder.layer.0.attention.q_proj.weight" in tensor_shapes(names)
    leaves = leaves_of(names, {name: tensor.numpy() for name, tensor in tensors.items()})
    jax.tree.map(np.testing.assert_array_equal, tree_by_name(leaves), relative.params)


def test_matrices_are_cut_as_the_transformers_are():
    axes = depth_anything.parameter_axes(DepthConfig.small())
    assert axes["head"]["conv1"]["kernel"] == jax.sharding.PartitionSpec()
    cut = {
        name: spmd.logical_to_mesh_axes(tuple(axes["backbone"]["blocks"][name]["kernel"]), RULES)
        for name in ("qkv", "proj", "fc1", "fc2")
    }
    assert {name: tuple(spec) for name, spec in cut.items()} == {
        "qkv": (None, "fsdp", None, "tensor", None),
        "proj": (None, "tensor", None, "fsdp"),
        "fc1": (None, "fsdp", "tensor"),
        "fc2": (None, "tensor", "fsdp"),
    }


def test_a_fresh_relative_network_can_learn():
    """Its output is above 0, where a rectified one has a gradient."""
    config = DepthConfig(
        hidden_dim=12, num_heads=2, num_blocks=2, patch_px=4, position_grid=3, out_blocks=(1, 2),
        neck_dims=(4, 4), resize_factors=(1.0, 0.5), fusion_dim=4, last_dim=3, working_size_px=12,
    )  # fmt: skip
    images = jnp.asarray(drawn(1, 8, 12, 3))

    @jax.jit
    def answer(key):
        return depth_anything.depth(config, depth_anything.init_params(config, key), images)

    assert (np.asarray(answer(jax.random.key(0))) > 0.2).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "dpt"}, "model_type of .* 'dpt'; allowed: 'depth_anything'"),
        ({"backbone_config": None}, "backbone_config of .* None; allowed: an object"),
        ({"backbone.model_type": "swin"}, r"backbone_config.model_type .*; allowed: 'dinov2'"),
        ({"backbone.use_swiglu_ffn": True}, "use_swiglu_ffn .* True; allowed: False"),
        ({"backbone.out_indices": None, "backbone.out_features": None}, "out_indices .* a list"),
        ({"backbone.out_indices": [1, 2, 3]}, r"neck_dims is .*; allowed: 3 numbers"),
        ({"backbone.hidden_size": "24"}, "hidden_size .* '24'; allowed: a whole number"),
        ({"reassemble_hidden_size": 25}, "reassemble_hidden_size .* 25; allowed: 24"),
        ({"reassemble_factors": [4, 2, 1, 0.3]}, "resize_factors is .*; allowed: whole numbers"),
        ({"depth_estimation_type": "stereo"}, "'stereo'; allowed: relative or metric"),
        ({"head_in_index": 0}, "head_in_index .* 0; allowed: -1 or 3"),
        ({"neck_hidden_sizes": None}, "neck_hidden_sizes .* None; allowed: a list of numbers"),
        (
            {"images.keep_aspect_ratio": False},
            "keep_aspect_ratio of .*preprocessor.* allowed: True",
        ),
        ({"images.ensure_multiple_of": 16}, "ensure_multiple_of .* 16; allowed: 14"),
        ({"images.size": {"shortest_edge": 518}}, "size of .*; allowed: the same whole number"),
        ({"images.image_std": [1, 1, 0]}, r"image_std is \(1.0, 1.0, 0.0\); allowed: more than 0"),
        ({"images.rescale_factor": 1}, "rescale_factor .* 1; allowed: 1/255"),
    ],
)
def test_unsupported_settings_are_refused_by_field(relative, change, message):
    fields = json.loads((relative.folder / "config.json").read_text())
    images = json.loads((relative.folder / "preprocessor_config.json").read_text())
    groups = {"backbone": fields["backbone_config"], "images": images}
    for name, value in change.items():
        group, _, key = name.rpartition(".")
        groups.get(group, fields)[key] = value
    with pytest.raises(InvalidInput, match=message):
        depth_config_from_transformers(fields, images)


def test_files_say_how_images_are_prepared(relative):
    assert relative.config.working_size_px == WORKING_PX
    images = {"size": {"height": 98, "width": 98}, "image_mean": [0, 0.5, 1]}
    fields = json.loads((relative.folder / "config.json").read_text())
    config = depth_config_from_transformers(fields, images)
    assert (config.working_size_px, config.image_mean) == (98, (0.0, 0.5, 1.0))


def test_a_network_sees_photographs_at_the_size_that_theirs_does():
    sizes = np.random.default_rng(0).integers(20, 5000, (300, 2)).tolist()
    config = DepthConfig.small()
    for height, width in [*sizes, [518, 518], [518, 1200], [1036, 518]]:
        if max(height, width) > 8 * min(height, width):
            continue
        blank = np.broadcast_to(np.uint8(0), (3, height, width))
        theirs = get_resize_output_image_size(blank, (518, 518), True, 14)
        assert network_size(config, height, width) == (theirs.height, theirs.width)
    assert network_size(config, 1000, 100_000) == (42, 8 * 518)
    assert network_size(config, 1, 4000) == (14, 518)


def shown(kind_case: Case, photo: np.ndarray) -> np.ndarray:
    """Their answer at a photograph's size: image processor, network, resize back."""
    levels = np.rint(255 * photo).astype(np.uint8)
    processor = image_processor()
    with torch.no_grad():
        answer = kind_case.theirs(**processor(levels, return_tensors="pt"))
    found = processor.post_process_depth_estimation(answer, [photo.shape[:2]])
    return found[0]["predicted_depth"].numpy()


def test_disparity_of_photographs(relative, metric):
    # Of a photograph at the working size nothing is resized.
    photo = np.rint(255 * drawn(56, 70, 3)) / np.float32(255)
    estimate = estimate_disparity(relative.model, photo)
    theirs = shown(relative, photo)
    expected = (theirs - theirs.min()) / np.ptp(theirs)
    np.testing.assert_allclose(estimate.relative, expected, rtol=0, atol=TOLERANCE)
    assert estimate.per_m is None
    estimate = estimate_disparity(metric.model, photo)
    assert estimate.per_m is not None
    np.testing.assert_allclose(1 / estimate.per_m, shown(metric, photo), rtol=1e-4)
    span, least = np.ptp(estimate.per_m), estimate.per_m.min()
    np.testing.assert_allclose(
        span * estimate.relative + least, estimate.per_m, rtol=0, atol=1e-6 * span
    )


def test_disparity_of_a_large_photograph(relative):
    """Theirs is rounded to whole levels at the working size, ours is not."""
    smooth = Image.fromarray(np.rint(255 * drawn(7, 9, 3)).astype(np.uint8)).resize((203, 150))
    photo = np.asarray(smooth, np.float32) / np.float32(255)
    estimate = estimate_disparity(relative.model, photo).relative
    assert estimate.shape == (150, 203)
    assert estimate.dtype == np.float32
    assert (estimate.min(), estimate.max()) == (0.0, 1.0)
    theirs = shown(relative, photo)
    expected = (theirs - theirs.min()) / np.ptp(theirs)
    assert np.abs(estimate - expected).max() < 0.1
    assert np.sqrt(np.mean((estimate - expected) ** 2)) < 0.02


@pytest.fixture
def photo_path(tmp_path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.rint(255 * drawn(56, 70, 3)).astype(np.uint8)).save(path)
    return path


def test_render_with_a_depth_model(photo_path, relative, metric):
    """The same pictures as with the estimate in a file."""
    with Image.open(photo_path) as image:
        photo = np.asarray(image, np.float32) / np.float32(255)
    per_m = estimate_disparity(metric.model, photo).per_m
    assert per_m is not None
    cases = (
        (relative, estimate_disparity(relative.model, photo).relative, ["--blur=0.05"]),
        (metric, per_m, ["--f-number=1.8", "--focal-length-mm=50"]),
    )
    for case, disparity, camera in cases:
        np.save(photo_path.with_name("map.npy"), disparity)
        pictures = []
        for given in (f"--depth-model={case.folder}", f"--disparity={photo_path.parent}/map.npy"):
            out = photo_path.with_name("out.png")
            argv = ["render", str(photo_path), given, "--focus=0.5,0.5", f"--out={out}", *camera]
            assert main(argv) == 0
            with Image.open(out) as picture:
                pictures.append(np.asarray(picture, np.float32) / np.float32(255))
        np.testing.assert_array_equal(*pictures)
        assert np.abs(pictures[0] - photo).max() > 0.1


def damaged(folder: Path, relative: Case, change: str) -> Path:
    """The relative network's folder with one thing wrong."""
    if change == "absent":
        return folder / "none"
    shutil.copytree(relative.folder, folder)
    weights = folder / "model.safetensors"
    if change == "wrong":
        (folder / "config.json").write_text('{"model_type": "dpt"}')
    elif change == "no config":
        (folder / "config.json").unlink()
    elif change == "no weights":
        weights.unlink()
    elif change == "cut off":
        weights.write_bytes(weights.read_bytes()[:-100])
    else:
        tensors = safetensors.torch.load_file(weights)
        del tensors["head.conv3.bias"]
        safetensors.torch.save_file(tensors, weights)
    return folder


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("absent", "none is no folder; allowed: a folder with config.json and model.safetensors"),
        (
            "wrong",
            "model_type of the depth model's config.json is 'dpt'; allowed: 'depth_anything'",
        ),
        ("no config", "config.json cannot be read"),
        (
            "no weights",
            "holds none of those; allowed: diffusion_pytorch_model.safetensors or model",
        ),
        ("cut off", "model.safetensors is damaged: it has"),
        ("lacking", "tensor head.conv3.bias is missing in"),
    ],
)
def test_unusable_folders_are_refused_in_one_line(
    capsys, tmp_path, photo_path, relative, change, named
):
    folder = damaged(tmp_path / "model", relative, change)
    argv = ["refocus", str(photo_path), f"--depth-model={folder}", "--focus=0.5,0.5", "--blur=0"]
    assert main(argv) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    assert named in line
    assert not photo_path.with_name("photo.refocused.png").exists()


def test_depth_models_are_refused_where_they_do_not_fit(capsys, photo_path, relative):
    argv = [str(photo_path), f"--depth-model={relative.folder}", "--focus=0.5,0.5"]
    assert main(["render", *argv, "--f-number=2", "--focal-length-mm=50"]) == 2
    assert "which has no metres; allowed with a camera: a metric one" in capsys.readouterr().err
    assert main(["refocus", *argv, "--blur=0", "--disparity=map.png"]) == 2
    assert "not allowed with argument" in capsys.readouterr().err


def test_data_build_estimates_with_ours(metric, tmp_path):
    """Where the folder is of another network, with transformers'."""
    ours = depth_estimator(metric.folder)
    assert ours == DepthAnythingEstimator(metric.folder)
    ours.check()
    image = np.rint(255 * drawn(56, 70, 3)).astype(np.uint8)
    expected = estimate_disparity(metric.model, image / np.float32(255)).relative
    np.testing.assert_array_equal(ours([image])[0], expected)
    theirs = HuggingFaceDepth(metric.folder, "depth")
    assert ours.recipe() == theirs.recipe() | {"estimator": "bokeh_jax"}
    assert depth_estimator(tmp_path) == HuggingFaceDepth(tmp_path)


def test_patch_sizes_of_images_are_checked(relative):
    with pytest.raises(InvalidInput, match=f"55 x 56 px; allowed: .* patches, {PATCH_PX} px"):
        depth_anything.depth(relative.config, relative.params, jnp.zeros((1, 55, 56, 3)))
