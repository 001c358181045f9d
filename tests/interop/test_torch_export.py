"""The export for plain torch: its numbers, in a process that has no JAX, and its way back."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from random_runs import save_run
from tiny_experiment import GUIDED

from bokeh_jax import config as config_lib
from bokeh_jax import diffusion, models
from bokeh_jax.cli import main
from bokeh_jax.errors import InvalidInput
from bokeh_jax.inference import Refocuser
from bokeh_jax.interop.merged import merged_parts
from bokeh_jax.interop.torch_export import read_export, write_export
from bokeh_jax.interop.torch_names import torch_map
from bokeh_jax.leaf_names import leaves_by_name
from bokeh_jax.models import Conditions
from bokeh_jax.models.codec import decode, encode
from bokeh_jax.models.lora import merge
from bokeh_jax.objectives import make_predictor
from bokeh_jax.training.frozen import load_network
from bokeh_jax.training.rng import example_keys, step_key

ABSENT = ("jax", "flax", "diffusers", "transformers", "bokeh_jax")
METHODS = ("euler", "heun")
CASES = {
    "all": {"camera": True, "depth": True, "text": True},
    "camera": {"camera": True, "depth": False, "text": False},
    "depth": {"camera": False, "depth": True, "text": True},
    "nothing": {"camera": False, "depth": False, "text": False},
}
FOCUS, BLUR = (0.3, 0.7), 0.05
BAD_COMMANDS = [
    (["no.png", "out.png"], r"image file .*no\.png cannot be read"),
    (["PHOTO", "out.exe"], r"output file .*out\.exe; allowed endings: \.jpg"),
    (["PHOTO", "gone/out.png"], r"output file .*out\.png cannot be written"),
    (["PHOTO", "out.png", "--focus=2,0"], r"--focus is '2,0'; allowed: x,y each from 0"),
    (["PHOTO", "out.png", "--focus=left"], r"--focus is 'left'; allowed"),
    (["PHOTO", "out.png", "--blur=nan"], r"--blur is nan; allowed: 0 or more"),
    (["PHOTO", "out.png", "--steps=0"], r"--steps is 0; allowed: 1 or more"),
    (["PHOTO", "out.png", "--guidance=inf"], r"--guidance is inf; allowed"),
    (["PHOTO", "out.png", "--device=abacus"], r"--device is 'abacus' \(.*\); allowed"),
    (["PHOTO", "out.png", "--disparity=d.png"], r"exists only in the package bokeh_jax"),
    (["PHOTO", "out.png", "--noise=PHOTO"], r"--noise .* cannot be used \(.*\); allowed: an \.npy"),
    (["PHOTO", "out.png", "--noise=WRONG"], r"its shape is \(3, 3, 3\)\); allowed: .* \[\d+, \d+"),
    (["PHOTO"], r"the following arguments are required: out; allowed"),
]


@dataclasses.dataclass(frozen=True)
class Exported:
    """A run, its network here, its folder, and random inputs for both sides."""

    workdir: Path
    config: config_lib.ExperimentConfig
    params: dict
    folder: Path
    inputs: dict

    @property
    def outputs(self):
        return dict(np.load(self.folder.with_suffix(".npz")))

    def conditions(self, *, camera, depth, text):
        given = {name: jnp.asarray(value) for name, value in self.inputs.items()}
        batch = len(self.inputs["time"])
        flags = {
            "camera_given": jnp.full(batch, float(camera)),
            "disparity_given": jnp.full(batch, float(depth)),
            "reference_camera_given": jnp.full(batch, float(depth)),
        }
        fields = {field.name for field in dataclasses.fields(Conditions)}
        if not text:
            fields -= {"text", "pooled"}
        found = Conditions(**flags, **{k: v for k, v in given.items() if k in fields})
        return found.visible()


def random_inputs(config, grid, seed):
    rng = np.random.default_rng(seed)
    channels, side, batch = config.model.image_channels, config.codec.downsampling, 2
    shapes = {
        "noisy": (*grid, channels),
        "reference": (*grid, channels),
        "guess": (*grid, channels),
        "photograph": (grid[0] * side, grid[1] * side, 3),
        "target_defocus": grid,
        "reference_defocus": grid,
    }
    found = {name: rng.normal(size=(batch, *shape)) for name, shape in shapes.items()}
    for name in ("target_defocus", "reference_defocus"):
        found[name] *= 0.05
    found |= {
        "time": rng.uniform(0.1, 1.0, batch),
        "focus_point": rng.uniform(size=(batch, 2)),
        "focus_disparity": rng.uniform(size=batch),
        "blur": rng.uniform(0.0, 0.1, batch),
    }
    if config.model.text_dim is not None:
        found["text"] = rng.normal(size=(batch, 3, config.model.text_dim))
        found["pooled"] = rng.normal(size=(batch, config.model.pooled_dim))
    return {name: np.asarray(value, np.float32) for name, value in found.items()}


def exported(folder, workdir, config, grid):
    out = folder / "exported"
    assert main(["export", f"--checkpoint={workdir}", f"--out={out}"]) == 0
    params = load_network(config, workdir, 7)
    inputs = random_inputs(config, grid, seed=5)
    np.savez(folder / "inputs.npz", **inputs)
    return Exported(workdir, config, params, out, inputs)


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    """'channels', samples with a guide, from the reference, guided."""
    config = config_lib.resolve(
        GUIDED | {"sampler": {"num_steps": 2, "guidance_scale": 1.7, "method": "euler"}}
    )
    folder = tmp_path_factory.mktemp("pixels")
    return exported(folder, save_run(folder / "run", config), config, (8, 20))


@pytest.fixture(scope="module")
def latents(latent_run, tmp_path_factory):
    """'tokens' with adapters everywhere, velocities, from noise, through the autoencoder."""
    folder, config = latent_run
    return exported(tmp_path_factory.mktemp("latents"), folder / "run", config, (6, 10))


@pytest.fixture(scope="module")
def both(pixels, latents):
    return {"pixels": pixels, "latents": latents}


def noise_of(model, size):
    """What our Refocuser draws from seed 4."""
    side = model.config.codec.downsampling
    shape = (size[0] // side, size[1] // side, model.config.codec.channels)
    keys = example_keys(step_key(4, "inference", 0), 1)
    return np.asarray(jax.vmap(lambda key: jax.random.normal(key, shape))(keys)[0])


@pytest.fixture(scope="module")
def halved(pixels):
    """The pixel model's raw parameters in bfloat16."""
    out = pixels.folder.with_name("halved")
    command = ["export", f"--checkpoint={pixels.workdir}", f"--out={out}", "--raw", "--dtype=bf16"]
    assert main(command) == 0
    return out


