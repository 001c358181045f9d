"""`bokeh-jax bench codec`: what an autoencoder does to photographs and to blends of them."""

import argparse
import dataclasses
from pathlib import Path

from bokeh_jax.commands.json_file import check_writable, write_figures
from bokeh_jax.errors import InvalidInput


def add_codec_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `bokeh-jax bench codec`."""
    parser.add_argument(
        "--config", required=True, help="experiment with a codec, such as configs/latent_small.py"
    )
    parser.add_argument("--split", default="eval_heldout")
    parser.add_argument("--scenes", type=int, default=96)
    parser.add_argument("--batch", type=int, default=16, help="scenes at once")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE too")


def bench_codec(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Measures and prints; returns the exit code.

    Raises:
        InvalidInput: a value of the command line or the config, or a codec that cannot be read.
    """
    for name in ("scenes", "batch"):
        if (value := getattr(arguments, name)) < 1:
            raise InvalidInput(f"--{name} is {value}; allowed: 1 or more")
    if arguments.batch > arguments.scenes:
        raise InvalidInput(
            f"--batch is {arguments.batch}; allowed: --scenes={arguments.scenes} at most"
        )
    if arguments.json is not None:
        check_writable(arguments.json)

    from bokeh_jax import config as config_lib

    config = config_lib.load(arguments.config, overrides)
    if config.codec.kind != "autoencoder":
        raise InvalidInput("codec.kind is 'pixels'; allowed: 'autoencoder' (pixels blend exactly)")

    import jax

    from bokeh_jax.evaluation.blends import blend_scores
    from bokeh_jax.training import preflight, sharding
    from bokeh_jax.training.frozen import frozen_parameters
    from data_pipeline.dataset import load_split

    preflight.check_pretrained(config)
    scenes = load_split(Path(config.data.path), arguments.split, limit=arguments.scenes)
    if len(scenes["scene_id"]) < arguments.batch:
        raise InvalidInput(
            f"split {arguments.split} has {len(scenes['scene_id'])} scenes of its first shape; "
            f"allowed: --batch={arguments.batch} or more"
        )
    mesh = sharding.make_mesh(config_lib.MeshConfig(), jax.local_devices()[:1])
    frozen, _ = frozen_parameters(config, mesh)
    found = blend_scores(config, frozen, scenes, arguments.batch)
    print(f"{arguments.split}; PSNR in dB against the blend of pixels, mean ± 95 % interval")
    share = 100.0 * found.transition_share
    print(f"{'':26}{'whole picture':>18}{f'{share:.0f} % in between':>22}")
    for name, mean in found.psnr_db.items():
        print(f"{name:26}{mean!s:>18}{found.transition_psnr_db[name]!s:>22}")
    print(f"latents blended, against the codec's own answer to the blend: {found.apart_db}")
    floor = found.floor
    print(
        f"the truth's own blend of latents misses {100 * floor.mean:.2f} ± "
        f"{100 * floor.half_width:.2f} % of the latents' variance"
    )
    if arguments.json is not None:
        write_figures(arguments.json, dataclasses.asdict(found))
    return 0
