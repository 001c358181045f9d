"""The released small model, and what the papers' claims are tested with: 32 px, two CPU cores.

    bokeh-jax data build --source=layered --max-layers=3 --count=train=8000 --out=data/small
    bokeh-jax train --config=configs/refocus_small.py --workdir=runs/small

Flow from noise as in the papers; most times lie near its far end, where a single step asks. The
arms of `bokeh-jax bench claims` fork from this run (docs/results.md).
"""

from ml_collections import ConfigDict

from bokeh_jax.config import experiment


def get_config() -> ConfigDict:
    """Differences from the defaults of `bokeh_jax.config`."""
    return experiment(
        name="refocus_small",
        data=dict(path="data/small"),
        simulation=dict(
            size_px=32,
            augment=dict(exposure_stops=0.5, white_balance_stops=0.2, saturation=0.3),
            cameras=dict(
                blur_fraction_min=0.03,
                blur_fraction_max=0.15,
                all_in_focus_reference_rate=0.1,
                all_in_focus_target_rate=0.25,
            ),
        ),
        model=dict(
            patch_size=4,
            hidden_dim=256,
            num_heads=4,
            num_double_blocks=1,
            num_single_blocks=4,
            compute_dtype="float32",
            scan_blocks=False,
        ),
        objective=dict(
            flow_source="noise",
            time=dict(kind="logit_normal", mean=2.0),
            stacking_weight=0.0,
            depth_dropout_rate=0.0,
            camera_dropout_rate=0.05,
            reference_camera_dropout_rate=0.3,
        ),
        optimizer=dict(
            peak_learning_rate=2e-3, warmup_steps=50, final_fraction=0.3, ema_decay=0.99
        ),
        training=dict(
            num_steps=1200,
            global_batch_size=24,
            log_every_steps=20,
            image_every_steps=0,
            checkpoint_every_steps=100,
        ),
        evaluation=dict(num_scenes=128),
    )
