"""The second stage of the released small network: the papers' objective, on from `refocus_small`.

    bokeh-jax data build --source=layered --max-layers=3 --count=train=8000 --out=data/small
    bokeh-jax train --config=configs/refocus_small.py --workdir=runs/small
    bokeh-jax train --config=configs/refocus_released.py --workdir=runs/released
    bokeh-jax export --checkpoint=runs/released --format=jax --dtype=bf16 --out=released

Stacking constraint, depth dropout and damaged disparity; times nearer to the far end, where the
single step of its sampler asks. Its model card lies with the weights
(`bokeh_jax/inference/released/README.md`).
"""

from ml_collections import ConfigDict

from configs.refocus_small import get_config as refocus_small


def get_config() -> ConfigDict:
    """Differences from the defaults of `bokeh_jax.config`."""
    config = refocus_small()
    config.update(
        name="refocus_released",
        objective=dict(
            stacking_weight=0.5,
            depth_dropout_rate=0.1,
            depth_noise=dict(rate=0.3),
            time=dict(mean=2.5),
        ),
        optimizer=dict(peak_learning_rate=1.5e-3, warmup_steps=20, final_fraction=0.02),
        training=dict(num_steps=1200, init_from="runs/small"),
    )
    return config
