"""How often what makes a scene hard occurs in it."""

import dataclasses
from collections.abc import Mapping

from bokeh_jax.errors import InvalidInput


@dataclasses.dataclass(frozen=True)
class SceneStyle:
    """Rates, each a probability from 0 to 1.

    A translucent layer and a layer of lights take the place of things where `max_layers` would be
    exceeded; every scene keeps at least one thing, so with two layers there is neither.

    Attributes:
        transparency_rate: scenes with a layer of partial opacity, a pane of glass or smoke.
        lights_rate: scenes with a layer of small lights brighter than white.
        hair_rate: things that are hair, strands thinner than a pixel.
    """

    transparency_rate: float = 0.0
    lights_rate: float = 0.0
    hair_rate: float = 0.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            rate = getattr(self, field.name)
            if not 0 <= rate <= 1:
                raise InvalidInput(f"{field.name} is {rate}; allowed: 0 to 1")


PLAIN = SceneStyle()
RICH = SceneStyle(transparency_rate=0.3, lights_rate=0.4, hair_rate=0.15)
STYLES: Mapping[str, SceneStyle] = {"plain": PLAIN, "rich": RICH}
