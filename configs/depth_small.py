r"""Disparity from one image: a tiny Depth Anything, trained on layered scenes whose depth is known.

    bokeh-jax data build --source=layered --style=compact --max-layers=3 --size=36 \
      --count=train=8000 --out=data/scenes
    bokeh-jax train --config=configs/depth_small.py --workdir=runs/depth
    bokeh-jax refocus photo.png --depth-model=runs/depth --focus=0.6,0.4 --blur=0.03 --out=out.png

The same network as the published ones at 1/20 of the smallest's parameters, patches of 4 px, for
32 px images.
"""

from ml_collections import ConfigDict

from bokeh_jax.config import experiment


def get_config() -> ConfigDict:
    """Differences from the defaults of `bokeh_jax.config`."""
    return experiment(
        name="depth_small",
        task="depth",
        data=dict(path="data/scenes"),
        simulation=dict(
            size_px=32,
            augment=dict(exposure_stops=0.5, white_balance_stops=0.2, saturation=0.3),
            cameras=dict(blur_fraction_min=0.01, blur_fraction_max=0.02),
        ),
        depth=dict(
            hidden_dim=128,
            num_heads=4,
            num_blocks=4,
            patch_px=4,
            position_grid=8,
            out_blocks=(1, 2, 3, 4),
            neck_dims=(32, 48, 64, 96),
            resize_factors=(2.0, 1.0, 0.5, 0.5),
            fusion_dim=32,
            last_dim=16,
            working_size_px=32,
            compute_dtype="float32",
        ),
        optimizer=dict(
            peak_learning_rate=1e-3, warmup_steps=100, final_fraction=0.02, ema_decay=0.99
        ),
        training=dict(
            num_steps=2000,
            global_batch_size=48,
            log_every_steps=50,
            image_every_steps=500,
            checkpoint_every_steps=500,
        ),
    )
