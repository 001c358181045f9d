"""The size of DiT-XL/2 (Peebles and Xie 2023: 675 M parameters), trained from scratch in pixels.

    bokeh-jax plan --config=configs/dit_xl.py --topology=v5p:4x4x4
    bokeh-jax train --config=configs/dit_xl.py --workdir=runs/dit_xl --config.data.path=DATA

The dataset is one's own: photographs or layered scenes of 300 px or more. Nobody has trained this
here; what it would take on TPUs is in docs/scaling.md.

* DiT-XL/2 is 28 blocks of 1152 channels, 16 heads of 72. A TPU's matrix unit works on 128 channels
  at once, so a head of 72 leaves 44 % of it idle in the attention. Here 10 heads of 128, so 1280
  channels. A single block has 15 c² parameters and DiT's has 18 c²: 28 of them come to 695 M.
* The context is four camera tokens: a double block's second set of weights would be all but idle.
* 256 px in patches of 8 px: 1,024 tokens, as DiT-XL/2 has for 512 px with its autoencoder.
* Blur radii up to 4 % of the width.
"""

from ml_collections import ConfigDict

from bokeh_jax.config import experiment


def get_config() -> ConfigDict:
    """Differences from the defaults of `bokeh_jax.config`."""
    return experiment(
        name="dit_xl",
        data=dict(path="data/photographs"),
        simulation=dict(
            size_px=256,
            cameras=dict(blur_fraction_min=0.005, blur_fraction_max=0.04),
        ),
        model=dict(
            patch_size=8,
            hidden_dim=1280,
            num_heads=10,
            num_double_blocks=0,
            num_single_blocks=28,
            rope_axes_dim=(16, 56, 56),
            attention="splash",
            remat="dots",
        ),
        optimizer=dict(peak_learning_rate=1e-4, warmup_steps=5000, ema_decay=0.9999),
        training=dict(
            num_steps=400_000,
            global_batch_size=512,
            log_every_steps=100,
            image_every_steps=5000,
            checkpoint_every_steps=2000,
        ),
        mesh=dict(data=-1, fsdp=64),
    )
