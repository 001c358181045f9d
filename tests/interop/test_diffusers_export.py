"""Exports for diffusers and PEFT, made by the command and loaded by the libraries themselves."""

import dataclasses

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from flux_peer import grid
from safetensors.numpy import load_file

from bokeh_jax import models
from bokeh_jax.cli import main
from bokeh_jax.commands.export import described, write_adapters
from bokeh_jax.leaf_names import leaves_by_name
from bokeh_jax.models import TextOnly
from bokeh_jax.models.codec import decode, encode
from bokeh_jax.models.patches import patchify, unpatchify
from bokeh_jax.training import network
from bokeh_jax.training.frozen import load_network

ROWS, COLUMNS, TEXT = 3, 5, 4


@pytest.fixture(scope="module")
def folder(latent_run):
    return latent_run[0]


@pytest.fixture(scope="module")
def config(latent_run):
    return latent_run[1]


@pytest.fixture(scope="module")
def workdir(folder):
    return folder / "run"


@pytest.fixture(scope="module")
def params(config, workdir):
    return load_network(config, workdir, 7)


@pytest.fixture(scope="module")
def inputs(config):
    rng = np.random.default_rng(8)
    model = config.model
    shapes = {
        "noisy": (2, 2 * ROWS, 2 * COLUMNS, model.image_channels),
        "text": (2, TEXT, model.text_dim),
        "pooled": (2, model.pooled_dim),
    }
    found = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return found | {"time": np.asarray([0.3, 0.9], np.float32)}


@pytest.fixture(scope="module")
def ours(config, params, inputs):
    """Of the network with its adapters beside the base, told nothing but text."""
    told = TextOnly(jnp.asarray(inputs["text"]), jnp.asarray(inputs["pooled"]))
    forward = jax.jit(lambda noisy, time: models.apply(config.model, params, noisy, time, told))
    return np.asarray(forward(inputs["noisy"], inputs["time"]))


def output_of(transformer, inputs, config):
    tokens = np.asarray(patchify(jnp.asarray(inputs["noisy"]), 2))
    with torch.no_grad():
        out = transformer(
            hidden_states=torch.from_numpy(tokens.copy()),
            encoder_hidden_states=torch.from_numpy(inputs["text"]),
            pooled_projections=torch.from_numpy(inputs["pooled"]),
            timestep=torch.from_numpy(inputs["time"]),
            guidance=torch.full((2,), config.model.distilled_guidance),
            img_ids=grid(0, ROWS, COLUMNS),
            txt_ids=torch.zeros(TEXT, 3),
            return_dict=False,
        )[0]
    return np.asarray(unpatchify(jnp.asarray(out.numpy()), 2, 2 * ROWS, 2 * COLUMNS))


def close(ours, theirs):
    difference = np.abs(ours - theirs).max()
    print(f"{difference:.3g} of {np.abs(ours).max():.3g}")
    assert np.abs(ours).max() > 0.1
    assert difference <= 1e-4


@pytest.fixture(scope="module")
def in_diffusers(workdir, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "diffusers"
    assert main(["export", f"--checkpoint={workdir}", f"--out={out}", "--format=diffusers"]) == 0
    return out


def test_diffusers_loads_the_transformer(in_diffusers, config, inputs, ours):
    model, info = FluxTransformer2DModel.from_pretrained(
        in_diffusers / "transformer", output_loading_info=True
    )
    assert not any(info.values())
    close(ours, output_of(model, inputs, config))


def test_diffusers_loads_the_autoencoder(in_diffusers, config, params):
    model = AutoencoderKL.from_pretrained(in_diffusers / "vae")
    image = np.random.default_rng(9).uniform(-1, 1, (1, 8, 12, 3)).astype(np.float32)
    shift, scale = model.config.shift_factor, model.config.scaling_factor
    with torch.no_grad():
        moments = model.encode(torch.from_numpy(np.moveaxis(image, -1, 1).copy())).latent_dist
        decoded = model.decode(moments.mode()).sample.numpy()
    latents = jax.jit(lambda x: encode(config.codec, params, x))(image)
    close(np.asarray(latents), np.moveaxis((moments.mode().numpy() - shift) * scale, 1, -1))
    again = jax.jit(lambda z: decode(config.codec, params, z))(latents)
    close(np.asarray(again), np.moveaxis(decoded, 1, -1))


def added_are(out, params):
    found = load_file(out / "bokeh_extra.safetensors")
    camera = params["camera"]
    assert {name.split(".")[0] for name in found} == {"camera", "defocus_in"}
    assert len(found) == len(leaves_by_name(camera)) + 1
    np.testing.assert_array_equal(found["camera.null"], camera["null"])
    np.testing.assert_array_equal(found["camera.blur.weight"], camera["blur"]["kernel"].T)
    np.testing.assert_array_equal(found["defocus_in.weight"], params["defocus_in"]["kernel"].T)
    assert (out / "bokeh_extra.json").is_file()


def test_the_added_parts_are_in_a_file_of_their_own(in_diffusers, params):
    added_are(in_diffusers, params)
    assert not [path for path in in_diffusers.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]


def test_both_libraries_load_the_adapters(
    folder, workdir, config, params, inputs, ours, monkeypatch, tmp_path
):
    out = tmp_path / "peft"
    assert main(["export", f"--checkpoint={workdir}", f"--out={out}", "--format=peft"]) == 0
    added_are(out, params)
    base = folder / "transformer"
    said = []
    for name in ("warning", "error"):
        logger = diffusers.utils.logging.get_logger("diffusers.loaders.lora_pipeline")
        monkeypatch.setattr(logger, name, lambda *lines: said.append(lines))
    alone = FluxTransformer2DModel.from_pretrained(base, torch_dtype=torch.float32)
    close_to_base = np.abs(ours - output_of(alone, inputs, config)).max()
    assert close_to_base > 1e-2
    pipe = FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=None,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=alone,
    )
    pipe.load_lora_weights(out)
    close(ours, output_of(pipe.transformer, inputs, config))
    assert said == []
    again = FluxTransformer2DModel.from_pretrained(base, torch_dtype=torch.float32)
    close(ours, output_of(peft.PeftModel.from_pretrained(again, out), inputs, config))


def test_several_adapters_have_folders_of_their_own(config, tmp_path):
    lora = dataclasses.replace(config.model.lora, adapters=("first", "second"))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, lora=lora))
    shapes = jax.eval_shape(lambda: network.fresh_network(config))
    tree = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    write_adapters(tmp_path, tree, config, described(config, 7, use_ema=True), "bfloat16")
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.safetensors"))
    assert files == [
        "bokeh_extra.safetensors",
        "first/adapter_model.safetensors",
        "first/pytorch_lora_weights.safetensors",
        "second/adapter_model.safetensors",
        "second/pytorch_lora_weights.safetensors",
    ]
