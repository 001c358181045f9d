"""What is trained and what is frozen: trees, and real runs on latents with adapters."""

import dataclasses
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec
from tiny_experiment import TINY

from bokeh_jax import config as config_lib
from bokeh_jax.errors import InvalidInput
from bokeh_jax.evaluation.suite import evaluate
from bokeh_jax.inference import Refocuser
from bokeh_jax.interop.flux_names import diffusers_config, flux_map
from bokeh_jax.interop.writing import write_tensors
from bokeh_jax.leaf_names import leaves_by_name
from bokeh_jax.mesh_axes import MESH_AXES
from bokeh_jax.models import init_params
from bokeh_jax.models.lora import is_adapter
from bokeh_jax.training import checkpoint, network, overview, preflight, sharding
from bokeh_jax.training.frozen import digest, frozen_parameters, load_network
from bokeh_jax.training.train import train

AUTOENCODER = {
    "block_out_channels": (4, 8),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 2,
    "compute_dtype": "float32",
}
CODEC = {"kind": "autoencoder", "autoencoder": AUTOENCODER}
MODEL = TINY["model"] | {
    "patch_size": 2,
    "image_channels": 4,
    "reference_as": "tokens",
    "guess_tokens": False,
    "text_dim": 6,
    "pooled_dim": 5,
    "distilled_guidance": 1.0,
}
ADAPTERS = MODEL | {"lora": {"rank": 2}}
FEW = TINY["training"] | {
    "num_steps": 4,
    "image_every_steps": 4,
    "checkpoint_every_steps": 2,
}


def latent(**model):
    return config_lib.resolve(TINY | {"codec": CODEC, "model": ADAPTERS | model})


def names(tree):
    return {name for name, _ in leaves_by_name(tree).items()}


def test_with_adapters_only_they_and_the_added_parts_are_trained():
    config = latent()
    tree = jax.eval_shape(lambda: network.fresh_network(config))
    trained, frozen = network.trained_part(config, tree), network.frozen_part(config, tree)
    assert names(trained) | names(frozen) == names(tree)
    assert not names(trained) & names(frozen)
    assert {name.split("/")[0] for name in names(trained)} == {"camera", "defocus_in", "dit"}
    assert all(is_adapter(name) for name in names(trained) if name.startswith("dit/"))
    assert not any(is_adapter(name) for name in names(frozen))
    for name, leaf in leaves_by_name(tree).items():
        halved = name in names(frozen) and name.startswith("dit/") and not name.endswith("scale")
        assert leaf.dtype == (jnp.bfloat16 if halved else jnp.float32), name


def test_without_adapters_the_transformer_is_trained_and_the_codec_is_not():
    config = latent(lora={"rank": 0})
    tree = jax.eval_shape(lambda: network.fresh_network(config))
    assert names(network.frozen_part(config, tree)) == {
        name for name in names(tree) if name.startswith("codec/")
    }
    pixels = config_lib.resolve(TINY)
    assert network.frozen_part(pixels, jax.eval_shape(lambda: network.fresh_network(pixels))) == {}


def test_what_is_frozen_is_placed_by_the_same_rules():
    config = dataclasses.replace(
        latent(num_double_blocks=1),
        mesh=config_lib.MeshConfig(fsdp=4, tensor=2, min_sharded_bytes=0),
    )
    mesh = AbstractMesh((1, 4, 2), MESH_AXES)
    placed = leaves_by_name(sharding.placed_frozen(config, mesh))
    kernel = placed["dit/double_blocks/img_mlp/in_layer/kernel"]
    assert kernel.sharding.spec == PartitionSpec(None, "fsdp", "tensor")
    state = sharding.placed_state(config, mesh)
    table = overview.parameter_table(state, sharding.placed_frozen(config, mesh))
    assert sum("(frozen)" in line for line in table) == len(placed)
    assert "frozen" in overview.totals(state, sharding.placed_frozen(config, mesh))


