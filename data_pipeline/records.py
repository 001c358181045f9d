"""Scenes as records: encoded frames and float32 numbers, as TensorFlow Datasets features.

A scene's frames are one image: a layered scene's layers stand below each other, nearest on top, as
[l·h, w, 4], so that a record is decoded by one call. PNG keeps every value, the colours under
alpha 0 included; photographs may be stored as JPEG instead (4:4:4). Disparity is a 16-bit PNG:

    stored = round(65535 disparity).

The same scene makes the same bytes on any machine: the encoders' options are all stated, and the
protocol buffers are written with their keys in order.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from data_pipeline.image_codecs import (
    decode_frames,
    decode_jpeg,
    decode_png,
    encode_jpeg,
    encode_png,
)
from data_pipeline.latent_records import (
    check_latents,
    decode_latents,
    encode_latents,
    latent_features,
)
from data_pipeline.source import (
    KINDS,
    CameraExif,
    HiddenTruth,
    Kind,
    LatentScene,
    LayeredScene,
    PhotoScene,
    Scene,
    kind_of,
)

DATASET_NAME = "refocus_scenes"
DISPARITY_ONE = 65535

__all__ = [
    "EXIF_FIELDS",
    "check_scene",
    "decode_jpeg",
    "decode_png",
    "decode_scene",
    "digest_scene",
    "encode_jpeg",
    "encode_png",
    "encode_scene",
    "features",
    "parse_record",
    "serialize_record",
]

# What a batch has of a camera. The subject's distance, which some cameras report, is where the
# focus was: an answer and no question.
EXIF_FIELDS = ("focal_length_mm", "focal_length_35mm_mm", "f_number")
_CAMERA_FIELDS = tuple(field.name for field in dataclasses.fields(CameraExif))


@functools.cache
def features() -> tfds.features.FeaturesDict:
    """What a record holds, described."""
    image, tensor, text = tfds.features.Image, tfds.features.Tensor, tfds.features.Text
    unknown = "NaN where unknown"
    return tfds.features.FeaturesDict(
        {
            "kind": tfds.features.ClassLabel(names=list(KINDS)),
            "frames": image(
                shape=(None, None, None),
                doc="sRGB-encoded. Photographs: [h, w, 3]. Layered: [layers · h, w, 4], straight "
                "alpha, layers below each other, nearest on top",
            ),
            "disparity": image(
                shape=(None, None, 1),
                dtype=np.uint16,
                encoding_format="png",
                doc="relative disparity, 65535 is 1, nearer is larger; 1x1 for layered scenes",
            ),
            "defocused": text(
                doc="PNG or JPEG of the view through a finite aperture; empty where there is none"
            ),
            "mask": text(doc="PNG of the subject, 255 inside; empty where there is none"),
            "disparity_range_per_m": tensor(
                shape=(2,),
                dtype=np.float32,
                doc=f"metric disparities (1/m) that 0 and 1 stand for; {unknown}",
            ),
            "layer_disparity": tensor(
                shape=(None, 3),
                dtype=np.float32,
                doc="(a, b, c): relative disparity of a layer = a x + b y + c, x and y in pixels",
            ),
            "layer_gain": tensor(
                shape=(None,),
                dtype=np.float32,
                doc="linear light of a layer over what its pixels say",
            ),
            "caption": text(doc="what is seen; empty where unknown"),
            "camera": tensor(
                shape=(len(_CAMERA_FIELDS),),
                dtype=np.float32,
                doc=f"{', '.join(_CAMERA_FIELDS)}; {unknown}",
            ),
            "hidden": tensor(
                shape=(3,),
                dtype=np.float32,
                doc="for evaluation only: focus distance (m), subject's x and y in [0, 1]; "
                f"{unknown}",
            ),
            "provenance": text(doc="JSON: what the scene was made from"),
            "source": text(doc="the source's name"),
        }
    )


def encode_scene(scene: Scene, source: str, jpeg_quality: int | None = None) -> dict[str, Any]:
    """Return the feature values of a scene, frames encoded.

    Args:
        scene: the scene.
        source: name of the source that made it.
        jpeg_quality: store the photographs of a PhotoScene as JPEG; as PNG when None.
    """
    provenance = json.dumps(dict(scene.provenance), sort_keys=True)
    if isinstance(scene, LatentScene):
        told = {"caption": scene.caption, "provenance": provenance, "source": source}
        return told | {"latents": encode_latents(scene)}
    values = {
        "kind": kind_of(scene),
        "disparity": encode_png(np.zeros((1, 1), np.uint16)),
        "defocused": b"",
        "mask": b"",
        "disparity_range_per_m": np.full(2, np.nan, np.float32),
        "layer_disparity": np.zeros((0, 3), np.float32),
        "layer_gain": np.zeros(0, np.float32),
        "caption": scene.caption,
        "camera": np.full(len(_CAMERA_FIELDS), np.nan, np.float32),
        "hidden": np.full(3, np.nan, np.float32),
        "provenance": provenance,
        "source": source,
    }
    if isinstance(scene, PhotoScene):
        return values | _photo_values(scene, jpeg_quality)
    count, height_px, width_px, channels = scene.layers.shape
    stacked = scene.layers.reshape(count * height_px, width_px, channels)
    return values | {
        "frames": encode_png(stacked),
        "layer_disparity": scene.layer_disparity,
        "layer_gain": scene.layer_gain,
    }


def _photo_values(scene: PhotoScene, jpeg_quality: int | None) -> dict[str, Any]:
    def encode(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
        return encode_png(image) if jpeg_quality is None else encode_jpeg(image, jpeg_quality)

    values: dict[str, Any] = {
        "frames": encode(scene.image),
        "disparity": encode_png(np.rint(scene.disparity * DISPARITY_ONE).astype(np.uint16)),
        "camera": np.array(
            [getattr(scene.camera, name) for name in _CAMERA_FIELDS],
            np.float32,  # None becomes NaN.
        ),
    }
    if scene.defocused is not None:
        values["defocused"] = encode(scene.defocused)
    if scene.mask is not None:
        values["mask"] = encode_png(scene.mask)
    if scene.disparity_range_per_m is not None:
        values["disparity_range_per_m"] = np.array(scene.disparity_range_per_m, np.float32)
    if scene.hidden is not None:
        hidden = (scene.hidden.focus_distance_m, *scene.hidden.subject_xy)
        values["hidden"] = np.array(hidden, np.float32)
    return values


def serialize_record(values: Mapping[str, Any]) -> bytes:
    """Return a record's bytes: always the same ones for the same values."""
    description = latent_features() if "latents" in values else features()
    serializer = ExampleSerializer(cast(Any, description.get_serialized_info()))
    example = serializer.get_tf_example(description.encode_example(dict(values)))
    return example.SerializeToString(deterministic=True)


