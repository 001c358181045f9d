"""Photographs with a disparity map beside each: a source over a folder of the user's own.

The folder holds photographs (.jpg, .jpeg, .png, .webp, .tif, .tiff), and for `name.jpg` one of

    name.disparity.png | .npy | .npz | .tif | .tiff       beside it, or
    disparity/name.png | .npy | .npz | .tif | .tiff       in the subfolder.

What a map means:

- 8-bit and 16-bit PNG or TIFF: relative disparity, value / 255 or value / 65535, near is bright;
- float NPY, NPZ (one array) or TIFF: relative disparity in [0, 1], or with
  `disparity_unit="metric"` 1/m, at least 0; nearer is larger either way;
- float maps of no scale, as monocular networks give: `normalize=True` maps each photograph's own
  minimum and maximum to 0 and 1.

A map may be smaller or larger than its photograph, but of the same proportions. Both are cropped to
the centred square and brought to `size_px`: the photograph by antialiased resizing, the map by the
nearest sample, because the mean over an outline is the disparity of nothing in the scene.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32
from PIL import Image, ImageOps, UnidentifiedImageError

from bokeh_jax.errors import InvalidInput
from data_pipeline.source import DisparityUnit, Kind, Scene, check_int, check_split

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")
DISPARITY_SUFFIXES = (".png", ".npy", ".npz", ".tif", ".tiff")
DISPARITY_FOLDER = "disparity"
# Relative difference of width/height up to which a photograph and a map have the same proportions:
# networks round their output to multiples of 14 or 32 pixels.
MAX_ASPECT_DIFFERENCE = 0.02


@dataclasses.dataclass(frozen=True)
class PhotoFolderSource:
    """The photographs of one folder that have a disparity map; see the module's header.

    Attributes:
        folder: where the photographs lie.
        size_px: height and width of the stored frames, 16 to 4096 pixels.
        seed: decides which photographs are held out, 0 to 2³² − 1.
        heldout_fraction: share of the photographs that goes to `eval_heldout`, 0 up to below 1; at
            least one if above 0. The rest is `train`; `eval_seen` has none.
        disparity_unit: `relative` or `metric` (1/m).
        normalize: rescale every float map to [0, 1]; only for relative disparity.
        pairs: (photograph, map) of every scene, found in `folder` on construction.
    """

    folder: Path
    size_px: int = 256
    seed: int = 0
    heldout_fraction: float = 0.1
    disparity_unit: DisparityUnit = "relative"
    normalize: bool = False
    pairs: tuple[tuple[Path, Path], ...] = dataclasses.field(init=False, repr=False)

    def __post_init__(self):
        check_int("size_px", self.size_px, 16, 4096)
        check_int("seed", self.seed, 0, 2**32 - 1)
        if not 0 <= self.heldout_fraction < 1:
            raise InvalidInput(
                f"heldout_fraction is {self.heldout_fraction}; allowed: from 0 to below 1"
            )
        if self.disparity_unit not in ("relative", "metric"):
            raise InvalidInput(
                f"disparity_unit is {self.disparity_unit!r}; allowed: relative, metric"
            )
        if self.normalize and self.disparity_unit == "metric":
            raise InvalidInput("normalize is True; allowed with metric disparity: False")
        object.__setattr__(self, "pairs", _find_pairs(self.folder))

    @property
    def kind(self) -> Kind:
        """Photographs, not layers."""
        return "photographs"

    @property
    def max_layers(self) -> int:
        """Return 0: photographs have no layers."""
        return 0

    def recipe(self) -> dict[str, Any]:
        """Return all that decides the scenes' content, as JSON values; files count by content."""
        files = hashlib.sha256()
        for pair in self.pairs:
            for path in pair:
                files.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
        return {
            "source": "photo_folder",
            "generator_version": 1,
            "size_px": self.size_px,
            "seed": self.seed,
            "heldout_fraction": self.heldout_fraction,
            "disparity_unit": self.disparity_unit,
            "normalize": self.normalize,
            "files_sha256": files.hexdigest(),
        }

    def num_scenes(self, split: str) -> int | None:
        """Return how many photographs the split has."""
        return len(self._pairs_of(split))

    def scene(self, split: str, index: int) -> Scene:
        """Load one photograph and its map.

        Returns:
            `image` uint8 [S, S, 3] sRGB-encoded, `disparity` float32 [S, S] in `disparity_unit`,
            `provenance` JSON with the photograph's file name.

        Raises:
            InvalidInput: a file cannot be read, the map's proportions differ from the
                photograph's, or its values are not finite or out of range.
        """
        photo_path, map_path = self._pairs_of(split)[index]
        image = _read_photo(photo_path)
        disparity = read_disparity(map_path, self.disparity_unit, self.normalize)
        _check_proportions(photo_path, image, map_path, disparity)
        square = ImageOps.fit(image, (self.size_px, self.size_px), Image.Resampling.LANCZOS)
        return {
            "image": np.asarray(square),
            "disparity": _square_nearest(disparity, self.size_px),
            "provenance": json.dumps({"photograph": photo_path.name}),
        }

    def _pairs_of(self, split: str) -> list[tuple[Path, Path]]:
        check_split(split)

        # Ranked by a hash of the name: adding photographs moves few others between splits.
        def rank(pair: tuple[Path, Path]) -> bytes:
            return hashlib.sha256(f"{self.seed} {pair[0].name}".encode()).digest()

        ranked = sorted(self.pairs, key=rank)
        num_heldout = -int(-self.heldout_fraction * len(ranked) // 1)
        if split == "eval_seen":
            return []
        return ranked[:num_heldout] if split == "eval_heldout" else ranked[num_heldout:]


def _find_pairs(folder: Path) -> tuple[tuple[Path, Path], ...]:
    """Pair every photograph of the folder with its map, sorted by name."""
    if not folder.is_dir():
        raise InvalidInput(f"photograph folder is {folder}, which is not there; allowed: a folder")
    photos = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in PHOTO_SUFFIXES and not path.stem.endswith(".disparity")
    ]
    if not photos:
        raise InvalidInput(
            f"photograph folder {folder} has no photographs; allowed: {' '.join(PHOTO_SUFFIXES)}"
        )
    return tuple((path, _find_map(path)) for path in photos)


