"""Captions in plain words, from what was drawn and what of it is seen.

Two things, nearest first: a five-pointed star of brick at the left, near, in front of small
lights, in front of a ring of grass in the centre, before a backdrop of printed text.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Float32

from data_pipeline.layered.composition import Composition
from data_pipeline.layered.parts import Part
from data_pipeline.layered.silhouettes import NUMBERS

# Disparity, relative, from which a thing is near and up to which it is far.
NEAR, FAR = 0.67, 0.33
# The light of a layer counts as seen from this share of the frame.
LEAST_SEEN = 1e-4


def caption(composition: Composition, words: Mapping[str, str]) -> str:
    """Describe a scene: its things, lights and panes, nearest first, and what lies behind.

    Args:
        composition: the scene.
        words: what photographs are called; by their names where this says nothing.
    """
    shares = composition.seen()
    disparity = _middle_disparity(composition)
    said, things = [], 0
    described = zip(composition.parts, composition.photographs, shares, disparity, strict=True)
    for part, name, share, depth in described:
        if share.mean() < LEAST_SEEN:
            continue
        things += part.role == "thing"
        said.append(
            _describe(part, None if name is None else words.get(name, name), share, float(depth))
        )
    count = "One thing" if things == 1 else f"{NUMBERS[things].capitalize()} things"
    before = ", in front of ".join(said[:-1])
    return f"{count}, nearest first: {before}, before {said[-1]}."


def _describe(
    part: Part, material: str | None, share: Float[np.ndarray, "h w"], depth: float
) -> str:
    if part.role == "backdrop":
        return _made_of(part.words, material)
    if part.role == "lights":
        return part.words
    if part.role == "translucent":
        return part.words if material is None else f"{part.words} showing {material}"
    distance = ", near" if depth >= NEAR else ", far" if depth <= FAR else ""
    return f"{_made_of(part.words, material)} {_place(share)}{distance}"


def _made_of(words: str, material: str | None) -> str:
    """A ring of brick, but a ring showing a rocket."""
    counted = material is not None and material.lower().startswith(("a ", "an ", "the "))
    return f"{words} {'showing' if counted else 'of'} {material}"


def _place(share: Float[np.ndarray, "h w"]) -> str:
    """Where the middle of what is seen lies, in thirds of the frame."""
    height, width = share.shape
    total = share.sum()
    x = (share.sum(axis=0) @ (np.arange(width) + 0.5)) / total / width
    y = (share.sum(axis=1) @ (np.arange(height) + 0.5)) / total / height
    across = "left" if x < 1 / 3 else "right" if x > 2 / 3 else ""
    down = "top" if y < 1 / 3 else "bottom" if y > 2 / 3 else ""
    if not across and not down:
        return "in the centre"
    return f"at the {down} {across}".replace("  ", " ").rstrip()


def _middle_disparity(composition: Composition) -> Float32[np.ndarray, " l"]:
    height, width = composition.layers.shape[1:3]
    return composition.planes @ np.array([width / 2, height / 2, 1], np.float32)
