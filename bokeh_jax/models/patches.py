"""Images as tokens: p × p patches in row-major order, features ordered (channel, row, column).

The order of FLUX, which packs 2 × 2 latents of 16 channels into 64 features.
"""

from jaxtyping import Array, Float

from bokeh_jax.errors import InvalidInput


def patchify(image: Float[Array, "b h w c"], patch_size: int) -> Float[Array, "b n f"]:
    """Patches in row-major order, features ordered (channel, row, column).

    Raises:
        InvalidInput: where height or width are no multiples of the patch size.
    """
    batch, height_px, width_px, channels = image.shape
    check_size(height_px, width_px, patch_size)
    rows, columns = height_px // patch_size, width_px // patch_size
    cut = image.reshape(batch, rows, patch_size, columns, patch_size, channels)
    return cut.transpose(0, 1, 3, 5, 2, 4).reshape(batch, rows * columns, -1)


def unpatchify(
    tokens: Float[Array, "b n f"], patch_size: int, height_px: int, width_px: int
) -> Float[Array, "b h w c"]:
    """The image whose patches these are: the inverse of `patchify`."""
    rows, columns = height_px // patch_size, width_px // patch_size
    cut = tokens.reshape(tokens.shape[0], rows, columns, -1, patch_size, patch_size)
    return cut.transpose(0, 1, 4, 2, 5, 3).reshape(tokens.shape[0], height_px, width_px, -1)


def check_size(height_px: int, width_px: int, patch_size: int) -> None:
    """Whether an image of this size can be cut into patches.

    Raises:
        InvalidInput: it cannot.
    """
    if height_px % patch_size or width_px % patch_size or not height_px * width_px:
        raise InvalidInput(
            f"image size is {height_px} x {width_px} px; allowed: positive multiples of "
            f"patch_size {patch_size} px"
        )
