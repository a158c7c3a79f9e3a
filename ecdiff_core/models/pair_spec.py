"""Which weights make a pair: the two models and what is loaded on top of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from ecdiff_core.errors import ConfigError
from ecdiff_core.models.weight_files import AUTO
from ecdiff_core.validation import Finite, check_fields, check_type

Side = Literal["cloud", "edge"]
On = Literal["cloud", "edge", "both"]


@dataclass(frozen=True)
class ModelRef:
    """Which weights: a hub id (with revision), a diffusers folder, a checkpoint file, or ``embedded:NAME``.

    Args:
        fingerprint: of the weights, LoRA included; None is not checked.
        variant: of the weight files: ``fp16`` or another, None for the plain ones, or ``auto``.
        subfolder: of the repository or folder, where the model lies in one.
        config: diffusers folder or hub id whose config files a checkpoint file goes by.
        tensors: digest of the denoiser in memory (``tensor_digest``), in the dtype that it is sampled in.
        parts: of a cloud, digests of its autoencoder and text encoders in memory, likewise.
    """

    id: str
    revision: str | None = None
    fingerprint: str | None = None
    variant: str | None = AUTO
    subfolder: str | None = None
    config: str | None = None
    tensors: str | None = None
    parts: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        _check_printable("a model's id", self.id)
        for name in ("variant", "subfolder", "config"):
            if getattr(self, name) is not None:
                _check_printable(f"a model's {name}", getattr(self, name))

    @property
    def identity(self) -> str | None:
        """What tells the weights from others: their fingerprint; of models that were given in memory a digest
        of their digests, 16 hex digits. None where nothing does."""
        if self.fingerprint is not None or self.tensors is None:
            return self.fingerprint
        parts = sorted((self.parts or {}).items())
        return hashlib.sha256(f"{self.tensors} {parts}".encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Lora:
    """A LoRA file that is loaded on top of a model.

    Args:
        path: a safetensors file in a format that diffusers reads, or a folder with
            ``pytorch_lora_weights.safetensors``.
        weight: factor of the adapter; 0 switches it off.
        on: ``cloud`` (text encoders included), ``edge`` (its denoiser) or ``both``.
        fingerprint: of the file; None is not checked.
    """

    path: str
    weight: Finite = 1.0
    on: On = "both"
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        _check_printable("a LoRA's path", self.path)
        check_fields(self, ConfigError, "pair.lora.")


@dataclass(frozen=True)
class PairSpec:
    """The two models by name, and the adapters on them, in the order in which they are loaded."""

    name: str
    cloud: ModelRef
    edge: ModelRef
    lora: Sequence[Lora] = ()

    def __post_init__(self) -> None:
        _check_printable("the pair's name", self.name)
        for side in ("cloud", "edge"):
            check_type(f"the pair's {side}", getattr(self, side), ModelRef, "a ModelRef")
        object.__setattr__(self, "lora", tuple(self.lora))

    def lora_on(self, side: Side) -> list[Lora]:
        """The adapters of one side."""
        return [lora for lora in self.lora if lora.on in (side, "both")]

    @property
    def has_optional_keys(self) -> bool:
        """Whether there is more to write than ids, revisions and fingerprints."""
        return bool(self.lora) or any(len(_tree(ref)) > len(_ALWAYS) for ref in (self.cloud, self.edge))

    def tree(self) -> dict[str, Any]:
        """As nested mappings, without the optional keys that say nothing."""
        tree: dict[str, Any] = {"name": self.name, "cloud": _tree(self.cloud), "edge": _tree(self.edge)}
        return {**tree, "lora": [asdict(lora) for lora in self.lora]} if self.lora else tree


_ALWAYS = ("id", "revision", "fingerprint")
"""Keys of a model that are always written."""


def _tree(ref: ModelRef) -> dict[str, Any]:
    kept = [f for f in fields(ref) if f.name in _ALWAYS or getattr(ref, f.name) != f.default]
    return {f.name: getattr(ref, f.name) for f in kept}


def _check_printable(what: str, text: str) -> None:
    if not isinstance(text, str) or not text or not text.isprintable():
        raise ConfigError(key=what, got=text, expected="to be printable text on one line")
