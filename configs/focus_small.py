"""Where photographs are focused, learned from photographs with EXIF and no label, on two CPU cores.

    bokeh-jax data build --source=photographer=6000 --max-layers=6 --photographer-blur=0.05:0.1 \\
        --photographer-deep=0 --photographer-subjects=central=0.85,any=0.15 \\
        --count=eval_seen=256 --count=eval_heldout=512 --out=data/focus
    bokeh-jax train --config=configs/focus_small.py --workdir=runs/focus
    bokeh-jax eval --workdir=runs/focus

The network sees the photograph; with --config.focus.sees=scene it sees the view in focus everywhere
and says where a photographer would focus. What comes of it stands in docs/exif_defocus.md.
"""

from ml_collections import ConfigDict

from bokeh_jax.config import experiment


def get_config() -> ConfigDict:
    """Differences from the defaults of `bokeh_jax.config`."""
    return experiment(
        name="focus_small",
        task="focus",
        data=dict(path="data/focus"),
        focus=dict(
            sees="photograph",
            patch_size=6,
            hidden_dim=96,
            rope_axes_dim=(4, 10, 10),
        ),
        optimizer=dict(peak_learning_rate=1e-3, warmup_steps=30, ema_decay=0.98),
        training=dict(
            num_steps=1000,
            global_batch_size=24,
            log_every_steps=20,
            image_every_steps=0,
            checkpoint_every_steps=100,
        ),
        evaluation=dict(num_scenes=512, batch_size=32),
    )
