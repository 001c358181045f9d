"""Embeddings of captions: each once, at every scene that has it, and no other in its place."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from ml_dtypes import bfloat16
from toy_build import COUNTS, files_of
from toy_source import ToySource
from toy_text import ToyEncoder

from bokeh_jax.errors import InvalidInput
from data_pipeline.builder import Progress, build
from data_pipeline.dataset import dataset_info, load_split, open_split
from data_pipeline.loader import LoaderConfig, make_loader, shapes
from data_pipeline.text_encoder import TextShape

# Layered scenes have captions of their own (some in several splits), photographs one for all.
NUM_CAPTIONS = 21


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    path = tmp_path_factory.mktemp("spoken") / "scenes"
    seen = []
    encoder = ToyEncoder()
    summary = build(
        ToySource(),
        path,
        counts=COUNTS,
        num_workers=0,
        text_encoder=encoder,
        on_progress=seen.append,
    )
    assert seen[-1] == Progress(47, 47, 1, 1, NUM_CAPTIONS, NUM_CAPTIONS)
    assert Progress(47, 47, 1, 1, 16, NUM_CAPTIONS) in seen
    assert len(encoder.asked) == len(set(encoder.asked)) == NUM_CAPTIONS
    assert str(summary.info.text) == "21 captions as 3 tokens of 4, pooled 5, by toy 000000000000"
    return path


def expected(caption: str):
    return [value.astype(bfloat16) for value in ToyEncoder().embedding(caption)]


@pytest.mark.parametrize("split", COUNTS)
def test_every_scene_has_its_captions_embeddings(spoken, split):
    reader = open_split(spoken, split, text=True)
    for position in range(len(reader)):
        scene, caption = reader[position], reader.values(position)["caption"].decode()
        assert caption.startswith("noise")
        for name, value in zip(("text", "pooled"), expected(caption), strict=True):
            assert scene[name].dtype == bfloat16
            np.testing.assert_array_equal(scene[name], value)
    assert "text" not in load_split(spoken, split)
    assert load_split(spoken, split, text=True)["pooled"].shape[1:] == (5,)


def test_scenes_are_those_of_a_build_without_text(built, spoken):
    other = files_of(built)
    for name, content in files_of(spoken).items():
        assert "array_record" not in name or name.startswith("captions") or other[name] == content
    infos = dataset_info(built), dataset_info(spoken)
    assert infos[0].text is None
    assert infos[0].splits == infos[1].splits
    assert infos[0].fingerprint != infos[1].fingerprint
    assert "text" not in load_split(built, "train", text=True)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_have_text_where_it_is_wanted(spoken, num_workers):
    config = LoaderConfig(spoken, "train", 4, num_workers=num_workers, text=True)
    assert {shape.text for shape in shapes(config)} == {TextShape(3, 4, 5)}
    loader = make_loader(config)
    batch = next(loader)
    assert (batch["text"].shape, batch["text"].dtype) == ((4, 3, 4), bfloat16)
    reader = open_split(spoken, "train")
    for row, position in enumerate(batch["scene_id"].tolist()):
        text, pooled = expected(reader.values(position)["caption"].decode())
        np.testing.assert_array_equal(batch["text"][row], text)
        np.testing.assert_array_equal(batch["pooled"][row], pooled)
    loader.close()
    without = dataclasses.replace(config, text=False, num_workers=0)
    assert {shape.text for shape in shapes(without)} == {None}
    loader = make_loader(without)
    assert not {"text", "pooled"} & set(next(loader))
    loader.close()


def test_stopped_encoding_goes_on_where_it_was(spoken, tmp_path):
    out, last = tmp_path / "out", f"noise {COUNTS['train'] - 2}"
    args = {"counts": COUNTS, "num_workers": 0}
    with pytest.raises(InvalidInput, match="encoder stopped"):
        build(ToySource(), out, text_encoder=ToyEncoder(breaks_at=last), **args)
    assert not out.exists()
    encoder = ToyEncoder()
    build(ToySource(), out, text_encoder=encoder, **args)
    assert 0 < len(encoder.asked) < NUM_CAPTIONS
    assert files_of(out) == files_of(spoken)
    assert build(ToySource(), out, text_encoder=ToyEncoder(), **args).reused


@pytest.mark.parametrize("other", [None, ToyEncoder(TextShape(2, 4, 5))])
def test_other_text_is_another_recipe(spoken, other):
    with pytest.raises(InvalidInput, match="a dataset of another recipe"):
        build(ToySource(), spoken, counts=COUNTS, text_encoder=other)


def test_text_does_not_replace_a_dataset_without(built):
    with pytest.raises(InvalidInput, match="a dataset of another recipe"):
        build(ToySource(), built, counts=COUNTS, text_encoder=ToyEncoder())


def test_unusable_encoder_is_refused_before_scenes_are_made(tmp_path):
    with pytest.raises(InvalidInput, match="encoder is broken"):
        build(ToySource(), tmp_path / "out", counts=COUNTS, text_encoder=ToyEncoder(usable=False))
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Broken(ToyEncoder):
        def __call__(self, captions):
            text, pooled = super().__call__(captions)
            return text, pooled * np.float32(np.nan)

    with pytest.raises(InvalidInput, match=r"embeddings of caption 'noise.*' are not finite"):
        build(
            ToySource(), tmp_path / "out", counts={"train": 3}, num_workers=0, text_encoder=Broken()
        )


@pytest.fixture
def harmed(spoken, tmp_path):
    return shutil.copytree(spoken, tmp_path / "scenes")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda p: next(p.glob("captions.array*")).unlink(), "are 5 of 21 captions'; allowed"),
        (lambda p: (p / "captions_train.npy").unlink(), "captions_train.npy cannot be read"),
        (lambda p: np.save(p / "captions_train.npy", np.zeros(3, np.int32)), "npy disagrees with"),
        (
            lambda p: np.save(p / "captions_train.npy", np.full(38, NUM_CAPTIONS, np.int32)),
            "npy disagrees with",
        ),
    ],
)
def test_missing_embeddings_are_one_line(harmed, harm, message):
    open_split(harmed, "train", text=True)
    harm(harmed)
    with pytest.raises(InvalidInput, match=message):
        open_split(harmed, "train", text=True)
    open_split(harmed, "train")


def test_embeddings_of_another_caption_are_refused(harmed):
    file = harmed / "captions_train.npy"
    np.save(file, np.roll(np.load(file), 1))
    reader = open_split(harmed, "train", text=True)
    with pytest.raises(
        InvalidInput, match=r"record 0 of shard .* embeddings are another caption's"
    ):
        reader[0]


def test_embeddings_of_another_size_are_refused(harmed):
    metadata = json.loads((harmed / "metadata.json").read_text())
    metadata["text"]["pooled_dim"] = 6
    (harmed / "metadata.json").write_text(json.dumps(metadata))
    reader = open_split(harmed, "train", text=True)
    with pytest.raises(InvalidInput, match=r"its caption's embeddings have 66 bytes"):
        reader[0]


def test_metadata_that_lacks_a_size_is_damaged(harmed):
    metadata = json.loads((harmed / "metadata.json").read_text())
    del metadata["text"]["token_dim"]
    (harmed / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(InvalidInput, match=r"damaged metadata.json \('token_dim'\)"):
        dataset_info(harmed)


def test_every_group_has_text(spoken):
    groups = dataset_info(spoken).splits["train"]
    for number, group in enumerate(groups):
        batch = load_split(spoken, "train", limit=2, group=number, text=True)
        assert len(batch["text"]) == 2, group
