"""One host of a run: prints a digest of every row of its batches as JSON.

python host_digests.py '{"path": ..., "start_step": 3, "num_steps": 4, ...}'
"""

import dataclasses
import hashlib
import json
import sys
from pathlib import Path

import numpy as np

from data_pipeline.loader import LoaderConfig, make_loader


def row_digests(batch: dict[str, np.ndarray]) -> list[str]:
    """A digest of all arrays of every row, with their names, types and shapes."""
    digests = []
    for row in range(len(batch["scene_id"])):
        digest = hashlib.sha256()
        for name, values in sorted(batch.items()):
            digest.update(f"{name} {values.dtype} {values.shape[1:]} ".encode())
            digest.update(values[row].tobytes())
        digests.append(digest.hexdigest())
    return digests


def digest_steps(
    path: Path, num_steps: int, where: dict[str, int], fields: dict[str, int | str]
) -> list[list[str]]:
    """Digests of `num_steps` batches, with the loader's arguments `where`."""
    config = dataclasses.replace(LoaderConfig(path, global_batch_size=8, num_threads=0), **fields)
    loader = make_loader(config, **where)
    found = [row_digests(next(loader)) for _ in range(num_steps)]
    loader.close()
    return found


if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    print(json.dumps(digest_steps(Path(arguments.pop("path")), **arguments)))
