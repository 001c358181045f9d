r"""Focus from photographs with EXIF, no labels and no pairs: a head knows what photographers do.

    bokeh-jax data build --source=photographer --style=compact --max-layers=6 --size=32 \
      --photographer-blur=0.05:0.1 --photographer-deep=0 --photographer-subjects=central=1 \
      --count=train=8000 --count=eval_seen=128 --count=eval_heldout=512 --out=data/subjects
    bokeh-jax train --config=configs/matching_small.py --workdir=runs/matching
    bokeh-jax eval --workdir=runs/matching

Objective (b) with `scenes='given'`: the focus transformer focuses views that are sharp everywhere,
and no photograph is compared with the view it was taken of. Teacher and fake score are off
(`score_weight=0`); `defocus_small` has them, and a generator. The same scenes with a partner for
every photograph, objective (a), for comparison:

    bokeh-jax train --config=configs/focus_small.py --workdir=runs/partners \
      --config.data.path=data/subjects --config.focus.sees=scene --config.focus.patch_size=4 \
      --config.focus.hidden_dim=96 --config.focus.rope_axes_dim=4,10,10 \
      --config.training.num_steps=700 --config.training.global_batch_size=32 \
      --config.evaluation.num_scenes=512
"""

from ml_collections import ConfigDict

from bokeh_jax.config import experiment
from configs.depth_small import get_config as depth_small
from configs.generate_small import get_config as generate_small


def get_config() -> ConfigDict:
    """Differences from the defaults of `bokeh_jax.config`."""
    generator = generate_small()
    return experiment(
        name="matching_small",
        task="defocus",
        data=dict(path="data/subjects"),
        # Captions, which say left and right, are not read.
        simulation=dict(size_px=32, augment=dict(flip_rate=0.5)),
        model=generator.model,
        text=generator.text,
        depth=depth_small().depth,
        focus=dict(patch_size=4, hidden_dim=96, rope_axes_dim=(4, 10, 10)),
        matching=dict(scenes="given", score_weight=0.0, adversarial_weight=0.0, fake_updates=1),
        # The head is the slower one to learn; nothing turns in circles at its pace.
        optimizer=dict(
            peak_learning_rate=1e-3, warmup_steps=50, final_fraction=0.1, beta1=0.5, ema_decay=0.98
        ),
        training=dict(
            num_steps=1500,
            global_batch_size=32,
            log_every_steps=50,
            image_every_steps=0,
            checkpoint_every_steps=500,
        ),
        evaluation=dict(num_scenes=512, batch_size=32),
    )
