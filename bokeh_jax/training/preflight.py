"""What is checked before anything is compiled or written: workdir and dataset."""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

from bokeh_jax import config as config_lib
from bokeh_jax.config import ExperimentConfig
from bokeh_jax.errors import InvalidInput
from bokeh_jax.training.focus_data import check_photographs
from data_pipeline.dataset import DatasetInfo, dataset_info, load_split
from data_pipeline.dataset_folder import LatentInfo


def check_writable(workdir: Path) -> None:
    """Creates the folder and proves that it can be written.

    Raises:
        InvalidInput: it cannot be made or written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        raise InvalidInput(
            f"workdir {workdir} is not writable ({error.strerror}); allowed: a folder that this "
            "user may create and write"
        ) from None


def write_config(workdir: Path, config: ExperimentConfig) -> None:
    """Leaves the whole config in the run's folder: written beside, then renamed."""
    temporary = workdir / "config.json.tmp"
    temporary.write_text(config_lib.to_json(config) + "\n", encoding="utf-8")
    temporary.replace(workdir / "config.json")


def check_dataset(config: ExperimentConfig) -> DatasetInfo:
    """The dataset fits the config: it has the split, and frames wide enough for working frames.

    Raises:
        InvalidInput: it does not.
    """
    info = dataset_info(Path(config.data.path))
    if config.data.split not in info.splits:
        raise InvalidInput(
            f"config key data.split is {config.data.split!r}; allowed: {', '.join(info.splits)}"
        )
    if config.task == "focus":
        check_photographs(config, info)
        return info
    if info.latents is None:
        _check_frames(config, info)
    else:
        check_latents(config, info.latents)
    if reads_photographs(config):
        check_taken(config, info)
    check_patches(config)
    check_pretrained(config)
    check_text(config, info)
    return info


def _check_frames(config: ExperimentConfig, info: DatasetInfo) -> None:
    simulation = config.simulation
    for group in info.splits[config.data.split]:
        stored = (group.height_px, group.width_px)
        needed = simulation.needed_px(stored, layered=group.kind == "layered")
        if stored[0] < needed[0] or stored[1] < needed[1]:
            frame = simulation.frame_of(stored)
            raise InvalidInput(
                f"dataset {config.data.path} has {group.kind} scenes of {stored[0]}x{stored[1]} "
                f"px; allowed: {needed[0]}x{needed[1]} px or more, for working frames of "
                f"{frame[0]}x{frame[1]} px (simulation.size_px={simulation.size_px}) with blur "
                f"radii up to {simulation.max_radius_px(frame[1]):g} px"
            )


def check_taken(config: ExperimentConfig, info: DatasetInfo) -> None:
    """The split holds photographs with EXIF, in frames that are taken whole.

    The first scene of every group is read; the loader looks at each as it comes.

    Raises:
        InvalidInput: it does not.
    """
    path, split = Path(config.data.path), config.data.split
    needs = f"task={config.task!r} learns from photographs with EXIF"
    for index, group in enumerate(info.splits[split]):
        if group.kind != "photographs":
            raise InvalidInput(
                f"dataset {path} has scenes of kind {group.kind!r} and {needs}; allowed: "
                "'photographs', such as `data build --source=photographer` makes"
            )
        stored = (group.height_px, group.width_px)
        if (frame := config.simulation.frame_of(stored)) != stored:
            raise InvalidInput(
                f"dataset {path} has photographs of {stored[0]}x{stored[1]} px; allowed: "
                f"{frame[0]}x{frame[1]} px, which simulation.size_px={config.simulation.size_px} "
                "asks for: EXIF is of the whole photograph"
            )
        try:
            load_split(path, split, limit=1, group=index, taken=True)
        except InvalidInput as error:
            raise InvalidInput(f"{needs}; {error}") from None


def latent_settings(config: ExperimentConfig) -> dict[str, Any]:
    """What a dataset of latents has in it of an experiment, as JSON values by group."""
    settings = {
        "simulation": dataclasses.asdict(config.simulation),
        "depth_noise": dataclasses.asdict(config.objective.depth_noise),
        "codec": dataclasses.asdict(config.codec),
    }
    return json.loads(json.dumps(settings))


def check_latents(config: ExperimentConfig, latents: LatentInfo) -> None:
    """A run can be trained on stored latents, and these are what it would have made.

    Raises:
        InvalidInput: a setting that needs photographs, or that differs from the dataset's.
    """
    needed = {
        "task": (config.task, "refocus"),
        "codec.sample": (config.codec.sample, False),
        "training.image_every_steps": (config.training.image_every_steps, 0),
    }
    for key, (value, allowed) in needed.items():
        if value != allowed:
            raise InvalidInput(
                f"config key {key} is {value!r}; allowed with stored latents: {allowed!r}"
            )
    if config.objective.stack_space == "pixels":
        raise InvalidInput(
            "config key objective.stack_space is 'pixels'; allowed with stored latents: "
            "'latents', 'blended_latents'"
        )
    for group, wanted in latent_settings(config).items():
        for name, value in wanted.items():
            if (found := latents.settings[group].get(name)) != value:
                raise InvalidInput(
                    f"config has {value!r} for {name} of {group}; allowed: {found!r}, with which "
                    f"the latents in {config.data.path} were made"
                )


def check_same_codec(config: ExperimentConfig, info: DatasetInfo, codec: str) -> None:
    """Whether stored latents are of the run's autoencoder, told by the digests of both.

    Raises:
        InvalidInput: they are not.
    """
    if info.latents is not None and info.latents.codec != codec:
        raise InvalidInput(
            f"autoencoder has digest {codec}; allowed: {info.latents.codec}, of which the latents "
            f"in {config.data.path} are"
        )