def test_the_digest_is_of_names_and_values():
    tree = {"a": jnp.ones(3), "b": {"c": jnp.zeros(2)}}
    assert digest(tree) == digest({"b": {"c": jnp.zeros(2)}, "a": jnp.ones(3)})
    assert digest(tree) != digest({"a": jnp.ones(3), "b": {"d": jnp.zeros(2)}})
    assert digest(tree) != digest({"a": jnp.ones(3), "b": {"c": jnp.ones(2)}})
    assert digest({}) == ""


@pytest.fixture(scope="module")
def autoencoder_run(dataset, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("autoencoder")
    config = config_lib.resolve(
        TINY
        | {
            "task": "autoencoder",
            "codec": CODEC,
            "data": {"path": str(dataset)},
            "training": FEW,
            "optimizer": {"warmup_steps": 1, "ema_decay": 0.5},
        }
    )
    train(config, workdir, visible=False)
    return workdir


@pytest.fixture(scope="module")
def transformer_folder(tmp_path_factory):
    """A transformer in diffusers' layout, no weight of it 0: else no adapter would learn."""
    config = latent(lora={"rank": 0}).model
    tree = jax.eval_shape(lambda: init_params(config, jax.random.key(1), 2, 2)["dit"])
    rng = np.random.default_rng(0)
    tree = jax.tree.map(lambda x: rng.normal(0.0, 0.1, x.shape).astype(np.float32), tree)
    folder = tmp_path_factory.mktemp("flux") / "transformer"
    fields = diffusers_config(config.dit_config())
    write_tensors(folder, flux_map(config.dit_config()), tree, fields)
    return folder


@pytest.fixture(scope="module")
def latent_config(dataset, autoencoder_run, transformer_folder):
    return config_lib.resolve(
        TINY
        | {
            "codec": CODEC,
            "model": ADAPTERS,
            "pretrained": {
                "autoencoder": str(autoencoder_run),
                "transformer": str(transformer_folder),
            },
            "data": {"path": str(dataset)},
            "training": FEW | {"image_every_steps": 0},
            "optimizer": {"warmup_steps": 1, "ema_decay": 0.5},
        }
    )


@pytest.fixture(scope="module")
def latent_run(latent_config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("latent")
    return workdir, train(latent_config, workdir, visible=False).state


def test_an_autoencoder_is_trained_by_the_same_loop(autoencoder_run):
    lines = (autoencoder_run / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 4
    assert all('"reconstruction_psnr_db"' in line for line in lines)
    stored = checkpoint.read_step(autoencoder_run, 4)
    assert set(stored.tree["params"]) == {"codec"}
    first = checkpoint.load_params(autoencoder_run, 2, use_ema=False)["codec"]
    last = checkpoint.load_params(autoencoder_run, 4, use_ema=False)["codec"]
    moved = [
        not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (first, last)), strict=True)
    ]
    assert all(moved)


def test_a_run_on_latents_reads_the_autoencoder_and_leaves_it(latent_run, autoencoder_run):
    workdir, state = latent_run
    stored = checkpoint.read_step(workdir, 4)
    assert stored.record.frozen
    assert set(stored.tree["params"]) == {"camera", "defocus_in", "dit"}
    assert all(is_adapter(name) for name in names(stored.tree["params"]["dit"]))
    config = checkpoint.config_of(stored)
    whole = load_network(config, workdir, 4, use_ema=False)
    given = checkpoint.load_params(autoencoder_run, 4)["codec"]
    for name, leaf in leaves_by_name(given).items():
        np.testing.assert_array_equal(leaves_by_name(whole["codec"])[name], leaf, err_msg=name)
    # Adapters have moved: B starts at 0.
    ups = {n: leaf for n, leaf in leaves_by_name(state.params["dit"]).items() if "lora_b" in n}
    assert ups
    assert any(float(jnp.abs(leaf).max()) > 0 for leaf in ups.values())


def test_a_resumed_run_on_latents_is_the_whole_one(latent_run, latent_config, tmp_path):
    workdir, state = latent_run
    shutil.copytree(workdir, tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "checkpoints" / "4")
    again = train(latent_config, tmp_path / "half", visible=False).state
    assert_same_parameters(state, again)


@pytest.mark.long
def test_what_is_trained_on_latents_does_not_depend_on_panels(latent_run, latent_config, tmp_path):
    """`make test`: panels of the autoencoder's own run, and of runs in pixels."""
    settings = dataclasses.replace(latent_config.training, image_every_steps=4)
    config = dataclasses.replace(latent_config, training=settings)
    drawn = train(config, tmp_path / "run", visible=False).state
    assert_same_parameters(latent_run[1], drawn)


def assert_same_parameters(state, again):
    for name, leaf in leaves_by_name(state.params).items():
        np.testing.assert_array_equal(leaf, leaves_by_name(again.params)[name], err_msg=name)


def test_other_frozen_parameters_are_refused(latent_run, latent_config, autoencoder_run):
    workdir, _ = latent_run
    other = dataclasses.replace(
        latent_config,
        training=dataclasses.replace(latent_config.training, num_steps=6),
        pretrained=dataclasses.replace(
            latent_config.pretrained, autoencoder=f"{autoencoder_run}@2"
        ),
    )
    with pytest.raises(InvalidInput, match=r"frozen parameters have digest \w+; allowed: \w+"):
        train(other, workdir, visible=False)
    with pytest.raises(InvalidInput, match="frozen parameters have digest"):
        load_network(other, workdir, 4)


def test_photographs_are_refocused_through_the_codec(latent_run):
    image = np.random.default_rng(0).uniform(size=(40, 52, 3)).astype(np.float32)
    refocuser = Refocuser.from_checkpoint(latent_run[0])
    near = refocuser(image, focus=(0.2, 0.5), blur=0.05)
    assert near.image.shape == image.shape
    assert all(side % 4 == 0 for side in near.working_size_px)
    far = refocuser(image, focus=(0.9, 0.5), blur=0.05)
    assert np.abs(far.image - near.image).max() > 1e-4


@pytest.mark.long
def test_a_run_on_latents_is_evaluated_in_pixels(latent_run, latent_config):
    """`make test`: the same network's pictures, above; evaluation of runs in tests/evaluation."""
    workdir, _ = latent_run
    found = evaluate(latent_config, load_network(latent_config, workdir, 4))
    assert found[0].pictures.shape[2:] == (16, 16, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pretrained": {"autoencoder": ""}}, "pretrained.autoencoder is ''; allowed"),
        (
            {"pretrained": {"autoencoder": "LATENT"}},
            "a run with task='refocus'; allowed: a run with task='autoencoder'",
        ),
        (
            {"codec": CODEC | {"autoencoder": AUTOENCODER | {"layers_per_block": 2}}},
            "has layers_per_block 1, the config 2; allowed: the same, see config key "
            "codec.autoencoder.layers_per_block",
        ),
    ],
)
def test_a_codec_that_does_not_fit_is_refused(changes, message, latent_run, latent_config):
    values = dataclasses.asdict(latent_config) | {}
    for key, value in changes.items():
        value = {
            name: str(latent_run[0]) if text == "LATENT" else text for name, text in value.items()
        }
        values[key] = values[key] | value
    config = config_lib.resolve(values)

    def prepare():
        preflight.check_pretrained(config)
        frozen_parameters(config, sharding.make_mesh(config.mesh, jax.devices()[:1]))

    with pytest.raises(InvalidInput, match=re.escape(message)):
        prepare()


def test_channels_of_model_and_codec_must_agree():
    with pytest.raises(InvalidInput, match=r"model\.image_channels is 3; allowed: 4"):
        latent(image_channels=3)
    with pytest.raises(InvalidInput, match=r"codec\.kind is 'pixels'; allowed: 'autoencoder'"):
        config_lib.resolve(TINY | {"task": "autoencoder"})
