"""FLUX's text encoders: what diffusers computes, in the dataset, the batch and the step."""

import dataclasses
import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusers import FluxPipeline
from ml_dtypes import bfloat16
from random_trees import drawn
from tiny_experiment import TINY
from tiny_text_encoders import POOLED_DIM, TOKEN_DIM, save_text_encoders
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from bokeh_jax import config as config_lib
from bokeh_jax.cli import main
from bokeh_jax.errors import InvalidInput
from bokeh_jax.evaluation.suite import evaluate
from bokeh_jax.models import Conditions
from bokeh_jax.objectives.conditions import with_text
from bokeh_jax.training import checkpoint, preflight, sharding
from bokeh_jax.training.executables import loader_config
from bokeh_jax.training.state import create_state
from bokeh_jax.training.step import abstract_batch, compile_step
from bokeh_jax.training.step_metrics import compute_metrics
from bokeh_jax.training.train import train
from data_pipeline.dataset import dataset_info, load_split, open_split
from data_pipeline.loader import shapes
from data_pipeline.text_encoder import FluxTextEncoder

CAPTIONS = ["a red cat", "", "two dogs in the park, running fast", "xyz"]
NUM_TOKENS = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_text_encoders(tmp_path_factory.mktemp("flux"))


@pytest.fixture(scope="module")
def truth(folder):
    """Captions -> (text, pooled), by diffusers' pipeline."""
    pipeline = FluxPipeline(
        scheduler=None,
        vae=None,
        transformer=None,
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder"),
        text_encoder_2=T5EncoderModel.from_pretrained(folder / "text_encoder_2"),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        tokenizer_2=T5TokenizerFast.from_pretrained(folder / "tokenizer_2"),
    )

    def encode(captions):
        text, pooled, _ = pipeline.encode_prompt(
            captions, None, device="cpu", max_sequence_length=NUM_TOKENS
        )
        return text.detach().numpy(), pooled.detach().numpy()

    return encode


@pytest.fixture(scope="module")
def spoken(folder, tmp_path_factory):
    """The tiny experiment's scenes with their captions' embeddings, by the command."""
    out = tmp_path_factory.mktemp("data") / "spoken"
    assert build(out, folder) == 0
    return out


def build(out, folder, *more):
    return main(
        [
            *("data", "build", f"--out={out}", "--workers=0", "--size=26", "--seed=5"),
            *("--max-layers=3", "--count=train=10", "--count=eval_heldout=8"),
            *("--count=eval_seen=0", f"--text-encoder={folder}", f"--text-tokens={NUM_TOKENS}"),
            *more,
        ]
    )


def told(spoken, **changes):
    sizes = {"text_dim": TOKEN_DIM, "pooled_dim": POOLED_DIM}
    sparse = TINY | {"data": {"path": str(spoken)}, "model": TINY["model"] | sizes | changes}
    return config_lib.resolve(sparse)


# What is computed --------------------------------------------------------------------------------


def test_embeddings_are_the_pipelines(folder, truth):
    encoder = FluxTextEncoder(folder, NUM_TOKENS)
    text, pooled = encoder(CAPTIONS)
    for found, wanted in zip((text, pooled), truth(CAPTIONS), strict=True):
        assert np.abs(wanted).max() > 1
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def test_a_caption_is_the_same_in_any_company(folder):
    encoder = FluxTextEncoder(folder, NUM_TOKENS, batch_size=3)
    text, pooled = encoder(CAPTIONS)
    for row, caption in enumerate(CAPTIONS):
        alone = encoder([caption])
        np.testing.assert_array_equal(alone[0][0], text[row])
        np.testing.assert_array_equal(alone[1][0], pooled[row])
    assert [len(values) for values in encoder([])] == [0, 0]


