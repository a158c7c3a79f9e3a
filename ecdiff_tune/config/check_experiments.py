"""Settings of the commands that compare, rank again and show."""

from __future__ import annotations

from ecdiff_core.errors import nearest
from ecdiff_tune.config.error import SettingsError
from ecdiff_tune.config.groups import (
    CompareSettings,
    ErrorsSettings,
    MetricsSettings,
    ParetoSettings,
    RerankSettings,
)
from ecdiff_tune.experiments.method_names import METHODS

METRICS = ("ssim", "psnr", "lpips", "clip")
"""What ``metrics.names`` takes."""
LPIPS_NETS = ("alex", "vgg")
"""What ``metrics.lpips_net`` takes."""
PICKS = {"fastest_above": "quality", "best_below": "seconds"}
"""What ``pareto.pick`` takes beside a row's number, and the limit that goes with it."""


def check_methods(compare: CompareSettings) -> None:
    """Refuse unknown methods, and one given twice.

    Raises:
        SettingsError: with what was got.
    """
    if compare.methods is None:
        return
    for name in compare.methods:
        if name not in METHODS:
            raise SettingsError(f"Unknown method {name!r} in compare.methods: {nearest(name, METHODS)}.")
    if not compare.methods or len(set(compare.methods)) < len(compare.methods):
        raise SettingsError(f"Expected compare.methods to hold different methods, got {compare.methods}.")


def check_metrics(metrics: MetricsSettings) -> None:
    """Refuse unknown metrics, and one whose weights are not named.

    Raises:
        SettingsError: with what was got.
    """
    names = metrics.names
    if not names or len(set(names)) < len(names):
        raise SettingsError(f"Expected metrics.names to hold at least one metric, none twice, got {names}.")
    for name in names:
        if name not in METRICS:
            raise SettingsError(f"Unknown metric {name!r} in metrics.names: {nearest(name, METRICS)}.")
    if metrics.lpips_net not in LPIPS_NETS:
        raise SettingsError(
            f"Unknown metrics.lpips_net {metrics.lpips_net!r}: {nearest(metrics.lpips_net, LPIPS_NETS)}."
        )
    if "clip" in names and metrics.clip is None:
        raise SettingsError("The metric clip needs the folder of a CLIP model: give metrics.clip=FOLDER.")


def check_picks(rerank: RerankSettings, pareto: ParetoSettings) -> None:
    """Refuse limits out of range, and a pick without its limit.

    Raises:
        SettingsError: with what was got.
    """
    for name, quality in (("rerank.min_quality", rerank.min_quality), ("pareto.quality", pareto.quality)):
        if quality is not None and not -1 <= quality <= 1:
            raise SettingsError(f"Expected {name} to be a mean SSIM within -1 … 1, got {quality}.")
    for name, seconds in (("rerank.max_seconds", rerank.max_seconds), ("pareto.seconds", pareto.seconds)):
        if seconds is not None and not seconds > 0:
            raise SettingsError(f"Expected {name} > 0, got {seconds}.")
    if pareto.pick is None or pareto.pick.isdecimal():
        return
    if pareto.pick not in PICKS:
        raise SettingsError(
            f"Unknown pareto.pick {pareto.pick!r}: {nearest(pareto.pick, PICKS)}, or a row's number."
        )
    limit = PICKS[pareto.pick]
    if getattr(pareto, limit) is None:
        raise SettingsError(f"pareto.pick={pareto.pick} needs pareto.{limit}=VALUE.")


def check_errors(errors: ErrorsSettings) -> None:
    """Refuse shares of noise out of range.

    Raises:
        SettingsError: with what was got.
    """
    noise = errors.noise
    if not noise or not all(0 < ratio <= 1 for ratio in noise) or len(set(noise)) < len(noise):
        raise SettingsError(f"Expected errors.noise to hold different shares, 0 < share <= 1, got {noise}.")
