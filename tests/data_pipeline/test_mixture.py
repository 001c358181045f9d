"""Several sources as one dataset: who makes which candidate, by what name and weight."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_source import ToySource, stored_indices

from bokeh_jax.errors import InvalidInput
from data_pipeline.builder import build
from data_pipeline.dataset import dataset_info, load_split, open_split, read_metadata
from data_pipeline.mixture import MixtureSource, Part
from data_pipeline.source import SPLITS

FIRST, SECOND = ToySource(seed=1, name="first"), ToySource(seed=2, name="second", endless=False)


def mixture(*counts: int, **fields) -> MixtureSource:
    parts = [Part(ToySource(i, f"s{i}"), {"train": n}, **fields) for i, n in enumerate(counts)]
    return MixtureSource(tuple(parts))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=5).filter(any))
def test_candidates_are_those_of_each_part_one_after_the_other(counts):
    mixed = mixture(*counts)
    expected = [(f"s{part}", index) for part, n in enumerate(counts) for index in range(n)]
    assert mixed.num_scenes("train") == len(expected)
    assert mixed.num_scenes("eval_seen") == 0
    for index, (name, own) in enumerate(expected):
        assert mixed.part_name("train", index) == name
        scene = ToySource(int(name[1:])).scene("train", own)
        assert mixed.scene("train", index).caption == scene.caption
        assert mixed.scene("train", index).frame == scene.frame


def test_all_of_a_finite_source_and_what_is_asked_of_an_endless_one(tmp_path):
    mixed = MixtureSource((Part(FIRST, {"train": 3, "eval_seen": 2}), Part(SECOND, weight=0.5)))
    assert [mixed.num_scenes(split) for split in SPLITS] == [23, 2, 4]
    build(mixed, tmp_path / "out", num_workers=2)
    info = dataset_info(tmp_path / "out")
    found = {
        split: {
            name: sum(g.num_scenes for g in groups if g.source == name)
            for name in ("first", "second")
        }
        for split, groups in info.splits.items()
    }
    assert found["train"] == {"first": 3, "second": 18}
    assert found["eval_seen"] == {"first": 2, "second": 0}
    assert found["eval_heldout"] == {"first": 0, "second": 4}
    assert info.weights == {"first": 1.0, "second": 0.5}
    assert len({g.source for g in info.splits["train"]}) == 2
    parts = read_metadata(tmp_path / "out")["recipe"]["parts"]
    assert [(part["name"], part["counts"]["train"]) for part in parts] == [
        ("first", 3),
        ("second", 20),
    ]
    assert parts[1]["recipe"] == SECOND.recipe()


def test_another_part_renumbers_nothing(tmp_path):
    first = Part(FIRST, {"train": 20})
    build(MixtureSource((first,)), tmp_path / "one", num_workers=0)
    build(MixtureSource((first, Part(SECOND))), tmp_path / "two", num_workers=0)
    one, two = (open_split(tmp_path / name, "train") for name in ("one", "two"))
    assert len(one) == len(stored_indices(20)) == 18
    assert [two.records[i] for i in range(18)] == [one.records[i] for i in range(18)]
    sources = [two.values(position)["source"] for position in range(len(two))]
    assert sources == [b"first"] * 18 + [b"second"] * 18
    # Indices in the manifest are those of the mixture: 5 and 9 of each part.
    lines = (tmp_path / "two" / "manifest.jsonl").read_text().splitlines()
    train = [json.loads(line) for line in lines if json.loads(line)["split"] == "train"]
    assert [line["index"] for line in train] == [5, 9, 25, 29]


def test_the_most_layers_are_each_source_s_own(tmp_path):
    """Padding to another source's layers would only cost time and memory."""
    mixed = MixtureSource((Part(FIRST, {"train": 9}), Part(Flat(), {"train": 9}, weight=2.0)))
    build(mixed, tmp_path / "out", num_workers=0)
    groups = dataset_info(tmp_path / "out").splits["train"]
    layers = {g.source: g.max_layers for g in groups if g.kind == "layered"}
    assert layers == {"first": 4, "flat": 2}
    assert {g.max_layers for g in groups if g.kind == "photographs"} == {0}
    assert groups[2].source == "flat"
    batch = load_split(tmp_path / "out", "train", group=2)
    assert batch["layers"].shape[1] == 2


@dataclasses.dataclass(frozen=True)
class Flat(ToySource):
    """Layered scenes of two layers only."""

    name: str = "flat"

    def scene(self, split, index):
        scene = super().scene(split, 6)
        return dataclasses.replace(
            scene,
            layers=np.repeat(scene.layers[-1:], 2, axis=0),
            layer_disparity=scene.layer_disparity[:2],
            layer_gain=scene.layer_gain[:2],
        )


def test_weights_change_no_scene_but_are_part_of_the_dataset(tmp_path):
    build(mixture(3, 2, weight=1.0), tmp_path / "out", num_workers=0)
    with pytest.raises(InvalidInput, match="of another recipe"):
        build(mixture(3, 2, weight=2.0), tmp_path / "out", num_workers=0)
    build(mixture(3, 2, weight=2.0), tmp_path / "two", num_workers=0)
    one, two = (read_metadata(tmp_path / name) for name in ("out", "two"))
    assert one["splits"] == two["splits"]
    assert two["weights"] == {"s0": 2.0, "s1": 2.0}
    # Where nothing is said, nothing is stored: scenes count alike, whatever part they are of.
    assert mixture(3, 2).weights == {}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MixtureSource(()), "sources of a mixture are none; allowed: at least one"),
        (
            lambda: MixtureSource((Part(FIRST, {"train": 1}), Part(SECOND, name="first"))),
            "sources of a mixture are first, first; allowed: .* different names",
        ),
        (lambda: Part(FIRST), "counts is None; allowed for endless first scenes: numbers"),
        (lambda: Part(SECOND, {"train": 21}), r"counts\['train'\] is 21; allowed: 0 to 20"),
        (lambda: Part(SECOND, {"test": 1}), "split is 'test'; allowed: train"),
        (lambda: Part(SECOND, name="a b"), "name of a source is 'a b'; allowed: letters"),
        (lambda: Part(SECOND, weight=0.0), "weight of second is 0.0; allowed: above 0"),
        (lambda: Part(SECOND, weight=float("nan")), "weight of second is nan; allowed: above 0"),
    ],
)
def test_bad_values_are_refused(make, message):
    with pytest.raises(InvalidInput, match=message):
        make()
