"""Tokenizers that ship as a SentencePiece file alone, as CogVideoX's do."""

from __future__ import annotations

import shutil
import sys
from itertools import islice
from pathlib import Path
from types import ModuleType

import pytest

from ecdiff_core import ECDiffPipeline, TunedConfig
from ecdiff_core.errors import PairError
from ecdiff_core.models.families.cogvideox import CogVideoX
from ecdiff_core.models.model_folder import check_parts
from ecdiff_core.shapes.grammar import scenes

from ...refusals import refused


@pytest.fixture
def cloud(tiny_videos: Path, tmp_path: Path) -> Path:
    """CogVideoX with an empty ``spiece.model`` in place of a tokenizer.json."""
    folder = Path(shutil.copytree(tiny_videos / "cloud", tmp_path / "cloud"))
    (folder / "tokenizer" / "tokenizer.json").rename(folder / "tokenizer" / "spiece.model")
    return folder


def refuse(module: str, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """From here on ``import module`` raises."""

    class Finder:
        def find_spec(self, name: str, *_: object) -> None:
            if name.partition(".")[0] == module:
                raise error

    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'sentencepiece'"),
        RuntimeError("Incompatible versions.\nAnd more."),
    ],
)
def test_without_sentencepiece(cloud: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    refuse("sentencepiece", monkeypatch, error)
    reason = str(error).partition("\n")[0].removesuffix(".")
    path = cloud / "tokenizer" / "spiece.model"
    with refused(PairError, key=path, expected=["sentencepiece", "protobuf"], line=reason):
        check_parts(cloud, CogVideoX)


def test_with_sentencepiece(cloud: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece.sentencepiece_model_pb2", ModuleType("sentencepiece"))
    check_parts(cloud, CogVideoX)
    (cloud / "tokenizer" / "spiece.model").unlink()
    with refused(PairError, key=cloud / "tokenizer", expected=["tokenizer.json", "spiece.model"]):
        check_parts(cloud, CogVideoX)


def test_prompts_reach_the_model(cloud: Path, video_config: TunedConfig) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    words = cloud / "tokenizer" / "spiece"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(scene.caption() for scene in islice(scenes(0), 200)),
        model_prefix=str(words),
        vocab_size=34,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    config = video_config.to_yaml().replace(video_config.pair.cloud.id, str(cloud))
    pipe = ECDiffPipeline.from_config(TunedConfig.from_yaml(config), device="cpu")
    tokens = pipe.pair.family.pipeline.tokenizer(["a red circle", "a blue star"]).input_ids
    assert tokens[0] != tokens[1]
    assert len(set(tokens[0])) > 5
