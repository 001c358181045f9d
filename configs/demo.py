"""The demo: refocusing of 32 px layered scenes, trained on two CPU cores in minutes.

    bokeh-jax data build --source=layered --out=data/demo
    bokeh-jax train --config=configs/demo.py --workdir=runs/demo

Or all of it, with evaluation and report: `make train`.

float32 and not bfloat16: processors without matrix units for bfloat16 run it slower than float32.
"""

from ml_collections import ConfigDict

from bokeh_jax.config import experiment


def get_config() -> ConfigDict:
    """Differences from the defaults of `bokeh_jax.config`."""
    return experiment(
        name="demo",
        data={"path": "data/demo"},
        simulation={
            "size_px": 32,
            "cameras": {
                "blur_fraction_min": 0.04,
                "blur_fraction_max": 0.15,
                "all_in_focus_reference_rate": 0.1,
                "all_in_focus_target_rate": 0.15,
            },
        },
        model={
            "patch_size": 4,
            "hidden_dim": 256,
            "num_heads": 4,
            "num_double_blocks": 1,
            "num_single_blocks": 2,
            "compute_dtype": "float32",
            "scan_blocks": False,
        },
        objective={"flow_source": "reference", "source_noise": 0.1, "stacking_weight": 0.5},
        optimizer={"peak_learning_rate": 1e-3, "warmup_steps": 60, "ema_decay": 0.99},
        training={
            "num_steps": 700,
            "global_batch_size": 48,
            "log_every_steps": 20,
            "image_every_steps": 100,
            "checkpoint_every_steps": 100,
        },
    )
