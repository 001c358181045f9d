"""Starting from another run's parameters."""

import dataclasses

import jax
import numpy as np
import pytest

from bokeh_jax.errors import InvalidInput
from bokeh_jax.leaf_names import leaves_by_name, match
from bokeh_jax.training import checkpoint, sharding
from bokeh_jax.training.checkpoint import parse_source
from bokeh_jax.training.saver import open_saver
from bokeh_jax.training.start import initial_state
from bokeh_jax.training.state import create_state, make_optimizer
from bokeh_jax.training.train import train
from bokeh_jax.training.warm_start import warm_state


def of_model(config, **model):
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **model))


def started_from(config, source, **training):
    # The step itself is that of the tiny run: it need not be compiled again.
    changes = {"init_from": str(source)} | training
    return dataclasses.replace(config, training=dataclasses.replace(config.training, **changes))


@pytest.fixture(scope="module")
def source(tiny, tmp_path_factory):
    """A run's folder, saved at 3 and 5, whose average is not its parameters."""
    workdir = tmp_path_factory.mktemp("runs") / "source"
    state = jax.jit(lambda: create_state(dataclasses.replace(tiny, seed=9)))()
    state = dataclasses.replace(state, ema=jax.tree.map(lambda leaf: leaf + 0.25, state.params))
    with open_saver(workdir, tiny) as saver:
        for step in (3, 5):
            saver.save(state, checkpoint.DataPosition(step, 9, "of another dataset"))
            state = dataclasses.replace(state, params=jax.tree.map(lambda x: 2.0 * x, state.params))
    return workdir


def test_parameters_are_matched_by_name_and_shape():
    there = {"a": (2, 3), "b": (4,), "c": ()}
    here = {"b": (5,), "a": (2, 3), "d": (1, 7)}
    found = match(there, here)
    assert found.matched == {"a": (2, 3)}
    assert found.other_shape == {"b": ((4,), (5,))}
    assert found.only_here == {"d": (1, 7)}
    assert found.only_there == {"c": ()}
    assert found.lines() == [
        "  taken       a 2x3",
        "  fresh       b 5: 4 in the checkpoint",
        "  fresh       d 1x7: not in the checkpoint",
        "  left out    c scalar: only in the checkpoint",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("runs/a", ("runs/a", None)),
        ("runs/a@300", ("runs/a", 300)),
        ("gs://bucket/a@7", ("gs://bucket/a", 7)),
        ("me@home/a", ("me@home/a", None)),
    ],
)
def test_a_source_is_a_workdir_with_or_without_a_step(text, expected):
    assert parse_source(text) == expected


def test_another_model_takes_what_it_shares(tiny, source):
    # Blocks of a scanned stack lie in one array: two of them are of another shape than one.
    config = started_from(of_model(tiny, num_single_blocks=2), f"{source}@3")
    mesh = sharding.make_mesh(config.mesh)
    state, said = warm_state(config, mesh)
    theirs = leaves_by_name(checkpoint.load_params(source, 3, use_ema=True))
    fresh = leaves_by_name(jax.jit(lambda: create_state(config).params)())
    mine = leaves_by_name(state.params)
    taken = [name for name in mine if "single_blocks" not in name]
    assert 0 < len(taken) < len(mine)
    for name, leaf in mine.items():
        expected = theirs[name] if name in taken else fresh[name]
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(expected), err_msg=name)
    assert f"{len(taken)} of {len(mine)} parameters from" in said[0]
    assert len(said) == 1 + len(mine)
    assert any(line.startswith("  fresh ") and "single_blocks" in line for line in said)
    # The rest is of a run that begins.
    assert int(state.step) == 0
    for name, leaf in leaves_by_name(state.ema).items():
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(mine[name]), err_msg=name)
    begun = make_optimizer(config).init(state.params)
    assert jax.tree.structure(begun) == jax.tree.structure(state.opt_state)
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(state.opt_state))


def test_the_raw_parameters_are_taken_where_asked_for(tiny, source):
    config = started_from(tiny, source, init_from_ema=False)
    state, said = warm_state(config, sharding.make_mesh(config.mesh))
    raw = leaves_by_name(checkpoint.load_params(source, 5, use_ema=False))
    for name, leaf in leaves_by_name(state.params).items():
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(raw[name]), err_msg=name)
    assert "(raw)" in said[0]


def test_a_model_that_shares_nothing_is_refused(tiny, source):
    other = of_model(tiny, patch_size=2, hidden_dim=64, rope_axes_dim=(8, 12, 12))
    with pytest.raises(InvalidInput, match=r"of whose \d+ parameters none has a name and shape"):
        warm_state(started_from(other, source), sharding.make_mesh(tiny.mesh))


@pytest.mark.parametrize(
    ("suffix", "named"), [("@4", r"step 4 is not in .*allowed: 3, 5"), ("x", "holds no checkpoint")]
)
def test_a_source_that_is_not_there_is_named(tiny, source, suffix, named):
    config = started_from(tiny, f"{source}{suffix}")
    with pytest.raises(InvalidInput, match=named):
        warm_state(config, sharding.make_mesh(tiny.mesh))


def test_the_own_checkpoint_goes_before_the_source_and_the_source_before_fresh(
    tiny, source, tmp_path, capsys
):
    config = started_from(tiny, source)
    trained = train(config, tmp_path, visible=False).state
    said = capsys.readouterr().out
    assert f"parameters from {source}/checkpoints/5 (averaged)" in said
    assert "\n  taken " in said
    # It trained from there: steps this small do not lead back.
    theirs = leaves_by_name(checkpoint.load_params(source, 5))
    for name, leaf in leaves_by_name(trained.params).items():
        np.testing.assert_allclose(np.asarray(leaf), np.asarray(theirs[name]), atol=0.02)
    longer = started_from(tiny, tmp_path / "not there")
    record = checkpoint.read_step(tmp_path, 12).record
    mesh = sharding.make_mesh(tiny.mesh)
    state, position = initial_state(longer, tmp_path, mesh, record.position.dataset_fingerprint)
    assert int(state.step) == position.next_step == 12
    assert f"resumed from {tmp_path} at step 12" in capsys.readouterr().out