def _find_map(photo: Path) -> Path:
    beside = [photo.with_name(f"{photo.stem}.disparity{suffix}") for suffix in DISPARITY_SUFFIXES]
    inside = [photo.parent / DISPARITY_FOLDER / f"{photo.stem}{s}" for s in DISPARITY_SUFFIXES]
    found = [path for path in beside + inside if path.is_file()]
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(photo.parent)) for path in found) or "none"
        raise InvalidInput(
            f"disparity maps of {photo} found: {names}; allowed: exactly one, "
            f"{photo.stem}.disparity or {DISPARITY_FOLDER}/{photo.stem}, "
            f"with {' '.join(DISPARITY_SUFFIXES)}"
        )
    return found[0]


def _read_photo(path: Path) -> Image.Image:
    try:
        with Image.open(path) as file:
            return ImageOps.exif_transpose(file).convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InvalidInput(
            f"photograph {path} cannot be read ({_one_line(error)}); allowed: a whole image file"
        ) from error


def read_disparity(
    path: Path, unit: DisparityUnit = "relative", normalize: bool = False
) -> Float32[np.ndarray, "_ _"]:
    """Read a disparity map in its own resolution; see the module's header for the formats.

    Args:
        path: the map's file.
        unit: what a float map holds, and what is returned.
        normalize: rescale a float map to [0, 1].

    Returns:
        float32 [h, w], nearer is larger.

    Raises:
        InvalidInput: the file is missing or unreadable, is no map, or has values that are not
            finite or out of range.
    """
    raw = _read_array(path) if path.suffix.lower() in (".npy", ".npz") else _read_map_image(path)
    if raw.ndim != 2 or raw.size == 0:
        raise InvalidInput(f"disparity map {path} has shape {raw.shape}; allowed: (height, width)")
    if raw.dtype in (np.uint8, np.uint16):
        if unit == "metric":
            raise InvalidInput(
                f"disparity map {path} holds {raw.dtype}; allowed for metric disparity: floats, 1/m"
            )
        return (raw / np.float32(np.iinfo(raw.dtype).max)).astype(np.float32)
    if raw.dtype.kind != "f":
        raise InvalidInput(
            f"disparity map {path} holds {raw.dtype}; allowed: uint8, uint16 or floats"
        )
    if not np.isfinite(raw).all():
        bad = int(raw.size - np.isfinite(raw).sum())
        raise InvalidInput(f"disparity map {path} has {bad} values not finite; allowed: none")
    return _check_range(path, raw.astype(np.float64), unit, normalize).astype(np.float32)


def _check_range(
    path: Path, values: Float[np.ndarray, "_ _"], unit: DisparityUnit, normalize: bool
) -> Float[np.ndarray, "_ _"]:
    low, high = float(values.min()), float(values.max())
    if normalize:
        return (values - low) / max(high - low, np.finfo(np.float64).tiny)
    if unit == "metric" and low < 0:
        raise InvalidInput(f"disparity map {path} goes down to {low:g} 1/m; allowed: at least 0")
    if unit == "relative" and (low < 0 or high > 1):
        raise InvalidInput(
            f"disparity map {path} goes from {low:g} to {high:g}; allowed: [0, 1] "
            "(normalize=True rescales maps of no scale)"
        )
    return values


def _read_array(path: Path) -> np.ndarray:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            arrays = [loaded[name] for name in loaded.files]
    except (OSError, ValueError, EOFError) as error:
        raise InvalidInput(
            f"disparity map {path} cannot be read ({_one_line(error)}); allowed: a NumPy array"
        ) from error
    if len(arrays) != 1:
        raise InvalidInput(f"disparity map {path} holds {len(arrays)} arrays; allowed: 1")
    return arrays[0]


def _read_map_image(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as file:
            mode, values = file.mode, np.asarray(file)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InvalidInput(
            f"disparity map {path} cannot be read ({_one_line(error)}); allowed: a whole image file"
        ) from error
    if mode not in ("L", "I;16", "I;16B", "I;16L", "F"):
        raise InvalidInput(
            f"disparity map {path} has mode {mode}; allowed: one channel, uint8, uint16 or float"
        )
    return values.astype(np.uint16) if mode.startswith("I;16") else values


def _check_proportions(
    photo_path: Path, image: Image.Image, map_path: Path, disparity: Float32[np.ndarray, "_ _"]
) -> None:
    height, width = disparity.shape
    ratio = (image.width / image.height) / (width / height)
    if abs(ratio - 1) > MAX_ASPECT_DIFFERENCE:
        raise InvalidInput(
            f"disparity map {map_path} is {width}x{height} px and {photo_path.name} "
            f"{image.width}x{image.height} px; allowed: the same proportions"
        )


def _square_nearest(values: Float32[np.ndarray, "_ _"], size_px: int) -> Float32[np.ndarray, "h w"]:
    """Take the centred square's nearest samples, `size_px` a side."""
    height, width = values.shape
    side = min(height, width)
    offsets = (np.arange(size_px) + 0.5) * side / size_px
    rows = ((height - side) / 2 + offsets).astype(np.int64)
    columns = ((width - side) / 2 + offsets).astype(np.int64)
    return values[np.ix_(rows, columns)]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