def reads_text(config: ExperimentConfig) -> bool:
    """Whether the network is told of captions by the embeddings that the dataset has of them."""
    if config.has_generator:
        return config.generation.text_from == "stored"
    sizes = (config.model.text_dim, config.model.pooled_dim)
    return config.task == "refocus" and any(size is not None for size in sizes)


def reads_photographs(config: ExperimentConfig) -> bool:
    """Whether batches need what a camera has taken, and its EXIF."""
    shown = config.task == "generate" and config.generation.images == "photographs"
    return shown or config.task in ("focus", "defocus")


def arrays_read(config: ExperimentConfig) -> dict[str, Any]:
    """What the loader is asked for beside scenes: captions as embeddings or bytes, photographs."""
    writes = config.has_generator and config.generation.text_from == "bytes"
    return {
        "text": reads_text(config),
        "caption_bytes": config.text.max_bytes if writes else 0,
        "taken": reads_photographs(config),
    }


def check_text(config: ExperimentConfig, info: DatasetInfo) -> None:
    """The captions' embeddings in the dataset are what the network takes.

    Raises:
        InvalidInput: they have other sizes.
    """
    if info.text is None and reads_text(config) and config.has_generator:
        raise InvalidInput(
            f"dataset {config.data.path} has no embeddings of captions; allowed with "
            "generation.text_from='stored': one built with --text-encoder"
        )
    if info.text is None or not reads_text(config):
        return
    shape, model = info.text.shape, config.model
    for name, wanted, found in (
        ("text_dim", model.text_dim, shape.token_dim),
        ("pooled_dim", model.pooled_dim, shape.pooled_dim),
    ):
        if wanted is not None and wanted != found:
            raise InvalidInput(
                f"config key model.{name} is {wanted}; allowed: {found}, as the captions' "
                f"embeddings in dataset {config.data.path} have, or None"
            )


def said_of_text(config: ExperimentConfig, info: DatasetInfo) -> str:
    """One line on captions where dataset or network have something to do with them, else ""."""
    if reads_text(config):
        if info.text is None:
            return "text: the dataset has none; every prompt is empty"
        settings = config.generation if config.has_generator else config.objective
        dropped = 100 * settings.text_dropout_rate
        return f"text: {info.text}; {dropped:g} % of the scenes without"
    if info.text is not None:
        return f"text: {info.text} are ignored, as model.text_dim and model.pooled_dim are None"
    return ""


def check_patches(config: ExperimentConfig) -> None:
    """Working frames are cut into the codec's cells, and those into patches, without a rest.

    Raises:
        InvalidInput: they are not.
    """
    multiple_px, cell_px = config.simulation.frame_multiple_px, config.codec.downsampling
    if config.task == "depth":
        patch = config.depth.patch_px
        if multiple_px % patch:
            raise InvalidInput(
                f"config key simulation.frame_multiple_px is {multiple_px}; allowed: multiples of "
                f"depth.patch_px={patch}"
            )
        return
    if config.task == "defocus":
        for key, side in (
            ("depth.patch_px", config.depth.patch_px),
            ("focus.patch_size", config.focus.patch_size),
        ):
            if multiple_px % side:
                raise InvalidInput(
                    f"config key simulation.frame_multiple_px is {multiple_px}; allowed: multiples "
                    f"of {key}={side}"
                )
    patch = 1 if config.task == "autoencoder" else config.model.patch_size
    if multiple_px % (patch * cell_px):
        times = "" if cell_px == 1 else f", {cell_px} times that of the codec's cells"
        raise InvalidInput(
            f"config key simulation.frame_multiple_px is {multiple_px}; allowed: multiples of "
            f"model.patch_size={patch}{times}"
        )


def check_pretrained(config: ExperimentConfig) -> None:
    """A network that is to be trained on latents needs an autoencoder that makes some.

    Raises:
        InvalidInput: there is none.
    """
    needed: tuple[str, ...] = ()
    if config.task == "defocus":
        scenes = {"made": ("depth",), "frozen": ("depth", "generator"), "given": ()}
        judges = ("teacher",) if config.matching.score_weight else ()
        needed = (*judges, *scenes[config.matching.scenes])
    for name in needed:
        if not getattr(config.pretrained, name):
            raise InvalidInput(
                f"config key pretrained.{name} is ''; allowed with task='defocus', which does not "
                "train it: the workdir of a run"
            )
    wants = config.task in ("refocus", "generate", "defocus")
    if wants and config.codec.kind == "autoencoder" and not config.pretrained.autoencoder:
        raise InvalidInput(
            "config key pretrained.autoencoder is ''; allowed with codec.kind='autoencoder': a "
            "folder in diffusers' layout, or the workdir of a run with task='autoencoder'"
        )


def source_weights(config: ExperimentConfig) -> dict[str, float]:
    """`data.source_weights` by name.

    Raises:
        InvalidInput: an entry is not NAME=NUMBER.
    """
    weights = {}
    for entry in config.data.source_weights:
        name, equals, number = entry.partition("=")
        try:
            weights[name] = float(number)
        except ValueError:
            equals = ""
        if not (name and equals and weights[name] >= 0):
            raise InvalidInput(
                f"config key data.source_weights has {entry!r}; allowed: NAME=NUMBER, 0 or more"
            )
    return weights