def parse_record(record: bytes, kind: Kind = "layered") -> dict[str, Any]:
    """Return a record's feature values, frames still encoded, texts as bytes.

    Args:
        record: its bytes.
        kind: of the scene; records of latents have features of their own.

    Raises:
        ValueError: the record is no such record.
    """
    skip = tfds.decode.SkipDecoding()
    try:
        if kind == "latents":
            values = cast(dict, latent_features().deserialize_example_np(record))
        else:
            decoders = {"frames": skip, "disparity": skip}
            values = cast(dict, features().deserialize_example_np(record, decoders=decoders))
    except Exception as error:
        # Whatever a damaged record makes the parsers raise: it is the record that is at fault.
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
    missing = [name for name, value in values.items() if value is None]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")
    return values


def decode_scene(
    values: Mapping[str, Any],
    kind: Kind,
    frame: tuple[int, int],
    max_layers: int,
    *,
    taken: bool = False,
) -> dict[str, np.ndarray]:
    """Decode a record's scene.

    Args:
        values: as `parse_record`.
        kind: what the scene must be.
        frame: height and width that it must have, pixels.
        max_layers: length of the layer axis, filled up with alpha 0, disparity 0 and gain 1.
        taken: bring the view through a camera's lens too, and that camera.

    Returns:
        `layers` uint8 [l, h, w, 4], `layer_disparity` float32 [l, 3], `layer_gain` float32 [l]; or
        `image` uint8 [h, w, 3], `disparity` uint16 [h, w] (65535 is 1), where `taken` those of
        `_decode_taken` too; or the arrays of `latent_records`.

    Raises:
        ValueError: a frame cannot be decoded, or something has another shape or is not finite.
    """
    if kind == "latents":
        return decode_latents(values, frame)
    if KINDS[values["kind"]] != kind:
        raise ValueError(f"its kind is {KINDS[values['kind']]}, not {kind}")
    if kind == "photographs":
        image, disparity = decode_frames(values["frames"]), decode_png(values["disparity"])
        _check("frames", image, (*frame, 3), np.uint8)
        _check("disparity", disparity, frame, np.uint16)
        scene = {"image": image, "disparity": disparity}
        return scene | (_decode_taken(values, frame) if taken else {})
    planes, gains = values["layer_disparity"], values["layer_gain"]
    count, stacked = len(planes), decode_png(values["frames"])
    if not 1 <= count <= max_layers:
        raise ValueError(f"it has {count} layers, not 1 to {max_layers}")
    _check("frames", stacked, (count * frame[0], frame[1], 4), np.uint8)
    _check("layer_disparity", planes, (count, 3), np.float32)
    _check("layer_gain", gains, (count,), np.float32)
    layers = np.zeros((max_layers, *frame, 4), np.uint8)
    layers[:count] = stacked.reshape(count, *frame, 4)
    return {
        "layers": layers,
        "layer_disparity": np.concatenate([planes, np.zeros((max_layers - count, 3), np.float32)]),
        "layer_gain": np.concatenate([gains, np.ones(max_layers - count, np.float32)]),
    }


