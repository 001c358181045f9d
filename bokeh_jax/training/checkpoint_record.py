"""What a checkpoint holds besides its arrays, and the error of one that is not what was saved."""

import dataclasses
import hashlib
import json
from typing import Any

from etils import epath

from bokeh_jax.errors import InvalidInput


class DamagedCheckpoint(InvalidInput):
    """A checkpoint that cannot be read, or holds other bytes than were saved.

    Attributes:
        path: its folder.
        reason: what is wrong, in one line.
    """

    def __init__(self, path: epath.PathLike, reason: str):
        self.path, self.reason = path, reason
        super().__init__(
            f"checkpoint {path} is damaged ({reason}); allowed: one that is whole, see "
            "`bokeh-jax checkpoint verify`"
        )


@dataclasses.dataclass(frozen=True)
class DataPosition:
    """Where the next batch is: the data order is a function of (seed, step) alone."""

    next_step: int
    seed: int
    dataset_fingerprint: str


@dataclasses.dataclass(frozen=True)
class Record:
    """What a checkpoint holds besides its arrays.

    Attributes:
        position: of the next batch.
        config: every value of the experiment, nested.
        code_version: SHA-256 of the source files that wrote it.
        checksums: of every array, by its name in the state.
        frozen: digest of the parameters that were not trained; "" where all were.
    """

    position: DataPosition
    config: dict[str, Any]
    code_version: str
    checksums: dict[str, int]
    frozen: str = ""

    def to_json(self) -> dict[str, Any]:
        """As it is stored: with a digest of itself."""
        values = dataclasses.asdict(self)
        return values | {"digest": _digest(values)}


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def record_from_json(values: Any) -> Record:
    """Inverse of `Record.to_json`; ValueError where it is not what was written."""
    if not isinstance(values, dict) or "digest" not in values:
        raise ValueError("its record of data position, config and code is missing")
    rest: dict[str, Any] = {name: value for name, value in values.items() if name != "digest"}
    if values["digest"] != _digest(rest):
        raise ValueError("its record of data position, config and code has changed")
    rest["position"] = DataPosition(**rest["position"])
    return Record(**rest)
