"""A small autoencoder of photographs of layered scenes, 32 px to 8 x 8 latents of 8 channels.

    bokeh-jax data build --source=layered --max-layers=2 --out=data/demo
    bokeh-jax train --config=configs/vae_small.py --workdir=runs/vae_small

What trains on its latents is `configs/latent_small.py`; what came of both is in docs/results.md.
Latents of a large model come from its own autoencoder (docs/flux.md): this one is for studying what
a codec does to the stacking constraint, on a machine without accelerators.
"""

from ml_collections import ConfigDict

from bokeh_jax.config import experiment
from configs._small_codec import CODEC


def get_config() -> ConfigDict:
    """Differences from the defaults of `bokeh_jax.config`."""
    return experiment(
        name="vae_small",
        task="autoencoder",
        data=dict(path="data/demo"),
        simulation=dict(
            size_px=32,
            cameras=dict(
                blur_fraction_min=0.06,
                blur_fraction_max=0.15,
                all_in_focus_reference_rate=0.3,
                all_in_focus_target_rate=0.3,
            ),
        ),
        codec=CODEC,
        optimizer=dict(peak_learning_rate=2e-3, warmup_steps=20, ema_decay=0.98),
        training=dict(
            num_steps=600,
            global_batch_size=16,
            log_every_steps=20,
            image_every_steps=200,
            checkpoint_every_steps=100,
        ),
    )
