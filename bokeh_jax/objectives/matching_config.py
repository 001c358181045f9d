"""Settings of `distribution_matching`, and the networks that take part in it."""

import dataclasses
from typing import Literal

from bokeh_jax import diffusion
from bokeh_jax.errors import InvalidInput
from bokeh_jax.models import CodecConfig, RefocusConfig
from bokeh_jax.models.byte_text import ByteTextConfig
from bokeh_jax.models.config import check_at_least, check_between, check_choice
from bokeh_jax.models.depth_config import DepthConfig
from bokeh_jax.models.focus_transformer import FocusConfig
from bokeh_jax.models.photo_head import HeadConfig
from bokeh_jax.objectives.focus_matching import FocusMatchingConfig
from bokeh_jax.objectives.generate import GenerationConfig
from bokeh_jax.objectives.refocus import PIXELS

Scenes = Literal["made", "frozen", "given"]
SCENES: tuple[Scenes, ...] = ("made", "frozen", "given")


@dataclasses.dataclass(frozen=True)
class MatchingConfig:
    """Settings of the objective.

    Attributes:
        scenes: 'made' by a generator that is trained, by a 'frozen' one, or 'given' by the dataset.
        num_steps: of the generator, 1 to 4.
        time: how t and s are drawn; all are brought to within 0.02 of the ends.
        teacher_guidance: how far the teacher's answer is guided by the caption; 1 is none, and the
            only value at which matching ends at the distribution of the photographs.
        score_weight: v; 0 turns teacher and fake score off.
        adversarial_weight: w, of what the head says of P.
        focus: how attention and length learn from the head, with its weight u.
        deep_rate: share of the examples that skip the lens, equation (5).
        deep_f_number: of deep(e), on a full frame.
        fake_updates: the generator's parts learn so many times slower.
        max_blur_fraction: largest radius that is rendered, over the width; a larger one is cut.

    Raises:
        InvalidInput: naming the field, its value and what is allowed.
    """

    scenes: Scenes = "made"
    num_steps: int = 4
    time: diffusion.TimeSampling = dataclasses.field(
        default_factory=lambda: diffusion.TimeSampling(kind="uniform")
    )
    teacher_guidance: float = 1.0
    score_weight: float = 1.0
    adversarial_weight: float = 5e-3
    focus: FocusMatchingConfig = dataclasses.field(default_factory=FocusMatchingConfig)
    deep_rate: float = 0.25
    deep_f_number: float = 22.0
    fake_updates: int = 5
    max_blur_fraction: float = 0.1

    def __post_init__(self) -> None:
        check_choice("scenes", self.scenes, SCENES)
        check_between("num_steps", self.num_steps, 1, 4)
        check_at_least("fake_updates", self.fake_updates, 1)
        ranges = {
            "teacher_guidance": (0.0, 20.0),
            "score_weight": (0.0, 10.0),
            "adversarial_weight": (0.0, 10.0),
            "deep_rate": (0.0, 1.0),
            "deep_f_number": (8.0, 64.0),
            "max_blur_fraction": (0.005, 0.5),
        }
        for name, (low, high) in ranges.items():
            check_between(name, getattr(self, name), low, high)
        if not (self.score_weight or self.adversarial_weight or self.focus.weight):
            raise InvalidInput(
                "score_weight, adversarial_weight and focus.weight are all 0; allowed: one above 0"
            )


@dataclasses.dataclass(frozen=True)
class Networks:
    """The parts that take part, all static.

    Attributes:
        model: the transformer of generator, teacher and fake score alike.
        text: encoder of prompts of each.
        generation: of the generator, 'all_in_focus'.
        depth: D.
        focus: the focus transformer; it sees the scene.
        head: H.
        codec: between images and what the transformers work on.
    """

    model: RefocusConfig
    text: ByteTextConfig
    generation: GenerationConfig
    depth: DepthConfig
    focus: FocusConfig
    head: HeadConfig
    codec: CodecConfig = PIXELS
