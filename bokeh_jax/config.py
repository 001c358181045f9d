"""The typed experiment: frozen dataclasses with defaults, filled from sparse changes.

A file in configs/ returns an `ml_collections.ConfigDict` that holds only what differs from the
defaults here. `resolve` lays it over the typed defaults, then lays the command line's
`--config.a.b=value` over that; an unknown key or a value of the wrong type is refused with the key
spelled out. What comes out is frozen and hashable, so it can be a static argument of a jitted
function.
"""

import dataclasses
import hashlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import ml_collections

from bokeh_jax.config_values import lay_over, merged, nested
from bokeh_jax.errors import InvalidInput
from bokeh_jax.models import CodecConfig, RefocusConfig
from bokeh_jax.models.byte_text import ByteTextConfig
from bokeh_jax.models.depth_config import DepthConfig
from bokeh_jax.models.focus_transformer import FocusConfig
from bokeh_jax.models.photo_head import HeadConfig
from bokeh_jax.objectives import AutoencoderObjectiveConfig, ObjectiveConfig
from bokeh_jax.objectives.depth import DepthObjectiveConfig
from bokeh_jax.objectives.exif_defocus import ExifObjectiveConfig
from bokeh_jax.objectives.generate import GenerationConfig
from bokeh_jax.objectives.matching_config import MatchingConfig
from bokeh_jax.simulation import SimulationConfig

Task = Literal["refocus", "autoencoder", "generate", "depth", "focus", "defocus"]


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the scenes come from.

    Attributes:
        path: a dataset made by `bokeh-jax data build`.
        split: of it.
        num_workers: processes that decode; 0 decodes in threads of this one.
        source_weights: shares of the dataset's sources in training, such as ("photos=0.5",
            "layered=0.5"); () takes the dataset's own.
        on_bad_record: `raise`, or `skip` to take another scene in its place and count it.
    """

    path: str = "data/demo"
    split: str = "train"
    num_workers: int = 0
    source_weights: tuple[str, ...] = ()
    on_bad_record: Literal["raise", "skip"] = "raise"


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up and cosine decay to `final_fraction` of the peak rate."""

    peak_learning_rate: float = 1e-3
    warmup_steps: int = 100
    final_fraction: float = 0.05
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    clip_norm: float = 1.0
    ema_decay: float = 0.995


@dataclasses.dataclass(frozen=True)
class SamplerConfig:
    """How a checkpoint is sampled, in evaluation and by default in inference."""

    method: Literal["euler", "heun"] = "euler"
    num_steps: int = 1
    guidance_scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Lengths and rhythms of a run, and what it does when something is wrong.

    Attributes:
        num_steps: updates.
        global_batch_size: scenes an update, over all devices.
        accumulation_steps: parts that an update's scenes are cut into, one after the other: memory
            for activations divided by it, the same update up to rounding.
        log_every_steps: between reports.
        image_every_steps: between pictures of what the model does; 0: none, not even at the end.
        checkpoint_every_steps: between checkpoints.
        keep_checkpoints: how many of the newest checkpoints stay.
        keep_every_steps: checkpoints of every so many steps stay as well; 0: none but the newest.
            Only steps that are saved can stay: a multiple of `checkpoint_every_steps`.
        init_from: another run's workdir, or WORKDIR@STEP, from which parameters are taken where
            this run has no checkpoint of its own; "" starts fresh.
        init_from_ema: take its averaged parameters, not the raw ones.
        on_nonfinite: after a step whose loss or gradients are not finite (its update is applied by
            none): `stop` ends the job with exit code 76, `skip` goes on, `rollback` goes on from
            the newest checkpoint without that step.
        stall_timeout_seconds: a process in which no step, save or panel ends for so long ends with
            exit code 77; 0: never. Start-up does not count.
    """

    num_steps: int = 1000
    global_batch_size: int = 48
    accumulation_steps: int = 1
    log_every_steps: int = 20
    image_every_steps: int = 200
    checkpoint_every_steps: int = 200
    keep_checkpoints: int = 2
    keep_every_steps: int = 0
    init_from: str = ""
    init_from_ema: bool = True
    on_nonfinite: Literal["stop", "skip", "rollback"] = "stop"
    stall_timeout_seconds: float = 1800.0


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """The device mesh; a size of -1 takes what is left (at most one axis).

    Attributes:
        data: copies of the model, each with its share of the examples; the only axis that may cross
            from slice to slice.
        fsdp: devices that share out one copy's parameters, and examples too.
        tensor: devices that share out every head and MLP channel, for the same examples.
        min_sharded_bytes: parameters smaller than this stay whole on every device.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    min_sharded_bytes: int = 1 << 18


