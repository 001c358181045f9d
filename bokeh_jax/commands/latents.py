"""`bokeh-jax data latents`: scenes photographed and encoded once, for training without a codec.

Of every scene of a dataset, n variants: other crops, cameras and damage of the disparity, each of
which depends on (seed, scene, variant) alone. What is stored is in objectives/latents.py.
"""

import argparse
import bisect
import dataclasses
import functools
import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bokeh_jax import config as config_lib
from bokeh_jax.commands.data import text_encoder_of
from bokeh_jax.config import ExperimentConfig, MeshConfig
from bokeh_jax.errors import InvalidInput
from bokeh_jax.models.codec import CODEC
from bokeh_jax.objectives import make_latents
from bokeh_jax.training import preflight, sharding
from bokeh_jax.training.frozen import digest, frozen_parameters
from bokeh_jax.training.rng import step_key
from data_pipeline.builder import BuildOptions, build
from data_pipeline.dataset import SplitReader, dataset_info, open_split
from data_pipeline.latent_records import LatentSizes
from data_pipeline.source import LatentScene, check_int

MAX_VARIANTS = 1024


@dataclasses.dataclass(frozen=True, eq=False)
class LatentSource:
    """Latents of a dataset's scenes, as a source of scenes; made in batches, so in one process.

    Attributes:
        config: scenes, simulation, codec and its parameters.
        variants: of every scene.
        seed: of crops and cameras.
        batch_size: made at once.
    """

    config: ExperimentConfig
    variants: int
    seed: int
    batch_size: int

    def __post_init__(self) -> None:
        check_int("variants", self.variants, 1, MAX_VARIANTS)
        check_int("seed", self.seed, 0, 2**32 - 1)
        check_int("batch_size", self.batch_size, 1, 4096)
        if self.config.codec.kind != "autoencoder" or self.config.task != "refocus":
            raise InvalidInput(
                f"config has task={self.config.task!r} and codec.kind={self.config.codec.kind!r}; "
                "allowed for latents: 'refocus' and 'autoencoder'"
            )
        if dataset_info(Path(self.config.data.path)).latents is not None:
            raise InvalidInput(
                f"dataset {self.config.data.path} holds latents already; allowed: one of scenes"
            )
        preflight.check_dataset(self.config)

    @property
    def name(self) -> str:
        """Short name."""
        return "latents"

    @property
    def latents(self) -> LatentSizes:
        """Sizes of what is stored."""
        return LatentSizes(self.config.codec.channels, self.config.simulation.cameras.num_targets)

    def recipe(self) -> dict[str, Any]:
        """Return all that decides the latents, as JSON values."""
        return {
            "source": "latents",
            "variants": self.variants,
            "seed": self.seed,
            "scenes": self._scenes.info.fingerprint,
            "split": self.config.data.split,
            "latents": dataclasses.asdict(self.latents)
            | {"codec": self._codec_digest, "settings": preflight.latent_settings(self.config)},
        }

    def num_scenes(self, split: str) -> int:
        """Return how many there are; all are of training."""
        return len(self._scenes) * self.variants if split == "train" else 0

    def scene(self, split: str, index: int) -> LatentScene:
        """Return candidate `index`: group by group, scene by scene, variant by variant."""
        starts = self._starts
        group = bisect.bisect_right(starts, index) - 1
        batch, row = divmod(index - starts[group], self.batch_size)
        made = self._batch(group, batch)
        position, variant = self._candidate(group, index - starts[group])
        values = self._scenes.values(position)
        latents = {name: np.ascontiguousarray(value[row]) for name, value in made.items()}
        return LatentScene(
            values=latents,
            frame=(latents["multi"].shape[0], latents["multi"].shape[1]),
            caption=values["caption"].decode(),
            provenance={"scene": position, "variant": variant},
        )

    @functools.cached_property
    def _scenes(self) -> SplitReader:
        return open_split(Path(self.config.data.path), self.config.data.split)

    @functools.cached_property
    def _positions(self) -> list[np.ndarray]:
        return [self._scenes.positions(group) for group in range(len(self._scenes.groups))]

    @functools.cached_property
    def _starts(self) -> list[int]:
        sizes = (len(positions) * self.variants for positions in self._positions)
        return [0, *itertools.accumulate(sizes)][:-1]

    @functools.cached_property
    def _params(self) -> dict[str, Any]:
        mesh = sharding.make_mesh(MeshConfig(), jax.local_devices()[:1])
        frozen, _ = frozen_parameters(self.config, mesh)
        return {CODEC: frozen[CODEC]}

    @functools.cached_property
    def _codec_digest(self) -> str:
        return digest(self._params)

    @functools.cached_property
    def _make(self) -> Any:
        config = self.config
        return jax.jit(
            functools.partial(
                make_latents,
                simulation=config.simulation,
                objective=config.objective,
                codec=config.codec,
            )
        )

    def _candidate(self, group: int, index: int) -> tuple[int, int]:
        """(position, variant) of a group's candidate; beyond its end, of the last one."""
        positions = self._positions[group]
        scene, variant = divmod(min(index, len(positions) * self.variants - 1), self.variants)
        return int(positions[scene]), variant

    @functools.lru_cache(maxsize=2)  # noqa: B019 - one source a process, which lives as long.
    def _batch(self, group: int, number: int) -> dict[str, np.ndarray]:
        """A batch of a group, filled up with its last candidate."""
        first = number * self.batch_size
        chosen = [self._candidate(group, first + row) for row in range(self.batch_size)]
        scenes = [self._scenes[position] for position, _ in chosen]
        batch = {name: np.stack([scene[name] for scene in scenes]) for name in scenes[0]}
        places = jnp.asarray(chosen, jnp.uint32)
        root = step_key(self.seed, "latents", 0)
        keys = jax.vmap(
            lambda place: jax.random.fold_in(jax.random.fold_in(root, place[0]), place[1])
        )(places)
        return jax.device_get(self._make(self._params, batch, keys))


def build_latents(arguments: argparse.Namespace, overrides: list[str]) -> None:
    """Builds the dataset, or says that it is there already."""
    config = config_lib.load(arguments.config, overrides)
    source = LatentSource(config, arguments.variants, arguments.seed, arguments.batch_size)
    summary = build(
        source,
        arguments.out,
        overwrite=arguments.overwrite,
        options=BuildOptions(num_workers=0, text_encoder=text_encoder_of(arguments)),
    )
    groups = ", ".join(
        f"{group.width_px}x{group.height_px} cells: {group.num_scenes}"
        for group in summary.info.splits["train"]
    )
    count = summary.info.counts["train"]
    print(
        f"{'kept' if summary.reused else 'built'} {summary.path}: {count} variants ({groups}); "
        f"{summary.num_bytes / count / 1e3:.1f} kB each, "
        f"fingerprint {summary.info.fingerprint[:12]}"
    )
