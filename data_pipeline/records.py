"""Scenes as records: PNG frames and float32 numbers, and the processes that make them.

A scene's frames are one PNG: a layered scene's layers stand below each other, nearest on top, as
[l·h, w, 4], so that a record is decoded by one call. PNG keeps every value, the colours under
alpha 0 included.

Scenes are made in chunks dealt out to n processes like cards: process k makes the chunks k, k + n,
k + 2n, ... and sends them down a pipe of its own, from which they are read in turn. The order, and
with it every byte, is the same for any n; a pipe that is full makes its process wait, so memory
stays bounded; a process whose reader is gone ends on its next send. Processes are spawned, never
forked: a fork under JAX's threads can deadlock.
"""

import dataclasses
import hashlib
import io
import multiprocessing
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from data_pipeline.source import Kind, Scene, SceneSource

CHUNK_SCENES = 16
# Textured frames hardly shrink further at higher levels, and 3 encodes twice as fast as 6.
PNG_COMPRESS_LEVEL = 3


@dataclasses.dataclass(frozen=True)
class Record:
    """One encoded scene.

    Attributes:
        split: the split it belongs to.
        index: its number in the split.
        example: values of the dataset's features.
        digest: SHA-256 of the scene's arrays, independent of how they are encoded.
    """

    split: str
    index: int
    example: Mapping[str, Any]
    digest: bytes


def encode_png(image: UInt8[np.ndarray, "h w c"]) -> bytes:
    """Encode a uint8 frame with three or four channels, losslessly."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=PNG_COMPRESS_LEVEL)
    return buffer.getvalue()


def decode_png(data: bytes) -> UInt8[np.ndarray, "h w c"]:
    """Decode what `encode_png` made."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def encode_scene(kind: Kind, scene: Scene) -> dict[str, Any]:
    """Return the feature values of a scene."""
    provenance = scene["provenance"]
    if kind == "photographs":
        image, disparity = scene["image"], scene["disparity"]
        return {"image": encode_png(image), "disparity": disparity, "provenance": provenance}
    count, height_px, width_px, channels = scene["layers"].shape
    stacked = scene["layers"].reshape(count * height_px, width_px, channels)
    return {
        "layers": encode_png(stacked),
        "layer_disparity": scene["layer_disparity"],
        "provenance": provenance,
    }


def decode_layers(
    example: Mapping[str, Any], max_layers: int
) -> tuple[UInt8[np.ndarray, "l h w 4"], Float32[np.ndarray, "l 3"]]:
    """Return a layered record's layers and planes, filled up to `max_layers` with alpha 0.

    Args:
        example: the features, `layers` still as PNG bytes.
        max_layers: length of the result; at least the record's number of layers.
    """
    planes = np.asarray(example["layer_disparity"], np.float32)
    stacked = decode_png(example["layers"])
    count, (total_px, width_px, channels) = len(planes), stacked.shape
    layers = np.zeros((max_layers, total_px // count, width_px, channels), np.uint8)
    layers[:count] = stacked.reshape(count, total_px // count, width_px, channels)
    padded = np.zeros((max_layers, 3), np.float32)
    padded[:count] = planes
    return layers, padded


def digest_scene(scene: Scene) -> bytes:
    """Return the SHA-256 of a scene's arrays, their shapes and its provenance."""
    digest = hashlib.sha256()
    for name, value in sorted(scene.items()):
        content = value.encode() if isinstance(value, str) else value.tobytes()
        digest.update(f"{name} {getattr(value, 'shape', len(content))} ".encode() + content)
    return digest.digest()


def iterate_records(
    source: SceneSource, counts: Mapping[str, int], num_workers: int
) -> Iterator[Record]:
    """Make every record, split by split in the order of `counts`, each split from scene 0 on.

    Args:
        source: makes the scenes.
        counts: scenes of every split.
        num_workers: processes to make them in; 0 makes them in this one.

    Raises:
        Whatever the source raises, whichever process it was raised in.
        RuntimeError: a process ended before its work did.
    """
    chunks = _chunks(counts)
    num_workers = min(num_workers, len(chunks))
    if num_workers == 0:
        for chunk in chunks:
            yield from _make_chunk(source, chunk)
        return
    context = multiprocessing.get_context("spawn")
    receivers, processes = [], []
    try:
        for worker in range(num_workers):
            receiver, sender = context.Pipe(duplex=False)
            receivers.append(receiver)
            process = context.Process(
                target=_work, args=(source, chunks[worker::num_workers], sender), daemon=True
            )
            process.start()
            processes.append(process)
            # The worker's copy is now the only one, so that its end is seen as the pipe's.
            sender.close()
        for position in range(len(chunks)):
            yield from _receive(receivers[position % num_workers])
    finally:
        for receiver in receivers:
            receiver.close()
        for process in processes:
            process.terminate()
            process.join()


def _chunks(counts: Mapping[str, int]) -> list[tuple[str, range]]:
    return [
        (split, range(start, min(start + CHUNK_SCENES, count)))
        for split, count in counts.items()
        for start in range(0, count, CHUNK_SCENES)
    ]


def _make_chunk(source: SceneSource, chunk: tuple[str, range]) -> list[Record]:
    split, indices = chunk
    scenes = [(index, source.scene(split, index)) for index in indices]
    return [
        Record(split, index, encode_scene(source.kind, scene), digest_scene(scene))
        for index, scene in scenes
    ]


def _work(source: SceneSource, chunks: list[tuple[str, range]], sender: Connection) -> None:
    """Run in a worker: make the chunks and send them; an exception is sent in a chunk's place."""
    try:
        for chunk in chunks:
            sender.send(_make_chunk(source, chunk))
    except BrokenPipeError:
        return
    except Exception as error:
        sender.send(error)


def _receive(receiver: Connection) -> list[Record]:
    try:
        received = receiver.recv()
    except EOFError:
        raise RuntimeError("a process that makes scenes ended before its work did") from None
    if isinstance(received, Exception):
        raise received
    return received
