"""DiffCamera at full size: FLUX.1-dev with adapters of rank 128, in latents.

    bokeh-jax train --config=configs/flux_refocus_lora.py --workdir=runs/flux_lora \
      --config.data.path=DATA --config.pretrained.transformer=FLUX/transformer \
      --config.pretrained.autoencoder=FLUX/vae
    bokeh-jax plan --config=configs/flux_refocus_lora.py --topology=v5p:4x4x4 --without-simulation

512 px: 1,024 tokens of the noisy image and as many of the reference. For 1,024 px add
`--config.simulation.size_px=1024 --config.training.global_batch_size=64`. A dataset of several
shapes trains in as many buckets, each with about that many pixels in its own aspect ratio
(docs/data.md); `--config.simulation.stored_size_px` keeps their sizes in proportion.

The frozen transformer is 23.8 GB in bfloat16, shared out to all chips; only adapters, camera tokens
and the defocus maps' layer are trained. The whole way is in docs/flux.md. Nobody has trained this
here. Planned for 64 chips of v5p at 512 px, no text, without the lens blur: 12.6 of 95 GiB a chip,
2.8 s a step of 256 scenes by roofline (MFU 41.8 %), 3.7 s by cycles (31.4 %); docs/scaling.md.
"""

from ml_collections import ConfigDict

from bokeh_jax.config import experiment
from configs import _flux


def get_config() -> ConfigDict:
    """Differences from the defaults of `bokeh_jax.config`."""
    return experiment(
        name="flux_refocus_lora",
        data=dict(path="data/photographs"),
        simulation=_flux.SIMULATION,
        codec=_flux.CODEC,
        model=_flux.TRANSFORMER | dict(lora=dict(rank=128)),
        objective=_flux.OBJECTIVE,
        sampler=_flux.SAMPLER,
        optimizer=dict(peak_learning_rate=1e-4, warmup_steps=500, ema_decay=0.999),
        training=dict(
            num_steps=20_000,
            global_batch_size=256,
            log_every_steps=50,
            image_every_steps=1000,
            checkpoint_every_steps=500,
        ),
        mesh=dict(data=-1, fsdp=64),
    )
