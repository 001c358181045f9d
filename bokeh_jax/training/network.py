"""Which parameters an experiment has, which of them it trains, and how the frozen ones are kept.

    network = frozen ∪ trained          two trees of dicts without a leaf in common

    task 'autoencoder'           codec: trained
    task 'focus'                 focus: trained
    task 'refocus'               dit, camera, defocus_in: trained;  codec: frozen
    task 'generate'              dit, text, exif_tokens: trained;   codec: frozen
    task 'depth'                 depth: trained
    task 'defocus'               dit, text, focus, fake, head: trained;
                                 depth, teacher, codec: frozen, and unless matching.scenes is
                                 'made' dit and text; with score_weight=0 fake
    … with adapters (LoRA)       adapters, camera, defocus_in: trained;  codec: frozen;  the rest of
                                 dit: frozen, its kernels and biases in bfloat16

What is frozen has no optimizer state, no average and no place in checkpoints: it is an argument of
the step beside the state, and comes again from where it came first (`frozen`).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from bokeh_jax import models
from bokeh_jax.config import ExperimentConfig
from bokeh_jax.leaf_names import leaves_by_name, tree_by_name
from bokeh_jax.models import (
    autoencoder,
    byte_text,
    depth_anything,
    exif_tokens,
    focus_transformer,
    photo_head,
)
from bokeh_jax.models.codec import CODEC
from bokeh_jax.models.exif_tokens import EXIF_TOKENS
from bokeh_jax.models.focus_transformer import FOCUS
from bokeh_jax.models.lora import is_adapter, joined
from bokeh_jax.models.photo_head import HEAD
from bokeh_jax.objectives.depth import DEPTH
from bokeh_jax.objectives.distribution_matching import FAKE, TEACHER
from bokeh_jax.objectives.generate import TEXT
from bokeh_jax.training.rng import step_key

Tree = dict[str, Any]

TRANSFORMER = "dit"
# Scales of norms, few numbers that enter in float32, stay as they are.
_HALVED = ("kernel", "bias")


def init_network(config: ExperimentConfig, key: Key[Array, ""]) -> Tree:
    """Fresh values of all parameters, frozen ones too; pure, may be traced and cut to a part."""
    tree: Tree = {}
    if config.task == "refocus":
        side = config.model.patch_size
        tree |= models.init_params(config.model, key, side, side)
    if config.has_generator:
        tree |= models.init_params(config.model, key, side := config.model.patch_size, side, False)
        tree |= _init_told(config, key, config.generation.exif_tokens)
    if config.task in ("depth", "defocus"):
        tree[DEPTH] = depth_anything.init_params(config.depth, key)
    if config.task in ("focus", "defocus"):
        tree[FOCUS] = focus_transformer.init_params(config.focus, key)
    if config.task == "defocus":
        tree |= {name: _init_scores(config, key) for name in (TEACHER, FAKE)}
        tree[HEAD] = photo_head.init_params(config.head, jax.random.fold_in(key, 4))
    if config.codec.kind == "autoencoder":
        # A stream of its own.
        codec_key = jax.random.fold_in(key, 1)
        tree[CODEC] = autoencoder.init_params(config.codec.autoencoder, codec_key)
    return _halved(config, tree)


def _init_told(config: ExperimentConfig, key: Key[Array, ""], exif: bool) -> Tree:
    """What tells a generator of prompts and, where so, of cameras; streams of their own."""
    tree: Tree = {}
    if config.generation.text_from == "bytes":
        tree[TEXT] = byte_text.init_params(config.text, jax.random.fold_in(key, 2))
    if exif:
        width = config.text_width
        tree[EXIF_TOKENS] = exif_tokens.init_params(width, jax.random.fold_in(key, 3))
    return tree


def _init_scores(config: ExperimentConfig, key: Key[Array, ""]) -> Tree:
    """A generator of photographs with EXIF; teacher and fake score start at the same values."""
    side, own = config.model.patch_size, jax.random.fold_in(key, 5)
    return models.init_params(config.model, own, side, side, False) | _init_told(config, own, True)


def _told_axes(config: ExperimentConfig, exif: bool) -> Tree:
    """As `_init_told`, names of axes in the parameters' places."""
    tree: Tree = {}
    if config.generation.text_from == "bytes":
        tree[TEXT] = byte_text.parameter_axes(config.text)
    if exif:
        tree[EXIF_TOKENS] = exif_tokens.parameter_axes(config.text_width)
    return tree


