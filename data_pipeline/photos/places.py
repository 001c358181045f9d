"""Where a source's photographs are: a folder, a list or tar shards."""

from pathlib import Path

from bokeh_jax.errors import InvalidInput
from data_pipeline.photos.files import MapKind, PhotoFiles
from data_pipeline.photos.listing import folder_photos, list_photos
from data_pipeline.photos.shards import is_shards, shard_paths, shard_photos


def find_photos(where: str | Path, wanted: MapKind | None) -> tuple[PhotoFiles, ...]:
    """Return the photographs of a folder, a list or tar shards.

    Args:
        where: as for `PhotoSource`.
        wanted: which maps count; None for either.

    Raises:
        InvalidInput: nothing is there, or it is none of these.
    """
    path = Path(where)
    if path.is_dir():
        return folder_photos(path, wanted)
    if is_shards(str(where)):
        shards = shard_paths(str(where))
        photos = tuple(photo for shard in shards for photo in shard_photos(shard, wanted))
        if not photos:
            raise InvalidInput(f"shards {where} have no photographs; allowed: at least one")
        return photos
    if not path.exists():
        raise InvalidInput(
            f"photographs {where} are not there; allowed: a folder, a list (.jsonl, .txt) or "
            "tar shards (.tar)"
        )
    if path.suffix.lower() not in (".jsonl", ".txt"):
        raise InvalidInput(
            f"photographs are {where}; allowed: a folder, a list (.jsonl, .txt) or shards (.tar)"
        )
    return list_photos(path, wanted)
