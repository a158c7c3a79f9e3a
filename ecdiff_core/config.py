"""The YAML that the tuner writes and inference loads: checked, versioned, written in one piece."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

from ecdiff_core.errors import ConfigError, ECDiffError, ParamsError, nearest
from ecdiff_core.io import checked_yaml
from ecdiff_core.io.files import write_text
from ecdiff_core.models.devices import get_dtype
from ecdiff_core.models.pair_spec import Lora, ModelRef, PairSpec
from ecdiff_core.sampling.estimators import get_estimator
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan import Handoff, HandoffAdapter, Plan, count_steps, plan

FORMAT_VERSION = 2
"""The newest layout; 2 added ``scheduler_config``, ``lora`` and optional keys of a model."""

_COMMENTS = {
    "format_version": "of this file's layout",
    "pair": "the two models",
    "id": "hub id, folder, or embedded:NAME",
    "revision": "of the hub repository; null is its newest",
    "fingerprint": "of the weights; null is not checked",
    "variant": "of the weight files; null is the plain ones",
    "subfolder": "where the model lies in the repository",
    "config": "folder or hub id with the checkpoint file's configs",
    "lora": "adapters, in the order in which they are loaded",
    "weight": "factor of the adapter",
    "'on'": "cloud, edge or both",
    "tensors": "digest of its denoiser in memory, in the dtype below",
    "p": "warm-up steps with real cloud calls",
    "k": "approximated steps between two real cloud calls; 0 is none",
    "schedule": "steps with real cloud calls, in place of p and k",
    "alpha": "factor of the noise gradient, 0 < alpha <= 1",
    "s": "steps on the cloud side, 0 … T",
    "num_inference_steps": "T, but for PNDMScheduler, whose T is one more",
    "scheduler": "diffusers class",
    "guidance_scale": "classifier-free guidance; 1 is none",
    "use_dynamic_cfg": "CogVideoX: whether the guidance scale varies with the timestep",
    "height": "pixels",
    "width": "pixels",
    "num_frames": "of a video; null for pictures",
    "dtype": "float32, float16 or bfloat16",
    "handoff": "aligned (after a correcting call) or exact (cut at s)",
    "handoff_adapter": "identity (the paper) or matched (equal signal-to-noise ratio)",
    "scheduler_config": "the scheduler's settings; another pipeline's are compared with them",
    "estimator": "of approximated steps: gradient (the paper's), reuse, secant, newton2 or edge",
    "quality": "mean SSIM to the cloud's pictures, -1 … 1",
    "efficiency": "(t_cloud - t) / (t_cloud - t_edge), eq. 10",
    "burden": "(T - s) / (T - s'), eq. 11; null where there is no s",
    "objective": "eq. 12",
    "quality_ci95": "bootstrap 95% interval of quality over prompts",
    "objective_ci95": "the same of the objective, times taken as known",
    "psnr": "median over prompts, dB",
    "seconds": "a picture, the transfer included",
    "heldout": "the same on prompts that were not tuned on",
    "calls": "of a generation",
}


@dataclass(frozen=True)
class Sampling:
    """Everything about a generation but (p, k, alpha, s).

    Args:
        num_inference_steps: what the scheduler is asked for, at least 1; ``num_steps`` follows from it.
        scheduler: a diffusers scheduler class; deterministic.
        guidance_scale: classifier-free guidance; 1 or less runs none.
        height, width: pixels; None is the model's own size.
        num_frames: of a video; None is the model's own number, and 1 for pictures.
        dtype: of the models: float32, float16, bfloat16.
        handoff: ``aligned`` or ``exact``.
        handoff_adapter: ``identity`` or ``matched``: what the edge model is told of the cloud's latents.
        estimator: how approximated steps get their noise.
        use_dynamic_cfg: CogVideoX alone: the guidance scale varies with the timestep, as in diffusers.

    Raises:
        ParamsError, ConfigError: a value is out of range or unknown.
    """

    num_inference_steps: int = 50
    scheduler: str = "DDIMScheduler"
    guidance_scale: float = 7.5
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    dtype: str = "float32"
    handoff: Handoff = "aligned"
    handoff_adapter: HandoffAdapter = "identity"
    estimator: str = "gradient"
    use_dynamic_cfg: bool = False

    def __post_init__(self) -> None:
        if self.num_inference_steps < 1:
            raise ParamsError(f"Expected num_inference_steps >= 1, got {self.num_inference_steps}.")
        if not 0 <= self.guidance_scale < float("inf"):
            raise ParamsError(f"Expected guidance_scale >= 0, got {self.guidance_scale}.")
        if self.handoff not in get_args(Handoff):
            raise ParamsError(
                f"Unknown handoff {self.handoff!r}: {nearest(self.handoff, get_args(Handoff))}."
            )
        if self.handoff_adapter not in get_args(HandoffAdapter):
            raise ParamsError(
                f"Unknown handoff_adapter {self.handoff_adapter!r}: "
                f"{nearest(self.handoff_adapter, get_args(HandoffAdapter))}."
            )
        if self.use_dynamic_cfg and self.handoff_adapter == "matched":
            raise ParamsError(
                "use_dynamic_cfg takes its scale from the timestep, which handoff_adapter=matched changes. "
                "Choose one of the two."
            )
        get_dtype(self.dtype)
        get_estimator(self.estimator)

    @property
    def num_steps(self) -> int:
        """T, which p, k and s count."""
        return count_steps(self.scheduler, self.num_inference_steps)


_ORDER = ("format_version", "pair", "params", "sampling", "scheduler_config", "score", "provenance")
"""Of the keys of a file."""
_NESTED = {
    "pair": PairSpec,
    "params": ECDiffParams,
    "sampling": Sampling,
    "cloud": ModelRef,
    "edge": ModelRef,
    "lora": Lora,
}
"""What these keys hold."""


@dataclass(frozen=True)
class TunedConfig:
    """A Table 5 row and where it came from; all but the first three may be left out.

    Args:
        scheduler_config: the scheduler's settings by name, as ``scheduler_settings.settings_of`` gives them;
            those that are given must be those of the scheduler in use.
        format_version: 1, or 2 where it holds what version 1 does not know; follows from the rest.

    Raises:
        ConfigError: ``scheduler_config`` has a key that is no text.
    """

    pair: PairSpec
    params: ECDiffParams
    sampling: Sampling
    score: Mapping[str, Any] | None = None
    provenance: Mapping[str, Any] | None = None
    scheduler_config: Mapping[str, Any] | None = None
    format_version: int = 1

    def __post_init__(self) -> None:
        if not all(isinstance(name, str) for name in self.scheduler_config or {}):
            raise ConfigError("Expected scheduler_config to map a scheduler's settings, by name.")
        newer = self.scheduler_config is not None or self.pair.has_optional_keys
        object.__setattr__(self, "format_version", 2 if newer else 1)

    def plan(self) -> Plan:
        """What every step does.

        Raises:
            ParamsError: params do not fit num_inference_steps.
        """
        sampling = self.sampling
        estimator = get_estimator(sampling.estimator)
        return plan(self.params, sampling.num_steps, sampling.handoff, estimator)

    def scaled(self, num_inference_steps: int) -> TunedConfig:
        """For another number of steps, in the same proportions; without scores, which do not hold for it.

        Raises:
            ParamsError: num_inference_steps is not a whole number >= 1.
        """
        if type(num_inference_steps) is not int:
            raise ParamsError(
                f"Expected num_inference_steps to be a whole number >= 1, got {num_inference_steps!r}."
            )
        sampling = replace(self.sampling, num_inference_steps=num_inference_steps)
        params = self.params.scaled(self.sampling.num_steps, sampling.num_steps)
        return replace(self, params=params, sampling=sampling, score=None, provenance=None)

    def to_yaml(self) -> str:
        """The YAML text, every key with its comment."""
        found = {**asdict(self), "pair": self.pair.tree()}
        tree = {key: found[key] for key in _ORDER if found[key] is not None}
        tree["params"] = {key: value for key, value in tree["params"].items() if value is not None}
        return checked_yaml.write(tree, _COMMENTS, bare=["provenance"])

    def save(self, path: Path | str) -> None:
        """Write the YAML, whole or not at all."""
        write_text(Path(path), self.to_yaml())

    @classmethod
    def from_yaml(cls, text: str, source: str = "the config") -> TunedConfig:
        """Read the YAML text; ``source`` names it in errors.

        Raises:
            ConfigError: it is no YAML mapping, has unknown or missing keys, or a newer format_version.
            ParamsError: a value is out of range.
        """
        tree = checked_yaml.read(text, source)
        version = tree.get("format_version")
        if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
            raise ConfigError(
                f"{source}: expected format_version {FORMAT_VERSION} or an older one, got {version!r}. "
                "A newer file needs a newer ecdiff."
            )
        try:
            config = checked_yaml.build(cls, tree, _NESTED, source)
            config.plan()
        except ECDiffError as error:
            prefix = "" if str(error).startswith(source) else f"{source}: "
            raise type(error)(prefix + str(error)) from error
        return config

    @classmethod
    def load(cls, path: Path | str) -> TunedConfig:
        """Read a YAML file; raises as ``from_yaml``, and ConfigError when it cannot be opened.

        Args:
            path: of the file, or the name of a config that comes with the package, such as ``shapes``.
        """
        path = _shipped().get(str(path), path)
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise ConfigError(f"Cannot read the config {path}: {reason}.") from error
        return cls.from_yaml(text, str(path))


def _shipped() -> dict[str, Path]:
    """The configs that come with the package by name: in a wheel inside it, in a checkout in conf/tuned/."""
    package = Path(__file__).resolve().parent
    folder = package / "tuned"
    found = (folder if folder.is_dir() else package.parent / "conf" / "tuned").glob("*.yaml")
    return {path.stem: path for path in found if not Path(path.stem).is_file()}
