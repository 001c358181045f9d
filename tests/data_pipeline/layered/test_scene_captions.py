"""Captions say what is seen, nearest first."""

import numpy as np
import pytest

from data_pipeline.layered import LayeredSource, SceneStyle, textures
from data_pipeline.layered.captions import _place, caption
from data_pipeline.layered.composition import Composition
from data_pipeline.layered.parts import Part
from data_pipeline.layered.silhouettes import NUMBERS

SIZE_PX = 24


def _part(role, words, box=None, value=255) -> Part:
    alpha = np.zeros((SIZE_PX, SIZE_PX), np.uint8)
    alpha[box or (slice(None), slice(None))] = value
    return Part(role=role, kind="any", alpha=alpha, words=words)


def _scene(parts, names, depths) -> Composition:
    layers = np.stack([np.dstack([np.zeros((SIZE_PX, SIZE_PX, 3)), p.alpha]) for p in parts])
    planes = np.array([[0, 0, depth] for depth in depths], np.float32)
    return Composition(
        layers=layers.astype(np.uint8),
        planes=planes,
        gains=np.ones(len(parts), np.float32),
        parts=tuple(parts),
        photographs=tuple(names),
    )


def test_a_caption_names_things_places_and_distances():
    left, right = np.s_[8:16, 0:6], np.s_[0:6, 18:24]
    scene = _scene(
        [
            _part("thing", "a star", left),
            _part("lights", "small lights", np.s_[20:22, 10:12]),
            _part("translucent", "smoke", value=90),
            _part("thing", "a ring", right),
            _part("backdrop", "a backdrop"),
        ],
        ["brick", None, None, "rocket", "page"],
        [0.9, 0.7, 0.6, 0.3, 0.1],
    )
    words = {"rocket": "a rocket on its launch pad", "page": "printed text"}
    assert caption(scene, words) == (
        "Two things, nearest first: a star of brick at the left, near, in front of small lights, "
        "in front of smoke, in front of a ring showing a rocket on its launch pad at the top "
        "right, far, before a backdrop of printed text."
    )


def test_what_is_hidden_is_not_named():
    scene = _scene(
        [
            _part("thing", "a star", np.s_[0:12, 0:12]),
            _part("thing", "a ring", np.s_[2:8, 2:8]),
            _part("backdrop", "a backdrop"),
        ],
        ["brick", "grass", "page"],
        [0.9, 0.5, 0.1],
    )
    assert caption(scene, {}) == (
        "One thing, nearest first: a star of brick at the top left, near, before a backdrop of "
        "page."
    )


@pytest.mark.parametrize(
    ("box", "words"),
    [
        (np.s_[10:14, 10:14], "in the centre"),
        (np.s_[0:4, 10:14], "at the top"),
        (np.s_[20:24, 0:4], "at the bottom left"),
        (np.s_[10:14, 20:24], "at the right"),
    ],
)
def test_places_are_thirds_of_the_frame(box, words):
    share = np.zeros((SIZE_PX, SIZE_PX))
    share[box] = 1
    assert _place(share) == words


def test_captions_of_random_scenes_mention_all_that_is_seen_nearest_first():
    style = SceneStyle(transparency_rate=0.5, lights_rate=0.5, hair_rate=0.2)
    source = LayeredSource(size_px=SIZE_PX, seed=11, style=style, textures=textures.load_textures())
    for index in range(20):
        made = source.composition("eval_heldout", index)
        said = source.scene("eval_heldout", index).caption
        position = 0
        for part, name in zip(made.parts, made.photographs, strict=True):
            position = said.index(part.words, position) + len(part.words)
            if name is not None:
                position = said.index(textures.WORDS[name], position)
        things = sum(part.role == "thing" for part in made.parts)
        assert said.lower().startswith(f"{NUMBERS[things]} thing")
        assert said.count("in front of") == len(made.parts) - 2
        assert said == source.scene("eval_heldout", index).caption
