"""Perceptual metrics on random weights, against PyTorch on the same files."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from perceptual_torch import Dists, Lpips, Musiq, randomise
from safetensors.torch import save_file
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from bokeh_jax.errors import InvalidInput
from bokeh_jax.evaluation.perceptual import FILES, load_perceptual, perceptual_scores
from bokeh_jax.evaluation.perceptual.musiq import multiscale_patches

WITHIN = 1e-4
RNG = np.random.default_rng(0)
# Neither square nor of sides that strides divide.
TRUTHS = RNG.uniform(size=(2, 33, 38, 3)).astype(np.float32)
ANSWERS = np.clip(TRUTHS + RNG.normal(0, 0.2, TRUTHS.shape), 0, 1).astype(np.float32)
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
    "projection_dim": 12,
}


def on_torch(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def load(folder, name):
    metric = load_perceptual(folder)[name]
    assert metric is not None
    return metric


def save(module, path):
    save_file({name: value.contiguous() for name, value in module.state_dict().items()}, path)


@pytest.mark.parametrize("network", ["alex", "vgg"])
def test_lpips_is_that_of_torch(tmp_path, network):
    module = randomise(Lpips(network), seed=1)
    save(module, tmp_path / FILES[f"lpips_{network}"])
    metric = load(tmp_path, f"lpips_{network}")
    with torch.no_grad():
        expected = module(on_torch(ANSWERS), on_torch(TRUTHS)).numpy()
    assert expected.min() > 0.1
    np.testing.assert_allclose(metric(ANSWERS, TRUTHS), expected, atol=WITHIN, rtol=0)
    np.testing.assert_allclose(metric(TRUTHS, TRUTHS), 0, atol=1e-6)


def test_dists_is_that_of_torch(tmp_path):
    module = randomise(Dists(), seed=2)
    save(module, tmp_path / FILES["dists"])
    metric = load(tmp_path, "dists")
    with torch.no_grad():
        expected = module(on_torch(ANSWERS), on_torch(TRUTHS)).numpy()
    assert expected.min() > 0.01
    np.testing.assert_allclose(metric(ANSWERS, TRUTHS), expected, atol=WITHIN, rtol=0)
    np.testing.assert_allclose(metric(TRUTHS, TRUTHS), 0, atol=1e-6)


@pytest.mark.parametrize("whole", [False, True])
def test_clip_i_is_that_of_transformers(tmp_path, whole):
    torch.manual_seed(3)
    # The whole model holds a text tower too, and its own size of the projection.
    text = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "bos_token_id": 0, "eos_token_id": 1}
    tower = TOWER | {"hidden_act": "gelu" if whole else "quick_gelu"}
    if whole:
        tower["projection_dim"] = 99
        config = CLIPConfig(text_config=text, vision_config=tower, projection_dim=12)
        model = CLIPModel(config)
    else:
        model = CLIPVisionModelWithProjection(CLIPVisionConfig(**tower))
    for name, value in model.named_parameters():
        if "vision_model" in name:
            torch.nn.init.normal_(value, std=0.3)
    model.save_pretrained(tmp_path / "clip")
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32)
    answers = np.float32([[[[1.0]]], [[[0.4]]]]) * TRUTHS ** np.float32([0.2, 1, 5])
    pictures = [np.rint(255 * image).astype(np.uint8) for image in (*answers, *TRUTHS)]
    pixels = processor(pictures, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        if whole:
            pooled = model.vision_model(pixels).pooler_output
            embeddings = model.visual_projection(pooled)
        else:
            embeddings = model.eval()(pixels).image_embeds
    expected = torch.cosine_similarity(embeddings[:2], embeddings[2:]).numpy()
    # The embeddings tell these pictures apart.
    assert expected.min() < 0.97
    metric = load(tmp_path, "clip_i")
    np.testing.assert_allclose(metric(answers, TRUTHS), expected, atol=WITHIN, rtol=0)
    np.testing.assert_allclose(metric(TRUTHS, TRUTHS), 1.0, atol=1e-6)


@pytest.mark.parametrize("num_scores", [1, 10])
def test_musiq_is_that_of_torch(tmp_path, num_scores):
    module = randomise(Musiq(width=128, hidden=96, depth=2, num_scores=num_scores), seed=4)
    save(module, tmp_path / FILES["musiq"])
    # Noise, and smooth slopes.
    pictures = np.stack([ANSWERS[0], np.sort(TRUTHS[1], axis=0)])[:, :20]
    found = load(tmp_path, "musiq")(pictures, pictures)
    with torch.no_grad():
        expected = [float(module(on_torch(picture[None]))) for picture in pictures]
    np.testing.assert_allclose(found, expected, atol=WITHIN, rtol=0)
    # It tells pictures apart.
    assert abs(found[0] - found[1]) > 10 * WITHIN


def test_patches_of_a_long_picture_are_those_of_torch():
    image = RNG.uniform(-1, 1, (450, 45, 3)).astype(np.float32)
    patches, places, scales = multiscale_patches(jnp.asarray(image))
    module = Musiq(width=64, hidden=8, depth=0, num_scores=1)
    expected, *where, mask = (part.numpy() for part in module.sequence(on_torch(image[None])))
    there = mask > 0
    np.testing.assert_allclose(
        np.asarray(patches).reshape(len(patches), -1), expected[there], atol=WITHIN
    )
    np.testing.assert_array_equal([places, scales], [part[there] for part in where])


def test_without_weights_there_is_no_score(tmp_path):
    found = load_perceptual(None)
    assert found == dict.fromkeys(FILES)
    assert perceptual_scores(found, ANSWERS, TRUTHS) == dict.fromkeys(FILES)
    with pytest.raises(InvalidInput, match=r"nowhere does not exist; allowed: .*lpips_alex"):
        load_perceptual(tmp_path / "nowhere")
    with pytest.raises(InvalidInput, match=r"holds none; allowed: .*dists.safetensors"):
        load_perceptual(tmp_path)


def test_files_that_are_not_what_their_name_says_are_refused(tmp_path):
    tensors = dict(randomise(Lpips("alex"), seed=5).state_dict())
    save_file(tensors, tmp_path / "lpips_vgg.safetensors")
    with pytest.raises(InvalidInput, match=r"slice1\.0\.weight .*is \[64, 3, 11, 11\]; allowed"):
        load_perceptual(tmp_path)
    (tmp_path / "lpips_vgg.safetensors").unlink()
    del tensors["lin2.model.1.weight"]
    save_file(tensors, tmp_path / "lpips_alex.safetensors")
    with pytest.raises(InvalidInput, match=r"tensor lin2\.model\.1\.weight is missing"):
        load_perceptual(tmp_path)
    (tmp_path / "lpips_alex.safetensors").unlink()
    save_file({"x": torch.zeros(3)}, tmp_path / "musiq.safetensors")
    with pytest.raises(InvalidInput, match=r"musiq.safetensors has no embedding .*allowed: MUSIQ"):
        load_perceptual(tmp_path)
    (tmp_path / "musiq.safetensors").unlink()
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "config.json").write_text('{"model_type": "siglip"}')
    with pytest.raises(InvalidInput, match=r"model_type of .* is 'siglip'; allowed: 'clip'"):
        load_perceptual(tmp_path)


def test_pictures_too_small_for_the_network_are_refused(tmp_path):
    save(randomise(Lpips("alex"), seed=6), tmp_path / FILES["lpips_alex"])
    small = TRUTHS[:, :30]
    with pytest.raises(ValueError, match=r"\(30, 38\); allowed: 31 px"):
        load(tmp_path, "lpips_alex")(small, small)