def test_what_is_stored_is_what_the_pipeline_gives(spoken, truth):
    reader = open_split(spoken, "train", text=True)
    captions = [reader.values(position)["caption"].decode() for position in range(len(reader))]
    assert all(captions)
    wanted = truth(captions)
    for position in range(len(reader)):
        scene = reader[position]
        for name, values in zip(("text", "pooled"), wanted, strict=True):
            found, scale = scene[name].astype(np.float32), np.abs(values[position]).max()
            # bfloat16 has 8 bits.
            assert np.abs(found - values[position]).max() <= 2**-8 * scale


def test_the_command_says_what_it_stored(spoken, folder, capsys):
    info = dataset_info(spoken).text
    assert build(spoken, folder) == 0
    said = capsys.readouterr().out
    assert f"; {info.num_captions} captions as 10 tokens of 12, pooled 20, by flux " in said
    sheet = spoken.parent / "sheet.png"
    sizes = ("--config.simulation.size_px=16", f"--config.data.path={spoken}")
    assert main(["data", "inspect", "--scenes=1", *sizes, f"--out={sheet}"]) == 0
    assert f"text: {info}" in capsys.readouterr().out


# What is refused ---------------------------------------------------------------------------------


def without(name):
    return lambda folder: shutil.rmtree(folder / name)


def no_size(folder):
    file = folder / "text_encoder" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"hidden_size": "wide"}))


def cut_short(folder):
    file = folder / "text_encoder_2" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (without("text_encoder_2"), "text_encoder_2 has no *.safetensors; allowed: the folder of"),
        (without("tokenizer"), "tokenizer has no *.json; allowed: the folder of a FLUX"),
        (no_size, "text_encoder/config.json is missing or has no hidden_size; allowed: the"),
        (cut_short, "cannot be loaded ("),
    ],
)
def test_bad_folders_are_one_line(folder, tmp_path, capsys, harm, message):
    copy = shutil.copytree(folder, tmp_path / "flux")
    harm(copy)
    assert build(tmp_path / "out", copy) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: text encoder ")
    assert message in line
    assert line.count("\n") == 1


