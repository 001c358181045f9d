"""LoRA of PEFT and diffusers, and ours: the same numbers from the same files, both ways."""

import json
import logging
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
from flax import linen as nn
from flux_peer import SMALL, Inputs, random_model, tensors_of
from safetensors.numpy import load_file, save_file

from bokeh_jax.errors import InvalidInput
from bokeh_jax.interop.flux_names import dit_config_from_diffusers, flux_map
from bokeh_jax.interop.lora_files import read_lora, write_lora
from bokeh_jax.interop.lora_names import lora_map, modules
from bokeh_jax.interop.weight_map import leaf_shapes, leaves_of, tensor_shapes
from bokeh_jax.leaf_names import leaves_by_name, tree_by_name
from bokeh_jax.models import lora
from bokeh_jax.models.config import LORA_TARGETS, LoraConfig
from bokeh_jax.models.dit import DiT

RANK, ALPHA = 4, 6.0
# One program for all cases: what a file lacks is 0 in it, and so is the other adapter.
ADAPTERS = LoraConfig(RANK, ALPHA, LORA_TARGETS, ("default", "other"))
FIELDS = {"_class_name": "FluxTransformer2DModel"} | SMALL
BASE = replace(dit_config_from_diffusers(FIELDS), compute_dtype="float32", remat="none")
CONFIG = replace(BASE, lora=ADAPTERS)
DEFAULT_TARGETS = r".*\.(to_[qkv]|add_[qkv]_proj|to_out\.0|to_add_out|net\.0\.proj|net\.2|proj_mlp)"
DEFAULT_TARGETS += r"|single_transformer_blocks.*\.proj_out"
ALL_TARGETS = [
    name for name, layer in random_model().named_modules() if isinstance(layer, torch.nn.Linear)
]


@pytest.fixture(scope="module")
def inputs():
    found = Inputs.random(random_model(), [(0, 3, 5), (1, 2, 7)], 3)
    # The last bit of a sinusoid's angle of thousands is not what this is about.
    return Inputs(found.tensors | {"guidance": 0.1 * found.tensors["guidance"]})


@pytest.fixture(scope="module")
def base():
    return leaves_of(flux_map(BASE), tensors_of(random_model()))


@pytest.fixture(scope="module")
def start(inputs):
    """Adapters as they start but for A, whose rows must count nothing where B's columns are 0."""
    boxed = jax.eval_shape(
        lambda key: DiT(CONFIG).init(key, *inputs.ours()[0], **inputs.ours()[1]), jax.random.key(0)
    )
    leaves = leaves_by_name(nn.unbox(boxed)["params"])
    random = np.random.default_rng(0)
    return tree_by_name(
        {
            name: random.standard_normal(leaf.shape, np.float32)
            if "lora_a" in name
            else np.zeros(leaf.shape, np.float32)
            for name, leaf in leaves.items()
            if lora.is_adapter(name)
        }
    )


def drawn(start, seed=5):
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda x: 0.1 * random.standard_normal(x.shape, np.float32), start)


@pytest.fixture(scope="module")
def call(inputs, base):
    """Our output for these adapters, and for kernels with them merged in."""
    positional, named = inputs.ours()
    compiled = {config: jax.jit(partial(DiT(config).apply)).lower for config in (CONFIG, BASE)}

    def output(config, params):
        if not isinstance(compiled[config], jax.stages.Compiled):
            compiled[config] = compiled[config]({"params": params}, *positional, **named).compile()
        return np.asarray(compiled[config]({"params": params}, *positional, **named))

    return output


def with_base(base, adapters):
    return jax.tree.map(jnp.asarray, lora.joined(tree_by_name(base), adapters))


