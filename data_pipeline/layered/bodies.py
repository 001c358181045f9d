"""Real cameras and lenses: sizes of sensors, focal lengths, apertures, as their makers state them.

Phones state no size of the sensor but the pitch of its pixels; its size is the pitch times their
number. A zoom's widest aperture at a focal length between its ends lies between theirs,
log-linearly in the focal length.
"""

import dataclasses
import math
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class LensModel:
    """A lens as its maker states it.

    Attributes:
        name: maker's name.
        focal_lengths_mm: shortest and longest; the same for a prime.
        widest_f_numbers: at the two focal lengths.
        narrowest_f_number: of any focal length; that of the widest where the aperture is fixed.
        closest_focus_m: nearest subject, from the sensor.
    """

    name: str
    focal_lengths_mm: tuple[float, float]
    widest_f_numbers: tuple[float, float]
    narrowest_f_number: float
    closest_focus_m: float

    def widest_f_number(self, focal_length_mm: float) -> float:
        """The least f-number at a focal length."""
        short, long = self.focal_lengths_mm
        if short == long:
            return self.widest_f_numbers[0]
        share = math.log(focal_length_mm / short) / math.log(long / short)
        low, high = (math.log(number) for number in self.widest_f_numbers)
        return math.exp(low + share * (high - low))


@dataclasses.dataclass(frozen=True)
class Body:
    """A camera.

    Attributes:
        name: maker's name.
        sensor_mm: width and height.
        pixels: columns and rows.
        mounts: keys of `LENSES`; a camera whose lens is built in has its own.
    """

    name: str
    sensor_mm: tuple[float, float]
    pixels: tuple[int, int]
    mounts: tuple[str, ...]


Number = float | int


def _zoom(
    name: str,
    focal_mm: tuple[Number, Number],
    widest: tuple[Number, Number],
    narrowest: Number,
    closest_m: Number,
) -> LensModel:
    (short, long), (first, last) = focal_mm, widest
    return LensModel(
        name,
        (float(short), float(long)),
        (float(first), float(last)),
        float(narrowest),
        float(closest_m),
    )


def _prime(
    name: str, focal_mm: Number, widest: Number, narrowest: Number, closest_m: Number
) -> LensModel:
    return _zoom(name, (focal_mm, focal_mm), (widest, widest), narrowest, closest_m)


FULL_FRAME = (36.0, 24.0)
MEDIUM_FORMAT = (43.8, 32.9)
NIKON_FX = (35.9, 23.9)
APS_C = (23.5, 15.6)
CANON_APS_C = (22.3, 14.9)
FOUR_THIRDS = (17.3, 13.0)
ONE_INCH = (13.2, 8.8)


def _phone(pitch_um: float) -> tuple[float, float]:
    """Width and height of a sensor of 4032 x 3024 pixels."""
    return 4.032 * pitch_um, 3.024 * pitch_um


BODIES: tuple[Body, ...] = (
    Body("Canon EOS 5D Mark IV", FULL_FRAME, (6720, 4480), ("EF",)),
    Body("Canon EOS 800D", CANON_APS_C, (6000, 4000), ("EF", "EF-S")),
    Body("Canon EOS R5", FULL_FRAME, (8192, 5464), ("RF",)),
    Body("Nikon D850", NIKON_FX, (8256, 5504), ("F",)),
    Body("Nikon D5600", APS_C, (6000, 4000), ("F", "F DX")),
    Body("Nikon Z 6II", NIKON_FX, (6048, 4024), ("Z",)),
    Body("Sony Alpha 7 III", (35.6, 23.8), (6000, 4000), ("FE",)),
    Body("Sony Alpha 6400", APS_C, (6000, 4000), ("FE", "E")),
    Body("Fujifilm X-T4", APS_C, (6240, 4160), ("X",)),
    Body("Fujifilm GFX 50S", MEDIUM_FORMAT, (8256, 6192), ("G",)),
    Body("Panasonic Lumix GH5", FOUR_THIRDS, (5184, 3888), ("MFT",)),
    Body("Olympus OM-D E-M1 Mark III", FOUR_THIRDS, (5184, 3888), ("MFT",)),
    Body("Leica Q2", FULL_FRAME, (8368, 5584), ("Leica Q2",)),
    Body("Fujifilm X100V", APS_C, (6240, 4160), ("X100V",)),
    Body("Sony RX100 VII", ONE_INCH, (5472, 3648), ("RX100 VII",)),
    Body("Sony RX10 IV", ONE_INCH, (5472, 3648), ("RX10 IV",)),
    Body("Google Pixel 4", _phone(1.4), (4032, 3024), ("Pixel 4",)),
    Body("Apple iPhone X", _phone(1.22), (4032, 3024), ("iPhone X",)),
    Body("Apple iPhone 12 Pro Max", _phone(1.7), (4032, 3024), ("iPhone 12 Pro Max",)),
)

