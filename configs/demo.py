"""The demo: refocusing of 32 px layered scenes, trained on two CPU cores in minutes.

    bokeh-jax data build --source=layered --max-layers=2 --out=data/demo
    bokeh-jax train --config=configs/demo.py --workdir=runs/demo

Or all of it, with evaluation and report: `make train`. What it reaches stands in the README.

float32 and not bfloat16: processors without matrix units for bfloat16 run it slower than float32.
"""

from ml_collections import ConfigDict

from bokeh_jax.config import experiment


def get_config() -> ConfigDict:
    """Differences from the defaults of `bokeh_jax.config`."""
    return experiment(
        name="demo",
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
        model=dict(
            patch_size=4,
            hidden_dim=256,
            num_heads=4,
            num_double_blocks=1,
            num_single_blocks=2,
            compute_dtype="float32",
            scan_blocks=False,
        ),
        objective=dict(
            flow_source="reference",
            source_noise=0.1,
            # One sampling step asks the network at t = 1 only, so training stays near it.
            time=dict(kind="logit_normal", mean=2.0),
            stacking_weight=0.5,
            depth_dropout_rate=0.05,
            camera_dropout_rate=0.05,
            reference_camera_dropout_rate=0.3,
        ),
        optimizer=dict(peak_learning_rate=2e-3, warmup_steps=20, ema_decay=0.99),
        training=dict(
            num_steps=300,
            global_batch_size=48,
            log_every_steps=10,
            image_every_steps=50,
            checkpoint_every_steps=50,
        ),
    )
