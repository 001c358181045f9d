"""Captions as a FLUX transformer is told them: T5's tokens and CLIP's pooled embedding.

What diffusers' `FluxPipeline.encode_prompt` computes of one prompt for both encoders:

    text    last hidden states of T5's encoder, [t, d]; the prompt is cut or padded to t tokens, and
            the padding is neither masked in T5 nor in the transformer
    pooled  pooled output of CLIP's text model, [p]; the prompt is cut or padded to CLIP's 77 tokens

An encoder sees every caption in a batch of one size, filled up with empty ones: what comes of a
caption does not depend on how many there are.
"""

import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from absl import logging
from jaxtyping import Float32

from bokeh_jax.errors import InvalidInput
from data_pipeline.source import check_int

# T5 of FLUX was trained with at most so many tokens.
MAX_TOKENS = 512
_PARTS = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
_DEFAULT_CLIP_TOKENS = 77
_CHUNK_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class TextShape:
    """Sizes of a caption's embeddings.

    Attributes:
        num_tokens: t of `text`, [t, d].
        token_dim: d of it.
        pooled_dim: p of `pooled`, [p].
    """

    num_tokens: int
    token_dim: int
    pooled_dim: int

    def __str__(self) -> str:
        return f"{self.num_tokens} tokens of {self.token_dim}, pooled {self.pooled_dim}"


@runtime_checkable
class TextEncoder(Protocol):
    """Embeds captions; frozen and picklable."""

    def sizes(self) -> TextShape:
        """Return the sizes of what it gives."""
        ...

    def recipe(self) -> dict[str, Any]:
        """Return all that decides the embeddings, as JSON values.

        Among them `encoder`, a name, `files_sha256`, and the fields of TextShape.
        """
        ...

    def check(self) -> None:
        """Raise InvalidInput if captions cannot be embedded on this machine."""
        ...

    def __call__(
        self, captions: Sequence[str]
    ) -> tuple[Float32[np.ndarray, "n t d"], Float32[np.ndarray, "n p"]]:
        """Return `text` and `pooled` of captions."""
        ...


@dataclasses.dataclass(frozen=True)
class FluxTextEncoder:
    """The text encoders of a FLUX pipeline in diffusers' layout, run by transformers in torch.

    They compute in the type that their files have, on a GPU where torch finds one.

    Attributes:
        folder: with `text_encoder` (CLIPTextModel), `text_encoder_2` (T5EncoderModel), `tokenizer`
            and `tokenizer_2`.
        num_tokens: length of T5's prompts, up to 512.
        batch_size: captions that go through the networks at once.
    """

    folder: Path
    num_tokens: int = 128
    batch_size: int = 16

    def __post_init__(self):
        check_int("text_tokens", self.num_tokens, 1, MAX_TOKENS)
        check_int("batch_size", self.batch_size, 1, 4096)

    def sizes(self) -> TextShape:
        """Return the sizes of what it gives, from the networks' configs."""
        return TextShape(
            self.num_tokens,
            self._size("text_encoder_2", "d_model"),
            self._size("text_encoder", "hidden_size"),
        )

    def _size(self, part: str, name: str) -> int:
        file = Path(self.folder) / part / "config.json"
        try:
            size = json.loads(file.read_text())[name]
            if not (isinstance(size, int) and size > 0):
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError):
            raise InvalidInput(
                f"text encoder file {file} is missing or has no {name}; allowed: the folder of a "
                f"FLUX pipeline in diffusers' layout, with {', '.join(_PARTS)}"
            ) from None
        return size

    def recipe(self) -> dict[str, Any]:
        """Return the files by content, and the sizes."""
        files = []
        for path in sorted(p for part in _PARTS for p in (Path(self.folder) / part).rglob("*")):
            if path.is_file():
                stat, name = path.stat(), path.relative_to(self.folder).as_posix()
                files.append((name, str(path), stat.st_size, stat.st_mtime_ns))
        sizes = dataclasses.asdict(self.sizes())
        return {"encoder": "flux", "files_sha256": _files_sha256(tuple(files)), **sizes}

    def check(self) -> None:
        """Raise InvalidInput unless there are weights and the packages that run them."""
        missing = [p for p in ("torch", "transformers") if importlib.util.find_spec(p) is None]
        if missing:
            raise InvalidInput(
                f"encoding text needs {' and '.join(missing)}, not installed; "
                "allowed: pip install 'bokeh-jax[interop]'"
            )
        if not Path(self.folder).is_dir():
            raise InvalidInput(
                f"text encoder {self.folder} is not there; allowed: the folder of a FLUX pipeline "
                f"in diffusers' layout, with {', '.join(_PARTS)}"
            )
        for part in _PARTS:
            folder = Path(self.folder) / part
            wanted = "*.safetensors" if part.startswith("text_encoder") else "*.json"
            if not any(folder.glob(wanted)):
                raise InvalidInput(
                    f"text encoder folder {folder} has no {wanted}; allowed: the folder of a FLUX "
                    f"pipeline in diffusers' layout, with {', '.join(_PARTS)}"
                )
        self.sizes()

    def __call__(
        self, captions: Sequence[str]
    ) -> tuple[Float32[np.ndarray, "n t d"], Float32[np.ndarray, "n p"]]:
        """Return `text` and `pooled` of captions.

        Raises:
            InvalidInput: files or packages are missing, or the networks cannot be loaded or give
                other sizes than their configs say.
        """
        self.check()
        networks, size = _networks(str(self.folder)), self.batch_size
        parts = [
            _encode(networks, captions[start : start + size], self)
            for start in range(0, len(captions), size)
        ]
        shape = self.sizes()
        text = np.concatenate(
            [np.zeros((0, shape.num_tokens, shape.token_dim), np.float32)] + [t for t, _ in parts]
        )
        pooled = np.concatenate(
            [np.zeros((0, shape.pooled_dim), np.float32)] + [p for _, p in parts]
        )
        return text, pooled


