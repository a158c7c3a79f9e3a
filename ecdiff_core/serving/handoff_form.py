"""What a handoff carries: the state before the first edge step, and the embeddings of the prompt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ecdiff_core.config import TunedConfig
from ecdiff_core.io.tensor_file import TensorSpec
from ecdiff_core.models.devices import get_dtype
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.batching import Conditioning
from ecdiff_core.sampling.plan import Mode, Plan
from ecdiff_core.sampling.sampler import SamplerState, start
from ecdiff_core.sampling.state import Layout, layout_at
from ecdiff_core.serving.packet import Encoding, Form, read_packet, write_packet

_CONDITIONING = "conditioning."


def plan_facts(config: TunedConfig) -> dict[str, str]:
    """The facts in which the rows of one front differ."""
    params = config.params
    return {
        "schedule": config.plan().schedule,
        "alpha": str(params.alpha),
        "residual": str(params.residual),
        "estimator": config.sampling.estimator,
    }


def facts_of(pipe: ECDiffPipeline) -> dict[str, str]:
    """What two machines must agree in, as text; the fingerprint of weights that are not known is left out."""
    sampling, spec = pipe.sampling, pipe.pair.spec
    names = ("num_inference_steps", "scheduler", "guidance_scale", "use_dynamic_cfg", "dtype")
    settings = json.dumps(pipe.scheduler_config, sort_keys=True, default=str).encode()
    found = {name: str(getattr(sampling, name)) for name in names} | {
        **plan_facts(pipe.config),
        "size": f"{pipe.size.height}x{pipe.size.width}x{pipe.size.num_frames}",
        "scheduler_config": hashlib.sha256(settings).hexdigest()[:16],
    }
    weights = {"cloud": spec.cloud.fingerprint, "edge": spec.edge.fingerprint}
    return found | {name: text for name, text in weights.items() if text is not None}


@dataclass(frozen=True)
class HandoffForm:
    """How handoffs in one mode of a pipeline are written and read; each machine has its own."""

    pipe: ECDiffPipeline
    mode: Mode = "ecdiff"

    @cached_property
    def plan(self) -> Plan:
        """What every step does."""
        return self.pipe.plan(self.mode)

    @property
    def step(self) -> int:
        """Steps that are done: 0 where the edge begins, T where it has none."""
        return self.plan.first_edge_step

    @cached_property
    def layout(self) -> Layout:
        """Of the state."""
        pipe = self.pipe
        family, sampling = pipe.pair.family, pipe.config.sampling
        shape = (1, *[1] * len(family.latents_shape(pipe.size)))
        latents = torch.empty(shape, dtype=get_dtype(sampling.dtype), device=pipe.device)
        begun = start(latents, pipe.scheduler, sampling.num_inference_steps, family.noise_dtype)
        return layout_at(self.step, begun, self.plan, pipe.estimator, pipe.config.factors)

    @cached_property
    def form(self) -> Form:
        """What a packet is to hold."""
        pipe, family = self.pipe, self.pipe.pair.family
        shape, rows = (1, *family.latents_shape(pipe.size)), 2 if pipe.is_guided else 1
        dtype = get_dtype(pipe.config.sampling.dtype)
        state = {name: TensorSpec(one, shape) for name, one in self.layout.dtypes().items()}
        prompt = {
            _CONDITIONING + name: TensorSpec(dtype, (rows, *of_prompt))
            for name, of_prompt in family.conditioning_shapes().items()
        }
        about = {"mode": self.mode, "plan": self.plan.schedule, "step": str(self.step)}
        return Form(state | prompt, facts_of(pipe) | about)

    def write(
        self,
        state: SamplerState,
        conditioning: Conditioning,
        encoding: Encoding = "computed",
        facts: Mapping[str, str] | None = None,
    ) -> bytes:
        """The packet of one image.

        Args:
            facts: more of them (``seed``, ``seconds``).
        """
        prompt = {_CONDITIONING + name: tensor for name, tensor in conditioning.tensors.items()}
        return write_packet(self.layout.take(state) | prompt, {**self.form.facts, **(facts or {})}, encoding)

    def read(
        self, data: bytes, encoding: Encoding = "computed", facts: Mapping[str, str] | None = None
    ) -> tuple[SamplerState, Conditioning, dict[str, str]]:
        """State and conditioning on the pipeline's device, and the packet's facts.

        Args:
            facts: more that must be equal.

        Raises:
            PacketError, TensorFileError: as ``read_packet``.
        """
        form = replace(self.form, facts={**self.form.facts, **(facts or {})})
        tensors, facts = read_packet(data, form, encoding)
        here = {name: tensor.to(self.pipe.device) for name, tensor in tensors.items()}
        prompt = {
            n.removeprefix(_CONDITIONING): one for n, one in here.items() if n.startswith(_CONDITIONING)
        }
        rows: dict[str, Tensor] = {name: here[name] for name in self.layout.needed}
        return self.layout.fill(rows), Conditioning(prompt, 1), facts
