"""Accelerations of one model, tuned on the embedded pairs: quality against seconds, and what that costs.

Seconds are measured side by side with the model without a method, so that the load of the machine divides
out. Calls of the model are counted: those that the search took, and those of an even sweep of 20 values of
the same parameter on the same prompts.

    python scripts/bench_methods.py --json methods.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import pandas as pd

from ecdiff_core.config import TunedConfig
from ecdiff_core.methods import METHODS, get_method
from ecdiff_tune.__main__ import main as tune
from ecdiff_tune.methods.tuned import combinations

SWEEP = 20
"""Values of an even sweep."""
SCHEDULERS = {"shapes": "DDIMScheduler", "shapes_flow": "FlowMatchEulerDiscreteScheduler"}


def measure(pair: str, prompts: int, steps: int, outputs: Path) -> list[dict[str, object]]:
    """All methods that a pair's cloud model can do, a row each."""
    status = tune(
        [
            "tune",
            f"method=[{','.join(METHODS)}]",
            f"pair={pair}",
            f"sampling.num_inference_steps={steps}",
            f"sampling.scheduler={SCHEDULERS[pair]}",
            "sampling.guidance_scale=3.0",
            f"calibration.num_prompts={prompts}",
            f"heldout.num_prompts={prompts}",
            f"output_dir={outputs}",
        ]
    )
    if status:
        raise SystemExit(status)
    folder = outputs / pair / "default"
    spent = pd.read_csv(folder / "calls.csv").groupby("part")["cloud"].sum()
    settings = pd.read_csv(folder / "methods" / "methods.csv")
    return [row(pair, name, folder, spent, settings, prompts * steps) for name in settings["method"].unique()]


def row(
    pair: str, name: str, folder: Path, spent: pd.Series, settings: pd.DataFrame, a_value: int
) -> dict[str, object]:
    """What was found of a method.

    Args:
        a_value: calls that measuring one value on all prompts takes.
    """
    searches = len(list(combinations(get_method(name), {})))
    path = folder / "methods" / f"{name}.yaml"
    price = {
        "pair": pair,
        "method": name,
        "values": int((settings["method"] == name).sum()),
        "calls": int(spent[name]),
        "sweep_calls": SWEEP * searches * a_value,
    }
    if not path.is_file():
        return price
    config = TunedConfig.load(path)
    assert config.score is not None
    assert config.method is not None
    score, heldout = config.score, config.score["heldout"]
    return {
        **price,
        "setting": config.method.told,
        "quality": heldout["quality"],
        "quality_ci95": heldout["quality_ci95"],
        "worst": heldout["worst"],
        "work": score["work"],
        "speedup": round(score["seconds_off"] / score["seconds"], 3),
    }


def main() -> None:
    """Print the table; write it as JSON too."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", nargs="+", default=list(SCHEDULERS), choices=SCHEDULERS)
    parser.add_argument("--prompts", type=int, default=6, help="to tune on, and as many held out (default 6)")
    parser.add_argument("--steps", type=int, default=20, help="T (default 20)")
    parser.add_argument("--json", type=Path, help="file for the rows")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [one for pair in args.pairs for one in measure(pair, args.prompts, args.steps, Path(folder))]
    print(pd.DataFrame(rows).to_string(index=False))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
