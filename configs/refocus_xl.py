"""The size of DiT-XL/2, trained from scratch in FLUX's latents, 512 px.

    bokeh-jax train --config=configs/refocus_xl.py --workdir=runs/refocus_xl \
      --config.data.path=DATA --config.pretrained.autoencoder=FLUX/vae
    bokeh-jax plan --config=configs/refocus_xl.py --topology=v5p:4x4x4 --scenes=latents:64x64

The blocks are those of `dit_xl`, which works in pixels. Here 1,024 tokens hold noisy latents,
reference, guess and defocus maps of one place ('channels'): no token is spent on the reference.
DATA is best stored latents (`bokeh-jax data latents`): planned for 64 chips of v5p the step has an
MFU of 49.2 % by roofline and 38.1 % by cycles, with the autoencoder in it 29.0 % and 24.2 %
(docs/scaling.md). Nobody has trained this here.
"""

from ml_collections import ConfigDict

from bokeh_jax.config import experiment
from configs import _flux


def get_config() -> ConfigDict:
    """Differences from the defaults of `bokeh_jax.config`."""
    return experiment(
        name="refocus_xl",
        data=dict(path="data/photographs"),
        simulation=_flux.SIMULATION,
        codec=_flux.CODEC,
        model=dict(
            image_channels=16,
            patch_size=2,
            hidden_dim=1280,
            num_heads=10,
            num_double_blocks=0,
            num_single_blocks=28,
            rope_axes_dim=(16, 56, 56),
            attention="splash",
            remat="dots",
        ),
        objective=dict(prediction="velocity", flow_source="noise"),
        sampler=_flux.SAMPLER,
        optimizer=dict(peak_learning_rate=1e-4, warmup_steps=5000, ema_decay=0.9999),
        training=dict(
            num_steps=400_000,
            global_batch_size=512,
            log_every_steps=100,
            image_every_steps=5000,
            checkpoint_every_steps=2000,
        ),
        mesh=dict(data=-1, fsdp=16),
    )