def _decode_taken(values: Mapping[str, Any], frame: tuple[int, int]) -> dict[str, np.ndarray]:
    """`photograph` uint8 [h, w, 3] and `camera` float32 [3]: EXIF without the subject's distance.

    Raises:
        ValueError: there is no such photograph, or its camera is not known.
    """
    if not values["defocused"]:
        raise ValueError("it has no view through a lens of finite aperture")
    photograph, camera = decode_frames(values["defocused"]), values["camera"][: len(EXIF_FIELDS)]
    _check("defocused", photograph, (*frame, 3), np.uint8)
    if not (np.isfinite(camera).all() and (camera > 0).all()):
        raise ValueError(f"its {', '.join(EXIF_FIELDS)} are {camera.tolist()}, not all above 0")
    return {"photograph": photograph, "camera": camera}


def _check(name: str, found: np.ndarray, shape: tuple[int, ...], dtype: Any) -> None:
    if found.shape != shape or found.dtype != dtype:
        raise ValueError(
            f"its {name} has {found.dtype} {list(found.shape)}, "
            f"not {np.dtype(dtype).name} {list(shape)}"
        )
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise ValueError(f"its {name} has values that are not finite")


def digest_scene(scene: Scene) -> bytes:
    """Return the SHA-256 of all that a scene is, independent of how it is encoded."""
    digest = hashlib.sha256(kind_of(scene).encode())
    for field in dataclasses.fields(scene):
        value = getattr(scene, field.name)
        if isinstance(value, np.ndarray):
            digest.update(f"{field.name} {value.dtype} {value.shape} ".encode() + value.tobytes())
        elif isinstance(scene, LatentScene) and field.name == "values":
            digest.update(encode_latents(scene))
        else:
            if isinstance(value, CameraExif | HiddenTruth):
                value = dataclasses.asdict(value)
            plain = dict(value) if isinstance(value, Mapping) else value
            digest.update(f"{field.name} {json.dumps(plain, sort_keys=True)} ".encode())
    return digest.digest()


def check_scene(scene: Scene) -> None:
    """Check a scene's values, whatever source it came from.

    Raises:
        ValueError: disparity or gain is not finite or out of range, or shapes disagree.
    """
    if isinstance(scene, LatentScene):
        check_latents(scene.values, scene.frame)
        return
    if isinstance(scene, LayeredScene):
        count = len(scene.layers)
        _check("layer_disparity", scene.layer_disparity, (count, 3), np.float32)
        _check("layer_gain", scene.layer_gain, (count,), np.float32)
        return
    _check("disparity", scene.disparity, scene.frame, np.float32)
    low, high = float(scene.disparity.min()), float(scene.disparity.max())
    if low < 0 or high > 1:
        raise ValueError(f"its disparity goes from {low:g} to {high:g}, not within 0 to 1")
    for name in ("defocused", "mask"):
        frame = getattr(scene, name)
        if frame is not None and frame.shape[:2] != scene.frame:
            raise ValueError(f"its {name} is {list(frame.shape[:2])}, not {list(scene.frame)}")
