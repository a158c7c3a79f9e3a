"""The table and figure of the schedules benchmark."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from PIL import Image

from cloud_call_bench.schedules_figure import LABELS, write


def test_the_best_of_each_row_is_bold(tmp_path: Path) -> None:
    rows = [
        {
            "cloud_calls": calls,
            "method": method,
            "config": f"{method} at {calls}",
            "psnr_median": 40.0 + calls + (i if calls == 9 else -i),
            "psnr_mean": 39.0,
            "ssim": 0.99,
            "prompts": 30,
        }
        for calls in (8, 9)
        for i, method in enumerate(LABELS)
    ]
    names = {path.name for path in write(tmp_path, pd.DataFrame(rows))}
    assert names == {f"schedules.{kind}" for kind in ("csv", "md", "tex", "png", "svg")}
    lines = (tmp_path / "schedules.md").read_text(encoding="utf-8").splitlines()
    assert lines[0].endswith("30 held-out prompts")
    first, second = lines[-2:]
    assert first.startswith("| 8 | **48.0 / 39.0 / 0.9900** | 47.0 / ")
    assert first.endswith("| ours at 8 | paper at 8 |")
    assert "**52.0 / 39.0 / 0.9900** | ours at 9" in second
    assert len(pd.read_csv(tmp_path / "schedules.csv")) == 8
    with Image.open(tmp_path / "schedules.png") as image:
        assert image.width > 500