LENSES: Mapping[str, tuple[LensModel, ...]] = {
    "EF": (
        _prime("EF 35mm f/2 IS USM", 35, 2.0, 22, 0.24),
        _prime("EF 50mm f/1.8 STM", 50, 1.8, 22, 0.35),
        _prime("EF 85mm f/1.8 USM", 85, 1.8, 22, 0.85),
        _prime("EF 100mm f/2.8 Macro USM", 100, 2.8, 32, 0.31),
        _zoom("EF 24-70mm f/2.8L II USM", (24, 70), (2.8, 2.8), 22, 0.38),
        _zoom("EF 70-200mm f/2.8L IS II USM", (70, 200), (2.8, 2.8), 32, 1.2),
    ),
    "EF-S": (_zoom("EF-S 18-55mm f/4-5.6 IS STM", (18, 55), (4.0, 5.6), 25, 0.25),),
    "RF": (
        _prime("RF 35mm F1.8 Macro IS STM", 35, 1.8, 22, 0.17),
        _prime("RF 50mm F1.8 STM", 50, 1.8, 22, 0.3),
        _prime("RF 85mm F1.2 L USM", 85, 1.2, 16, 0.85),
        _zoom("RF 24-105mm F4 L IS USM", (24, 105), (4.0, 4.0), 22, 0.45),
    ),
    "F": (
        _prime("AF-S 35mm f/1.8G ED", 35, 1.8, 16, 0.25),
        _prime("AF-S 50mm f/1.8G", 50, 1.8, 16, 0.45),
        _prime("AF-S 85mm f/1.8G", 85, 1.8, 16, 0.8),
        _zoom("AF-S 24-120mm f/4G ED VR", (24, 120), (4.0, 4.0), 22, 0.45),
        _zoom("AF-S 70-200mm f/2.8G ED VR II", (70, 200), (2.8, 2.8), 22, 1.4),
    ),
    "F DX": (_zoom("AF-P DX 18-55mm f/3.5-5.6G VR", (18, 55), (3.5, 5.6), 22, 0.25),),
    "Z": (
        _prime("NIKKOR Z 50mm f/1.8 S", 50, 1.8, 16, 0.4),
        _prime("NIKKOR Z 85mm f/1.8 S", 85, 1.8, 16, 0.8),
        _zoom("NIKKOR Z 24-70mm f/4 S", (24, 70), (4.0, 4.0), 22, 0.3),
    ),
    "FE": (
        _prime("Sonnar T* FE 55mm F1.8 ZA", 55, 1.8, 22, 0.5),
        _prime("FE 85mm F1.8", 85, 1.8, 22, 0.8),
        _zoom("FE 24-105mm F4 G OSS", (24, 105), (4.0, 4.0), 22, 0.38),
        _zoom("FE 70-200mm F2.8 GM OSS", (70, 200), (2.8, 2.8), 22, 0.96),
    ),
    "E": (_zoom("E PZ 16-50mm F3.5-5.6 OSS", (16, 50), (3.5, 5.6), 22, 0.3),),
    "X": (
        _prime("XF 23mm F2 R WR", 23, 2.0, 16, 0.22),
        _prime("XF 35mm F1.4 R", 35, 1.4, 16, 0.28),
        _prime("XF 56mm F1.2 R", 56, 1.2, 16, 0.7),
        _prime("XF 90mm F2 R LM WR", 90, 2.0, 16, 0.6),
        _zoom("XF 18-55mm F2.8-4 R LM OIS", (18, 55), (2.8, 4.0), 22, 0.4),
    ),
    "G": (
        _prime("GF 63mm F2.8 R WR", 63, 2.8, 32, 0.5),
        _prime("GF 110mm F2 R LM WR", 110, 2.0, 22, 0.9),
    ),
    "MFT": (
        _prime("M.Zuiko Digital 25mm F1.8", 25, 1.8, 22, 0.25),
        _prime("M.Zuiko Digital 45mm F1.8", 45, 1.8, 22, 0.5),
        _prime("M.Zuiko Digital ED 60mm F2.8 Macro", 60, 2.8, 22, 0.19),
        _zoom("M.Zuiko Digital ED 12-40mm F2.8 PRO", (12, 40), (2.8, 2.8), 22, 0.2),
        _zoom("M.Zuiko Digital ED 40-150mm F2.8 PRO", (40, 150), (2.8, 2.8), 22, 0.7),
    ),
    "Leica Q2": (_prime("Summilux 28mm f/1.7 ASPH.", 28, 1.7, 16, 0.3),),
    "X100V": (_prime("Fujinon 23mm F2", 23, 2.0, 16, 0.1),),
    "RX100 VII": (_zoom("Vario-Sonnar T* 9-72mm F2.8-4.5", (9, 72), (2.8, 4.5), 11, 0.08),),
    "RX10 IV": (_zoom("Vario-Sonnar T* 8.8-220mm F2.4-4", (8.8, 220), (2.4, 4.0), 16, 0.72),),
    "Pixel 4": (_prime("4.38mm f/1.7", 4.38, 1.7, 1.7, 0.1),),
    "iPhone X": (_prime("4mm f/1.8", 4.0, 1.8, 1.8, 0.1),),
    "iPhone 12 Pro Max": (_prime("5.1mm f/1.6", 5.1, 1.6, 1.6, 0.15),),
}


def combinations() -> tuple[tuple[Body, LensModel], ...]:
    """Every body with every lens that fits it."""
    return tuple((b, lens) for b in BODIES for mount in b.mounts for lens in LENSES[mount])