def test_bad_values_are_one_line(folder, tmp_path, capsys):
    assert build(tmp_path / "out", folder, "--text-tokens=513") == 2
    assert "error: text_tokens is 513; allowed: 1 to 512" in capsys.readouterr().err
    assert build(tmp_path / "out", tmp_path / "nowhere") == 2
    assert "nowhere is not there; allowed: the folder of a FLUX" in capsys.readouterr().err
    assert main(["data", "build", f"--out={tmp_path / 'out'}", "--text-tokens=3"]) == 2
    assert "--text-tokens is 3; allowed only with --text-encoder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_without_the_packages_the_message_says_what_to_install(folder, tmp_path):
    """In a process of its own, where neither can be found."""
    arguments = ["data", "build", f"--out={tmp_path / 'out'}", f"--text-encoder={folder}"]
    code = (
        "import sys, importlib.util\n"
        "find = importlib.util.find_spec\n"
        "missing = ('torch', 'transformers')\n"
        "importlib.util.find_spec = lambda n, *a: None if n in missing else find(n, *a)\n"
        "from bokeh_jax.cli import main\n"
        f"code = main({arguments!r})\n"
        "assert not set(missing) & set(sys.modules)\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "error: encoding text needs torch and transformers, not installed; "
        "allowed: pip install 'bokeh-jax[interop]'\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_recipe_follows_files_and_length(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "flux")
    before = FluxTextEncoder(folder, NUM_TOKENS).recipe()
    assert FluxTextEncoder(copy, NUM_TOKENS).recipe() == before
    assert FluxTextEncoder(copy, NUM_TOKENS + 1).recipe() != before
    cut_short(copy)
    assert FluxTextEncoder(copy, NUM_TOKENS).recipe() != before


@pytest.mark.parametrize("name", ["text_dim", "pooled_dim"])
def test_networks_of_other_sizes_are_refused(spoken, name):
    config = told(spoken, **{name: 7})
    with pytest.raises(InvalidInput, match=rf"config key model.{name} is 7; allowed: \d+, as the"):
        preflight.check_dataset(config)


def test_what_becomes_of_captions_is_said(spoken, dataset):
    config = told(spoken)
    lines = [
        preflight.said_of_text(config, dataset_info(spoken)),
        preflight.said_of_text(config, dataset_info(dataset)),
        preflight.said_of_text(told(spoken, text_dim=None, pooled_dim=None), dataset_info(spoken)),
        preflight.said_of_text(told(spoken, text_dim=None, pooled_dim=None), dataset_info(dataset)),
    ]
    assert lines[0].endswith("; 10 % of the scenes without")
    assert lines[1] == "text: the dataset has none; every prompt is empty"
    assert lines[2].endswith(" are ignored, as model.text_dim and model.pooled_dim are None")
    assert lines[3] == ""


# What the network makes of it --------------------------------------------------------------------


def test_a_step_is_told_of_text(spoken):
    """All weights are random: at the start's zeros no text gets through."""
    quiet = dataclasses.replace(told(spoken).objective, text_dropout_rate=0.0)
    config = dataclasses.replace(told(spoken), objective=quiet)
    placement = sharding.batch_sharding(sharding.make_mesh(config.mesh))
    (shape,) = shapes(loader_config(config))
    batch = load_split(spoken, "train", limit=4, text=True)
    abstract = abstract_batch(shape, 4, placement)
    assert {name: (value.shape, value.dtype) for name, value in batch.items()} == {
        name: (value.shape, value.dtype) for name, value in abstract.items()
    }
    state = jax.jit(lambda: create_state(config))()
    state = dataclasses.replace(state, params=drawn(state.params, seed=0, scale=0.1))
    step = compile_step(config, state, {}, abstract)
    copied = jax.jit(lambda state: jax.tree.map(jnp.copy, state))

    def loss(batch):
        metrics = step(copied(state), {}, sharding.put_batch(batch, placement))[1]
        return float(compute_metrics(metrics)["loss"])

    first, same = loss(batch), loss(batch)
    assert first == same
    for name in ("text", "pooled"):
        assert loss(batch | {name: batch[name] + bfloat16(1)}) != first


def test_dropped_captions_are_zeros_and_targets_share_them():
    batch = {
        "text": np.arange(1, 13, dtype=np.float32).reshape(2, 3, 2).astype(bfloat16),
        "pooled": np.ones((2, 5), bfloat16),
    }
    reference = jnp.zeros((4, 8, 8, 3))
    model = config_lib.resolve(TINY | {"model": TINY["model"] | {"text_dim": 2}}).model
    given = with_text(Conditions.of_reference(reference), batch, model, jnp.array([0.0, 1.0]))
    assert given.pooled is None
    assert given.text.dtype == jnp.float32
    whole = np.repeat(batch["text"].astype(np.float32), 2, axis=0)
    whole[:2] = 0
    np.testing.assert_array_equal(given.text, whole)
    model = dataclasses.replace(model, pooled_dim=5, text_dim=None)
    given = with_text(Conditions.of_reference(reference), batch, model)
    assert given.text is None
    np.testing.assert_array_equal(given.pooled, np.ones((4, 5)))
    assert with_text(Conditions.of_reference(reference), {}, model).pooled is None


@pytest.mark.long
def test_a_run_and_its_evaluation_are_told_of_captions(spoken, tmp_path, capsys):
    sparse = config_lib.to_json(told(spoken))
    few = ["training.num_steps=2", "training.image_every_steps=2", "optimizer.warmup_steps=1"]
    config = config_lib.resolve(json.loads(sparse), few)
    train(config, tmp_path / "run")
    said = capsys.readouterr().out
    assert said.count("captions as 10 tokens of 12, pooled 20, by flux") == 1
    params = drawn(checkpoint.load_params(tmp_path / "run", 2, use_ema=False), seed=0, scale=0.1)
    heard = evaluate(config, params)
    for result in heard:
        assert np.isfinite(result.psnr_db["model"]).all()
