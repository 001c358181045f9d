"""Shapes of FLUX.1 (Black Forest Labs 2024) that several experiments share; not an experiment.

`bokeh-jax train` compares them with the `config.json` of the folders it is given, and says which
key to change where they differ: FLUX.1-schnell has no distilled guidance, for instance.
"""

from typing import Any

# FLUX.1-dev: 11,901,408,320 parameters. Latents of 16 channels in patches of 2 x 2.
TRANSFORMER: dict[str, Any] = dict(
    image_channels=16,
    patch_size=2,
    text_dim=4096,
    pooled_dim=768,
    # The scale that a guidance-distilled network is told it has; 1 is usual where it is trained on.
    distilled_guidance=1.0,
    hidden_dim=3072,
    num_heads=24,
    num_double_blocks=19,
    num_single_blocks=38,
    rope_axes_dim=(16, 56, 56),
    reference_as="tokens",
    guess_tokens=False,
    attention="splash",
    remat="full",
)
# 83,819,683 parameters.
CODEC: dict[str, Any] = dict(
    kind="autoencoder",
    autoencoder=dict(
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=16,
        norm_num_groups=32,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        remat="full",
    ),
)
# DiffCamera as it is published: velocities from noise, no rendered guess.
OBJECTIVE: dict[str, Any] = dict(prediction="velocity", guide=False, flow_source="noise")
SAMPLER: dict[str, Any] = dict(method="euler", num_steps=28)
SIMULATION: dict[str, Any] = dict(
    size_px=512,
    frame_multiple_px=16,
    cameras=dict(blur_fraction_min=0.005, blur_fraction_max=0.04),
)
