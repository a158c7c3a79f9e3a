"""The training loop: stopped and run again, it ends where one run would have ended."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from shapes_pair import fit as fit_module
from shapes_pair.fit import fit

STEPS = 12


class StoppedError(Exception):
    """In place of a kill."""


def train(folder: Path, stop_at: int | None = None) -> Tensor:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)

    def loss(step: int) -> Tensor:
        if step == stop_at:
            raise StoppedError
        rng = torch.Generator().manual_seed(step)
        inputs = torch.randn(8, 3, generator=rng)
        return (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()

    folder.mkdir(exist_ok=True)
    fit("line", model, loss, folder=folder, steps=STEPS, peak_lr=0.1)
    return model.weight.detach().clone()


def test_a_stopped_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fit_module, "CHECKPOINT_SECONDS", 0.0)
    whole = train(tmp_path / "whole")
    with pytest.raises(StoppedError):
        train(tmp_path / "parts", stop_at=7)
    resumed = train(tmp_path / "parts")
    assert "goes on from step 7 of 12" in capsys.readouterr().out
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)
    assert not list((tmp_path / "parts").glob("*.part"))
