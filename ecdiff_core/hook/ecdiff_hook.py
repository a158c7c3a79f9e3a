"""What a hooked denoiser does at every call: ask the model, estimate its output, or ask the edge model.

The hook works on the model's raw output, before classifier-free guidance. Both estimators and guidance are
linear, so the latents are those of ``ECDiffPipeline``, which works after it. Where guidance changes from step
to step (CogVideoX's ``use_dynamic_cfg``) that does not hold: there the hook guides what it remembers, by the
config's scale. Where it is rescaled (``guidance_rescale``), the call is refused.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.hooks import ModelHook
from torch import nn

from ecdiff_core.config import TunedConfig
from ecdiff_core.errors import PairError, ParamsError
from ecdiff_core.hook import weights
from ecdiff_core.hook.adapters import Adapter, adapter_notes, adapters_on
from ecdiff_core.hook.checks import (
    check_answers_of,
    check_size,
    check_timesteps,
    denoiser_of,
    forward_signature,
    hook_on,
    refuse_other_scheduler,
)
from ecdiff_core.hook.edge import EdgeModel
from ecdiff_core.hook.history import History
from ecdiff_core.hook.pipeline_call import check_undisturbed, current_call, guidance_note, refuse_arguments
from ecdiff_core.hook.tracking import StepTracker
from ecdiff_core.models.families.guidance import Guidance
from ecdiff_core.sampling.estimators import get_estimator
from ecdiff_core.sampling.plan import Action, Plan
from ecdiff_core.sampling.scheduler_settings import settings_of

_ENTERING = threading.Lock()
"""Of all hooks: which call a step belongs to is decided for one thread at a time."""


class ECDiffHook(ModelHook):
    """Decides for every call of a denoiser: call it, estimate its output, or call the edge model.

    Args:
        plan: what every step is to do.
        calls: how often each model was really called in the last generation (or the one under way); twice a
            step where a pipeline calls it once with and once without the prompt.
        pipe, module: the pipeline, and its denoiser, which the hook is on.
    """

    _is_stateful = True  # so that diffusers' reset_stateful_hooks frees the history

    def __init__(
        self, pipe: Any, config: TunedConfig, edge: Any, check_scheduler: bool, check_weights: bool
    ) -> None:
        super().__init__()
        self.pipe, self.module = pipe, denoiser_of(pipe)
        self.plan: Plan = config.plan()
        self.calls = {"cloud": 0, "edge": 0}
        self._done = 0
        self._config, self._checks_scheduler = config, check_scheduler
        self._checked: tuple[type, dict[str, Any]] | None = None
        self._signature = forward_signature(pipe)
        self._check_scheduler()
        if edge is None and self.plan.edge_calls:
            line = f"The plan calls the edge model ({self.plan}): give apply_ecdiff one."
            raise PairError(line, key="edge", expected="an edge model")
        adapter, scale = config.sampling.handoff_adapter, config.sampling.guidance_scale
        self._edge = None if edge is None else EdgeModel(pipe, edge, adapter, scale)
        if check_weights:
            weights.check_weights(pipe, edge, config)
        self._tracker = StepTracker(pipe, config)
        self._history = History(get_estimator(config.sampling.estimator), config.factors)
        sampling = config.sampling
        varies = sampling.use_dynamic_cfg and sampling.guidance_scale > 1
        self._guidance = Guidance(sampling.guidance_scale, sampling.num_inference_steps) if varies else None
        self._scale: float | None = None
        self._noted: set[str] = set()
        self._adapters: tuple[tuple[Adapter, ...], tuple[Adapter, ...]] | None = None

    def _check_scheduler(self) -> None:
        """Anew for another class or other settings alone: to try a scheduler out takes many steps of it."""
        if not self._checks_scheduler:
            return
        scheduler = self.pipe.scheduler
        now = type(scheduler), settings_of(scheduler)
        if now != self._checked:
            refuse_other_scheduler(scheduler, self._config.sampling.scheduler, self._config.scheduler_config)
            check_answers_of(self.pipe)
            self._checked = now

    def summary(self) -> str:
        """What the last generation did, counted; the steps so far while one is under way."""
        if getattr(self.pipe, "ecdiff", None) is self and hook_on(denoiser_of(self.pipe)) is not self:
            return "not in use: the pipeline got another denoiser since apply_ecdiff"
        if not self._done:
            return "no generation yet"
        cloud, edge = self.calls["cloud"], self.calls["edge"]
        done = self.plan.until(self._done)
        return f"{done} ({cloud} cloud calls, {edge} edge calls)"

    def reset_state(self, module: nn.Module) -> nn.Module:
        """Forget the generation under way, not what ``summary`` tells of it."""
        self._tracker.forget()
        self._history.clear()
        return module

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Refuse to be called for a copy of the model: its ``forward`` would still be the original's."""
        if module is not self.module:
            raise PairError(
                "This model is a copy of one that apply_ecdiff was applied to, and still tied to it.",
                key="pipe",
                got="copy",
                advice="Call remove_ecdiff before copying a pipeline, or on the copy; then apply_ecdiff to "
                "both.",
            )
        return args, kwargs

    # The decision is not traced, the models are: what is called below is, unless it says otherwise.
    @torch.compiler.disable(recursive=False, reason="apply_ecdiff decides before every call of the model")
    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """In place of the model's forward: the same arguments, the same kind of output."""
        action = self._enter(module, *args, **kwargs)
        if action is Action.APPROX:
            return self._estimate()
        if action is Action.EDGE:
            return self._answer_of_edge(self._call_edge(*args, **kwargs))
        beside = self._call_edge(*args, **kwargs) if self._tracker.step in self.plan.both_asked else None
        return self._observe(self.fn_ref.original_forward(*args, **kwargs), beside)

    @torch.compiler.disable
    def _enter(self, module: nn.Module, *args: Any, **kwargs: Any) -> Action:
        """What this call is to do."""
        with _ENTERING:
            return self._entered(module, *args, **kwargs)

    def _entered(self, module: nn.Module, *args: Any, **kwargs: Any) -> Action:
        given = self._signature.bind_partial(*args, **kwargs).arguments
        tracker, calls_before = self._tracker, self._tracker.branch + 1
        timestep = torch.as_tensor(given["timestep"])
        self._scale = None if self._guidance is None else float(self._guidance.at(timestep.max()))
        if tracker.enter(timestep):
            self._begin(module, given)
        if not self._needs_history:
            self._history.clear()
        elif tracker.step > 0:
            self._history.check(tracker.step, tracker.branch, calls_before, len(next(iter(given.values()))))
        return self.plan.steps[tracker.step]

    def _begin(self, module: nn.Module, given: Mapping[str, Any]) -> None:
        """Refuse a generation that the plan is not for; its first call again then begins one again."""
        self._history.clear()
        self._done, self.calls = 0, {"cloud": 0, "edge": 0}
        sampling, sample, call = self._config.sampling, next(iter(given.values())), current_call()
        try:
            refuse_arguments(call, sampling)
            self._check_scheduler()
            if self._checks_scheduler:
                check_timesteps(self.pipe, sample, sampling.num_inference_steps)
            check_size(self.pipe, sample, sampling)
            self._warn_of(guidance_note(call, sampling.guidance_scale))
            if self._edge is not None:
                self._edge.begin(module, given)
            self._note_adapters(module)
        except Exception:
            self._tracker.forget()
            raise

    def _note_adapters(self, cloud: nn.Module) -> None:
        edge = None if self._edge is None else self._edge.module
        now = adapters_on(cloud), adapters_on(edge)
        if now != self._adapters:
            self._adapters = now
            for note in adapter_notes(self.pipe, cloud, edge, self._config.pair):
                self._warn_of(note)

    def _warn_of(self, note: str) -> None:
        """Once, of what every call would say again."""
        if note and note not in self._noted:
            self._noted.add(note)
            warnings.warn(note, stacklevel=2)

    @property
    def _needs_history(self) -> bool:
        """Whether a later step goes by this one's noise or by what was there before it."""
        step = self._tracker.step
        return Action.APPROX in self.plan.steps[step:] or any(i >= step for i in self.plan.residual_steps)

    @torch.compiler.disable
    def _observe(self, output: Any, beside: Any) -> Any:
        self._note()
        self.calls["cloud"] += 1
        if self._needs_history:
            self._history.observe(self._tracker.branch, output, beside, self._scale)
        return output

    @torch.compiler.disable
    def _estimate(self) -> Any:
        self._note()
        return self._history.estimate(self._tracker.branch, self._scale)

    @torch.compiler.disable
    def _call_edge(self, *args: Any, **kwargs: Any) -> Any:
        assert self._edge is not None
        output = self._edge(*args, **kwargs)
        self.calls["edge"] += 1
        return output

    @torch.compiler.disable
    def _answer_of_edge(self, output: Any) -> Any:
        self._note()
        if self._tracker.step in self.plan.residual_steps:
            return self._history.with_residual(self._tracker.branch, output, self._scale)
        if self._needs_history:
            self._history.observe(self._tracker.branch, output, None, self._scale)
        return output

    def _note(self) -> None:
        """Count a step, at the first of its calls, unless it was disturbed."""
        try:
            check_undisturbed(current_call())
        except ParamsError:
            self.reset_state(self.module)
            raise
        if self._tracker.branch == 0:
            self._done += 1