@pytest.fixture(scope="module")
def torch_side(both, halved, tmp_path_factory):
    """One process without JAX computes everything; another is refocus.py itself."""
    folder = tmp_path_factory.mktemp("torch_side")
    for name in ABSENT:
        (folder / "absent" / name).mkdir(parents=True)
        (folder / "absent" / name / "__init__.py").write_text(f"raise ImportError('no {name}')\n")
    photo = folder / "photo.png"
    pixels = np.random.default_rng(6).integers(0, 256, (37, 53, 3), np.uint8)
    # Broad enough that enlarging does not only ring.
    Image.fromarray(pixels).resize((212, 148)).resize((53, 37)).save(photo)
    wrong = folder / "wrong.npy"
    np.save(wrong, np.zeros((3, 3, 3)))
    asked = [str(photo), f"--focus={FOCUS[0]},{FOCUS[1]}", f"--blur={BLUR}"]
    ours, commands = {}, {}
    for name, model in both.items():
        found = Refocuser.from_checkpoint(model.workdir)(
            np.asarray(Image.open(photo)), focus=FOCUS, blur=BLUR, seed=4
        )
        ours[name] = found.image
        noise = folder / f"{name}.npy"
        np.save(noise, noise_of(model, found.working_size_px))
        commands[name] = [*asked, str(folder / f"{name}.png"), f"--noise={noise}", "--device=cpu"]

    def replaced(argument):
        argument = argument.replace("PHOTO", str(photo)).replace("WRONG", str(wrong))
        return argument if argument.startswith(("--", "/")) else str(folder / argument)

    # What comes later wins.
    refused = [
        ["--focus=0.5,0.5", "--blur=0.1", *map(replaced, command)] for command, _ in BAD_COMMANDS
    ]
    jobs = {
        "forward": [
            {
                "folder": str(model.folder),
                "inputs": str(model.folder.parent / "inputs.npz"),
                "outputs": str(model.folder.with_suffix(".npz")),
                "dtype": "float32",
                "cases": [{"name": name, "told": told} for name, told in CASES.items()],
                "methods": METHODS,
            }
            for model in both.values()
        ]
        + [
            {
                "folder": str(halved),
                "inputs": str(both["pixels"].folder.parent / "inputs.npz"),
                "outputs": str(halved.with_suffix(".npz")),
                "dtype": "bfloat16",
                "cases": [{"name": "all", "told": CASES["all"]}],
                "methods": [],
            }
        ],
        "refocus": [{"folder": str(both["pixels"].folder), "arguments": commands["pixels"]}]
        + [{"folder": str(both["pixels"].folder), "arguments": line} for line in refused],
    }
    (folder / "jobs.json").write_text(json.dumps(jobs))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX")}
    environment |= {"PYTHONPATH": str(folder / "absent"), "OMP_NUM_THREADS": "1"}

    def run(*command):
        return subprocess.run(
            [sys.executable, *command],
            env=environment,
            cwd=folder,
            text=True,
            capture_output=True,
            check=False,
        )

    first = run(str(Path(__file__).with_name("torch_side.py")), "jobs.json")
    assert first.returncode == 0, first.stderr
    second = run(str(both["latents"].folder / "refocus.py"), *commands["latents"])
    assert second.returncode == 0, second.stderr
    return {"said": json.loads(first.stdout), "folder": folder, "ours": ours}


