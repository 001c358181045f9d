r"""Generator, focus transformer and lens learn from photographs with EXIF, without pairs, 32 px.

    bokeh-jax data build --source=layered --style=compact --max-layers=3 --size=36 \
      --count=train=8000 --out=data/scenes
    bokeh-jax data build --source=photographer --style=compact --max-layers=3 --size=32 \
      --photographer-blur=0.05:0.1 --photographer-subjects=central=0.85,any=0.15 \
      --count=train=8000 --count=eval_heldout=512 --out=data/photographs
    bokeh-jax train --config=configs/generate_small.py --workdir=runs/generate
    bokeh-jax train --config=configs/depth_small.py --workdir=runs/depth
    bokeh-jax train --config=configs/exif_tokens_small.py --workdir=runs/exif_tokens
    bokeh-jax train --config=configs/focus_small.py --workdir=runs/focus \
      --config.data.path=data/photographs --config.focus.sees=scene --config.focus.patch_size=4
    bokeh-jax train --config=configs/defocus_small.py --workdir=runs/defocus
    bokeh-jax generate "One thing, nearest first: a disc of brick in the centre, near, \
      before a backdrop of grass." --checkpoint=runs/defocus --sweep=f-number=1.8,4,22 --out=out

All networks are those of their own configs, of which this one repeats the shapes; a run that has
another is refused. `pretrained.focus` and `pretrained.generator` may be "": they start fresh.

250 of its steps, and what came of them: docs/exif_defocus_matching.md.
"""

from ml_collections import ConfigDict

from configs.depth_small import get_config as depth_small
from configs.generate_small import get_config as generate_small


def get_config() -> ConfigDict:
    """Differences from the defaults of `bokeh_jax.config`."""
    config = generate_small()
    config.update(
        name="defocus_small",
        task="defocus",
        data=dict(path="data/photographs"),
        depth=depth_small().depth,
        focus=dict(patch_size=4, hidden_dim=96, rope_axes_dim=(4, 10, 10)),
        matching=dict(num_steps=4, deep_rate=0.25, fake_updates=5, max_blur_fraction=0.1),
        pretrained=dict(
            generator="runs/generate",
            teacher="runs/exif_tokens",
            depth="runs/depth",
            focus="runs/focus",
        ),
        # What judges learns at this rate, what makes photographs at a fifth of it.
        optimizer=dict(peak_learning_rate=2.5e-4, final_fraction=0.1),
        training=dict(
            num_steps=2000,
            global_batch_size=16,
            log_every_steps=20,
            image_every_steps=200,
            checkpoint_every_steps=200,
        ),
    )
    return config
