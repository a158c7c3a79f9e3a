"""The YAML that the tuner writes and inference loads: checked, versioned, written in one piece."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any

from ecdiff_core.errors import ConfigError, ECDiffError, ParamsError
from ecdiff_core.front import FrontRow, whole_params
from ecdiff_core.io import checked_yaml
from ecdiff_core.io.atomic_files import write_text
from ecdiff_core.methods.choice import MethodChoice
from ecdiff_core.models.devices import get_dtype
from ecdiff_core.models.pair_spec import PairSpec
from ecdiff_core.sampling.estimators import get_estimator
from ecdiff_core.sampling.params import ECDiffParams, Factors
from ecdiff_core.sampling.plan import Handoff, HandoffAdapter, Plan
from ecdiff_core.sampling.plan_of_params import count_steps, plan
from ecdiff_core.validation import AtLeast1, NotNegative, check_fields, check_type

FORMAT_VERSION = 4
"""The newest layout; 4 added ``front``, 3 ``method``, 2 ``scheduler_config``, ``lora``, optional keys of a
model, and the keys of ``params`` that the paper does not have."""

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
    "parts": "digests of its autoencoder and text encoders, likewise",
    "p": "warm-up steps with real cloud calls",
    "k": "approximated steps between two real cloud calls; 0 is none",
    "schedule": "steps with real cloud calls, in place of p and k",
    "alpha": "factor of the noise gradient, 0 < alpha <= 1",
    "edge_k": "approximated steps between two real edge calls; 0 is none",
    "edge_first": "edge steps at the beginning that are real",
    "edge_last": "edge steps at the end that are real",
    "residual": "factor of cloud minus edge at the last cloud step, added to the edge's noise",
    "edge_schedule": "steps with real edge calls, beside a schedule of the cloud's",
    "s": "steps on the cloud side, 0 … T",
    "method": "acceleration of the cloud model's real calls",
    "values": "of its parameters",
    "num_inference_steps": "T, but for PNDMScheduler, whose T is one more",
    "scheduler": "diffusers class",
    "guidance_scale": "classifier-free guidance; 1 is none",
    "use_dynamic_cfg": "CogVideoX: whether the guidance scale varies with the timestep",
    "height": "pixels",
    "width": "pixels",
    "num_frames": "of a video; null for images",
    "dtype": "float32, float16 or bfloat16",
    "handoff": "aligned (after a correcting call) or exact (cut at s)",
    "handoff_adapter": "identity (the paper) or matched (equal signal-to-noise ratio)",
    "scheduler_config": "the scheduler's settings; another pipeline's are compared with them",
    "estimator": "of approximated steps: gradient (the paper's), reuse, secant, newton2 or edge",
    "basis": "an early answer, which gives way to better ones until the search is at its end",
    "quality": "mean SSIM to the cloud's images, -1 … 1",
    "efficiency": "(t_cloud - t) / (t_cloud - t_edge), eq. 10",
    "burden": "(T - s) / (T - s'), eq. 11, or 1 - cloud calls / T; null where there is no s",
    "objective": "eq. 12",
    "quality_ci95": "bootstrap 95% interval of quality over prompts",
    "objective_ci95": "the same of the objective, times taken as known",
    "psnr": "median over prompts, dB",
    "seconds": "an image, the transfer included",
    "heldout": "the same on prompts that were not tuned on",
    "fewer_steps": "the cloud alone in the same time, on some of them",
    "steps": "of the cloud alone",
    "tuned": "this config's mean SSIM on the same prompts",
    "calls": "of a generation",
    "cloud_share": "cloud calls / T",
    "worst": "the lowest SSIM of a prompt",
    "work": "share of the cloud model's weights that a call applies, the mean",
    "front": "of the same pair; generate --deadline takes the best that link and machines allow",
    "reused": "share of the calls in which something is reused",
    "seconds_off": "an image without the method, measured beside it",
}


@dataclass(frozen=True)
class Sampling:
    """Everything about a generation but (p, k, alpha, s).

    Args:
        num_inference_steps: what the scheduler is asked for, at least 1; ``num_steps`` follows from it.
        scheduler: a diffusers scheduler class; deterministic.
        guidance_scale: classifier-free guidance; 1 or less runs none.
        height, width: pixels; None is the model's own size.
        num_frames: of a video; None is the model's own number, and 1 for images.
        dtype: of the models: float32, float16, bfloat16.
        handoff: ``aligned`` or ``exact``.
        handoff_adapter: ``identity`` or ``matched``: how the edge model is given the cloud's latents.
        estimator: how approximated steps get their noise.
        use_dynamic_cfg: CogVideoX alone: the guidance scale varies with the timestep, as in diffusers.

    Raises:
        ParamsError, ConfigError: a value is out of range or unknown.
    """

    num_inference_steps: AtLeast1 = 50
    scheduler: str = "DDIMScheduler"
    guidance_scale: NotNegative = 7.5
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    dtype: str = "float32"
    handoff: Handoff = "aligned"
    handoff_adapter: HandoffAdapter = "identity"
    estimator: str = "gradient"
    use_dynamic_cfg: bool = False

    def __post_init__(self) -> None:
        check_fields(self, ParamsError)
        if self.use_dynamic_cfg and self.handoff_adapter == "matched":
            raise ParamsError(
                "use_dynamic_cfg takes its scale from the timestep, which handoff_adapter=matched changes. "
                "Choose one of the two.",
                key="use_dynamic_cfg",
            )
        get_dtype(self.dtype)
        get_estimator(self.estimator)

    @property
    def num_steps(self) -> int:
        """T, which p, k and s count."""
        return count_steps(self.scheduler, self.num_inference_steps)


_ORDER = (
    *("format_version", "pair", "params", "method", "sampling", "scheduler_config", "front", "score"),
    "provenance",
)
"""Of the keys of a file."""


@dataclass(frozen=True)
class TunedConfig:
    """A Table 5 row and where it came from; all but the first three may be left out.

    Args:
        scheduler_config: the scheduler's settings by name, as ``scheduler_settings.settings_of`` gives them;
            those that are given must be those of the scheduler in use.
        method: an acceleration of the cloud model, beside params; None is none.
        format_version: 1, or 2, 3 or 4 where it holds what version 1 does not know; follows from the rest.
        front: what no config of the study beats in quality, seconds and cloud calls at once, the fastest
            first.

    Raises:
        ConfigError: ``scheduler_config`` has a key that is no text.
        ParamsError: the front is empty, or a row of it does not fit num_inference_steps.
    """

    pair: PairSpec
    params: ECDiffParams
    sampling: Sampling
    score: Mapping[str, Any] | None = None
    provenance: Mapping[str, Any] | None = None
    scheduler_config: Mapping[str, Any] | None = None
    method: MethodChoice | None = None
    format_version: int = 1
    front: tuple[FrontRow, ...] | None = None

    def __post_init__(self) -> None:
        for name, kind in (("pair", PairSpec), ("params", ECDiffParams), ("sampling", Sampling)):
            check_type(name, getattr(self, name), kind, f"of type {kind.__name__}")
        check_type("scheduler_config", self.scheduler_config, (Mapping, NoneType), "a mapping or None")
        if not all(isinstance(name, str) for name in self.scheduler_config or {}):
            line = "Expected scheduler_config to map a scheduler's settings, by name."
            raise ConfigError(line, key="scheduler_config", got=list(self.scheduler_config or {}))
        extended = self.pair.has_optional_keys or self.params.extends_paper
        newer = self.scheduler_config is not None or extended
        version = 4 if self.front is not None else 3 if self.method is not None else 2 if newer else 1
        object.__setattr__(self, "format_version", version)
        if self.front is not None:
            if not self.front:
                raise ParamsError(key="front", got=[], expected="to hold at least one row, or to be left out")
            for row in self.front:
                self.of_row(row).plan()

    def of_row(self, row: FrontRow) -> TunedConfig:
        """The config with a row of its front in the place of its own params, and without the front."""
        own = self.sampling
        sampling = replace(
            own,
            estimator=row.estimator or own.estimator,
            handoff_adapter=row.handoff_adapter or own.handoff_adapter,
            handoff=row.handoff or own.handoff,
        )
        score: dict[str, Any] = {"quality": row.quality, "seconds": row.seconds}
        score |= {} if row.num_prompts is None else {"num_prompts": row.num_prompts}
        return replace(self, params=row.params, sampling=sampling, score=score, provenance=None, front=None)

    @property
    def factors(self) -> Factors:
        """Of the noises of the plan's steps."""
        return self.params.factors(get_estimator(self.sampling.estimator))

    @property
    def basis(self) -> str:
        """What the scores rest on where the search has not come to its end; empty for others."""
        return str((self.score or {}).get("basis", ""))

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
            expected = "to be a whole number >= 1"
            raise ParamsError(key="num_inference_steps", got=num_inference_steps, expected=expected)
        sampling = replace(self.sampling, num_inference_steps=num_inference_steps)
        params = self.params.scaled(self.sampling.num_steps, sampling.num_steps)
        return replace(self, params=params, sampling=sampling, score=None, provenance=None, front=None)

    def to_yaml(self) -> str:
        """The YAML text, every key with its comment."""
        found = {**asdict(self), "pair": self.pair.tree()}
        tree = {key: found[key] for key in _ORDER if found[key] is not None}
        tree["params"] = self.params.tree()
        if self.method is not None:
            tree["method"] = self.method.tree()
        if self.front is not None:
            tree["front"] = [row.tree() for row in self.front]
        s = {"s": "the step after the last cloud call"} if "edge_schedule" in tree["params"] else {}
        return checked_yaml.write(tree, _COMMENTS | s, bare=["provenance"])

    def save(self, path: Path | str) -> None:
        """Write the YAML, whole or not at all; raises ConfigError for what is no path."""
        check_type("the config's path", path, (str, Path), "text or a Path")
        write_text(Path(path), self.to_yaml())

    @classmethod
    def from_yaml(cls, text: str, source: str = "the config") -> TunedConfig:
        """Read the YAML text; ``source`` names it in errors.

        Raises:
            ConfigError: it is no YAML mapping, has unknown or missing keys, or a newer format_version.
            ParamsError: a value is out of range.
        """
        check_type(source, text, str, "YAML text")
        tree = checked_yaml.read(text, source)
        version = tree.get("format_version")
        if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
            raise ConfigError(
                key="format_version",
                expected=f"{FORMAT_VERSION} or an older one",
                got=version,
                advice="A newer file needs a newer ecdiff.",
            ).of(source)
        try:
            config = checked_yaml.build(cls, whole_params(tree), source)
            config.plan()
        except ECDiffError as error:
            raise error.of(source) from error
        return config

    @classmethod
    def load(cls, path: Path | str) -> TunedConfig:
        """Read a YAML file; raises as ``from_yaml``, and ConfigError when it cannot be opened.

        Args:
            path: of the file, or the name of a config that comes with the package, such as ``shapes``.
        """
        check_type("a config", path, (str, Path), "a TunedConfig or the path of its YAML file")
        path = _shipped().get(str(path), path)
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise ConfigError(f"Cannot read the config {path}: {reason}.", key=str(path)) from error
        return cls.from_yaml(text, str(path))


def _shipped() -> dict[str, Path]:
    """The configs that come with the package by name: in a wheel inside it, in a checkout in conf/tuned/."""
    package = Path(__file__).resolve().parent
    folder = package / "tuned"
    found = (folder if folder.is_dir() else package.parent / "conf" / "tuned").glob("*.yaml")
    return {path.stem: path for path in found if not Path(path.stem).is_file()}