def close(ours, theirs, tolerance, what, record_property):
    difference = np.abs(np.asarray(ours) - theirs).max()
    scale = np.abs(np.asarray(ours)).max()
    record_property(what, f"{difference:.2g} of {scale:.2g}")
    print(f"{what}: {difference:.3g} of {scale:.3g}")
    assert 0.1 < scale < 100.0
    assert difference <= tolerance


@pytest.mark.parametrize("name", ["pixels", "latents"])
def test_a_forward_pass_is_ours(name, both, torch_side, record_property):
    model = both[name]
    forward = jax.jit(
        lambda noisy, time, told: models.apply(model.config.model, model.params, noisy, time, told)
    )
    theirs = model.outputs
    seen = []
    for case, told in CASES.items():
        ours = forward(model.inputs["noisy"], model.inputs["time"], model.conditions(**told))
        close(ours, theirs[case], 1e-4, f"{name} {case}", record_property)
        seen.append(np.asarray(ours))
    # Each case is a case of its own.
    assert all(np.abs(a - seen[0]).max() > 1e-3 for a in seen[1:])


def test_raw_parameters_in_bfloat16(pixels, halved, torch_side, record_property):
    raw = load_network(pixels.config, pixels.workdir, 7, use_ema=False)
    model = dataclasses.replace(pixels.config.model, compute_dtype="bfloat16")
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), raw)
    inputs, told = pixels.inputs, pixels.conditions(**CASES["all"])
    forward = jax.jit(lambda noisy, time: models.apply(model, rounded, noisy, time, told))
    ours = forward(inputs["noisy"], inputs["time"])
    theirs = np.load(halved.with_suffix(".npz"))["all"]
    # Both round every product; the EMA's answer is elsewhere.
    close(ours, theirs, 0.03, "bfloat16", record_property)
    assert np.abs(pixels.outputs["all"] - theirs).max() > 0.3
    _, tree = read_export(halved)
    for name, leaf in leaves_by_name(tree).items():
        assert leaf.dtype == jnp.bfloat16
        np.testing.assert_array_equal(leaf, leaves_by_name(raw)[name].astype(jnp.bfloat16))


@pytest.mark.parametrize("name", ["pixels", "latents"])
def test_a_whole_sampling_run_is_ours(name, both, torch_side, record_property):
    model = both[name]
    objective = model.config.objective
    told = model.conditions(**CASES["camera"])
    start = diffusion.source(
        objective.flow_source,
        told.reference,
        jnp.asarray(model.inputs["noisy"]),
        objective.source_noise,
    )
    predictor = jax.jit(
        make_predictor(
            model.params,
            told,
            model=model.config.model,
            objective=objective,
            guidance_scale=model.config.sampler.guidance_scale,
        )
    )
    for method in METHODS:
        *_, ours = diffusion.iterate_samples(
            predictor,
            start,
            diffusion.time_grid(3),
            method=method,
            prediction=objective.prediction,
        )
        close(ours, model.outputs[method], 1e-3, f"{name} {method}", record_property)


