"""What the edge model must be given so that it understands the cloud's latents.

``identity`` is the paper: the edge model gets latents and timestep as they are. ``matched`` is for models
that scale or noise their latents differently (CogVideoX 5B and 2B): the edge model is called at the timestep
where it knows latents of the same signal-to-noise ratio, on latents rescaled to it, and its answer is
converted back. The trajectory stays the cloud's, so that scheduler, history and decoding know nothing of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from ecdiff_core.errors import ParamsError
from ecdiff_core.sampling.plan import HandoffAdapter
from ecdiff_core.sampling.sampler import Denoiser

PURE_NOISE = 2.0**-24
"""abar at and below which there is no signal: diffusers writes 0 or this number for zero terminal SNR."""


@dataclass(frozen=True)
class NoiseSchedule:
    """How a model's noisy latents are made: x_t = sqrt(abar_t) f z + sqrt(1 - abar_t) eps.

    Args:
        alphas_cumprod: abar by training timestep, falling, float64, shape (timesteps,).
        scaling_factor: f, what the model multiplies the autoencoder's latents z with.
        prediction_type: what the model answers with: ``epsilon``, ``v_prediction`` or ``sample``.
    """

    alphas_cumprod: Tensor
    scaling_factor: float
    prediction_type: str

    @classmethod
    def of(cls, scheduler: SchedulerMixin, scaling_factor: float) -> NoiseSchedule | None:
        """The schedule of a diffusers scheduler; None for flow matching, which has no abar."""
        prediction = str(scheduler.config.get("prediction_type", "epsilon"))
        alphas_cumprod = getattr(scheduler, "alphas_cumprod", None)
        if alphas_cumprod is None or prediction == "flow_prediction":  # UniPC (Wan) has both, and uses none
            return None
        return cls(torch.as_tensor(alphas_cumprod).double().cpu(), float(scaling_factor), prediction)

    @property
    def _noise_to_signal(self) -> Tensor:
        """log of noise over signal in units of z, rising with the timestep."""
        abar = self.alphas_cumprod.clamp(min=PURE_NOISE)  # zero terminal SNR stays finite, and last
        return 0.5 * torch.log((1 - abar) / abar) - math.log(self.scaling_factor)

    def abar(self, timestep: float) -> float:
        """abar at a timestep that may lie between two whole ones (linear in the log of noise over signal)."""
        if timestep >= len(self.alphas_cumprod) - 1:
            return float(self.alphas_cumprod[-1])
        low = int(timestep)
        if timestep == low:
            return float(self.alphas_cumprod[low])
        below, above = self._noise_to_signal[low : low + 2]
        ratio = float(below + (timestep - low) * (above - below)) + math.log(self.scaling_factor)
        return 1 / (1 + math.exp(2 * ratio))

    def timestep_like(self, other: NoiseSchedule, timestep: float) -> float:
        """The timestep here, a fraction in general, with the signal-to-noise ratio of ``timestep`` there.

        The first or the last one where none has it: for cleaner or noisier latents than any here. Pure noise
        is the last one's whatever the scaling.
        """
        abar = other.abar(timestep)
        if abar <= PURE_NOISE:
            return float(len(self.alphas_cumprod) - 1)
        wanted = 0.5 * math.log((1 - abar) / abar) - math.log(other.scaling_factor)
        table = self._noise_to_signal
        above = int(torch.searchsorted(table, torch.tensor(wanted, dtype=torch.float64)))
        if above == 0:
            return 0.0
        if above == len(table):
            return float(len(table) - 1)
        below = above - 1
        return below + float((wanted - table[below]) / (table[above] - table[below]))


def to_epsilon_and_z(
    schedule: NoiseSchedule, output: Tensor, latents: Tensor, abar: float
) -> tuple[Tensor, Tensor]:
    """A model's output as noise eps and clean autoencoder latents z."""
    signal, noise = abar**0.5, (1 - abar) ** 0.5
    if schedule.prediction_type == "v_prediction":
        eps, clean = signal * output + noise * latents, signal * latents - noise * output
    elif schedule.prediction_type == "sample":
        eps, clean = (latents - signal * output) / noise, output
    else:
        eps, clean = output, (latents - noise * output) / signal
    return eps, clean / schedule.scaling_factor


def from_epsilon_and_z(schedule: NoiseSchedule, eps: Tensor, z: Tensor, abar: float) -> Tensor:
    """The output that a model of that schedule would give for them."""
    clean = z * schedule.scaling_factor
    if schedule.prediction_type == "v_prediction":
        return abar**0.5 * eps - (1 - abar) ** 0.5 * clean
    return clean if schedule.prediction_type == "sample" else eps


