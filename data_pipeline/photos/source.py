"""Photographs of the user's own as scenes: from a folder, a list or tar shards.

`listing` and `shards` say which files belong together, `disparity` what the numbers of a map mean,
`image` how both come into the stored frame, `splits` which photographs are held out.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from bokeh_jax.errors import InvalidInput
from data_pipeline.frames import FrameSizes
from data_pipeline.photos.depth_estimation import DepthEstimator
from data_pipeline.photos.disparity import Invalid, MapMeaning, disparity_of, stored
from data_pipeline.photos.files import DisparityUnit, MapKind, Part, PhotoFiles, caption_of
from data_pipeline.photos.image import (
    OpenedPhoto,
    framed_map,
    framed_photo,
    open_photo,
    read_mask,
    whole_photo,
)
from data_pipeline.photos.maps import check_map_libraries, decode_map
from data_pipeline.photos.places import find_photos
from data_pipeline.photos.sharpness import edge_blur_px
from data_pipeline.photos.splits import held_out
from data_pipeline.source import PhotoScene, SkippedScene, check_int, check_split

# The longer side that an estimator sees: about twice what the usual networks work at.
ESTIMATE_SIDE_PX = 1024

# Raised when the same files and fields give other scenes.
_GENERATOR_VERSION = 2


@dataclasses.dataclass(frozen=True)
class PhotoSource:
    """Photographs with a map each, or with an estimator for those that have none.

    Attributes:
        where: a folder; a list (.jsonl or .txt); or tar shards (x.tar, x-{000..010}.tar, x-*.tar).
        frames: the shapes they are stored in.
        seed: decides which are held out, 0 to 2³² − 1.
        heldout_fraction: share that goes to `eval_heldout`, 0 up to below 1; at least one if above
            0. The rest is `train`; `eval_seen` has none.
        disparity_unit: of disparity maps, `relative` or `metric` (1/m); a list may differ by line.
        normalize: rescale float maps of relative disparity to [0, 1], each by its own range.
        map_kind: which maps count, `disparity` or `depth`; None for whichever is there.
        depth_unit_m: metres that 1 in a depth map stands for; None for float maps in metres.
        invalid: `refuse` maps with invalid samples, or `fill` them with the nearest valid one.
        max_invalid_share: share of a map from which it is refused all the same.
        max_blur_px: drops photographs whose edges are more blurred than this in the stored frame
            (`sharpness`); None keeps all.
        estimator: of disparity where there is no map; None for none.
        name: of the source.
        photos: all photographs, found on construction.
    """

    where: str | Path
    frames: FrameSizes = dataclasses.field(default_factory=FrameSizes)
    seed: int = 0
    heldout_fraction: float = 0.1
    disparity_unit: DisparityUnit = "relative"
    normalize: bool = False
    map_kind: MapKind | None = None
    depth_unit_m: float | None = None
    invalid: Invalid = "refuse"
    max_invalid_share: float = 0.1
    max_blur_px: float | None = None
    estimator: DepthEstimator | None = None
    name: str = "photos"
    photos: tuple[PhotoFiles, ...] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self):
        check_int("seed", self.seed, 0, 2**32 - 1)
        if not 0 <= self.heldout_fraction < 1:
            raise InvalidInput(
                f"heldout_fraction is {self.heldout_fraction}; allowed: from 0 to below 1"
            )
        if self.map_kind not in (None, "disparity", "depth"):
            raise InvalidInput(f"map_kind is {self.map_kind!r}; allowed: disparity, depth")
        if self.max_blur_px is not None and not self.max_blur_px > 0:
            raise InvalidInput(f"max_blur_px is {self.max_blur_px}; allowed: above 0, or None")
        self._meaning(self.disparity_unit)
        photos = find_photos(self.where, self.map_kind)
        object.__setattr__(self, "photos", photos)
        check_map_libraries({photo.map.suffix for photo in photos if photo.map is not None})
        self._check_maps()

    def recipe(self) -> dict[str, Any]:
        """Return all that decides the scenes' content, as JSON values; files count by content.

        Every file is read once for it, here or on pickling, and its digest kept.
        """
        files = hashlib.sha256()
        for photo, digests in zip(self.photos, self._digests, strict=True):
            words = photo.caption if isinstance(photo.caption, str) else None
            about = [photo.key, photo.map_kind, photo.unit, words, len(digests)]
            files.update(json.dumps(about).encode())
            for digest in digests:
                files.update(digest)
        left_out = ("where", "frames", "estimator", "name", "photos")
        fields = [f.name for f in dataclasses.fields(self) if f.name not in left_out]
        return {
            "source": "photos",
            "name": self.name,
            "generator_version": _GENERATOR_VERSION,
            "frames": [list(frame) for frame in self.frames.frames()],
            **{field: getattr(self, field) for field in fields},
            "estimator": None if self.estimator is None else self.estimator.recipe(),
            "files_sha256": files.hexdigest(),
        }

    def num_scenes(self, split: str) -> int | None:
        """Return how many photographs the split has, before any is dropped."""
        return len(self._positions(split))

    def scene(self, split: str, index: int) -> PhotoScene:
        """Load one photograph and its map, or estimate that.

        Raises:
            SkippedScene: a file is damaged or does not fit, or the photograph is not sharp.
        """
        files = self.photos[self._positions(split)[index]]
        estimated = files.map is None
        with _damage_skips(files.key):
            photo = open_photo(
                files.image.read(),
                str(files.image),
                self.frames,
                ESTIMATE_SIDE_PX if estimated else 1,
            )
            image = framed_photo(photo)
        self._check_sharp(files.key, image)
        if estimated:
            disparity, range_per_m = self._estimated(files.key, photo), None
        else:
            with _damage_skips(files.key):
                disparity, range_per_m = self._mapped(files, photo)
        with _damage_skips(files.key):
            return PhotoScene(
                image=image,
                disparity=disparity,
                mask=_mask(files.mask, photo),
                disparity_range_per_m=range_per_m,
                caption=caption_of(files.caption),
                camera=photo.camera,
                provenance={
                    "photograph": files.key,
                    "size_px": list(photo.size_px),
                    "disparity_from": "estimate" if estimated else files.map_kind,
                },
            )

    def __getstate__(self) -> dict[str, Any]:
        # Digested before it goes to other processes, or each of them would read all files.
        assert len(self._digests) == len(self.photos)
        return self.__dict__

    @functools.cached_property
    def _digests(self) -> tuple[tuple[bytes, ...], ...]:
        """Of each photograph's files; what cannot be read goes by its name."""
        return tuple(tuple(_digest(part) for part in photo.parts()) for photo in self.photos)

    @functools.cached_property
    def _split(self) -> Mapping[str, list[int]]:
        keys = [photo.key for photo in self.photos]
        images = [digests[0] for digests in self._digests]
        kept, held = held_out(keys, images, self.seed, self.heldout_fraction)
        return {"train": kept, "eval_seen": [], "eval_heldout": held}

    def _positions(self, split: str) -> list[int]:
        check_split(split)
        return self._split[split]

    def _meaning(self, unit: DisparityUnit) -> MapMeaning:
        return MapMeaning(
            unit=unit,
            normalize=self.normalize,
            depth_unit_m=self.depth_unit_m,
            invalid=self.invalid,
            max_invalid_share=self.max_invalid_share,
        )

    def _check_maps(self) -> None:
        """Every photograph has a map or may be estimated; none of it is damage."""
        without = [photo for photo in self.photos if photo.map is None]
        if self.estimator is not None and without:
            self.estimator.check()
            return
        # What a list names and is not there is damage, to be counted when it is read.
        without = [photo for photo in without if photo.image.path.is_file()]
        if without:
            kind = self.map_kind or "disparity or depth"
            raise InvalidInput(
                f"{len(without)} of {len(self.photos)} photographs have no {kind}, first "
                f"{without[0].image}; allowed: a map beside each, such as NAME.disparity.png or "
                "NAME.depth.npy, or a depth model (--depth-model)"
            )

    def _check_sharp(self, key: str, image: UInt8[np.ndarray, "h w 3"]) -> None:
        if self.max_blur_px is None:
            return
        blur_px = edge_blur_px(image)
        if blur_px > self.max_blur_px:
            raise SkippedScene(
                key,
                f"edges are blurred by {blur_px:.2f} px; allowed: {self.max_blur_px:g} "
                "(max_blur_px)",
                damaged=False,
            )

    def _estimated(self, key: str, photo: OpenedPhoto) -> Float32[np.ndarray, "h w"]:
        assert self.estimator is not None
        (disparity,) = self.estimator([whole_photo(photo, ESTIMATE_SIDE_PX)])
        if not np.isfinite(disparity).all() or disparity.min() < 0 or disparity.max() > 1:
            raise SkippedScene(
                key, "the estimated disparity is not finite or outside [0, 1]", damaged=True
            )
        with _damage_skips(key):
            return framed_map(disparity, "that the estimator made", photo)

    def _mapped(
        self, files: PhotoFiles, photo: OpenedPhoto
    ) -> tuple[Float32[np.ndarray, "h w"], tuple[float, float] | None]:
        assert files.map is not None
        name, unit = str(files.map), files.unit or self.disparity_unit
        meaning = dataclasses.replace(
            self._meaning("relative"),
            unit=unit,
            normalize=self.normalize and unit == "relative",
        )
        raw = decode_map(files.map.read(), files.map.suffix, name)
        disparity = framed_map(disparity_of(raw, name, files.map_kind, meaning), name, photo)
        if unit == "relative" and files.map_kind == "disparity":
            return disparity, None
        return stored(disparity)


def _mask(part: Part | None, photo: OpenedPhoto) -> UInt8[np.ndarray, "h w"] | None:
    if part is None:
        return None
    return framed_map(read_mask(part.read(), str(part)), str(part), photo)


def _digest(part: Part) -> bytes:
    return part.sha256() or hashlib.sha256(f"unreadable {part}".encode()).digest()


@contextlib.contextmanager
def _damage_skips(key: str) -> Iterator[None]:
    """What is wrong with a photograph's files leaves the photograph out."""
    try:
        yield
    except InvalidInput as error:
        raise SkippedScene(key, str(error), damaged=True) from error