def test_the_autoencoder_is_ours(latents, torch_side, record_property):
    codec, params = latents.config.codec, latents.params
    encoded = jax.jit(lambda x: encode(codec, params, x))(latents.inputs["photograph"])
    decoded = jax.jit(lambda z: decode(codec, params, z))(encoded)
    close(encoded, latents.outputs["encoded"], 1e-4, "encoded", record_property)
    close(decoded, latents.outputs["decoded"], 1e-4, "decoded", record_property)


@pytest.mark.parametrize("name", ["pixels", "latents"])
def test_the_picture_is_ours(name, torch_side):
    theirs = np.asarray(Image.open(torch_side["folder"] / f"{name}.png"), np.int32)
    ours = np.rint(torch_side["ours"][name] * 255.0).astype(np.int32)
    assert theirs.shape == ours.shape == (37, 53, 3)
    print(f"{name}: {np.abs(theirs - ours).max()} of 255 at {(theirs != ours).mean():.4%}")
    assert np.abs(theirs - ours).max() <= 1
    # A picture, and not a plain one.
    assert ours.std() > 5


def test_bad_command_lines_of_refocus_are_one_line_and_code_2(torch_side):
    first, *others = torch_side["said"]
    assert first == [0, ""]
    for (command, message), (code, said) in zip(BAD_COMMANDS, others, strict=True):
        assert code == 2, command
        assert re.fullmatch(rf"error: .*{message}.*\n", said), (command, said)
    assert not (torch_side["folder"] / "out.png").exists()


@pytest.mark.parametrize("name", ["pixels", "latents"])
def test_import_of_the_export_is_the_same_tree_bitwise(name, both, tmp_path):
    model = both[name]
    described, tree = read_export(model.folder)
    ours, found = leaves_by_name(model.params), leaves_by_name(tree)
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), model.params)
    whole = leaves_by_name(jax.jit(lambda tree: merge(tree, model.config.model.lora))(wide))
    table = torch_map(described.model, described.codec)
    assert found.keys() == whole.keys() == table.keys()
    for key, leaf in found.items():
        assert leaf.dtype == jnp.float32
        if model.config.model.lora.rank and key.endswith("kernel") and key.startswith("dit/"):
            # Merged: the order of sums may be another.
            np.testing.assert_allclose(leaf, whole[key], rtol=0, atol=1e-6, err_msg=key)
            alone = np.asarray(ours[key], np.float32)
            assert np.abs(np.asarray(leaf) - alone).max() > 1e-3, key
        else:
            np.testing.assert_array_equal(leaf, ours[key], err_msg=key)
    # Once more out: not a byte differs.
    write_export(tmp_path, described, merged_parts(tree, described.model.lora))
    for path in model.folder.iterdir():
        if path.is_file():
            assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name
    assert described.codec.kind == model.config.codec.kind
    assert described.model.reference_as == model.config.model.reference_as
    assert (described.step, described.ema) == (7, True)


def test_several_files_come_back(pixels, tmp_path):
    described, tree = read_export(pixels.folder)
    write_export(
        tmp_path, described, merged_parts(tree, described.model.lora), max_shard_bytes=50_000
    )
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert (tmp_path / "model.safetensors.index.json").is_file()
    _, again = read_export(tmp_path)
    for name, leaf in leaves_by_name(again).items():
        np.testing.assert_array_equal(leaf, leaves_by_name(tree)[name], err_msg=name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, r"format of .*config\.json is 'other'; allowed: 'bokeh_jax'"),
        ({"sampler": {}}, r"config\.json is not readable .*allowed: what `bokeh-jax export"),
    ],
)
def test_a_folder_that_is_no_export_is_refused(changes, message, pixels, tmp_path):
    fields = json.loads((pixels.folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(fields | changes))
    with pytest.raises(InvalidInput, match=message):
        read_export(tmp_path)
