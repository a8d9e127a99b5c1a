"""Weights on disk: reads the published families of checkpoints, writes this package's own."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from fastuda.models.config import ModelConfig
from fastuda.models.norm import batch_norms, copy_source_statistics

Family = Literal["bare", "sdca", "cpsl", "adaptsegnet"]

MIN_SHARE = 0.9
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# ProDA's and CPSL's checkpoints keep a best score as a NumPy number beside the weights, of NumPy 1 and 2 by now.
_NUMPY_SCALARS = [
    np.dtype,
    np.float64,
    np.float32,
    np.int64,
    *(type(np.dtype(kind)) for kind in ("f8", "f4", "i8")),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
]
GRAPH = ("name", "width", "graph", "decoder", "stride")  # settings without which a network's weights cannot be used
_PREFIXES = ("module.", "Scale.", "backbone.", "feature_extractor.")
_IMAGENET_HEAD = re.compile(r"(fc|_fc|_conv_head|_bn1|classifier\.\d+)\.(weight|bias|running_mean|running_var)")
_NUMBERED = re.compile(r"(?:features\.)?(\d+)\.(weight|bias)")
# The released VGG drops pool4 and pool5 from the sequence and appends fc6 and fc7: number there → name here.
_WITHOUT_POOLS = {23: "features.24", 25: "features.26", 27: "features.28", 29: "fc6", 31: "fc7"}


@dataclass(frozen=True)
class Report:
    """What a file gave a model; names are the model's own, ``unexpected`` the file's.

    share: matched backbone tensors over the backbone's own (step counters, statistics of the target domain and layers
    that no ImageNet network has are left out of both).
    network: the settings ``GRAPH`` that ``save_weights`` wrote; empty for any other file.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shape_mismatch: tuple[str, ...]
    share: float
    family: Family
    network: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return (
            f"{len(self.matched)} tensors loaded ({self.share:.1%} of the backbone), {len(self.missing)} missing, "
            f"{len(self.unexpected)} unexpected, {len(self.shape_mismatch)} of another shape"
        )


@torch.no_grad()
def load_weights(model: nn.Module, path: str | Path) -> Report:
    """Copy what matches of a checkpoint into a model; see ``Report``.

    Reads ``.safetensors`` and PyTorch files (tensors only, nothing is unpickled into code): bare state dicts, SDCA and
    SPCL (``feature_extractor``, ``classifier``), CPSL and ProDA (``ResNet101.model_state``), AdaptSegNet (``Scale.``).
    The model's graph must be the file's family's: names alone do not show that. Target statistics of "per_domain"
    layers that the file lacks start from the source's.
    FileNotFoundError for no file; ValueError, with the model untouched, for one that cannot be read, holds something
    else or non-finite numbers, or fills less than 90 % of the backbone.
    """
    path = Path(path)
    content, network = _read(path)
    state, family = _unwrap(content, path)
    model_state = model.state_dict()
    named = _rename(state, model_state)
    fit = {key: value for key, (_, value) in named.items() if model_state[key].shape == value.shape}
    mismatch = tuple(key for key in named if key not in fit)
    backbone = _backbone_keys(model, model_state)
    matched = [key for key in backbone if key in fit]
    used = {source for source, _ in named.values()}
    report = Report(
        matched=tuple(fit),
        missing=tuple(key for key in model_state if key not in named and not _derived(key)),
        unexpected=tuple(key for key in state if key not in used and not _leftover(key)),
        shape_mismatch=mismatch,
        share=len(matched) / max(1, len(backbone)),
        family=family,
        network=network,
    )
    if report.share < MIN_SHARE:
        raise ValueError(_refusal(path, report, backbone, len(matched)))
    for key, value in fit.items():
        _check_numbers(path, key, value, model_state[key])
    for key, value in fit.items():
        model_state[key].copy_(value)
    for name, layer in batch_norms(model).items():
        if layer.mode == "per_domain" and f"{name}.target_running_mean" not in fit:
            copy_source_statistics(layer)
    return report


def _read(path: Path) -> tuple[object, dict[str, Any]]:
    """The content of the file, and the settings of its network that it holds."""
    if not path.exists():
        raise FileNotFoundError(f"weights file {path} does not exist")
    if not path.is_file():
        raise ValueError(f"{path} cannot be read as weights: it is not a regular file")
    try:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, _network(file.metadata())
        with torch.serialization.safe_globals(_NUMPY_SCALARS):
            return torch.load(path, map_location="cpu", weights_only=True), {}
    except Exception as error:  # torch.load raises exceptions of many types for broken files
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if type(error).__name__ == "UnpicklingError":
            # torch's message advises to switch the check off, which would execute code from the file.
            reason = (
                "it is damaged, or holds objects that are no tensors and could execute code; "
                "save its state dict alone, best as safetensors"
            )
        raise ValueError(f"{path} cannot be read as weights: {reason}") from error


