"""(params, prompts) -> measurements, paying for no config twice and sharing the warm-up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ecdiff_core.devices import synchronize
from ecdiff_core.params import ECDiffParams
from ecdiff_core.pipeline import ECDiffPipeline, Prepared
from ecdiff_core.plan import Plan, plan
from ecdiff_core.sampler import SamplerState, advance
from ecdiff_tune.calibration import CalibrationSet
from ecdiff_tune.ledger import ConfigKey, Ledger, Measurement
from ecdiff_tune.metrics import psnr, ssim
from ecdiff_tune.reference import Reference, prepare


class Evaluator:
    """Measures configs on one prompt set against its reference.

    What the ledger holds is not generated again. Configs with the same warm-up share its p cloud calls: the
    state after them is kept, batch by batch. With ``share_warm_up=False`` every generation runs whole, so
    that its seconds mean something.
    """

    def __init__(
        self,
        pipe: ECDiffPipeline,
        prompts: CalibrationSet,
        reference: Reference,
        ledger: Ledger,
        *,
        batch_size: int,
        share_warm_up: bool = True,
    ) -> None:
        self._pipe = pipe
        self._prompts = prompts
        self._reference = reference
        self._ledger = ledger
        self._batch_size = batch_size
        self._share_warm_up = share_warm_up
        rows = range(len(prompts))
        self._chunks = [rows[i : i + batch_size] for i in range(0, len(prompts), batch_size)]
        self._batches: dict[range, Prepared] = {}
        self._warm: dict[tuple[range, int], SamplerState] = {}

    def plan(self, params: ECDiffParams) -> Plan:
        """What every step of a config does."""
        return plan(params, self._pipe.num_steps, self._pipe.config.sampling.handoff)

    def measure(self, params: ECDiffParams, on_prompts: Callable[[int], None]) -> list[Measurement]:
        """The config's measurements, prompt by prompt; ``on_prompts`` hears how many became ready."""
        steps = self.plan(params)
        key = ConfigKey.of(params, steps, self._pipe.config.sampling.estimator)
        keys = self._prompts.keys
        known = self._ledger.read(key)
        for rows in self._chunks:
            if not all(keys[i] in known for i in rows):
                found = self._generate(params, steps, rows)
                fresh = {keys[i]: one for i, one in zip(rows, found, strict=True)}
                self._ledger.append(key, fresh.items())
                known = {**fresh, **known}
            on_prompts(len(rows))
        return [known[one] for one in keys]

    def pictures(self, params: ECDiffParams, rows: Sequence[int]) -> Tensor:
        """The config's pictures of some prompts, float32 RGB in 0 … 1.

        Shape (rows, 3, height, width), of videos (rows, frames, 3, height, width).
        """
        made = []
        for first in range(0, len(rows), self._batch_size):
            batch = prepare(self._pipe, self._prompts, rows[first : first + self._batch_size])
            state = self._finish(batch.start, batch, params, self.plan(params))
            made.append(self._pipe.pair.family.decode(state.latents).cpu())
        return torch.cat(made)

    def _generate(self, params: ECDiffParams, steps: Plan, rows: range) -> list[Measurement]:
        batch = self._batch(rows)
        state = self._after_warm_up(rows, params) if self._share_warm_up else batch.start
        synchronize(self._pipe.device)
        started = time.perf_counter()
        state = self._finish(state, batch, params, steps)
        decoded = self._pipe.pair.family.decode(state.latents)
        synchronize(self._pipe.device)
        seconds = (time.perf_counter() - started) / len(rows)

        decoded = decoded.cpu()
        pictures = torch.nan_to_num(decoded)
        cloud = torch.stack([self._reference.prompts[i].cloud for i in rows]).float()
        # A half-precision decoder can overflow on finite latents.
        finite = [
            bool(torch.isfinite(x).all() and torch.isfinite(y).all())
            for x, y in zip(state.latents, decoded, strict=True)
        ]
        values = zip(finite, ssim(pictures, cloud).tolist(), psnr(pictures, cloud).tolist(), strict=True)
        return [Measurement(s, p, seconds) if ok else Measurement(None, None, seconds) for ok, s, p in values]

    def _finish(
        self, state: SamplerState, batch: Prepared, params: ECDiffParams, steps: Plan
    ) -> SamplerState:
        return advance(state, steps, batch.cloud, batch.edge, self._pipe.estimator, params.alpha)

    def _batch(self, rows: range) -> Prepared:
        if rows not in self._batches:
            self._batches[rows] = prepare(self._pipe, self._prompts, rows)
        return self._batches[rows]

    def _after_warm_up(self, rows: range, params: ECDiffParams) -> SamplerState:
        """The state after p real cloud calls, which every config with that p goes through."""
        if (rows, params.p) not in self._warm:
            batch, steps = self._batch(rows), self._pipe.num_steps
            cloud_only = plan(ECDiffParams.cloud_only(steps), steps)
            self._warm[rows, params.p] = advance(
                batch.start,
                cloud_only,
                batch.cloud,
                batch.edge,
                self._pipe.estimator,
                1.0,
                until=params.p,
            )
        return self._warm[rows, params.p]
