"""Files of one number a pixel: PNG, TIFF, OpenEXR, PFM, NPY and NPZ, read from bytes.

What comes back is what the file holds: uint8 or uint16 of PNG and TIFF, floats of the others. Float
TIFF has 32 bits. An OpenEXR file has one channel, or several of which one is called Z, V, Y,
`depth` or `disparity`, or R, G and B that are equal.

PFM (Portable Float Map) is three lines of text, `Pf`, `width height` and a scale, then floats, row
by row from the bottom. A negative scale says little endian; its size, of which programs make
different things, is left aside.
"""

import importlib
import io
import re
from typing import Any

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from bokeh_jax.errors import InvalidInput
from data_pipeline.photos.files import MAP_SUFFIXES

_EXR_CHANNELS = ("Z", "V", "Y", "depth", "disparity")
_IMAGE_MODES = ("L", "I;16", "I;16B", "I;16L", "F")


def decode_map(data: bytes, suffix: str, name: str) -> Shaped[np.ndarray, "h w"]:
    """Decode a map.

    Args:
        data: the file.
        suffix: its ending, which says the format: png, tif, tiff, exr, pfm, npy or npz.
        name: of the file, for errors.

    Returns:
        [h, w] of uint8, uint16 or floats.

    Raises:
        InvalidInput: the file is damaged, of another kind, or holds no map.
    """
    decoders = {"npy": _numpy, "npz": _numpy, "pfm": _pfm, "exr": _exr}
    if suffix not in MAP_SUFFIXES:
        raise InvalidInput(f"map {name} ends in {suffix!r}; allowed: {' '.join(MAP_SUFFIXES)}")
    try:
        raw = decoders.get(suffix, _image)(data, name)
    except InvalidInput:
        raise
    # Decoders raise nearly anything on damaged files; each means that this file is at fault.
    except Exception as error:
        raise InvalidInput(
            f"map {name} cannot be read ({one_line(error)}); allowed: a whole {suffix} file"
        ) from error
    if raw.ndim != 2 or raw.size == 0:
        raise InvalidInput(f"map {name} has shape {raw.shape}; allowed: (height, width)")
    if raw.dtype not in (np.uint8, np.uint16) and raw.dtype.kind != "f":
        raise InvalidInput(f"map {name} holds {raw.dtype}; allowed: uint8, uint16 or floats")
    return raw


def check_map_libraries(suffixes: set[str]) -> None:
    """Raise InvalidInput if a format needs a package that is not installed."""
    if "exr" in suffixes:
        _openexr()


def one_line(error: BaseException) -> str:
    """An error's message without line breaks, and without the address of what was read."""
    text = re.sub(r" ?<_io\.BytesIO[^>]*>", "", str(error))
    return " ".join(text.split()) or type(error).__name__


def _numpy(data: bytes, name: str) -> np.ndarray:
    loaded = np.load(io.BytesIO(data), allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        if len(loaded.files) != 1:
            raise InvalidInput(f"map {name} holds {len(loaded.files)} arrays; allowed: 1")
        return loaded[loaded.files[0]]


def _image(data: bytes, name: str) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as file:
        mode, values = file.mode, np.asarray(file)
    if mode not in _IMAGE_MODES:
        raise InvalidInput(
            f"map {name} has mode {mode}; allowed: one channel, uint8, uint16 or float"
        )
    return values.astype(np.uint16) if mode.startswith("I;16") else values


def _pfm(data: bytes, name: str) -> np.ndarray:
    # The header's three lines; the floats begin after the one break that ends the third.
    kind, size, scale, floats = data.split(b"\n", 3)
    if kind.strip() != b"Pf":
        raise InvalidInput(f"map {name} begins with {kind[:8]!r}; allowed: b'Pf', one channel")
    width, height = (int(text) for text in size.split())
    order = "<" if float(scale) < 0 else ">"
    if width < 1 or height < 1 or len(floats) < 4 * width * height:
        raise InvalidInput(
            f"map {name} has {len(floats)} bytes for {width}x{height} px; "
            f"allowed: {4 * width * height}"
        )
    values = np.frombuffer(floats, f"{order}f4", width * height)
    return values.reshape(height, width)[::-1].astype(np.float32)


def _exr(data: bytes, name: str) -> np.ndarray:
    with _openexr().File(io.BytesIO(data), separate_channels=True) as file:
        channels = {key: np.array(channel.pixels) for key, channel in file.channels().items()}
    # A channel of a named layer is called `layer.Z`.
    by_word = {key.rpartition(".")[2]: values for key, values in channels.items()}
    for word in _EXR_CHANNELS:
        if word in by_word:
            return by_word[word]
    if len(channels) == 1:
        return next(iter(channels.values()))
    colours = [by_word[word] for word in "RGB" if word in by_word]
    if len(colours) == 3 and all(np.array_equal(colours[0], c) for c in colours[1:]):
        return colours[0]
    raise InvalidInput(
        f"map {name} has the channels {', '.join(sorted(channels))}; "
        f"allowed: one, or one of {', '.join(_EXR_CHANNELS)}, or equal R, G and B"
    )


def _openexr() -> Any:
    try:
        return importlib.import_module("OpenEXR")
    except ImportError:
        raise InvalidInput(
            "maps in OpenEXR files need the package OpenEXR, which is not installed; "
            "allowed: pip install 'bokeh-jax[exr]', or maps in another format"
        ) from None
