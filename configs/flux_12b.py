"""The size of FLUX.1 (Black Forest Labs 2024: 12 B parameters), reference and guess as tokens.

    bokeh-jax plan --config=configs/flux_12b.py --topology=v5p:4x4x4

19 double and 38 single blocks of 3072 channels, 24 heads of 128, as `DiTConfig.flux_dev` has them;
without its text (the refocusing model's context is the camera) and in pixels, 512 px in patches of
16 px: 1,024 tokens of the noisy image, as many of the reference and of the guess. Nobody has
trained this here; what it would take on TPUs is in docs/scaling.md.
"""

from ml_collections import ConfigDict

from bokeh_jax.config import experiment


def get_config() -> ConfigDict:
    """Differences from the defaults of `bokeh_jax.config`."""
    return experiment(
        name="flux_12b",
        data=dict(path="data/photographs"),
        simulation=dict(
            size_px=512,
            frame_multiple_px=16,
            cameras=dict(blur_fraction_min=0.005, blur_fraction_max=0.04),
        ),
        model=dict(
            patch_size=16,
            reference_as="tokens",
            hidden_dim=3072,
            num_heads=24,
            num_double_blocks=19,
            num_single_blocks=38,
            rope_axes_dim=(16, 56, 56),
            attention="splash",
            remat="full",
        ),
        optimizer=dict(peak_learning_rate=5e-5, warmup_steps=5000, ema_decay=0.9999),
        training=dict(
            num_steps=200_000,
            global_batch_size=256,
            log_every_steps=100,
            image_every_steps=5000,
            checkpoint_every_steps=1000,
        ),
        mesh=dict(data=-1, fsdp=64),
    )
