"""What the video and the flow-matching pair are trained on is what diffusers' pipelines will show them."""

from __future__ import annotations

import torch
from diffusers import StableDiffusion3Pipeline

from ecdiff_core import ModelRef
from ecdiff_core.models.find import find_configs
from ecdiff_core.models.handoff import NoiseSchedule
from shapes_flow.train import TextEncoders
from shapes_flow.train import TrainingData as FlowData
from shapes_flow.train import noisy_batch as flow_batch
from shapes_video import models
from shapes_video.train_transformers import Emphasis, TrainingData, noisy_batch

PROMPTS = ["at the top a small blue star, on a light plain background", ""]


def test_emphasis_gives_its_share_to_its_range() -> None:
    even = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    places = Emphasis(0.4, 0.7, 1.0).places(even)
    assert (places >= 0.7).sum() == 400 + 180  # 180 are 30% of the other 600
    assert places.min() < 0.001
    assert places.max() < 1


def test_noisy_clips_are_the_schedulers() -> None:
    scheduler = models.scheduler(models.EDGE_SNR_SHIFT)
    schedule = NoiseSchedule.of(scheduler, 1.5)
    assert schedule is not None
    ids = torch.ones(6, models.MAX_TOKENS, dtype=torch.long)
    data = TrainingData(torch.randn(6, 3, 8, 16, 16), ids, 0 * ids[:1])
    batch = noisy_batch(data, schedule, schedule.alphas_cumprod.float(), Emphasis(0.5, 0.0, 0.5), 0, 8)
    expected = scheduler.add_noise(1.5 * batch.z, batch.noise, batch.timesteps)
    torch.testing.assert_close(batch.noisy, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        batch.velocity(schedule), scheduler.get_velocity(1.5 * batch.z, batch.noise, batch.timesteps)
    )


def test_flow_goes_straight_from_clean_to_noise() -> None:
    ids = torch.ones(4, 32, dtype=torch.long)
    data = FlowData(torch.randn(4, 4, 16, 16), ids, 0 * ids[:1], torch.ones(4))
    batch = flow_batch(data, seed=0, size=8)
    sigmas = (batch.timesteps / 1000).view(-1, 1, 1, 1)
    clean = batch.noisy - sigmas * batch.velocity
    assert all(any(torch.allclose(c, z, atol=1e-4) for z in data.latents) for c in clean)
    assert 0 <= batch.timesteps.min() < batch.timesteps.max() <= 1000


@torch.no_grad()
def test_the_flow_pairs_text_is_read_as_stable_diffusion_3_reads_it() -> None:
    folder = find_configs(ModelRef("embedded:shapes_flow/cloud"))
    pipeline = StableDiffusion3Pipeline.from_pretrained(folder, text_encoder_3=None, tokenizer_3=None)
    embeds, _, pooled, _ = pipeline.encode_prompt(PROMPTS, None, None, do_classifier_free_guidance=False)
    ids = pipeline.tokenizer(PROMPTS, padding="max_length", truncation=True, return_tensors="pt").input_ids
    found = TextEncoders(pipeline.text_encoder, pipeline.text_encoder_2).eval()(ids)
    torch.testing.assert_close(found, (embeds, pooled))


def test_the_grammars_words_are_one_token_each() -> None:
    tokenizer = models.tokenizer()
    caption = "from left to right an orange ring moving up and a red cross turning, on a dark wavy background"
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(caption).input_ids)
    words = caption.replace(",", " ,").split()
    assert [t.removeprefix("▁") for t in tokens] == [*words, "</s>"]
    assert len(tokens) <= models.MAX_TOKENS
