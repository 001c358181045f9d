r"""Text and EXIF to a photograph with no lens between: the baseline, and the teacher of `defocus`.

    bokeh-jax data build --source=photographer --style=compact --max-layers=3 --size=32 \
      --photographer-blur=0.05:0.1 --photographer-subjects=central=0.85,any=0.15 \
      --count=train=8000 --count=eval_heldout=512 --out=data/photographs
    bokeh-jax train --config=configs/exif_tokens_small.py --workdir=runs/exif_tokens
    bokeh-jax bench apertures --checkpoint=runs/generate --depth-model=runs/depth \
      --tokens=runs/exif_tokens --out=runs/apertures

    >>> from bokeh_jax.evaluation.aperture_control import scene_change
    >>> from bokeh_jax.inference.generator import Camera
    >>> from bokeh_jax.inference.token_camera import TokenCamera
    >>> camera = TokenCamera.from_checkpoint("runs/exif_tokens")
    >>> prompt = "One thing, nearest first: a disc of brick in the centre, near, before grass."
    >>> wide, deep = (camera.photograph(prompt, Camera(n, 50.0)) for n in (1.8, 22.0))
    >>> scene_change(wide, deep)

The network of `generate_small`, told of f-number, view and opening by three tokens beside the
prompt's, and started from runs/generate, which knows scenes and prompts; with
--config.training.init_from= it starts fresh. It learns p(photograph | prompt, EXIF) from what
cameras have taken; the same scenes without a lens are in the dataset and are not read.
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
        optimizer=dict(peak_learning_rate=5e-4),
        training=dict(init_from="runs/generate", num_steps=1000),
    )
    return config