class _Networks(NamedTuple):
    clip: Any
    t5: Any
    clip_tokenizer: Any
    t5_tokenizer: Any


# Loaded once a process.
@functools.cache
def _networks(folder: str) -> _Networks:
    torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    local = {"local_files_only": True}
    weights = local | {"dtype": "auto", "use_safetensors": True}
    clip, t5 = transformers.CLIPTextModel, transformers.T5EncoderModel
    said = transformers.utils.logging
    verbosity = said.get_verbosity()
    said.set_verbosity_error()
    said.disable_progress_bar()
    try:
        return _Networks(
            clip.from_pretrained(folder, subfolder="text_encoder", **weights).to(device).eval(),
            t5.from_pretrained(folder, subfolder="text_encoder_2", **weights).to(device).eval(),
            transformers.CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer", **local),
            transformers.T5TokenizerFast.from_pretrained(folder, subfolder="tokenizer_2", **local),
        )
    # Whatever a model's files lack, it is the folder that is not usable.
    except Exception as error:
        raise InvalidInput(
            f"text encoder {folder} cannot be loaded ({' '.join(str(error).split())[:200]}); "
            "allowed: the folder of a FLUX pipeline in diffusers' layout"
        ) from error
    finally:
        said.set_verbosity(verbosity)
        said.enable_progress_bar()


def _encode(
    networks: _Networks, captions: Sequence[str], encoder: FluxTextEncoder
) -> tuple[Float32[np.ndarray, "n t d"], Float32[np.ndarray, "n p"]]:
    """Embed up to one batch of captions."""
    torch = importlib.import_module("torch")
    count, shape = len(captions), encoder.sizes()
    filled = [*captions, *[""] * (encoder.batch_size - count)]
    clip_tokens = min(networks.clip_tokenizer.model_max_length, _DEFAULT_CLIP_TOKENS)
    with torch.inference_mode():
        tokens = _token_ids(networks.t5_tokenizer, filled, shape.num_tokens).to(networks.t5.device)
        text = networks.t5(tokens)[0].float().cpu().numpy()[:count]
        tokens = _token_ids(networks.clip_tokenizer, filled, clip_tokens).to(networks.clip.device)
        pooled = networks.clip(tokens).pooler_output.float().cpu().numpy()[:count]
    wanted = (count, shape.num_tokens, shape.token_dim), (count, shape.pooled_dim)
    if (text.shape, pooled.shape) != wanted:
        raise InvalidInput(
            f"text encoder {encoder.folder} gives {text.shape} and {pooled.shape}; allowed: "
            f"{wanted[0]} and {wanted[1]}, as its configs say"
        )
    _warn_of_cut(networks.t5_tokenizer, captions, shape.num_tokens)
    return text, pooled


def _token_ids(tokenizer: Any, captions: Sequence[str], length: int) -> Any:
    """Token numbers [n, length] of captions that are cut or padded to that length."""
    return tokenizer(
        list(captions),
        padding="max_length",
        max_length=length,
        truncation=True,
        return_tensors="pt",
    ).input_ids


def _warn_of_cut(tokenizer: Any, captions: Sequence[str], length: int) -> None:
    counts = [len(ids) for ids in tokenizer(list(captions), verbose=False).input_ids]
    for caption, count in zip(captions, counts, strict=True):
        if count > length:
            start = caption[:40]
            logging.warning("caption %r has %d tokens and is cut to %d", start, count, length)


# By name, size and time, so that a folder of gigabytes is read once a process and not once a use.
@functools.cache
def _files_sha256(files: tuple[tuple[str, str, int, int], ...]) -> str:
    whole = hashlib.sha256()
    for name, path, _, _ in files:
        digest = hashlib.sha256()
        try:
            with Path(path).open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
        except OSError as error:
            raise InvalidInput(
                f"text encoder file {path} cannot be read ({error.strerror}); allowed: a readable "
                "file"
            ) from error
        whole.update(name.encode() + b"\0" + digest.digest())
    return whole.hexdigest()
