"""What ``errors`` found, as tables and as lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ecdiff_tune.experiments.bounds import Check, Coefficients
from ecdiff_tune.experiments.corrections import MODES, Correction, corrections
from ecdiff_tune.experiments.error_runs import BatchErrors, Run, Work
from ecdiff_tune.metrics.intervals import interval95
from ecdiff_tune.report.paper_figures import Example


@dataclass(frozen=True)
class Errors:
    """What was found on all prompts, in their order.

    Args:
        work: what was done.
        ssim, psnr: of the disturbed images, shape (prompts, ratios).
        latent_errors: shape (prompts, runs, T + 1).
        checks: of the theorems, ``prompt`` counted over all.
        corrections: of the first run.
    """

    work: Work
    ssim: NDArray[np.float64]
    psnr: NDArray[np.float64]
    latent_errors: NDArray[np.float64]
    checks: tuple[Check, ...]
    corrections: tuple[Correction, ...]

    @classmethod
    def of(cls, work: Work, found: Sequence[BatchErrors]) -> Errors:
        """The batches put together; ranks may have finished them in another order."""
        order = np.argsort([row for one in found for row in one.rows])
        prompt_of = {row: place for place, row in enumerate(sorted(row for one in found for row in one.rows))}
        checks = [
            Check(**{**asdict(check), "prompt": prompt_of[one.rows[check.prompt]]})
            for one in found
            for check in one.checks
        ]
        latent_errors = np.concatenate([one.latent_errors for one in found])[order]
        return cls(
            work,
            np.concatenate([one.ssim for one in found])[order],
            np.concatenate([one.psnr for one in found])[order],
            latent_errors,
            tuple(sorted(checks, key=lambda one: (one.window, one.prompt))),
            tuple(corrections(work.runs[0].plan, latent_errors[:, 0])),
        )


def figure1_table(errors: Errors, seed: int) -> pd.DataFrame:
    """A row a ratio of noise: SSIM to the undisturbed images, bootstrap interval, median PSNR in dB."""
    rows = []
    for ratio, ssim, psnr in zip(errors.work.ratios, errors.ssim.T, errors.psnr.T, strict=True):
        low, high = interval95(ssim.tolist(), seed)
        rows.append((100 * ratio, ssim.mean(), low, high, float(np.median(psnr)), len(ssim)))
    names = ["noise_percent", "ssim", "ssim_ci95_low", "ssim_ci95_high", "psnr", "prompts"]
    return pd.DataFrame(rows, columns=names)


def figure1_cells(table: pd.DataFrame) -> pd.DataFrame:
    """The same for a reader: noise, SSIM, its interval, PSNR."""
    rows = [
        (
            f"{row.noise_percent:g} %",
            f"{row.ssim:.4f}",
            f"{row.ssim_ci95_low:.4f} … {row.ssim_ci95_high:.4f}",
            f"{row.psnr:.2f} dB",
        )
        for row in table.itertuples()
    ]
    return pd.DataFrame(rows, columns=["noise after each step", "SSIM", "95% interval", "PSNR"])


def latent_error_table(errors: Errors) -> pd.DataFrame:
    """A row a method, prompt and step; the error is that of the latents before the step, at step T of the
    final ones. ``action`` is what the step does: C cloud, A approximated, E edge; empty at step T."""
    parts = []
    for index, run in enumerate(errors.work.runs):
        values = errors.latent_errors[:, index]
        prompts, steps = np.indices(values.shape)
        part = {"method": run.name, "prompt": prompts.ravel(), "step": steps.ravel(), "error": values.ravel()}
        actions = [*(action.value for action in run.plan.steps), ""]
        parts.append(pd.DataFrame({**part, "action": actions * len(values)}))
    return pd.concat(parts, ignore_index=True)


def corrections_table(errors: Errors) -> pd.DataFrame:
    """A row a correction and prompt: the step of the real call, by what shares the error falls, its mode."""
    rows = [
        (one.prompt, one.before.end, one.fall_at_once, one.fall_in_window, one.mode)
        for one in errors.corrections
    ]
    names = ["prompt", "step", "fall_at_once", "fall_in_next_window", "mode"]
    return pd.DataFrame(rows, columns=names)


def corrections_by_step(errors: Errors) -> pd.DataFrame:
    """A row a real call after a window: on how many prompts the error fell in which mode, and the medians of
    the shares by which it fell."""
    table, rows = corrections_table(errors), []
    for step, part in table.groupby("step"):
        counts = [(part["mode"] == mode).sum() for mode in MODES]
        medians = (_percent(part[name].median()) for name in ("fall_at_once", "fall_in_next_window"))
        rows.append((step, *counts, *medians))
    return pd.DataFrame(rows, columns=["step", *MODES, "fall at once", "fall in the next window"])


def _percent(share: float) -> str:
    return "–" if pd.isna(share) else f"{100 * share:.1f} %"


def checks_table(errors: Errors) -> pd.DataFrame:
    """A row a theorem, window and prompt; the columns of ``Check`` and whether the bounds held."""
    rows = [
        {**asdict(one), "held": one.held, "held_as_printed": one.held_as_printed} for one in errors.checks
    ]
    names = [*Check.__dataclass_fields__, "held", "held_as_printed"]
    return pd.DataFrame(rows, columns=names)


def checks_by_window(errors: Errors) -> pd.DataFrame:
    """A row a window: medians over prompts, and on how many prompts the bounds held."""
    rows = []
    for (theorem, step), part in checks_table(errors).groupby(["theorem", "step"]):
        medians = (f"{part[name].median():.4g}" for name in ("error", "printed", "bound", "left_out"))
        held = (f"{part[name].sum()} of {len(part)}" for name in ("held_as_printed", "held"))
        rows.append((theorem, step, *medians, *held, f"{part['residual'].max():.1g}"))
    names = ["theorem", "before step", "error", "bound as printed", "bound with f and g", "left out"]
    return pd.DataFrame(rows, columns=[*names, "held as printed", "held with f and g", "residual"])


def examples(errors: Errors) -> list[Example]:
    """Of each of the paper's modes the correction with the largest fall, where there is one."""
    found = []
    for letter, mode in zip("bc", MODES, strict=False):
        fitting = [one for one in errors.corrections if one.mode == mode]
        if fitting:
            best = max(fitting, key=lambda one: one.fall)
            last = best.before.end + 1 if best.after is None else best.after.end
            title = f"({letter}) error falls {mode},\nprompt {best.prompt + 1}"
            error = errors.latent_errors[best.prompt, 0]
            found.append(Example(title, error, best.before.first, last, best.before.end))
    return found