def matched(edge: Denoiser, cloud_schedule: NoiseSchedule, edge_schedule: NoiseSchedule) -> Denoiser:
    """``edge`` as a function of the cloud's latents and timesteps, answering in the cloud's terms.

    Conversions are made in float32 at least, whatever the models' dtype.
    """

    def denoise(latents: Tensor, timestep: Tensor) -> Tensor:
        there = float(timestep)
        here = edge_schedule.timestep_like(cloud_schedule, there)
        cloud_abar, edge_abar = cloud_schedule.abar(there), edge_schedule.abar(here)
        # Equal ratios of signal to noise: one factor carries both. Latents that are cleaner than any the edge
        # knows keep the signal that it expects, noisier ones the noise. Neither is a division by 0.
        signal = _signal_factor(cloud_schedule, cloud_abar, edge_schedule, edge_abar)
        noise = ((1 - edge_abar) / (1 - cloud_abar)) ** 0.5
        exact = latents.to(torch.promote_types(latents.dtype, torch.float32))
        scaled = (exact * (signal if here == 0 else noise)).to(latents.dtype)
        output = edge(scaled, torch.tensor(here, dtype=torch.float32, device=latents.device))
        eps, z = to_epsilon_and_z(edge_schedule, output.to(exact.dtype), scaled.to(exact.dtype), edge_abar)
        if not math.isclose(signal, noise, rel_tol=1e-6) and cloud_abar > PURE_NOISE:
            # The edge takes these latents for others: its image holds, and what is left of them is noise.
            eps = _noise_beside(cloud_schedule, z, exact, cloud_abar)
        return from_epsilon_and_z(cloud_schedule, eps, z, cloud_abar).to(output.dtype)

    return denoise


def _signal_factor(cloud: NoiseSchedule, cloud_abar: float, edge: NoiseSchedule, edge_abar: float) -> float:
    """What the cloud's signal is to be multiplied with for the edge; of pure noise, which has none, 1."""
    if cloud_abar <= PURE_NOISE:
        return 1.0
    return (edge_abar / cloud_abar) ** 0.5 * edge.scaling_factor / cloud.scaling_factor


def _noise_beside(schedule: NoiseSchedule, z: Tensor, latents: Tensor, abar: float) -> Tensor:
    """The noise eps that, with clean autoencoder latents z, makes these noisy latents."""
    return (latents - abar**0.5 * schedule.scaling_factor * z) / (1 - abar) ** 0.5


def only_matched(
    cloud_schedule: NoiseSchedule | None, edge_schedule: NoiseSchedule | None
) -> tuple[str, str, str] | None:
    """Why the edge's answers mean nothing without conversion: a property, the cloud's value, the edge's.

    None where ``identity`` may do: other betas or another scaling only make it worse.
    """
    if cloud_schedule is None or edge_schedule is None:
        return None
    ours, theirs = cloud_schedule.prediction_type, edge_schedule.prediction_type
    if ours != theirs:
        return "prediction type", ours, theirs
    here, there = len(cloud_schedule.alphas_cumprod), len(edge_schedule.alphas_cumprod)
    return None if here == there else ("num_train_timesteps", str(here), str(there))


def check_adapter(
    adapter: HandoffAdapter, cloud_schedule: NoiseSchedule | None, edge_schedule: NoiseSchedule | None
) -> None:
    """Whether two models can be joined by the adapter.

    Raises:
        ParamsError: ``matched`` is asked for models that have no alphas_cumprod (flow matching), or
            ``identity`` for models that answer with another quantity or count other timesteps.
    """
    found = only_matched(cloud_schedule, edge_schedule)
    if adapter == "identity" and found is not None:
        name, ours, theirs = found
        raise ParamsError(
            f"The models' {name} differs (cloud {ours}, edge {theirs}), which handoff_adapter=identity does "
            "not convert.",
            key="handoff_adapter",
            got={"cloud": ours, "edge": theirs},
            expected="matched",
            advice="Set handoff_adapter=matched.",
        )
    if adapter == "matched" and (cloud_schedule is None or edge_schedule is None):
        raise ParamsError(
            "handoff_adapter=matched needs noise schedules with alphas_cumprod, which flow-matching "
            "models lack.",
            key="handoff_adapter",
            got=adapter,
            expected="identity",
            advice="Use handoff_adapter=identity.",
        )


def adapt(
    edge: Denoiser,
    adapter: HandoffAdapter,
    cloud_schedule: NoiseSchedule | None,
    edge_schedule: NoiseSchedule | None,
) -> Denoiser:
    """The edge's denoiser behind the adapter; raises as ``check_adapter``."""
    check_adapter(adapter, cloud_schedule, edge_schedule)
    if adapter == "identity" or cloud_schedule is None or edge_schedule is None:
        return edge
    return matched(edge, cloud_schedule, edge_schedule)
