r"""Text and EXIF to a photograph with no lens between: the baseline, and the teacher of `defocus`.

    bokeh-jax data build --source=photographer --max-layers=2 --size=32 \
      --photographer-blur=0.05:0.1 --count=train=8000 --out=data/photographs
    bokeh-jax train --config=configs/exif_tokens_small.py --workdir=runs/exif_tokens

    >>> from bokeh_jax.inference.generator import Camera
    >>> from bokeh_jax.inference.token_camera import TokenCamera, scene_change
    >>> camera = TokenCamera.from_checkpoint("runs/exif_tokens")
    >>> prompt = "One thing, nearest first: a disc of brick in the centre, near, before grass."
    >>> wide, deep = (camera.photograph(prompt, Camera(n, 50.0)) for n in (1.8, 22.0))
    >>> scene_change(wide, deep)

The network of `generate_small`, told of f-number, view and opening by three tokens beside the
prompt's. It learns p(photograph | prompt, EXIF) from what cameras have taken; the same scenes
without a lens are in the dataset and are not read. Not trained yet.
"""

from ml_collections import ConfigDict

from bokeh_jax.config import experiment


def get_config() -> ConfigDict:
    """Differences from the defaults of `bokeh_jax.config`."""
    return experiment(
        name="exif_tokens_small",
        task="generate",
        data=dict(path="data/photographs"),
        # Photographs are taken whole, and captions say where things are.
        simulation=dict(size_px=32, augment=dict(flip_rate=0.0)),
        model=dict(
            patch_size=4,
            reference_as="tokens",
            text_dim=128,
            pooled_dim=128,
            hidden_dim=256,
            num_heads=4,
            num_double_blocks=1,
            num_single_blocks=4,
            compute_dtype="float32",
            scan_blocks=False,
        ),
        text=dict(compute_dtype="float32"),
        generation=dict(images="photographs", exif_tokens=True),
        optimizer=dict(
            peak_learning_rate=1e-3, warmup_steps=100, final_fraction=0.02, ema_decay=0.995
        ),
        sampler=dict(num_steps=24, guidance_scale=2.0),
        training=dict(
            num_steps=2500,
            global_batch_size=32,
            log_every_steps=50,
            image_every_steps=500,
            checkpoint_every_steps=500,
        ),
    )
