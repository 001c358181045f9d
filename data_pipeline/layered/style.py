"""What things of a scene look like, and how often what makes it hard occurs in it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from bokeh_jax.errors import InvalidInput
from data_pipeline.layered.silhouettes import SILHOUETTES


@dataclasses.dataclass(frozen=True)
class SceneStyle:
    """Rates, each a probability from 0 to 1, and silhouettes.

    A translucent layer and a layer of lights take the place of things where `max_layers` would be
    exceeded; every scene keeps at least one thing, so with two layers there is neither.

    Attributes:
        transparency_rate: scenes with a layer of partial opacity, a pane of glass or smoke.
        lights_rate: scenes with a layer of small lights brighter than white.
        hair_rate: things that are hair, strands thinner than a pixel.
        silhouettes: keys of `SILHOUETTES` that things may have; all when empty.
    """

    transparency_rate: float = 0.0
    lights_rate: float = 0.0
    hair_rate: float = 0.0
    silhouettes: tuple[str, ...] = ()

    def __post_init__(self):
        for name in ("transparency_rate", "lights_rate", "hair_rate"):
            rate = getattr(self, name)
            if not 0 <= rate <= 1:
                raise InvalidInput(f"{name} is {rate}; allowed: 0 to 1")
        if unknown := sorted(set(self.silhouettes) - set(SILHOUETTES)):
            raise InvalidInput(
                f"silhouettes has {unknown[0]!r}; allowed: {', '.join(sorted(SILHOUETTES))}"
            )

    def kinds(self) -> list[str]:
        """Return the silhouettes that things may have, in the order in which they are drawn."""
        return sorted(set(self.silhouettes) or SILHOUETTES)

    def recipe(self) -> dict[str, Any]:
        """Return all that decides scenes, as JSON values.

        Without a choice of silhouettes nothing is said of them: datasets that were built before
        there was one stay the same.
        """
        values = dataclasses.asdict(self) | {"silhouettes": self.kinds()}
        if not self.silhouettes:
            del values["silhouettes"]
        return values


PLAIN = SceneStyle()
RICH = SceneStyle(transparency_rate=0.3, lights_rate=0.4, hair_rate=0.15)
# Nothing thin, nothing with holes and nothing cut off by the frame on one side: things that 32 px
# can show.
COMPACT = SceneStyle(silhouettes=("blob", "polygon", "star"))
STYLES: Mapping[str, SceneStyle] = {"plain": PLAIN, "rich": RICH, "compact": COMPACT}
