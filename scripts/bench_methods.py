"""Accelerations of one model, tuned on the embedded pairs: quality, seconds, and what finding them costs.

Seconds are measured side by side with the model without a method, so that the load of the machine divides
out. Calls of the model are counted: those that the search took, and those of an even sweep of 20 values of
the same parameter on the same prompts. The studies stay in --output-dir: a run that was stopped goes on
where it was, and the JSON is written again after every method.

    python scripts/bench_methods.py --pairs shapes_flow --json methods.json
"""

from __future__ import annotations

import argparse
import json
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import quiet_terminal  # noqa: F401
from ecdiff_core.config import TunedConfig
from ecdiff_core.methods import METHODS, get_method
from ecdiff_core.models.devices import device_name, get_device
from ecdiff_tune.__main__ import main as ecdiff_tune
from ecdiff_tune.methods.tuning import combinations

SWEEP = 20
"""Values of an even sweep."""
SCHEDULERS = {
    "shapes": "DDIMScheduler",
    "shapes_flow": "FlowMatchEulerDiscreteScheduler",
    "shapes_video": "CogVideoXDDIMScheduler",
}
SHOWN = ["method", "setting", "quality", "quality_ci95", "worst", "speedup", "seconds", "calls", "of_a_sweep"]
"""Columns of the printed table."""


def tune(pair: str, method: str, args: argparse.Namespace) -> dict[str, Any] | None:
    """Tune a method on a pair; what was found, None where it is left out."""
    status = ecdiff_tune(
        [
            "tune",
            f"method={method}",
            f"pair={pair}",
            f"sampling.num_inference_steps={args.steps}",
            f"sampling.scheduler={SCHEDULERS[pair]}",
            "sampling.guidance_scale=3.0",
            f"calibration.num_prompts={args.prompts}",
            f"heldout.num_prompts={args.heldout}",
            f"acceleration.timed_prompts={args.timed}",
            f"device={args.device}",
            f"output_dir={args.output_dir}",
            f"study={args.prompts}_prompts_{args.steps}_steps",
        ]
    )
    if status:  # it said why: most often that the method cannot be used with this model
        return None
    folder = args.output_dir / pair / f"{args.prompts}_prompts_{args.steps}_steps"
    device = device_name(get_device(args.device))
    where = {
        "pair": pair,
        "steps": args.steps,
        "prompts": args.prompts,
        "heldout": args.heldout,
        "device": device,
    }
    return where | row(method, folder, args)


def row(name: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """What was found of a method in a study's folder."""
    method = get_method(name)
    settings = pd.read_csv(folder / "methods" / "methods.csv")
    spent = pd.read_csv(folder / "calls.csv").groupby("part")["cloud"].sum()
    sweep = SWEEP * len(list(combinations(method, {}))) * args.prompts * args.steps
    default = settings[settings[method.dial] == method.parameter(method.dial).default].iloc[0]
    price = {
        "method": name,
        "values": len(settings),
        "calls": int(spent[name]),
        "sweep_calls": sweep,
        "of_a_sweep": round(int(spent[name]) / sweep, 4),
        "default_quality": float(default["quality"]),
        "default_prompts": int(default["prompts"]),
    }
    path = folder / "methods" / f"{name}.yaml"
    if not path.is_file():
        return {**price, "setting": "none that does something keeps the floor"}
    config = TunedConfig.load(path)
    assert config.score is not None
    assert config.method is not None
    score, heldout = config.score, config.score["heldout"]
    return {
        **price,
        "setting": config.method.text,
        "tuned_quality": score["quality"],
        "quality": heldout["quality"],
        "quality_ci95": heldout["quality_ci95"],
        "worst": heldout["worst"],
        "work": score["work"],
        "seconds": score["seconds"],
        "seconds_off": score["seconds_off"],
        "speedup": round(score["seconds_off"] / score["seconds"], 3),
    }


def write(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """The rows as JSON, in place of those of a run before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(list(rows), indent=1) + "\n", encoding="utf-8")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", nargs="+", default=list(SCHEDULERS), choices=SCHEDULERS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--prompts", type=int, default=6, help="to tune on (default 6)")
    parser.add_argument("--heldout", type=int, default=6, help="prompts held out (default 6)")
    parser.add_argument("--steps", type=int, default=20, help="T (default 20)")
    parser.add_argument("--timed", type=int, default=3, help="images whose median is the seconds (default 3)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, …; auto takes an accelerator")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/bench_methods"))
    parser.add_argument("--json", type=Path, help="file for the rows")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table; write it as JSON too."""
    args = parse(argv)
    rows: list[dict[str, Any]] = []
    for pair in args.pairs:
        for method in args.methods:
            try:
                found = tune(pair, method, args)
            except Exception:  # one method's fault leaves the others to be measured
                traceback.print_exc()
                found = None
            if found is None:
                continue
            rows.append(found)
            if args.json:
                write(rows, args.json)
        table = pd.DataFrame([one for one in rows if one["pair"] == pair])
        print(f"\n{pair}\n{table.reindex(columns=SHOWN).to_string(index=False)}\n")


if __name__ == "__main__":
    main()
