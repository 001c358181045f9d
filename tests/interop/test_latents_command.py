"""`bokeh-jax data latents`: stored once, trained on, and refused where it would not be the same."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from tiny_experiment import TINY

from bokeh_jax import config as config_lib
from bokeh_jax.cli import main
from bokeh_jax.errors import InvalidInput
from bokeh_jax.training import preflight, sharding
from bokeh_jax.training.executables import loader_config
from bokeh_jax.training.step import abstract_batch
from bokeh_jax.training.train import train
from data_pipeline.dataset import dataset_info, open_split, read_metadata
from data_pipeline.loader import make_loader, shapes

AUTOENCODER = {
    "block_out_channels": (4, 8),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 2,
    "compute_dtype": "float32",
}
SPARSE = TINY | {
    "codec": {"kind": "autoencoder", "autoencoder": AUTOENCODER},
    "model": TINY["model"] | {"patch_size": 2, "image_channels": 4},
    "training": TINY["training"] | {"num_steps": 2, "image_every_steps": 0},
    "optimizer": {"warmup_steps": 1},
}


def autoencoder(folder, seed=0):
    torch.manual_seed(seed)
    model = AutoencoderKL(
        block_out_channels=(4, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def experiment(dataset, tmp_path_factory):
    """The experiment on scenes, as a file's text."""
    folder = autoencoder(tmp_path_factory.mktemp("vae") / "vae")
    files = {"data": {"path": str(dataset)}, "pretrained": {"autoencoder": str(folder)}}
    path = folder.parent / "experiment.py"
    path.write_text(
        "from ml_collections import ConfigDict\n"
        f"def get_config():\n    return ConfigDict({SPARSE | files!r})\n"
    )
    return path


def build(experiment, out, *more):
    argv = ["data", "latents", f"--config={experiment}", f"--out={out}"]
    return main([*argv, "--variants=2", "--batch-size=8", *more])


@pytest.fixture(scope="module")
def latents(experiment, tmp_path_factory):
    out = tmp_path_factory.mktemp("latents") / "latents"
    assert build(experiment, out) == 0
    return out


@pytest.fixture(scope="module")
def config(experiment, latents):
    return config_lib.load(experiment, [f"data.path={latents}"])


def test_every_scene_has_its_variants(latents, dataset):
    info = dataset_info(latents)
    assert dict(info.counts) == {"train": 20}
    assert read_metadata(latents)["recipe"]["scenes"] == dataset_info(dataset).fingerprint
    reader, scenes = open_split(latents, "train"), open_split(dataset, "train")
    seen = []
    for position in range(len(reader)):
        made = json.loads(reader.values(position)["provenance"])
        seen.append((made["scene"], made["variant"]))
        caption = scenes.values(made["scene"])["caption"]
        assert reader.values(position)["caption"] == caption
    assert seen == [(scene, variant) for scene in range(10) for variant in range(2)]
    several = np.stack([reader[position]["targets"] for position in range(20)])
    assert len(np.unique(several.reshape(20, -1), axis=0)) == 20


def test_another_number_of_variants_at_once_makes_the_same(experiment, latents, tmp_path, capsys):
    """Also that a build that is there is kept."""
    assert build(experiment, latents) == 0
    assert capsys.readouterr().out.startswith(f"kept {latents}: 20 variants (8x8 cells: 20); ")
    reader = open_split(latents, "train")
    other = tmp_path / "other"
    assert build(experiment, other, "--variants=1") == 0
    fewer = open_split(other, "train")
    for position in range(10):
        for name, value in fewer[position].items():
            if name != "scene_id":
                np.testing.assert_allclose(
                    value.astype(np.float32),
                    reader[2 * position][name].astype(np.float32),
                    rtol=2e-3,
                    atol=2e-3,
                    err_msg=name,
                )


def test_a_run_on_stored_latents(config, tmp_path, capsys):
    (shape,) = shapes(loader_config(config))
    placement = sharding.batch_sharding(sharding.make_mesh(config.mesh))
    abstract = abstract_batch(shape, 4, placement)
    loader = make_loader(loader_config(config))
    batch = next(loader)
    loader.close()
    assert {name: (value.shape, value.dtype) for name, value in batch.items()} == {
        name: (value.shape, value.dtype) for name, value in abstract.items()
    }
    state = train(config, tmp_path / "run").state
    assert int(jax.device_get(state.step)) == 2
    assert "latents, 8x8 cells, 100.0 % of batches" in capsys.readouterr().out
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert all(np.isfinite(json.loads(line)["loss"]) for line in lines)


def test_another_autoencoder_is_refused(config, tmp_path):
    folder = autoencoder(tmp_path / "vae", seed=1)
    files = dataclasses.replace(config.pretrained, autoencoder=str(folder))
    with pytest.raises(InvalidInput, match=r"autoencoder has digest .*; allowed: .*, of which the"):
        train(dataclasses.replace(config, pretrained=files), tmp_path / "run")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective.stack_space=pixels", "stack_space is 'pixels'; allowed with stored latents"),
        ("codec.sample=True", "codec.sample is True; allowed with stored latents: False"),
        ("training.image_every_steps=5", "image_every_steps is 5; allowed with stored latents: 0"),
        ("simulation.cameras.blur_fraction_max=0.2", "for cameras of simulation; allowed: "),
        ("objective.depth_noise.rate=0.5", "config has 0.5 for rate of depth_noise; allowed: "),
    ],
)
def test_settings_that_need_other_photographs_are_refused(config, override, message):
    changed = config_lib.resolve(json.loads(config_lib.to_json(config)), [override])
    with pytest.raises(InvalidInput, match=message):
        preflight.check_dataset(changed)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--variants=0"], "variants is 0; allowed: 1 to 1024"),
        (["--config.codec.kind=pixels", "--config.model.image_channels=3"], "allowed for latents"),
    ],
)
def test_bad_values_are_one_line(experiment, tmp_path, capsys, more, message):
    assert build(experiment, tmp_path / "out", *more) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_latents_of_latents_are_refused(experiment, latents, tmp_path, capsys):
    assert build(experiment, tmp_path / "out", f"--config.data.path={latents}") == 2
    assert "holds latents already; allowed: one of scenes" in capsys.readouterr().err


def test_damaged_latents_are_named(config, latents, tmp_path):
    copy = shutil.copytree(latents, tmp_path / "latents")
    shard = min(copy.glob("*-train.array_record-*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 4] ^= 255
    shard.write_bytes(bytes(content))
    reader = open_split(copy, "train")
    with pytest.raises(InvalidInput, match=r"record \d+ of shard .* cannot be read"):
        [reader[position] for position in range(len(reader))]
