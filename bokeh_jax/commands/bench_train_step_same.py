"""Whether torch's network and ours compute the same: its weights in ours, outputs and gradients.

The map from diffusers' names is linear (transposes, joins, sums of parts), so gradients go the same
way as weights, and what comes out of ours is compared array by array.
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bokeh_jax.commands.bench_train_step_ours import dit_config, forward_loss
from bokeh_jax.commands.bench_train_step_peer import Peer
from bokeh_jax.commands.bench_train_step_report import Same, Setting

Weights = Mapping[str, np.ndarray]
Tree = dict[str, Any]

_STREAMS = {
    "img": ("norm1", ("to_q", "to_k", "to_v"), ("norm_q", "norm_k"), "to_out.0", "ff"),
    "txt": (
        "norm1_context",
        ("add_q_proj", "add_k_proj", "add_v_proj"),
        ("norm_added_q", "norm_added_k"),
        "to_add_out",
        "ff_context",
    ),
}


def compare(peer: Peer, small: Setting) -> Same:
    """Torch's small network, written by the peer, against ours with its weights."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "same.npz"
        peer.ask(f"same {path}")
        with np.load(path) as file:
            arrays = dict(file)
    return compare_arrays(arrays, small)


def compare_arrays(arrays: Weights, small: Setting) -> Same:
    """Output and gradients of ours against those in `arrays` (`input.*`, `param.*`, `grad.*`)."""
    config = dit_config(small)
    params = jax.tree.map(jnp.asarray, from_diffusers(_part(arrays, "param."), small))
    gradients = from_diffusers(_part(arrays, "grad."), small)
    given = _part(arrays, "input.")

    def ids(name: str) -> np.ndarray:
        return np.broadcast_to(given[name].astype(np.int32), (small.batch, *given[name].shape))

    inputs = {
        "image_tokens": given["hidden_states"],
        "image_ids": ids("img_ids"),
        "context_tokens": given["encoder_hidden_states"],
        "context_ids": ids("txt_ids"),
        "time": given["timestep"],
        "pooled": given["pooled_projections"],
        "target": given["target"],
    }
    step = jax.jit(jax.value_and_grad(forward_loss, argnums=1, has_aux=True), static_argnums=0)
    (_, output), ours = step(config, params, jax.tree.map(jnp.asarray, inputs))
    apart = jax.tree.map(_apart, ours, gradients)
    return Same(_apart(output, arrays["output"]), max(jax.tree.leaves(apart)))


def _apart(ours: Any, theirs: Float[np.ndarray, "..."]) -> float:
    """Largest difference over the largest value."""
    return float(np.max(np.abs(np.asarray(ours) - theirs)) / np.max(np.abs(theirs)))


def _part(arrays: Weights, prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def from_diffusers(weights: Weights, setting: Setting) -> Tree:
    """Weights of diffusers' FluxTransformer2DModel as our transformer's parameters."""
    head_dim = setting.hidden // setting.heads
    swapped = _linear(weights, "norm_out.linear")
    return {
        "img_in": _linear(weights, "x_embedder"),
        "txt_in": _linear(weights, "context_embedder"),
        "time_in": _embedder(weights, "time_text_embed.timestep_embedder"),
        "vector_in": _embedder(weights, "time_text_embed.text_embedder"),
        "double_blocks": _stacked(
            setting.double, lambda i: _double(weights, f"transformer_blocks.{i}", head_dim)
        ),
        "single_blocks": _stacked(
            setting.single, lambda i: _single(weights, f"single_transformer_blocks.{i}", head_dim)
        ),
        "final_layer": {
            # Diffusers has the scale first.
            "adaLN_modulation": {
                name: np.concatenate(np.split(value, 2, axis=-1)[::-1], axis=-1)
                for name, value in swapped.items()
            },
            "linear": _linear(weights, "proj_out"),
        },
    }


def _linear(weights: Weights, name: str) -> Tree:
    return {"kernel": weights[f"{name}.weight"].T, "bias": weights[f"{name}.bias"]}


def _embedder(weights: Weights, name: str) -> Tree:
    return {
        f"{ours}_layer": _linear(weights, f"{name}.linear_{number}")
        for number, ours in ((1, "in"), (2, "out"))
    }


def _stacked(count: int, block: Callable[[int], Tree]) -> Tree:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *map(block, range(count)))


def _heads_in(weights: Weights, names: list[str], head_dim: int) -> Tree:
    """Three projections as one: kernel [c, 3, h, d], bias [3, h, d]."""
    parts = [_linear(weights, name) for name in names]
    joined = {key: np.stack([part[key] for part in parts], axis=-2) for key in ("kernel", "bias")}
    return {key: value.reshape(*value.shape[:-1], -1, head_dim) for key, value in joined.items()}


def _heads_out(layer: Tree, head_dim: int) -> Tree:
    """A projection from the joined heads: kernel [h, d, c]."""
    kernel = layer["kernel"]
    return layer | {"kernel": kernel.reshape(-1, head_dim, kernel.shape[-1])}


def _norms(weights: Weights, query: str, key: str) -> Tree:
    return {
        "query_norm": {"scale": weights[f"{query}.weight"]},
        "key_norm": {"scale": weights[f"{key}.weight"]},
    }


def _double(weights: Weights, block: str, head_dim: int) -> Tree:
    found = {}
    for stream, (norm, inward, norms, outward, mlp) in _STREAMS.items():
        attention = f"{block}.attn"
        found[f"{stream}_mod"] = {"lin": _linear(weights, f"{block}.{norm}.linear")}
        found[f"{stream}_attn"] = {
            "qkv": _heads_in(weights, [f"{attention}.{name}" for name in inward], head_dim),
            "norm": _norms(weights, *(f"{attention}.{name}" for name in norms)),
            "proj": _heads_out(_linear(weights, f"{attention}.{outward}"), head_dim),
        }
        found[f"{stream}_mlp"] = {
            "in_layer": _linear(weights, f"{block}.{mlp}.net.0.proj"),
            "out_layer": _linear(weights, f"{block}.{mlp}.net.2"),
        }
    return found


def _single(weights: Weights, block: str, head_dim: int) -> Tree:
    last = _linear(weights, f"{block}.proj_out")
    hidden = last["kernel"].shape[-1]
    names = [f"{block}.attn.{name}" for name in ("to_q", "to_k", "to_v")]
    attention = {"kernel": last["kernel"][:hidden], "bias": last["bias"]}
    return {
        "modulation": {"lin": _linear(weights, f"{block}.norm.linear")},
        "linear1_qkv": _heads_in(weights, names, head_dim),
        "linear1_mlp": _linear(weights, f"{block}.proj_mlp"),
        "norm": _norms(weights, f"{block}.attn.norm_q", f"{block}.attn.norm_k"),
        "linear2_attn": _heads_out(attention, head_dim),
        "linear2_mlp": {"kernel": last["kernel"][hidden:]},
    }
