"""Which rows a batch holds: shares, spread, epochs, positions."""

import pickle
import time
from collections import Counter

import pytest

from bokeh_jax.errors import InvalidInput
from data_pipeline.dataset import Group
from data_pipeline.order import make_order
from data_pipeline.turns import MAX_CYCLE


def _photos(source: str, count: int, height_px: int = 32, width_px: int = 32) -> Group:
    return Group("photographs", source, height_px, width_px, 0, count)


def _layered(source: str, count: int, max_layers: int = 3) -> Group:
    return Group("layered", source, 32, 32, max_layers, count)


MIXED = (
    _layered("scenes", 7, max_layers=3),
    _layered("more", 4, max_layers=5),
    _photos("photos", 10),
    _photos("photos", 5, 24, 40),
    _photos("phone", 6, 24, 40),
)


def test_shapes_are_listed_with_their_shares():
    order = make_order(MIXED, 4, seed=0)
    found = [(s.kind, s.height_px, s.width_px, s.max_layers, s.share) for s in order.shapes]
    assert found == [
        ("layered", 32, 32, 5, 11 / 32),
        ("photographs", 24, 40, 0, 11 / 32),
        ("photographs", 32, 32, 0, 10 / 32),
    ]
    assert str(order.shapes[0]) == "layered 32x32 px, 5 layers"
    assert str(order.shapes[1]) == "photographs 24x40 px"


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("seed", [None, 0])
def test_every_epoch_of_every_group_holds_every_scene_once(batch_size, seed):
    order = make_order(MIXED, batch_size, seed)
    drawn: dict[int, list[int]] = {number: [] for number in range(len(MIXED))}
    shapes: Counter[int] = Counter()
    for step in range(3 * 32):
        rows = order.rows(step, range(batch_size))
        shapes[order.shape_at(step)] += 1
        assert len(rows) == batch_size
        assert all(number in order.groups[order.shape_at(step)] for number, _ in rows)
        for number, scene in rows:
            drawn[number].append(scene)
    assert [shapes[shape] for shape in range(3)] == [33, 33, 30]
    for number, scenes in drawn.items():
        count = MIXED[number].num_scenes
        # Three cycles of batches are `batch_size` times three epochs of each group.
        assert len(scenes) == 3 * count * batch_size
        epochs = [scenes[i : i + count] for i in range(0, len(scenes), count)]
        assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
        assert seed is None or len({tuple(epoch) for epoch in epochs}) > 1


def test_positions_are_exact():
    order = make_order(MIXED, 3, seed=0)
    rows: Counter[int] = Counter()
    for step in range(80):
        at = order.position_at(step)
        shape = order.shape_at(step)
        assert at.shape == order.shapes[shape]
        total = sum(rows[number] for number in order.groups[shape])
        scenes = sum(MIXED[number].num_scenes for number in order.groups[shape])
        assert (at.epoch, at.within) == divmod(total, scenes)
        assert [(g.group, g.epoch, g.within) for g in at.groups] == [
            (MIXED[number], *divmod(rows[number], MIXED[number].num_scenes))
            for number in order.groups[shape]
        ]
        rows.update(number for number, _ in order.rows(step, range(3)))
    at = make_order(MIXED[2:3], 4, seed=0).position_at(6)
    assert str(at) == "photographs 32x32 px: photos epoch 2, scene 4 of 10"


def test_any_part_of_any_batch_is_found_at_once():
    """As fast, and the same, at step 10¹¹ of 10⁷ scenes as at the start; picklable."""
    order = make_order([_photos("a", 10**7), _photos("b", 1000, 16, 16)], 32, seed=3)
    # Reaching it draws nothing of what comes before.
    start = time.monotonic()
    whole = order.rows(10**11, range(32))
    parts = pickle.loads(pickle.dumps(order)).rows(10**11, range(8, 24))
    assert order.position_at(10**11).epoch > 1000
    assert time.monotonic() - start < 1
    assert whole[8:24] == parts
    assert len(set(whole)) == 32


def test_given_weights_decide_the_share_of_a_source():
    """Half and half, though there are twice as many photographs, in three shapes."""
    order = make_order(MIXED, 4, 0, {"photos": 0.5, "scenes": 0.5, "more": 0})
    assert [(s.kind, s.share) for s in order.shapes] == [
        ("layered", 1 / 2),
        ("photographs", 1 / 6),
        ("photographs", 1 / 3),
    ]
    sources = {number for step in range(6) for number, _ in order.rows(step, range(4))}
    assert sources == {0, 2, 3}


def test_sources_share_a_batch_by_their_weights():
    groups = (_photos("a", 90), _photos("b", 10))
    order = make_order(groups, 8, 0, {"a": 0.25, "b": 0.75})
    for step in range(5):
        assert Counter(number for number, _ in order.rows(step, range(8))) == {0: 2, 1: 6}


def test_seeds_groups_and_epochs_draw_other_permutations():
    groups = (_photos("a", 23), _photos("b", 23))

    def drawn(seed: int) -> dict[int, list[int]]:
        rows = make_order(groups, 92, seed).rows(0, range(92))
        return {group: [scene for number, scene in rows if number == group] for group in (0, 1)}

    found = [
        tuple(drawn(seed)[group][epoch * 23 : (epoch + 1) * 23])
        for seed in range(6)
        for group in (0, 1)
        for epoch in (0, 1)
    ]
    assert len(set(found)) == 24
    # Two permutations of 23 agree in one place on average; sorted order would agree in all.
    assert max(sum(i == j for i, j in enumerate(one)) for one in found) < 8
    assert drawn(0) == drawn(0)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"photo": 1.0}, "weights names source 'photo'; allowed in this split: more, phone"),
        ({"photos": -1.0}, "weight of source 'photos' is -1.0; allowed: 0 or more"),
        ({"photos": float("nan")}, "weight of source 'photos' is nan"),
        ({"photos": 0.0}, "weights are all 0"),
        ({}, "weights are all 0"),
    ],
)
def test_bad_weights_are_refused(weights, message):
    with pytest.raises(InvalidInput, match=message):
        make_order(MIXED, 4, 0, weights)


def test_more_shapes_than_slots_are_refused():
    groups = [_photos("a", 1, height_px) for height_px in range(16, 16 + MAX_CYCLE + 1)]
    with pytest.raises(InvalidInput, match="number of shapes is 4097; allowed: up to 4096"):
        make_order(groups, 1, 0)
