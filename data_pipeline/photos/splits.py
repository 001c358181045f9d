"""Which photographs are held out: a share of them, by a hash of their keys.

Photographs are ranked by a hash of the seed and the key, and the first are held out. So adding
photographs moves few of the others. Files of equal content count as one photograph, which has the
smallest rank of its keys: no copy of what is held out is trained on.
"""

import hashlib
import math
from collections.abc import Sequence


def held_out(
    keys: Sequence[str], contents: Sequence[bytes], seed: int, fraction: float
) -> tuple[list[int], list[int]]:
    """Return the positions of the photographs to train on and of those held out, ranked.

    Args:
        keys: of the photographs.
        contents: a digest of each photograph's file.
        seed: chooses the ranking.
        fraction: share held out, rounded up: at least one photograph if above 0. Copies of one are
            held out together, so it may be more.
    """
    own = [hashlib.sha256(f"{seed} {key}".encode()).digest() for key in keys]
    least: dict[bytes, bytes] = {}
    for rank, content in zip(own, contents, strict=True):
        least[content] = min(rank, least.get(content, rank))
    ranked = sorted(range(len(keys)), key=lambda i: (least[contents[i]], own[i]))
    # 0.07 · 100 is 7.000000000000001 in floats, and 7 photographs are meant.
    end = math.ceil(fraction * len(keys) - 1e-9)
    while 0 < end < len(ranked) and contents[ranked[end]] == contents[ranked[end - 1]]:
        end += 1
    return ranked[end:], ranked[:end]
