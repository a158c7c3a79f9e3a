"""Studies as they lie on users' disks, of the tiny pair: how ``data/studies`` was made, and how tests use it.

Written with ledger schema 3, YAML format 1 and Optuna's journal, and kept for good: what is written
differently later gets a folder beside this one. This made it:

    PYTHONPATH=.:scripts python -m tests.tune.golden NEW_FOLDER

Kept are ``greedy`` whole, ``optuna`` and ``predict`` without what only a report shows, of several workers'
Optuna study ``shared.journal`` and its winner, and the references that all of them share. Weights that are
made from one seed differ in their last digits from machine to machine; ``fingerprints`` are those of the ones
that were measured.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
import tempfile
from pathlib import Path

import torch

from ecdiff_tune.__main__ import main
from ecdiff_tune.evaluation.latency import LatencyProfile, Timing

from ..small_unets import save_tiny_pair

DATA = Path(__file__).parent / "data" / "studies"
PAIR, OUTPUTS, HOST = "@PAIR@", "@OUTPUTS@", "@HOST@"
"""Stand for folders and the machine's name in the files that are kept."""
STUDIES: dict[str, tuple[str, ...]] = {
    "greedy": ("search=greedy",),
    "optuna": ("search=optuna", "search.s=[7,9]", "search.trials=5"),
    "predict": ("search=predict", "search.s=[7,9]"),
    "shared": (
        *("search=optuna", "search.s=[7,9]", "search.trials=4", "heldout.num_prompts=0"),
        *(f"search.storage={OUTPUTS}/shared.journal", f"search.artifacts={OUTPUTS}/artifacts"),
    ),
}
"""What ``tune`` was told of each beside ``arguments``."""
_LEFT_OUT = shutil.ignore_patterns(
    *(".lock", "report", "samples.png", "noise_profile.*", "artifacts", "thumbnails", "runs", "table5.md")
)
_WITHOUT_SAMPLES = ("optuna", "predict")


def arguments(study: str, outputs: Path, pair: Path) -> list[str]:
    """Of ``tune``, as the study was made."""
    own = [one.replace(OUTPUTS, str(outputs)) for one in STUDIES[study]]
    return [
        *("pair.name=tiny", f"pair.cloud={pair / 'cloud'}", f"pair.edge={pair / 'edge'}"),
        *("sampling.num_inference_steps=12", "sampling.guidance_scale=3.0", "batch_size=2", "device=cpu"),
        *("calibration.num_prompts=2", "heldout.num_prompts=1", "search.k=[1,2]", "search.alpha=[0.3,0.7]"),
        *(f"output_dir={outputs}", f"study={study}", *own),
        *("heldout.fewer_steps=0", "search.front=0"),  # measured in the end, in studies of now
    ]


def adopt(outputs: Path, pair: Path) -> None:
    """Put the studies into an output folder, with the paths of here."""
    shutil.copytree(DATA, outputs)
    for path in _with_places(outputs):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(PAIR, str(pair)).replace(OUTPUTS, str(outputs)), encoding="utf-8")
    # Too large to keep; a study that goes on looks at its being there alone.
    (outputs / "tiny" / "greedy" / "samples.png").touch()


def fingerprints() -> tuple[str, str]:
    """Of the weights that were measured, the cloud's and the edge's."""
    kept = json.loads((DATA / "tiny" / "greedy" / "study.json").read_text(encoding="utf-8"))["settings"]
    return kept["weights.cloud.fingerprint"], kept["weights.edge.fingerprint"]


def _make(target: Path) -> None:
    """Tune each study anew, and keep what is to be kept."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        pair, outputs = Path(temporary, "pair"), Path(temporary, "outputs")
        save_tiny_pair(pair)
        profile = LatencyProfile(
            *(Timing(0.020, 0.019, 0.022), Timing(0.008, 0.007, 0.009)),
            *(Timing(0.003, 0.002, 0.004), Timing(0.005, 0.004, 0.006), 0.010),
        )
        for study in STUDIES:
            profile.save(outputs / "tiny" / study / "latency.json")
            assert main(["tune", *arguments(study, outputs, pair)]) == 0
        for study in _WITHOUT_SAMPLES:
            shutil.rmtree(outputs / "tiny" / study / "samples")
        shutil.move(outputs / "tiny" / "shared" / "ecdiff.yaml", outputs / "shared.yaml")
        shutil.rmtree(outputs / "tiny" / "shared")
        shutil.copytree(outputs, target, ignore=_LEFT_OUT)
        places = {str(pair): PAIR, str(outputs): OUTPUTS, f'"{platform.node()}:': f'"{HOST}:'}
        for path in _with_places(target):
            text = path.read_text(encoding="utf-8")
            for place, name in places.items():
                text = text.replace(place, name)
            path.write_text(text, encoding="utf-8")


def _with_places(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix in (".json", ".yaml", ".journal")]


if __name__ == "__main__":
    _make(Path(sys.argv[1]))
