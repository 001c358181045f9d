r"""Text to an all-in-focus image, from nothing, 32 px in pixels, two CPU cores.

    bokeh-jax data build --source=layered --style=compact --max-layers=3 --size=36 \
      --count=train=8000 --out=data/scenes
    bokeh-jax train --config=configs/generate_small.py --workdir=runs/generate
    bokeh-jax generate "One thing, nearest first: a disc of brick in the centre, near, \
      before a backdrop of grass." --checkpoint=runs/generate --out=out

Prompts are read as bytes by an encoder that is trained with the network; what is not in the
captions of layered scenes has no meaning to it. Scenes are shown whole and never flipped, because
captions say where things are.
"""

from ml_collections import ConfigDict

from bokeh_jax.config import experiment


def get_config() -> ConfigDict:
    """Differences from the defaults of `bokeh_jax.config`."""
    return experiment(
        name="generate_small",
        task="generate",
        data=dict(path="data/scenes"),
        simulation=dict(
            size_px=32,
            augment=dict(flip_rate=0.0),
            # The margin of a scene is as wide as the largest blur: 1 px, as no lens is used here.
            cameras=dict(blur_fraction_min=0.01, blur_fraction_max=0.02),
        ),
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
        optimizer=dict(
            peak_learning_rate=1e-3, warmup_steps=100, final_fraction=0.02, ema_decay=0.995
        ),
        sampler=dict(num_steps=24, guidance_scale=2.0),
        training=dict(
            num_steps=2000,
            global_batch_size=32,
            log_every_steps=50,
            image_every_steps=500,
            checkpoint_every_steps=500,
        ),
    )