def _check_numbers(path: Path, key: str, value: Tensor, parameter: Tensor) -> None:
    """ValueError unless the tensor is dense and finite and fits the parameter's kind of numbers."""
    if value.is_meta or value.layout != torch.strided or value.is_quantized:
        raise ValueError(f"{path} holds no plain numbers in {key}, but a tensor that is sparse, quantized or empty")
    if parameter.is_floating_point() and value.dtype not in _FLOATS:
        raise ValueError(f"{path} holds {value.dtype} numbers in {key}, not float16, bfloat16, float32 or float64")
    if value.is_floating_point() and not torch.isfinite(value).all():
        raise ValueError(f"{path} holds non-finite numbers in {key}")


def _network(metadata: Mapping[str, str] | None) -> dict[str, Any]:
    network = json.loads((metadata or {}).get("network", "{}"))
    if not isinstance(network, dict):
        raise ValueError("its metadata names no network")
    return network


def _unwrap(content: object, path: Path) -> tuple[dict[str, Tensor], Family]:
    """The state dict inside a family's container."""
    family: Family = "bare"
    if isinstance(content, Mapping):
        if "feature_extractor" in content:
            family = "sdca"
            parts = [content["feature_extractor"], content.get("classifier", {})]
            if not all(isinstance(part, Mapping) for part in parts):
                raise ValueError(f"{path} is no weights file: feature_extractor or classifier is not a state dict")
            content = {**parts[0], **parts[1]}
        elif isinstance(content.get("ResNet101"), Mapping):
            content, family = content["ResNet101"].get("model_state"), "cpsl"
        elif isinstance(content.get("state_dict"), Mapping):
            content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{path} is no weights file: it holds {type(content).__name__}, not a state dict")
    foreign = [str(key) for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if foreign:
        raise ValueError(f"{path} is no weights file: {len(foreign)} entries are no tensors, e.g. {foreign[0]}")
    if family == "bare" and any(key.removeprefix("module.").startswith("Scale.") for key in content):
        family = "adaptsegnet"
    return dict(content), family


def _strip(key: str) -> str:
    while prefix := next((prefix for prefix in _PREFIXES if key.startswith(prefix)), ""):
        key = key.removeprefix(prefix)
    return key


def _rename(state: dict[str, Tensor], model_state: Mapping[str, Tensor]) -> dict[str, tuple[str, Tensor]]:
    """The model's name → (the file's name, tensor), for the entries that the model has."""
    stripped = {key: _strip(key) for key in state}
    without_pools = any(key in ("29.weight", "features.29.weight") for key in stripped.values())
    named = {}
    for key, value in state.items():
        short = stripped[key]
        if numbered := _NUMBERED.fullmatch(short):
            number, kind = int(numbered[1]), numbered[2]
            place = _WITHOUT_POOLS.get(number) if without_pools else None
            short = f"{place or f'features.{number}'}.{kind}"
        head = short.removeprefix("layer5.")
        candidates = (key, short, f"backbone.{short}", f"classifier.{head}")
        if name := next((name for name in candidates if name in model_state), None):
            named[name] = (key, value)
    return named


def _derived(key: str) -> bool:
    """Entries that many families lack and that can be derived from the others."""
    name = key.rpartition(".")[2]
    return name == "num_batches_tracked" or name.startswith("target_")


def _leftover(key: str) -> bool:
    return _derived(key) or _IMAGENET_HEAD.fullmatch(_strip(key)) is not None


def _backbone_keys(model: nn.Module, model_state: Mapping[str, Tensor]) -> list[str]:
    heads = {id(parameter) for parameter in model.classifier_parameters()}
    modules = {name.rpartition(".")[0] for name, parameter in model.named_parameters() if id(parameter) in heads}
    fresh = tuple(f"backbone.{name}." for name in getattr(getattr(model, "backbone", None), "fresh", ()))
    return [
        key for key in model_state
        if key.rpartition(".")[0] not in modules and not _derived(key) and not key.startswith(fresh)
    ]  # fmt: skip


def _refusal(path: Path, report: Report, backbone: list[str], matched: int) -> str:
    mismatch = set(report.shape_mismatch)
    lost = [key for key in backbone if key in mismatch or key in set(report.missing)]
    different = sum(key in mismatch for key in lost)
    return (
        f"{path} holds another model: {matched} of {len(backbone)} backbone tensors match ({report.share:.0%}, at "
        f"least {MIN_SHARE:.0%} needed), {len(lost) - different} are missing and {different} have another shape, "
        f"e.g. {', '.join(lost[:3])}"
    )


def save_weights(
    model: nn.Module, path: str | Path, network: ModelConfig | None = None, about: Mapping[str, str] | None = None
) -> None:
    """Write the model's state dict as safetensors; the file at ``path`` is the old one or the whole new one, always.

    network: what the model was built of; then ``build_model`` refuses the file for another one.  about: more metadata.
    OSError naming the file if it cannot be written.
    """
    path = Path(path)
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    metadata = {"format": "pt", **(about or {})}
    if network is not None:
        metadata["network"] = json.dumps({name: getattr(network, name) for name in GRAPH})
    data = safetensors.torch.save(state, metadata=metadata)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, f"weights cannot be written ({error.strerror})", str(path)) from error


def _sync_directory(folder: Path) -> None:
    # The rename itself is only safe on disk once its directory is.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