@dataclasses.dataclass(frozen=True)
class PretrainedConfig:
    """Weights that a run starts from and does not make itself; "" for none.

    Attributes:
        transformer: folder of a FLUX transformer in diffusers' layout.
        autoencoder: folder of an AutoencoderKL in diffusers' layout, or the workdir of a run that
            trained one here (WORKDIR or WORKDIR@STEP).
        lora: file or folder of an adapter, which training goes on from.
        generator: of the task 'defocus': a run with task 'generate', of all-in-focus images. This
            and those below are WORKDIR or WORKDIR@STEP, of which the average is taken.
        teacher: likewise, of photographs with generation.exif_tokens; the fake score starts there.
        depth: likewise, a run with task 'depth'.
        focus: likewise, a run with task 'focus'.
    """

    transformer: str = ""
    autoencoder: str = ""
    lora: str = ""
    generator: str = ""
    teacher: str = ""
    depth: str = ""
    focus: str = ""


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """What `bokeh-jax eval` runs on.

    Attributes:
        splits: of the run's dataset.
        num_scenes: of each.
        batch_size: scenes at once.
        seed: of crops, cameras and noise.
        disparity: how the methods are told it: as it is, damaged as `objective.depth_noise` says
            (every scene, whatever its rate), or not at all.
    """

    splits: tuple[str, ...] = ("eval_seen", "eval_heldout")
    num_scenes: int = 96
    batch_size: int = 32
    seed: int = 17
    disparity: tuple[Literal["clean", "damaged", "absent"], ...] = ("clean",)


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """One experiment, whole.

    Attributes:
        task: what is trained: the refocusing network, the autoencoder of its latents, the generator
            of all-in-focus images from text, the depth network, the focus distance transformer, or
            generator and focus together ('defocus').
        codec: what the network works on; with the task 'autoencoder', the shape of what is trained.
        objective: of the task 'refocus'.
        reconstruction: objective of the task 'autoencoder'.
        text: encoder of prompts of the task 'generate', whose network is `model` too.
        generation: objective of the task 'generate'.
        depth: network of the task 'depth'.
        depth_objective: objective of the task 'depth'.
        focus: network of the task 'focus'.
        exif: objective of the task 'focus'.
        head: adversarial head of the task 'defocus', which has the networks of 'generate', 'depth'
            and 'focus' too.
        matching: objective of the task 'defocus'.
    """

    name: str = "default"
    task: Task = "refocus"
    seed: int = 0
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    simulation: SimulationConfig = dataclasses.field(default_factory=SimulationConfig)
    model: RefocusConfig = dataclasses.field(default_factory=RefocusConfig)
    codec: CodecConfig = dataclasses.field(default_factory=CodecConfig)
    pretrained: PretrainedConfig = dataclasses.field(default_factory=PretrainedConfig)
    objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
    reconstruction: AutoencoderObjectiveConfig = dataclasses.field(
        default_factory=AutoencoderObjectiveConfig
    )
    text: ByteTextConfig = dataclasses.field(default_factory=ByteTextConfig)
    generation: GenerationConfig = dataclasses.field(default_factory=GenerationConfig)
    depth: DepthConfig = dataclasses.field(default_factory=DepthConfig)
    depth_objective: DepthObjectiveConfig = dataclasses.field(default_factory=DepthObjectiveConfig)
    focus: FocusConfig = dataclasses.field(default_factory=FocusConfig)
    exif: ExifObjectiveConfig = dataclasses.field(default_factory=ExifObjectiveConfig)
    head: HeadConfig = dataclasses.field(default_factory=HeadConfig)
    matching: MatchingConfig = dataclasses.field(default_factory=MatchingConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    sampler: SamplerConfig = dataclasses.field(default_factory=SamplerConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)

    def __post_init__(self):
        positive = {
            "training.num_steps": self.training.num_steps,
            "training.global_batch_size": self.training.global_batch_size,
            "training.accumulation_steps": self.training.accumulation_steps,
            "training.log_every_steps": self.training.log_every_steps,
            "training.checkpoint_every_steps": self.training.checkpoint_every_steps,
            "training.keep_checkpoints": self.training.keep_checkpoints,
            "sampler.num_steps": self.sampler.num_steps,
            "optimizer.peak_learning_rate": self.optimizer.peak_learning_rate,
            "optimizer.clip_norm": self.optimizer.clip_norm,
            "evaluation.num_scenes": self.evaluation.num_scenes,
            "evaluation.batch_size": self.evaluation.batch_size,
        }
        for key, value in positive.items():
            if value <= 0:
                raise ValueError(f"{key} is {value}; allowed: above 0")
        keep, save = self.training.keep_every_steps, self.training.checkpoint_every_steps
        if keep < 0 or keep % save:
            raise ValueError(
                f"training.keep_every_steps is {keep}; allowed: 0, or a multiple of "
                f"training.checkpoint_every_steps={save}"
            )
        for name in ("image_every_steps", "stall_timeout_seconds"):
            if (value := getattr(self.training, name)) < 0:
                raise ValueError(f"training.{name} is {value}; allowed: 0 or more")
        if not 0 <= self.optimizer.warmup_steps < self.training.num_steps:
            raise ValueError(
                f"optimizer.warmup_steps is {self.optimizer.warmup_steps}; allowed: 0 to "
                f"training.num_steps - 1 = {self.training.num_steps - 1}"
            )
        self._check_codec()
        self._check_text()
        self._check_defocus()
        if not 0.0 <= self.optimizer.ema_decay < 1.0:
            raise ValueError(
                f"optimizer.ema_decay is {self.optimizer.ema_decay}; allowed: 0 up to, not with, 1"
            )

    def _check_codec(self) -> None:
        if self.task == "autoencoder":
            if self.codec.kind != "autoencoder":
                raise ValueError("codec.kind is 'pixels'; allowed: 'autoencoder' for its task")
        elif self.task == "depth":
            if self.codec.kind != "pixels" or self.depth.kind != "relative":
                raise ValueError(
                    f"codec.kind is {self.codec.kind!r} and depth.kind {self.depth.kind!r}; "
                    "allowed: 'pixels' and 'relative' with task='depth'"
                )
        elif self.task == "focus":
            if self.codec.kind != "pixels":
                raise ValueError("codec.kind is 'autoencoder'; allowed: 'pixels' with task='focus'")
        elif self.model.image_channels != self.codec.channels:
            raise ValueError(
                f"model.image_channels is {self.model.image_channels}; allowed: "
                f"{self.codec.channels}, which codec.kind={self.codec.kind!r} has"
            )

    def _check_text(self) -> None:
        if not self.has_generator:
            return
        if self.model.reference_as != "tokens":
            raise ValueError(
                f"model.reference_as is {self.model.reference_as!r}; allowed with "
                f"task={self.task!r}: 'tokens'"
            )
        for name in ("text_dim", "pooled_dim"):
            value, width = getattr(self.model, name), self.text.hidden_dim
            if value is None or (self.generation.text_from == "bytes" and value != width):
                raise ValueError(
                    f"model.{name} is {value}; allowed with task={self.task!r}: text.hidden_dim "
                    f"{width}, or the width of stored embeddings with generation.text_from='stored'"
                )

    def _check_defocus(self) -> None:
        if self.task != "defocus":
            return
        needed = {
            "generation.images": (self.generation.images, "all_in_focus"),
            "focus.sees": (self.focus.sees, "scene"),
            "depth.kind": (self.depth.kind, "relative"),
            "model.lora.rank": (self.model.lora.rank, 0),
        }
        for key, (value, allowed) in needed.items():
            if value != allowed:
                raise ValueError(f"{key} is {value!r}; allowed with task='defocus': {allowed!r}")

    @property
    def has_generator(self) -> bool:
        """Whether the task's network makes images of prompts."""
        return self.task in ("generate", "defocus")

    @property
    def text_width(self) -> int:
        """Features of a text token, of a task whose network reads text."""
        assert self.model.text_dim is not None  # `_check_text`
        return self.model.text_dim

    def grid_of(self, stored: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of what the network works on, of scenes stored in frames of this size."""
        height_px, width_px = self.simulation.frame_of(stored)
        return height_px // self.codec.downsampling, width_px // self.codec.downsampling


def experiment(**changes: Any) -> ml_collections.ConfigDict:
    """The sparse config of an experiment file: only what differs from the typed defaults."""
    return ml_collections.ConfigDict(changes)


def resolve(
    sparse: Mapping[str, Any] | ml_collections.ConfigDict, overrides: Sequence[str] = ()
) -> ExperimentConfig:
    """Typed config from sparse changes and command-line overrides ("group.key=value").

    Raises:
        InvalidInput: unknown key, wrong type, or a value that a config's own checks refuse.
    """
    if isinstance(sparse, ml_collections.ConfigDict):
        sparse = sparse.to_dict()
    return lay_over(ExperimentConfig(), merged(sparse, nested(overrides)))


def load(path: str | Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Resolves the experiment file at `path` (a Python file with `get_config()`).

    Raises:
        InvalidInput: no such file, no `get_config` in it, or what `resolve` refuses.
    """
    path = Path(path)
    if not path.is_file():
        raise InvalidInput(
            f"config file {path} not found; allowed: a Python file such as configs/demo.py"
        )
    spec = importlib.util.spec_from_file_location(f"_experiment_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InvalidInput(
            f"config file {path} is not a Python file; allowed: a name ending in .py"
        )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise InvalidInput(f"config file {path} defines no get_config(); allowed: one that does")
    return resolve(module.get_config(), overrides)


def to_json(config: ExperimentConfig) -> str:
    """Every value of the config, as JSON with sorted keys (what a checkpoint holds)."""
    return json.dumps(dataclasses.asdict(config), sort_keys=True, indent=1)


def from_json(text: str) -> ExperimentConfig:
    """Inverse of `to_json`."""
    return resolve(json.loads(text))


def config_hash(config: ExperimentConfig) -> str:
    """Short hash of every value: equal on every process of a job."""
    return hashlib.sha256(to_json(config).encode()).hexdigest()[:12]