def lines(errors: Errors, seed: int) -> list[str]:
    """What the command prints."""
    found = [
        f"noise of {row.noise_percent:g} % after each step: SSIM {row.ssim:.4f} "
        f"(95% {row.ssim_ci95_low:.4f} … {row.ssim_ci95_high:.4f}), PSNR {row.psnr:.1f} dB"
        for row in figure1_table(errors, seed).itertuples()
    ]
    final = errors.latent_errors[:, :, -1].mean(axis=0)
    listed = [f"{run.name} {value:.4f}" for run, value in zip(errors.work.runs, final, strict=True)]
    found.append(f"latent error at the end (root mean square): {'; '.join(listed)}")
    return [*found, *_correction_lines(errors), *_theorem_lines(errors)]


def _correction_lines(errors: Errors) -> list[str]:
    modes = [one.mode for one in errors.corrections]
    if not modes:
        return ["no step is approximated and then corrected, so there is no mode of correction to show"]
    listed = ", ".join(f"{mode} in {modes.count(mode)}" for mode in MODES)
    return [f"the latent error fell, of {len(modes)} corrections: {listed}"]


def _theorem_lines(errors: Errors) -> list[str]:
    coefficients = errors.work.coefficients
    if coefficients is None:
        return ["note: the scheduler's step is not x' = f x - g eps (eq. 1), so no theorem is checked"]
    found = [_coefficients_line(coefficients)]
    table = checks_table(errors)
    for theorem in (1, 2):
        part = table[table["theorem"] == theorem]
        if not len(part):
            found.append(f"Theorem {theorem}: {_why_not(theorem, errors.work.runs[0])}")
            continue
        exact = f"its equation is right to {part['residual'].max():.1g} of the error"
        found.append(
            f"Theorem {theorem}: as printed {_held(part, 'held_as_printed', 'printed')}; "
            f"with f and g {_held(part, 'held', 'bound')}; {exact}"
        )
    return found


def _coefficients_line(coefficients: Coefficients) -> str:
    f, g = coefficients.f[1:], coefficients.g[1:]
    within = "hold" if f.max() <= 1 and abs(g).max() <= 1 else "do not both hold"
    return (
        f"f {f.min():.4g} … {f.max():.4g}, g {g.min():.4g} … {g.max():.4g}: "
        f"f <= 1 and g <= 1, of which the proofs make use, {within}"
    )


def _held(part: pd.DataFrame, held: str, bound: str) -> str:
    """How often a bound held, and how much of it the error was at most."""
    count, most = int(part[held].sum()), (part["error"] / part[bound]).max()
    often = f"it held in all {count}" if count == len(part) else f"it held in {count} of {len(part)}"
    return f"{often} cases (error at most {most:.3g} of it)"


def _why_not(theorem: int, run: Run) -> str:
    if theorem == 2 and run.candidate.estimator != "gradient":
        return f"it speaks of the gradient's noise, not of {run.candidate.estimator}'s"
    return "no window that it speaks of"
