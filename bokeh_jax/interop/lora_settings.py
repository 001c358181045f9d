"""PEFT's settings of a LoRA: what a file says of its scale, and what is said of ours.

They are JSON: a file of its own in PEFT's folders, a text in the metadata of diffusers' files. The
scale of a module is alpha / rank, or alpha / sqrt(rank) with `use_rslora`; alpha is that of a
tensor `<module>.alpha`, else that of the settings, else the rank.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from safetensors import safe_open

from bokeh_jax.errors import InvalidInput
from bokeh_jax.interop.lora_names import A_SUFFIX, ALPHA_SUFFIX, PEFT_PREFIX, modules
from bokeh_jax.interop.tensor_files import TensorFiles, TensorInfo
from bokeh_jax.models.config import DiTConfig

SETTINGS_FILE = "adapter_config.json"
METADATA_KEY = "lora_adapter_metadata"
# PEFT's own default.
_DEFAULT_ALPHA = 8.0


def settings_of(config: DiTConfig) -> dict[str, Any]:
    """What PEFT must know of the adapters."""
    alpha = config.lora.scale * config.lora.rank
    adapted = {
        # The pattern of a name with the block's number left open; a list of names would also match
        # the ends of longer ones, such as `proj_out` every block's.
        re.sub(r"(?<=blocks\\\.)\d+", r"\\d+", re.escape(name))
        for name, module in modules(config).items()
        if config.lora.on(*module.targets) is not None
    }
    return {
        "r": config.lora.rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "target_modules": "|".join(sorted(adapted)),
    }


def scales_of(files: TensorFiles, prefix: str, found: Mapping[str, TensorInfo]) -> dict[str, float]:
    """alpha / rank of every module, as PEFT computes it."""
    settings = _read_settings(files, prefix)
    scales = {}
    for name, info in found.items():
        if not name.endswith(A_SUFFIX):
            continue
        module, rank = name.removesuffix(A_SUFFIX), info.shape[0]
        if f"{module}{ALPHA_SUFFIX}" in found:
            alpha = float(files.read(f"{prefix}{module}{ALPHA_SUFFIX}").reshape(()))
        elif settings is not None:
            alpha = _alpha_of(settings, module)
        else:
            alpha = float(rank)
        root = settings is not None and settings.get("use_rslora", False)
        scales[module] = alpha / (math.sqrt(rank) if root else rank)
        if not math.isfinite(scales[module]):
            raise InvalidInput(f"alpha of {module} in {files.source} is {alpha}; allowed: a number")
    return scales


def _alpha_of(settings: Mapping[str, Any], module: str) -> float:
    """The first pattern that the end of the module's name matches, else the one for all."""
    alpha = settings.get("lora_alpha", _DEFAULT_ALPHA)
    for pattern, value in (settings.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = value
            break
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise InvalidInput(f"lora_alpha of {module} is {alpha!r}; allowed: a number")
    return float(alpha)


def _read_settings(files: TensorFiles, prefix: str) -> dict[str, Any] | None:
    """PEFT's settings, from beside the file or from its metadata; None where it has none.

    Raises:
        InvalidInput: they are not readable, or of a kind that computes something else.
    """
    beside = files.source.with_name(SETTINGS_FILE)
    if prefix == PEFT_PREFIX and beside.is_file():
        origin, text = str(beside), beside.read_text(encoding="utf-8")
    else:
        with safe_open(files.source, framework="np") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
        origin = f"{METADATA_KEY} of {files.source}"
    if text is None:
        return None
    try:
        settings = json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"{origin} is not JSON ({error}); allowed: PEFT's settings") from None
    if not isinstance(settings, dict):
        raise InvalidInput(f"{origin} is a {type(settings).__name__}; allowed: PEFT's settings")
    settings = {name.removeprefix(prefix): value for name, value in settings.items()}
    if settings.get("peft_type", "LORA") != "LORA" or settings.get("use_dora", False):
        kind = "use_dora" if settings.get("use_dora", False) else "peft_type"
        raise InvalidInput(f"{kind} of {origin} is {settings[kind]!r}; allowed: plain LoRA")
    return settings
