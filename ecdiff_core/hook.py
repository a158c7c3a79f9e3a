"""The same thing inside an unmodified diffusers pipeline: a hook on its denoiser.

The hook works on the model's raw output, before classifier-free guidance. Both estimators and guidance are
linear, so the latents are those of ``ECDiffPipeline``, which works after it; guidance that changes from step
to step or is rescaled (``guidance_rescale``, CogVideoX's ``use_dynamic_cfg``) makes a small difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from ecdiff_core import noise
from ecdiff_core.errors import ConfigError, PairError, ParamsError
from ecdiff_core.hook_checks import (
    HOOK_NAME,
    arguments_for,
    check_edge,
    check_place,
    check_scheduler,
    denoiser_of,
    forward_signature,
    without_offload,
)
from ecdiff_core.noise import NoiseState, get_estimator
from ecdiff_core.plan import Action, Plan
from ecdiff_core.tracking import StepTracker
from ecdiff_core.tuned_config import TunedConfig


def apply_ecdiff(
    pipe: Any, config: TunedConfig | Path | str, edge: Any = None, *, check_scheduler: bool = True
) -> None:
    """Share the generations of a diffusers pipeline with an edge model, as a tuned config says.

    From then on ``pipe(...)`` makes its steps as planned, and ``pipe.ecdiff`` (``ECDiffHook``) tells what the
    last call did. The pipeline's own settings stay in force: prompts, guidance scale, size, LoRA, callbacks.
    Called again, it replaces what was applied before. A model to be compiled with ``fullgraph=True`` must be
    compiled before this (``pipe.unet = torch.compile(pipe.unet, fullgraph=True)``), or block by block.

    Args:
        pipe: a diffusers pipeline with one denoiser, ``unet`` or ``transformer``: the cloud model.
        config: tuned for the pair, or the YAML file with it.
        edge: a diffusers pipeline (its denoiser is used) or the denoiser itself, on the cloud's device and in
            its dtype; None for a plan without edge steps.
        check_scheduler: refuse a scheduler that is not the config's or draws fresh noise at every step.

    Raises:
        ConfigError: the config cannot be read, or asks for ``handoff_adapter: matched``.
        ParamsError: the scheduler is not the config's.
        PairError: the pipeline or the edge model cannot be used.

    A generation raises ParamsError when it has another number of steps than the config, a scheduler that does
    not make one call a step, or does not run from its first timestep on (image to image).

    >>> from diffusers import StableDiffusionPipeline
    >>> from ecdiff_core import apply_ecdiff
    >>> pipe = StableDiffusionPipeline.from_pretrained("my/cloud")  # doctest: +SKIP
    >>> edge = StableDiffusionPipeline.from_pretrained("my/edge")  # doctest: +SKIP
    >>> apply_ecdiff(pipe, "ecdiff.yaml", edge=edge)  # doctest: +SKIP
    >>> pipe("a red circle", num_inference_steps=50).images[0]  # doctest: +SKIP
    >>> print(pipe.ecdiff.summary())  # doctest: +SKIP
    50 steps = 16 cloud + 18 approximated + 16 edge (16 cloud calls, 16 edge calls)
    """
    if not isinstance(config, TunedConfig):
        config = TunedConfig.load(config)
    hook = ECDiffHook(pipe, config, None if edge is None else denoiser_of(edge), check_scheduler)
    if getattr(pipe, "ecdiff", None) is not None:
        remove_ecdiff(pipe)
    with without_offload(pipe):
        HookRegistry.check_if_exists_or_initialize(denoiser_of(pipe)).register_hook(hook, HOOK_NAME)
    pipe.ecdiff = hook


def remove_ecdiff(pipe: Any) -> None:
    """Undo ``apply_ecdiff``; does nothing to a pipeline that it was not applied to."""
    if getattr(pipe, "ecdiff", None) is None:
        return
    with without_offload(pipe):
        model: Any = denoiser_of(pipe)
        model._diffusers_hook.remove_hook(HOOK_NAME, recurse=False)
        if not model._diffusers_hook.hooks:  # an empty registry would put later hooks inside torch.compile
            del model._diffusers_hook
    del pipe.ecdiff


@dataclass
class _Branch:
    """One of the model calls of a step: what is remembered of it, and how its output is wrapped."""

    noise: NoiseState
    batch: int
    dtype: torch.dtype
    wrap: Callable[[Tensor], Any]


class ECDiffHook(ModelHook):
    """Decides for every call of a denoiser: call it, estimate its output, or call the edge model.

    Args:
        plan: what every step is to do.
        calls: how often each model was really called in the last generation (or the one under way); twice a
            step where a pipeline calls it once with and once without the prompt.
    """

    _is_stateful = True  # so that diffusers' reset_stateful_hooks frees the history

    def __init__(self, pipe: Any, config: TunedConfig, edge: nn.Module | None, check_scheduler: bool) -> None:
        super().__init__()
        self.plan: Plan = config.plan()
        self.calls = {"cloud": 0, "edge": 0}
        self._pipe, self._config, self._edge = pipe, config, edge
        self._check_scheduler = check_scheduler
        self._estimator = get_estimator(config.sampling.estimator)
        self._tracker = StepTracker(pipe, config.params, self.plan.num_steps)
        self._branches: list[_Branch] = []
        self._done: list[Action] = []
        self._signature = forward_signature(pipe)
        self._check_usable()

    def _check_usable(self) -> None:
        cloud, adapter = denoiser_of(self._pipe), self._config.sampling.handoff_adapter
        if self._check_scheduler:
            check_scheduler(self._pipe.scheduler, self._config.sampling.scheduler)
        if adapter != "identity":
            raise ConfigError(
                f"apply_ecdiff knows no handoff_adapter {adapter}. Use ECDiffPipeline, or set it to identity."
            )
        if self._edge is None and self.plan.edge_calls:
            raise PairError(f"The plan has edge steps ({self.plan}): give apply_ecdiff an edge model.")
        if self._edge is not None:
            check_edge(cloud, self._edge)

    def summary(self) -> str:
        """What the last generation did, counted; the steps so far while one is under way."""
        if not self._done:
            return "no generation yet"
        cloud, edge = self.calls["cloud"], self.calls["edge"]
        return f"{Plan(tuple(self._done))} ({cloud} cloud calls, {edge} edge calls)"

    def reset_state(self, module: nn.Module) -> nn.Module:
        """Forget the generation under way, not what ``summary`` tells of it."""
        self._tracker.forget()
        self._branches.clear()
        return module

    # The decision is not traced, the models are: what is called below is, unless it says otherwise.
    @torch.compiler.disable(recursive=False, reason="apply_ecdiff decides before every call of the model")
    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """In place of the model's forward: the same arguments, the same kind of output."""
        action = self._enter(module, *args, **kwargs)
        if action is Action.CLOUD:
            return self._observe(self.fn_ref.original_forward(*args, **kwargs))
        return self._call_edge(*args, **kwargs) if action is Action.EDGE else self._estimate()

    @torch.compiler.disable
    def _enter(self, module: nn.Module, *args: Any, **kwargs: Any) -> Action:
        """What this call is to do."""
        given = self._signature.bind_partial(*args, **kwargs).arguments
        sample, timestep = next(iter(given.values())), torch.as_tensor(given["timestep"])
        tracker, calls_before = self._tracker, self._tracker.branch + 1
        if tracker.enter(timestep):
            self._branches.clear()
            self._done, self.calls = [], {"cloud": 0, "edge": 0}
            if self._check_scheduler:
                check_scheduler(self._pipe.scheduler, self._config.sampling.scheduler)
            if self._edge is not None:
                check_place(module, self._edge)
        step, branch, branches = tracker.step, tracker.branch, self._branches
        if not self._needs_history:
            branches.clear()
        elif step > 0 and (
            branch >= len(branches)
            or (branch == 0 and calls_before != len(branches))
            or len(sample) != branches[branch].batch
        ):
            tracker.forget()
            raise ParamsError(
                f"The model's batch ({len(sample)}) or its number of calls changed at step {step}: there is "
                "nothing to estimate from. Keep guidance on or off for a whole generation."
            )
        return self.plan.steps[step]

    @property
    def _needs_history(self) -> bool:
        return Action.APPROX in self.plan.steps[self._tracker.step :]

    @torch.compiler.disable
    def _observe(self, output: Any) -> Any:
        """Take in a real output of the cloud model."""
        self._count(Action.CLOUD)
        if self._needs_history:
            tensor, wrap = _unwrap(output)
            # A copy: pipelines change outputs in place, and CUDA graphs reuse their memory.
            eps = tensor.detach().to(torch.float32, copy=True)
            if self._tracker.step == 0:
                self._branches.append(_Branch(noise.init(), len(eps), tensor.dtype, wrap))
            branch = self._branches[self._tracker.branch]
            branch.noise = self._estimator.observe(branch.noise, eps)
        return output

    @torch.compiler.disable
    def _estimate(self) -> Any:
        """What the cloud model would answer with, without calling it."""
        branch = self._branches[self._tracker.branch]
        branch.noise = self._estimator.estimate(branch.noise, self._config.params.alpha)
        self._count(Action.APPROX)
        assert branch.noise.eps is not None
        return branch.wrap(branch.noise.eps.to(branch.dtype, copy=True))

    @torch.compiler.disable
    def _call_edge(self, *args: Any, **kwargs: Any) -> Any:
        assert self._edge is not None
        output = self._edge(*args, **arguments_for(self._edge, kwargs))
        self._count(Action.EDGE)
        return output

    def _count(self, action: Action) -> None:
        if self._tracker.branch == 0:
            self._done.append(action)
        if action is not Action.APPROX:
            self.calls[action.name.lower()] += 1


def _unwrap(output: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """The tensor in a model's output, and how to make such an output of another one."""
    if isinstance(output, tuple | BaseOutput) and len(output) == 1 and isinstance(output[0], Tensor):
        return output[0], (lambda tensor: (tensor,)) if isinstance(output, tuple) else type(output)
    raise PairError(
        f"Expected the model to answer with a tuple or a diffusers output of one tensor, got {type(output)}."
    )
