"""FLUX.1-dev, all of its 12 B parameters trained on refocusing, in latents.

    bokeh-jax train --config=configs/flux_refocus_full.py --workdir=runs/flux_full \
      --config.data.path=DATA --config.pretrained.transformer=FLUX/transformer \
      --config.pretrained.autoencoder=FLUX/vae
    bokeh-jax plan --config=configs/flux_refocus_full.py --topology=v5p:4x4x4 --without-simulation

As `flux_refocus_lora`, without adapters: parameters, two moments and the average are float32, 190
GB over all chips. Nobody has trained this here. Planned for 64 chips of v5p at 512 px, no text,
without the lens blur: 16.2 of 95 GiB a chip, 3.2 s a step of 256 scenes by roofline (MFU 48.0 %),
4.0 s by cycles (38.1 %); docs/scaling.md.
"""

from ml_collections import ConfigDict

from bokeh_jax.config import experiment
from configs import _flux


def get_config() -> ConfigDict:
    """Differences from the defaults of `bokeh_jax.config`."""
    return experiment(
        name="flux_refocus_full",
        data=dict(path="data/photographs"),
        simulation=_flux.SIMULATION,
        codec=_flux.CODEC,
        model=_flux.TRANSFORMER,
        objective=_flux.OBJECTIVE,
        sampler=_flux.SAMPLER,
        optimizer=dict(peak_learning_rate=1e-5, warmup_steps=1000, ema_decay=0.9999),
        training=dict(
            num_steps=50_000,
            global_batch_size=256,
            log_every_steps=50,
            image_every_steps=2000,
            checkpoint_every_steps=1000,
        ),
        mesh=dict(data=-1, fsdp=64),
    )
