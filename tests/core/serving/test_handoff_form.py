"""The edge goes on from a packet as if it had done the cloud's part itself, whatever the family."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from ecdiff_core import ECDiffPipeline
from ecdiff_core.sampling.sampler import advance
from ecdiff_core.serving.handoff_form import HandoffForm
from ecdiff_core.serving.packet import PacketError

from ...refusals import refused
from .conftest import FAMILIES, config_of


def test_goes_on_as_the_uncut_run(pipe: ECDiffPipeline) -> None:
    form = HandoffForm(pipe)
    begun = pipe.prepare(["a small red ring"], generator=torch.Generator().manual_seed(3))
    loop = (form.plan, *pipe.bind(begun.conditioning), pipe.estimator, pipe.config.factors)
    uncut = advance(begun.start, *loop).latents
    data = form.write(advance(begun.start, *loop, until=form.step), begun.conditioning, facts={"seed": "3"})
    state, conditioning, facts = form.read(data, facts={"seed": "3"})
    assert (state.step, facts["seed"], facts["plan"]) == (4, "3", "2C1A1B1M1A1B2M")
    again = (form.plan, *pipe.bind(conditioning), pipe.estimator, pipe.config.factors)
    assert torch.equal(advance(state, *again).latents, uncut)


def test_a_packet_of_another_prompts_seed_is_refused(pipe: ECDiffPipeline) -> None:
    form = HandoffForm(pipe, "edge")
    begun = pipe.prepare(["a small red ring"], generator=torch.Generator().manual_seed(3))
    data = form.write(begun.start, begun.conditioning, facts={"seed": "3"})
    with refused(PacketError, key="packet", got={"seed": ("3", "4")}):
        form.read(data, facts={"seed": "4"})


def test_an_unguided_config_sends_one_half(tiny_pair: Path) -> None:
    config = config_of(tiny_pair, replace(FAMILIES["tiny_pair"], guidance_scale=1.0))
    form = HandoffForm(ECDiffPipeline.from_config(config, device="cpu"))
    begun = form.pipe.prepare(["a ring"], generator=torch.Generator().manual_seed(3))
    loop = (form.plan, *form.pipe.bind(begun.conditioning), form.pipe.estimator, config.factors)
    state = advance(begun.start, *loop, until=form.step)
    assert len(form.read(form.write(state, begun.conditioning))[1].tensors["encoder_hidden_states"]) == 1