def adapted(config, seed=3):
    """PEFT's network, every A and B random."""
    model = random_model()
    model.add_adapter(config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_" in name:
                value.copy_(0.1 * torch.randn_like(value))
    return model


def output_of(model, inputs):
    with torch.no_grad():
        return inputs.call(model).numpy()


def pipeline(model):
    parts = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    return FluxPipeline(FlowMatchEulerDiscreteScheduler(), transformer=model, **parts)


def save_diffusers(model, folder, metadata=True):
    settings = model.peft_config["default"].to_dict() if metadata else None
    FluxPipeline.save_lora_weights(
        folder,
        transformer_lora_layers=peft.get_peft_model_state_dict(model),
        transformer_lora_adapter_metadata=settings,
    )


def save_with_alphas(model, folder):
    """As trainers write that have an alpha a module."""
    save_diffusers(model, folder, metadata=False)
    path = folder / "pytorch_lora_weights.safetensors"
    tensors = load_file(path)
    names = {name.removesuffix(".lora_A.weight") for name in tensors if "lora_A" in name}
    alphas = {f"{name}.alpha": np.asarray(5.0, np.float32) for name in names}
    # A LoRA may be for the text encoder too.
    text = {"text_encoder.text_model.q_proj.lora_A.weight": np.zeros((2, 3), np.float32)}
    save_file(tensors | alphas | text, path)


def save_peft(model, folder):
    """The whole network's folder, as `PeftModel.save_pretrained` writes it."""
    config = model.peft_config["default"]
    whole = peft.get_peft_model(random_model(), config)
    tensors = peft.get_peft_model_state_dict(model)
    peft.set_peft_model_state_dict(
        whole, {f"base_model.model.{name}": value for name, value in tensors.items()}
    )
    whole.save_pretrained(folder)


def save_alone(model, folder):
    model.save_lora_adapter(folder)


# PEFT's settings, and how they are saved.
CASES = {
    "diffusers": ({"lora_alpha": 6, "target_modules": ALL_TARGETS}, save_diffusers),
    "lower rank": ({"r": 2, "lora_alpha": 7, "target_modules": DEFAULT_TARGETS}, save_diffusers),
    "no alpha": (
        {"r": 3, "lora_alpha": 3, "target_modules": ["to_q", "proj_out"]},
        partial(save_diffusers, metadata=False),
    ),
    "an alpha a module": ({"lora_alpha": 5, "target_modules": DEFAULT_TARGETS}, save_with_alphas),
    "peft": (
        {"lora_alpha": 2, "target_modules": DEFAULT_TARGETS, "use_rslora": True},
        save_peft,
    ),
    "patterns": (
        {
            "lora_alpha": 2,
            "target_modules": ["to_v", "linear_1"],
            "rank_pattern": {"attn.to_v": 1},
            "alpha_pattern": {"attn.to_v": 9},
        },
        save_alone,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_lora_of_peft_gives_the_same_output(case, tmp_path, inputs, base, start, call):
    settings, save = CASES[case]
    model = adapted(peft.LoraConfig(**({"r": RANK} | settings)))
    save(model, tmp_path)
    found, match = read_lora(tmp_path, start, CONFIG)
    theirs = {n.replace(".default", "") for n, _ in model.named_parameters() if "lora_" in n}
    alphas = {n.replace("lora_A.weight", "alpha") for n in theirs if "lora_A" in n}
    assert set(match.matched) == theirs | (alphas if case == "an alpha a module" else set())
    assert set(match.only_here) == set(tensor_shapes(lora_map(CONFIG, "default"))) - theirs
    assert len(match.only_there) == (case == "an alpha a module")
    expected = output_of(model, inputs)
    model.disable_adapters()
    # The adapters are most of what there is to see.
    assert np.abs(output_of(model, inputs) - expected).max() > 0.1
    output = call(CONFIG, with_base(base, found))
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-4)
    if case == "lower rank":
        # What is left of the rank is as it started: it can learn, but says nothing yet.
        for name in ("single_blocks/linear2/lora_a_attn", "double_blocks/img_attn/qkv/lora_a"):
            leaves = (leaves_by_name(tree)[f"{name}/default"] for tree in (found, start))
            same = np.equal(*leaves)
            assert same[..., 2:].all()
            assert not same[..., :2].any()
    if case == "diffusers":
        assert not match.only_here
        for name, leaf in leaves_by_name(found).items():
            assert ("other" in name) == np.array_equal(leaf, leaves_by_name(start)[name]), name


@pytest.mark.long
def test_gradients_are_those_of_peft(tmp_path, inputs, base, start):
    """`make test`: outputs, above; gradients of the network without adapters, test_flux_parity."""
    model = adapted(peft.LoraConfig(r=4, lora_alpha=6, target_modules=ALL_TARGETS))
    save_diffusers(model, tmp_path)
    output = inputs.call(model)
    (output**2).mean().backward()
    theirs = {
        name.replace(".default", ""): value.grad.numpy()
        for name, value in model.named_parameters()
        if "lora_" in name
    }
    expected = leaves_of(lora_map(CONFIG, "default"), theirs)
    found, _ = read_lora(tmp_path, start, CONFIG)
    positional, named = inputs.ours()
    frozen = jax.tree.map(jnp.asarray, tree_by_name(base))

    @jax.jit
    @jax.grad
    def gradient(adapters):
        params = lora.joined(frozen, adapters)
        return jnp.mean(jnp.square(DiT(CONFIG).apply({"params": params}, *positional, **named)))

    ours = leaves_by_name(gradient(jax.tree.map(jnp.asarray, found)))
    for name, leaf in expected.items():
        scale = np.abs(leaf).max()
        assert scale > 0
        np.testing.assert_allclose(ours[name], leaf, rtol=0, atol=1e-4 * scale, err_msg=name)


@pytest.fixture
def warnings_of_diffusers():
    """What diffusers and PEFT would print: keys that are missing or not expected."""
    records = []
    handler = logging.Handler(logging.WARNING)
    # Said of every file without a part for the text encoder.
    handler.addFilter(lambda record: "prefix='text_encoder'" not in record.getMessage())
    handler.emit = lambda record: records.append(record.getMessage())
    for name in ("diffusers", "peft"):
        logging.getLogger(name).addHandler(handler)
    yield records
    for name in ("diffusers", "peft"):
        logging.getLogger(name).removeHandler(handler)


# What PEFT says of every second adapter.
@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning")
def test_diffusers_loads_ours(tmp_path, inputs, base, start, call, warnings_of_diffusers):
    ours = drawn(start)
    first, second = tmp_path / "default", tmp_path / "other"
    write_lora(first, ours, CONFIG)
    write_lora(second, ours, CONFIG, "other")
    pipe = pipeline(random_model())
    pipe.load_lora_weights(first, adapter_name="first")
    pipe.load_lora_weights(second, adapter_name="second")
    weights = {"default": 0.7, "other": -0.4}
    pipe.set_adapters(["first", "second"], list(weights.values()))
    params = with_base(base, ours)
    weighted = call(CONFIG, lora.weighted(params, ADAPTERS, weights))
    np.testing.assert_allclose(output_of(pipe.transformer, inputs), weighted, rtol=0, atol=1e-4)
    pipe.fuse_lora(adapter_names=["first", "second"])
    pipe.unload_lora_weights()
    np.testing.assert_allclose(output_of(pipe.transformer, inputs), weighted, rtol=0, atol=1e-4)
    merged = call(BASE, lora.merge(params, ADAPTERS, weights))
    np.testing.assert_allclose(merged, weighted, rtol=0, atol=1e-4)
    alone = random_model()
    alone.load_lora_adapter(first, use_safetensors=True)
    zero = lora.weighted(params, ADAPTERS, {"other": 0.0})
    expected = call(CONFIG, zero)
    np.testing.assert_allclose(output_of(alone, inputs), expected, rtol=0, atol=1e-4)
    assert warnings_of_diffusers == []


@pytest.mark.parametrize("targets", [("attention", "mlp"), ("embedders",)])
def test_peft_loads_ours(targets, tmp_path, inputs, start, base, call):
    """`proj_out` is the end of other names: only the layers meant may get adapters."""
    config = replace(CONFIG, lora=replace(ADAPTERS, targets=targets))
    ours = drawn(start)
    names = lora_map(config, "default")
    chosen = {
        name: leaf if name in names else np.zeros_like(leaf)
        for name, leaf in leaves_by_name(ours).items()
    }
    write_lora(tmp_path / "peft", ours, config, form="peft")
    model = peft.PeftModel.from_pretrained(random_model(), tmp_path / "peft")
    theirs = {name for name, _ in model.named_parameters() if "lora_" in name}
    assert len(theirs) == len(tensor_shapes(names))
    expected = call(CONFIG, with_base(base, tree_by_name(chosen)))
    np.testing.assert_allclose(output_of(model, inputs), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("form", ["diffusers", "peft"])
def test_import_of_our_export_is_the_same_bits(form, tmp_path, start):
    ours = drawn(start)
    write_lora(tmp_path / "out", ours, CONFIG, form=form)
    found, match = read_lora(tmp_path / "out", start, CONFIG)
    assert match.lines() == [
        f"  taken       {name} {'x'.join(map(str, shape))}" for name, shape in match.matched.items()
    ]
    expected = leaves_by_name(ours)
    for name, leaf in leaves_by_name(found).items():
        if "other" not in name:
            np.testing.assert_array_equal(leaf, expected[name])
    # bfloat16 is a rounding of it.
    write_lora(tmp_path / "half", ours, CONFIG, form=form, dtype="bfloat16")
    rounded = leaves_by_name(read_lora(tmp_path / "half", start, CONFIG)[0])
    name = "double_blocks/img_attn/qkv/lora_a/default"
    np.testing.assert_array_equal(
        rounded[name], jnp.asarray(expected[name]).astype(jnp.bfloat16).astype(jnp.float32)
    )
    with pytest.raises(InvalidInput, match=r"out exists; allowed: a new or an empty folder"):
        write_lora(tmp_path / "out", ours, CONFIG)


@pytest.mark.parametrize(
    "targets", [("attention",), ("mlp",), ("modulation",), ("embedders",), LORA_TARGETS]
)
def test_the_table_names_every_adapter_and_every_layer(targets, inputs):
    config = replace(CONFIG, lora=replace(ADAPTERS, targets=targets))
    positional, named = inputs.ours()
    init = partial(DiT(config).init, jax.random.key(0))
    leaves = leaves_by_name(nn.unbox(jax.eval_shape(init, *positional, **named))["params"])
    ours = {name: leaf.shape for name, leaf in leaves.items() if name.endswith("/other")}
    assert leaf_shapes(lora_map(config, "other")) == ours
    layers = {
        name: (layer.in_features, layer.out_features)
        for name, layer in random_model().named_modules()
        if isinstance(layer, torch.nn.Linear)
    }
    assert {name: (m.num_in, m.num_out) for name, m in modules(config).items()} == layers


def renamed(tensors, old, new):
    return {name.replace(old, new): value for name, value in tensors.items()}


def resized(tensors, name, shape):
    return tensors | {name: np.zeros(shape, np.float32)}


QUERY = "transformer.transformer_blocks.1.attn.to_q."
A, B, MAGNITUDES = (f"{QUERY}lora_{end}" for end in ("A.weight", "B.weight", "magnitude_vector"))
# What is done to the file, what to the settings, and what is said.
REFUSED = {
    "rank": (
        lambda t: t,
        {"rank": 3},
        r"lora_A.weight of .* has rank 4; allowed: up to lora.rank 3",
    ),
    "targets": (
        lambda t: t,
        {"targets": ("attention",)},
        r"embedder.lora_A.weight of .* is for a layer without adapters, as lora.targets is "
        r"attention; allowed: with embedders \(and \d+ more such tensors\)$",
    ),
    "base": (
        lambda t: resized(t, A, (4, 99)),
        {},
        r"^tensor transformer_blocks.1.attn.to_q.lora_A.weight of .* is 4x99, of a LoRA for "
        r"another base; allowed: 4x64$",
    ),
    "rows": (
        lambda t: resized(t, B, (64, 3)),
        {},
        r"lora_B.weight of .* is 64x3, .*; allowed: 64x4$",
    ),
    "vector": (
        lambda t: resized(t, A, (4,)),
        {},
        r"to_q.lora_A.weight of .* is 4, .*; allowed: 4x64",
    ),
    "blocks": (
        lambda t: renamed(t, "transformer_blocks.1.", "transformer_blocks.7."),
        {},
        r"blocks.7.* of .* is for a layer that this base does not have; allowed: a LoRA for this",
    ),
    "half": (
        lambda t: {name: value for name, value in t.items() if name != B},
        {},
        r"^tensor \S*to_q.lora_A.weight of .* is without \S*to_q.lora_B.weight; allowed: both$",
    ),
    "magnitudes": (
        lambda t: resized(t, MAGNITUDES, (64,)),
        {},
        r"magnitude_vector of .* is no part of a LoRA that is known; allowed: <module>.lora_A",
    ),
    "no lora": (
        lambda t: {"x.weight": np.zeros(3, np.float32)},
        {},
        r"is no LoRA \(x.weight\); allowed: tensors",
    ),
    "off": (lambda t: t, {"rank": 0}, r"adapter is 'default'; allowed: none, as lora.rank is 0"),
    "adapter": (
        lambda t: t,
        {"adapters": ("third",)},
        r"adapter is 'default'; allowed: third",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_name(case, tmp_path, start):
    change, settings, named = REFUSED[case]
    write_lora(tmp_path / "out", start, CONFIG)
    path = tmp_path / "out" / "pytorch_lora_weights.safetensors"
    save_file(change(load_file(path)), path)
    with pytest.raises(InvalidInput, match=named) as caught:
        read_lora(path, start, replace(CONFIG, lora=replace(ADAPTERS, **settings)))
    assert "\n" not in str(caught.value)


def test_damaged_files_and_settings_are_refused(tmp_path, start):
    write_lora(tmp_path / "out", start, CONFIG, form="peft")
    settings = tmp_path / "out" / "adapter_config.json"
    good = json.loads(settings.read_text())
    for change, named in (
        ({"use_dora": True}, r"use_dora of .* is True; allowed: plain LoRA"),
        ({"peft_type": "LOHA"}, r"peft_type of .* is 'LOHA'; allowed: plain LoRA"),
        ({"lora_alpha": "6"}, r"lora_alpha of .* is '6'; allowed: a number"),
    ):
        settings.write_text(json.dumps(good | change))
        with pytest.raises(InvalidInput, match=named):
            read_lora(tmp_path / "out", start, CONFIG)
    settings.write_text("{")
    with pytest.raises(InvalidInput, match=r"adapter_config.json is not JSON .*; allowed: PEFT"):
        read_lora(tmp_path / "out", start, CONFIG)
    weights = tmp_path / "out" / "adapter_model.safetensors"
    whole = weights.stat().st_size
    with weights.open("r+b") as file:
        file.truncate(whole - 10)
    with pytest.raises(InvalidInput, match=rf"it has {whole - 10} bytes; allowed: {whole} bytes"):
        read_lora(tmp_path / "out", start, CONFIG)
    with pytest.raises(InvalidInput, match=r"holds no LoRA; allowed: pytorch_lora_weights"):
        read_lora(tmp_path, start, CONFIG)
