r"""Text and EXIF to a photograph with no lens between: the baseline, and the teacher of `defocus`.

    bokeh-jax data build --source=photographer --max-layers=2 --size=32 \
      --photographer-blur=0.05:0.1 --count=train=8000 --out=data/photographs
    bokeh-jax train --config=configs/exif_tokens_small.py --workdir=runs/exif_tokens

    >>> from bokeh_jax.evaluation.aperture_control import scene_change
    >>> from bokeh_jax.inference.generator import Camera
    >>> from bokeh_jax.inference.token_camera import TokenCamera
    >>> camera = TokenCamera.from_checkpoint("runs/exif_tokens")
    >>> prompt = "One thing, nearest first: a disc of brick in the centre, near, before grass."
    >>> wide, deep = (camera.photograph(prompt, Camera(n, 50.0)) for n in (1.8, 22.0))
    >>> scene_change(wide, deep)

The network of `generate_small`, told of f-number, view and opening by three tokens beside the
prompt's. It learns p(photograph | prompt, EXIF) from what cameras have taken; the same scenes
without a lens are in the dataset and are not read. Not trained yet.
"""

from ml_collections import ConfigDict

from configs.generate_small import get_config as generate_small


def get_config() -> ConfigDict:
    """Differences from the defaults of `bokeh_jax.config`."""
    config = generate_small()
    config.update(
        name="exif_tokens_small",
        data=dict(path="data/photographs"),
        generation=dict(images="photographs", exif_tokens=True),
    )
    return config
