"""The demo on latents: refocusing of 32 px layered scenes in the 8 x 8 latents of `vae_small`.

    bokeh-jax train --config=configs/latent_small.py --workdir=runs/latent_small \
      --config.objective.stack_space=pixels

Smaller than `demo` and quick to train: what it is for is the comparison of the ways to ask for the
stacking constraint (`latents`, `blended_latents`, `pixels`), in docs/results.md.
"""

from ml_collections import ConfigDict

from bokeh_jax.config import experiment
from configs._small_codec import CODEC


def get_config() -> ConfigDict:
    """Differences from the defaults of `bokeh_jax.config`."""
    return experiment(
        name="latent_small",
        data=dict(path="data/demo"),
        simulation=dict(
            size_px=32,
            cameras=dict(
                blur_fraction_min=0.06,
                blur_fraction_max=0.15,
                all_in_focus_reference_rate=0.1,
                all_in_focus_target_rate=0.15,
            ),
        ),
        codec=CODEC,
        pretrained=dict(autoencoder="runs/vae_small"),
        model=dict(
            image_channels=8,
            patch_size=1,
            hidden_dim=192,
            num_heads=3,
            num_double_blocks=1,
            num_single_blocks=2,
            compute_dtype="float32",
            scan_blocks=False,
        ),
        objective=dict(
            flow_source="reference",
            source_noise=0.1,
            time=dict(kind="logit_normal", mean=2.0),
            stacking_weight=0.5,
            depth_dropout_rate=0.05,
            camera_dropout_rate=0.05,
            reference_camera_dropout_rate=0.3,
        ),
        optimizer=dict(peak_learning_rate=2e-3, warmup_steps=20, ema_decay=0.99),
        training=dict(
            num_steps=300,
            global_batch_size=24,
            log_every_steps=10,
            image_every_steps=100,
            checkpoint_every_steps=100,
        ),
    )