def fresh_network(config: ExperimentConfig) -> Tree:
    """All parameters as the config's seed makes them; pure."""
    return init_network(config, step_key(config.seed, "init", 0))


@functools.lru_cache(maxsize=8)
def abstract_network(config: ExperimentConfig) -> Tree:
    """Shapes and types of all parameters; kept, as every part of a start asks for them."""
    return jax.eval_shape(lambda: fresh_network(config))


@functools.lru_cache(maxsize=8)
def network_axes(config: ExperimentConfig) -> Tree:
    """A tree like the network's with a `PartitionSpec` of axis names in each parameter's place."""
    tree: Tree = {}
    if config.task == "refocus":
        tree |= models.parameter_axes(config.model)
    if config.has_generator:
        tree |= models.parameter_axes(config.model, camera=False)
        tree |= _told_axes(config, config.generation.exif_tokens)
    if config.task in ("depth", "defocus"):
        tree[DEPTH] = depth_anything.parameter_axes(config.depth)
    if config.task in ("focus", "defocus"):
        tree[FOCUS] = focus_transformer.parameter_axes(config.focus)
    if config.task == "defocus":
        score = models.parameter_axes(config.model, camera=False) | _told_axes(config, True)
        tree |= {TEACHER: score, FAKE: score}
        tree[HEAD] = photo_head.parameter_axes(config.head)
    if config.codec.kind == "autoencoder":
        tree[CODEC] = autoencoder.parameter_axes(config.codec.autoencoder)
    return tree


def is_trained(config: ExperimentConfig, name: str) -> bool:
    """Whether the parameter of this name (its keys joined by "/") is trained."""
    if config.task == "autoencoder":
        return True
    part = name.split("/")[0]
    if config.task == "defocus" and part in _frozen_in_matching(config):
        return False
    if part == CODEC:
        return False
    return part != TRANSFORMER or not config.model.lora.rank or is_adapter(name)


def _frozen_in_matching(config: ExperimentConfig) -> set[str]:
    """Parts of the task 'defocus' that are not trained."""
    frozen = {DEPTH, TEACHER}
    if config.matching.scenes != "made":
        frozen |= {TRANSFORMER, TEXT}
    if not config.matching.score_weight:
        frozen |= {FAKE}
    return frozen


def trained_part(config: ExperimentConfig, tree: Tree) -> Tree:
    """The trained leaves of a tree like the network's."""
    return tree_by_name(
        {name: leaf for name, leaf in leaves_by_name(tree).items() if is_trained(config, name)}
    )


def frozen_part(config: ExperimentConfig, tree: Tree) -> Tree:
    """The other leaves; empty where all is trained."""
    return tree_by_name(
        {name: leaf for name, leaf in leaves_by_name(tree).items() if not is_trained(config, name)}
    )


def whole(frozen: Tree, trained: Tree) -> Tree:
    """The network of both parts."""
    return joined(frozen, trained)


def filled(placed: Tree, found: Mapping[str, jax.Array], fresh: Callable[[], Tree]) -> Tree:
    """Parameters for every place: those that were found, the rest fresh.

    Args:
        placed: shapes, types and places.
        found: by name.
        fresh: traced; a tree that has at least the missing ones.
    """
    places = leaves_by_name(placed)
    missing = [name for name in places if name not in found]

    def rest() -> Tree:
        leaves = leaves_by_name(fresh())
        return {name: leaves[name] for name in missing}

    # What is found is not computed: the compiler drops it.
    made = jax.jit(rest, out_shardings={name: places[name].sharding for name in missing})()
    return tree_by_name({name: found.get(name, made.get(name)) for name in places})


def _halved(config: ExperimentConfig, tree: Tree) -> Tree:
    """Frozen matrices and biases of the transformer in bfloat16."""

    def cast(name: str, leaf: Any) -> Any:
        base = name.startswith(f"{TRANSFORMER}/") and not is_trained(config, name)
        return leaf.astype(jnp.bfloat16) if base and name.endswith(_HALVED) else leaf

    return tree_by_name({name: cast(name, leaf) for name, leaf in leaves_by_name(tree).items()})
