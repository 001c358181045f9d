"""Refocus a photograph with the model of this folder; needs torch, safetensors, numpy and Pillow.

    python refocus.py photo.jpg --focus 0.5,0.5 --blur 0.03 out.png

The network works at about the size it was trained at; its answer is resized to the photograph's.
The lens blur that guides the network where depth is known exists only in the package bokeh_jax.
"""

import argparse
import io
import math
import os
import sys
from pathlib import Path

import numpy as np
import torch
from modeling_bokeh import Conditions, InvalidInput, load
from PIL import Image, ImageCms, ImageOps

FOLDER = Path(__file__).parent
KINDS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF"}
KINDS[".webp"] = "WEBP"
SAVE_OPTIONS = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "PNG": {},
    "TIFF": {"compression": "tiff_adobe_deflate"},
    "WEBP": {"quality": 95, "method": 4},
}
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line in one line."""

    def error(self, message: str):
        """Without the usage text."""
        raise InvalidInput(f"{message}; allowed: see {self.prog} --help")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(prog="refocus.py", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("image", type=Path, help="JPEG, PNG, TIFF or WebP")
    parser.add_argument("out", type=Path, help="the answer, of the kind that its ending names")
    parser.add_argument("--focus", required=True, metavar="X,Y", help="the point to be sharp")
    parser.add_argument(
        "--blur", required=True, type=float, help="blur radius per unit disparity, in image widths"
    )
    parser.add_argument("--all-in-focus", action="store_true", help="IMAGE is sharp everywhere")
    parser.add_argument("--steps", type=int, help="solver steps; default: the model's")
    parser.add_argument("--guidance", type=float, help="guidance scale; default: the model's")
    parser.add_argument("--seed", type=int, default=0, help="of the flow's noise")
    parser.add_argument("--noise", type=Path, help="the noise, .npy [rows, columns, channels]")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights; default: the file's")
    parser.add_argument("--disparity", help=argparse.SUPPRESS)
    return parser


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line's values, checked as far as they can be without files."""
    arguments = make_parser().parse_args(argv)
    if arguments.disparity is not None:
        raise InvalidInput(
            f"--disparity is {arguments.disparity}; allowed: not here, as the lens blur that "
            "guides the network with it exists only in the package bokeh_jax (`bokeh-jax refocus`)"
        )
    try:
        x, y = (float(part) for part in arguments.focus.split(","))
    except ValueError:
        x = y = math.nan
    if not (0.0 <= x <= 1.0 and 0.0 <= y <= 1.0):
        raise InvalidInput(
            f"--focus is {arguments.focus!r}; allowed: x,y each from 0 (left, top) to 1"
        )
    arguments.focus = x, y
    if not (math.isfinite(arguments.blur) and arguments.blur >= 0.0):
        raise InvalidInput(f"--blur is {arguments.blur}; allowed: 0 or more, in image widths")
    if arguments.steps is not None and arguments.steps < 1:
        raise InvalidInput(f"--steps is {arguments.steps}; allowed: 1 or more")
    if arguments.guidance is not None and not math.isfinite(arguments.guidance):
        raise InvalidInput(f"--guidance is {arguments.guidance}; allowed: a finite number")
    if arguments.out.suffix.lower() not in KINDS:
        raise InvalidInput(f"output file {arguments.out}; allowed endings: {', '.join(KINDS)}")
    try:
        torch.empty(0, device=arguments.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidInput(
            f"--device is {arguments.device!r} ({reason}); allowed: a device of torch, such as cpu"
        ) from None
    return arguments


def read_photo(path: Path) -> tuple[np.ndarray, bytes | None]:
    """An upright sRGB picture [h, w, 3] in [0, 1], and its EXIF block to write back."""
    try:
        with Image.open(path) as opened:
            if opened.format not in SAVE_OPTIONS:
                raise InvalidInput(
                    f"image file {path} is {opened.format}; allowed: {', '.join(SAVE_OPTIONS)}"
                )
            upright = ImageOps.exif_transpose(opened)
            upright.load()
            exif = upright.getexif()
            pixels = np.asarray(to_srgb(upright), np.float32) / 255.0
    except (OSError, SyntaxError, ImageCms.PyCMSError) as error:
        raise InvalidInput(
            f"image file {path} cannot be read ({error}); allowed: a whole JPEG, PNG, TIFF or WebP"
        ) from None
    return pixels, exif.tobytes() if len(exif) else None


def to_srgb(image: Image.Image) -> Image.Image:
    """By the embedded profile, if there is one."""
    profile = image.info.get("icc_profile")
    if profile is None or image.mode not in ("RGB", "L"):
        return image.convert("RGB")
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    target = ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
    assert converted is not None
    return converted


def write_photo(path: Path, pixels: np.ndarray, exif: bytes | None) -> None:
    """Whole or not at all: beside it first, then renamed."""
    kind = KINDS[path.suffix.lower()]
    levels = np.clip(np.rint(pixels * 255.0), 0, 255).astype(np.uint8)
    options = SAVE_OPTIONS[kind] | ({"exif": exif} if exif else {})
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        Image.fromarray(levels).save(temporary, format=kind, **options)
        temporary.replace(path)
    except OSError as error:
        if path.parent.is_dir():
            temporary.unlink(missing_ok=True)
        raise InvalidInput(
            f"output file {path} cannot be written ({error.strerror or error}); allowed: a folder "
            "that exists and that this user may write"
        ) from None


def resize(image: np.ndarray, height_px: int, width_px: int) -> np.ndarray:
    """Antialiased (Lanczos), channel by channel in float32."""
    if image.shape[:2] == (height_px, width_px):
        return image
    planes = np.moveaxis(np.ascontiguousarray(image, np.float32), -1, 0)
    size, method = (width_px, height_px), Image.Resampling.LANCZOS
    return np.stack([np.asarray(Image.fromarray(p).resize(size, method)) for p in planes], axis=-1)


def working_size(height_px: int, width_px: int, size_px: int, multiple_px: int) -> tuple[int, int]:
    """About size_px² pixels in the photograph's aspect ratio, both sides multiples."""
    scale = size_px / math.sqrt(height_px * width_px)
    height, width = (max(1, round(side * scale / multiple_px)) for side in (height_px, width_px))
    return height * multiple_px, width * multiple_px


def draw_noise(arguments: argparse.Namespace, shape: torch.Size) -> torch.Tensor:
    """Standard normal [1, c, h, w], from the seed (the same on every device) or the file."""
    if arguments.noise is None:
        return torch.randn(shape, generator=torch.Generator().manual_seed(arguments.seed))
    _, channels, rows, columns = shape
    try:
        found = np.load(arguments.noise, allow_pickle=False)
        if not isinstance(found, np.ndarray) or found.shape != (rows, columns, channels):
            raise ValueError(f"its shape is {getattr(found, 'shape', 'that of an archive')}")
    except (OSError, ValueError, EOFError) as error:
        raise InvalidInput(
            f"--noise {arguments.noise} cannot be used ({error}); allowed: an .npy file "
            f"[{rows}, {columns}, {channels}]"
        ) from None
    return torch.from_numpy(np.moveaxis(found, -1, 0)[None].astype(np.float32))


def main(argv: list[str] | None = None) -> int:
    """Refocuses a file; 2 with one line on stderr where something is not usable."""
    try:
        arguments = parse(argv)
        pixels, exif = read_photo(arguments.image)
        dtype = None if arguments.dtype is None else DTYPES[arguments.dtype]
        model = load(FOLDER, dtype, arguments.device)
        height_px, width_px, _ = pixels.shape
        size = working_size(height_px, width_px, model.config["size_px"], model.multiple_px)
        small = np.clip(resize(pixels, *size), 0.0, 1.0)
        image = torch.from_numpy(2.0 * small - 1.0).permute(2, 0, 1)[None].to(arguments.device)
        with torch.no_grad():
            conditions = Conditions(
                model.encode(image),
                torch.tensor([arguments.focus], device=arguments.device),
                torch.tensor([arguments.blur], device=arguments.device),
                reference_camera_given=arguments.all_in_focus,
            )
            noise = draw_noise(arguments, conditions.reference.shape).to(arguments.device)
            sample = model.sample(
                conditions, noise, num_steps=arguments.steps, guidance_scale=arguments.guidance
            )
            answer = model.decode(sample)[0].permute(1, 2, 0).cpu().numpy() / 2.0 + 0.5
        write_photo(arguments.out, resize(answer, height_px, width_px), exif)
    except InvalidInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.out}: network at {size[1]}x{size[0]}, answer at {width_px}x{height_px}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
