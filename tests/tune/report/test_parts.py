"""What a page is drawn with: plots, tables, pictures, what other commands left."""

from __future__ import annotations

import base64
import io
import math
import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageSequence

from ecdiff_core.config import Sampling
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_tune.cli import samples
from ecdiff_tune.data.spreadsheets import csv_text
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.evaluation.ledger import Measurement
from ecdiff_tune.experiments import summary
from ecdiff_tune.experiments.methods import Method, Sampler
from ecdiff_tune.report import charts, experiments, gallery, headline, pictures, sortable, study_data
from ecdiff_tune.report.export import markdown
from ecdiff_tune.report.svg import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, Plot, escape
from ecdiff_tune.study.folder import StudyError

SAMPLER = Sampler(Sampling(12))
FINITE = st.floats(-1e6, 1e6, allow_nan=False)


@given(st.lists(FINITE, min_size=1, max_size=9), st.booleans())
@example([1e-05], False)
def test_points_lie_inside(values: list[float], whole: bool) -> None:
    values = [float(round(value)) for value in values] if whole else values
    plot = Plot("", Axis.around("x", values, whole=whole), Axis.around("y", values))
    for value in values:
        x, y = plot.place(value, value)
        assert LEFT <= x <= WIDTH - RIGHT
        assert TOP <= y <= HEIGHT - BOTTOM
    for axis in (plot.x, plot.y):
        assert all(axis.low <= tick <= axis.high for tick in axis.ticks())
        assert len(axis.ticks()) <= 10
    assert not whole or all(tick == int(tick) for tick in plot.x.ticks())


@given(st.lists(st.floats(1e-9, 1e6), min_size=1, max_size=9))
def test_logarithmic_axes(values: list[float]) -> None:
    axis = Axis.around("x", [*values, 0.0, math.nan], log=True)
    places = [axis.at(value) for value in sorted(values)]
    assert places == sorted(places)
    assert places[0] >= 0
    assert places[-1] <= 1
    assert all(axis.low <= tick <= axis.high for tick in axis.ticks())


def test_text_is_escaped_in_plots() -> None:
    plot = Plot("<name>", Axis("<x>", 0, 1), Axis("&", 0, 1))
    plot.mark(0.5, 0.5, "s0", "</title><script>")
    plot.text(0.5, 0.5, '"<b>"')
    svg = plot.svg()
    for raw in ("<name>", "<x>", "<script>", "<b>"):
        assert raw not in svg
    assert "&lt;/title&gt;&lt;script&gt;" in svg


def test_a_label_hides_no_mark() -> None:
    plot = Plot("", Axis("x", 0, 1), Axis("y", 0, 1))
    plot.text(0.2, 0.5, "first")
    alone = plot.svg()
    beside = plot.place(0.2, 0.5)
    plot.mark(0.25, 0.52, "s0", "in the way of the first choice")
    (foot,) = re.findall(r'class="label " x="[\d.]+" y="([\d.]+)"', plot.svg())
    assert f'y="{foot}"' not in alone
    assert plot.svg().index('<text class="label') > plot.svg().index('<path class="mark')  # on top of it
    assert abs(float(foot) - beside[1]) < 50


TRIALS = pd.DataFrame(
    {
        "stage": [1, 1, 1, 1, 2, 2],
        "trial": [1, 2, 3, 4, 1, 2],
        "p": [3] * 6,
        "k": [1, 1, 2, 2, 2, 2],
        "alpha": [0.5, 0.6, 0.5, 0.4, 0.4, 0.4],
        "s": [None] * 4 + [9, 7],
        "quality": [0.9, 0.8, 0.7, None, 0.6, 0.5],
        "objective": [0.5, 0.4, 0.6, None, 0.8, 0.9],
        "seconds": [1.0] * 6,
        "state": ["complete"] * 3 + ["infeasible"] + ["complete"] * 2,
    }
)


def test_plots_of_the_search() -> None:
    one, two = charts.search_plots(TRIALS)
    assert (one.svg().count('class="mark'), two.svg().count('class="mark')) == (3, 2)
    assert "trial 3: p=3 k=2 alpha=0.5\nobjective 0.6000" in one.svg()
    assert [label for _, label in one.legend] == ["k = 1", "k = 2", "order of the search", "best"]
    star = re.search(r'class="mark star[^"]*"[^>]*><title>([^<]*)', one.svg())
    assert star
    assert star[1].startswith("trial 3:")
    assert charts.left_out(TRIALS) == "1 infeasible"
    assert charts.search_plots(pd.DataFrame()) == []
    assert charts.left_out(pd.DataFrame()) == ""


@pytest.mark.parametrize("bounds", [{"min_quality": 0.75}, {"max_seconds": 1.5}])
def test_the_best_keeps_the_bounds(bounds: dict[str, float]) -> None:
    one, _ = charts.search_plots(TRIALS.assign(seconds=[1, 1, 2, 2, 2, 2]), **bounds)
    star = re.search(r'class="mark star[^"]*"[^>]*><title>([^<]*)', one.svg())
    assert star
    assert star[1].startswith("trial 1:")


@pytest.mark.parametrize(
    ("heldout", "words"),
    [(0.4, " lies below "), (0.55, " lies within "), (0.7, " lies above "), (None, None)],
)
def test_what_heldout_prompts_say(heldout: float | None, words: str | None) -> None:
    score = {"objective_ci95": (0.5, 0.6), "heldout": None if heldout is None else {"objective": heldout}}
    said = headline.verdict(SimpleNamespace(score=score))  # type: ignore[arg-type]
    assert said == "" if words is None else words in said


def test_the_best_was_measured_on_all_prompts() -> None:
    states = ["complete", "complete", "discarded", "infeasible", "complete", "complete"]
    one, _ = charts.search_plots(TRIALS.assign(state=states, prompts=[10, 10, 5, 10, 10, 10]))
    star = re.search(r'class="mark star[^"]*"[^>]*><title>([^<]*)', one.svg())
    assert star
    assert star[1].startswith("trial 1:")
    assert "pruned after 5 prompts" in one.svg()


def test_a_joint_search_has_no_path() -> None:
    joint = TRIALS.assign(stage="joint", s=9, estimator=["gradient", "secant"] * 3)
    one, two = charts.search_plots(joint)
    assert (one.x.label, two.x.label) == ("alpha", "s, steps on the cloud side")
    assert "line path" not in one.svg()
    assert "k = 1 secant" in dict(map(reversed, one.legend))
    listed = joint.assign(p=None, k=[None, None, 2, 2, 2, 2])
    one, two = charts.search_plots(listed)
    names = [label for _, label in two.legend]
    assert names[:2] == ["k = 2 gradient", "k = 2 secant"]
    assert "listed steps gradient" in names
    assert "trial 1: alpha=0.5 s=9" in one.svg()


def test_cells() -> None:
    assert sortable.cell(math.inf) == sortable.Cell("∞", 1e308)
    assert sortable.cell(math.nan).key is None
    assert sortable.cell(pd.NA).key is None
    frame = pd.DataFrame({"alpha": [0.30000000000000004], "name": ["x"], "quality": [0.123456]})
    made = sortable.of_frame("t", frame)
    assert [one.text for one in made.rows[0].cells] == ["0.3", "x", "0.1235"]
    assert made.words == {1}


def picture(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_pictures_are_kept_as_they_are(tmp_path: Path) -> None:
    kept = picture(0, 3, 16, 24)
    name = samples.save_picture(tmp_path / "00_cloud", kept)
    assert name == "00_cloud.png"
    with Image.open(tmp_path / name) as image:
        found = np.asarray(image)
    assert found.shape == (16, 24, 3)
    assert np.abs(found / 255 - kept.permute(1, 2, 0).numpy()).max() <= 0.5 / 255 + 1e-6


def test_videos_loop(tmp_path: Path) -> None:
    steps = torch.tensor([0, 0, 0.1, 0.3, 0.6])[:, None, None, None].expand(5, 3, 32, 32)
    name = samples.save_picture(tmp_path / "00_cloud", steps)
    other = samples.save_picture(tmp_path / "00_EC-Diff", steps.flip(0))
    columns = ["place", "method", "file", "ssim", "schedule", "seed", "prompt"]
    table = [[0, "cloud", name, 1.0, "9C", 5, "a"], [0, "EC-Diff", other, 0.5, "3C3A3E", 5, "a"]]
    (tmp_path / "samples").mkdir()
    for one in (name, other):
        (tmp_path / one).rename(tmp_path / "samples" / one)
    pd.DataFrame(table, columns=columns).to_csv(tmp_path / "samples" / "samples.csv", index=False)
    (row,) = gallery.read(tmp_path)
    cloud, tuned = row.shown
    assert (cloud.calls, tuned.calls) == ("9 cloud", "3 cloud + 3 edge")
    assert cloud.difference == ""
    for uri in (cloud.picture, tuned.picture, tuned.difference):
        assert uri.startswith("data:image/webp;base64,")
        image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
        durations = []
        for frame in ImageSequence.Iterator(image):
            frame.load()
            durations.append(frame.info["duration"])
        assert (sum(durations), image.info["loop"]) == (5 * 125, 0)
        assert len(durations) > 2  # equal frames may be kept as one
    first = Image.open(io.BytesIO(base64.b64decode(cloud.picture.partition(",")[2]))).convert("RGB")
    assert max(first.getpixel((16, 16))) < 12  # type: ignore[arg-type, type-var]


def test_differences_from_dark_to_light() -> None:
    black = np.zeros((1, 3, 3), np.uint8)
    other = np.array([[[0, 0, 0], [20, 20, 20], [64, 64, 64]]], np.uint8)
    (found,) = gallery.difference([other], [black])
    light = found.astype(int).sum(axis=2)[0]
    assert light[0] < light[1] < light[2]
    assert found[0, 2].tolist() == [252, 240, 170]  # a quarter of the range, times four


def test_large_pictures_are_scaled_down() -> None:
    uri = gallery.data_uri([Image.fromarray(np.zeros((200, 300, 3), np.uint8))])
    assert uri.startswith("data:image/webp")
    (small,) = gallery._scaled([np.zeros((1000, 2000, 3), np.uint8)])
    assert small.size == (768, 384)


def test_what_compare_left(tmp_path: Path) -> None:
    assert experiments.methods_compared(tmp_path) == experiments.Compared((), ())
    rows = {
        "method": ["cloud", "edge", "tuned", "hybrid_10", "taylorseer"],
        "label": ["cloud", "edge", "EC-Diff", "HybridSD", "TaylorSeer"],
        "ssim": [1.0, 0.5, 0.8, 0.9, 0.7],
        "ssim_low": [1.0, 0.4, 0.7, 0.8, 0.6],
        "ssim_high": [1.0, 0.6, 0.9, 1.0, 0.8],
        "seconds": [4.0, 1.0, 1.5, 3.0, None],
    }
    (tmp_path / "compare").mkdir()
    pd.DataFrame(rows).to_csv(tmp_path / "compare" / "table1.csv", index=False)
    found = experiments.methods_compared(tmp_path)
    assert [(one.label, one.seconds, one.quality) for one in found.points] == [
        ("edge", 1.0, 0.5),
        ("EC-Diff", 1.5, 0.8),
        ("HybridSD", 3.0, 0.9),
    ]
    (table,) = found.tables
    assert table.headings == ("method", "SSIM", "SSIM 95%", "seconds")
    assert [row.cells[1].style for row in table.rows] == ["", "", "second", "best", ""]
    assert [row.cells[3].style for row in table.rows] == ["", "", "best", "second", ""]
    assert [row.style for row in table.rows] == ["", "", "winner", "", ""]
    assert table.rows[1].cells[2].text == "0.400 … 0.600"
    (tmp_path / "compare" / "table1.csv").write_text("nothing\n1\n")
    with pytest.raises(StudyError, match=r"table1\.csv has no column method, label"):
        experiments.methods_compared(tmp_path)


def test_further_metrics_that_compare_left(tmp_path: Path) -> None:
    names = ["cloud", "edge", "tuned", "hybrid_10"]
    values = {
        "ssim": (1.0, 0.5, 0.8, 0.9),
        "lpips_alex": (0.0, 0.4, 0.1, 0.2),
        "lpips_vgg": (0.0, 0.4, 0.3, 0.2),
        "clip_vit_base": (32.0, 29.0, 30.0, 31.0),
    }
    methods = [Method(name, name, Candidate(ECDiffParams(3, 1, 0.3, 9)), SAMPLER) for name in names]
    measured = {}
    for i, name in enumerate(names):
        more = {metric: column[i] for metric, column in values.items() if metric != "ssim"}
        measured[name] = [Measurement(values["ssim"][i], 30.0, 1.0, more)] * 2
    (tmp_path / "compare").mkdir()
    frame = summary.quality_table(methods, measured, seed=0)
    frame.to_csv(tmp_path / "compare" / "table1.csv", index=False)
    (table,) = experiments.methods_compared(tmp_path).tables
    styles = {heading: [row.cells[i].style for row in table.rows] for i, heading in enumerate(table.headings)}
    first, second = ["", "", "best", "second"], ["", "", "second", "best"]
    assert styles["SSIM"] == second
    assert styles["LPIPS (alex)"] == first
    assert styles["LPIPS (vgg)"] == second
    assert styles["CLIP score (vit_base)"] == second
    intervals = [heading for heading in table.headings if heading.endswith("95%")]
    assert {"LPIPS (alex) 95%", "CLIP score (vit_base) 95%"} < set(intervals)
    assert all(set(styles[heading]) == {""} for heading in intervals)


def test_what_errors_left(tmp_path: Path) -> None:
    assert experiments.latent_errors(tmp_path) == experiments.Errors(None, (), ())
    (tmp_path / "errors").mkdir()
    curves = [
        (m, p, s, 0.1 * s * (p + 1), "C") for m in ("EC-Diff", "reuse") for p in (0, 1) for s in range(4)
    ]
    columns = ["method", "prompt", "step", "error", "action"]
    pd.DataFrame(curves, columns=columns).to_csv(tmp_path / "errors" / "figure5.csv", index=False)
    pd.DataFrame({"noise_percent": [0.5], "ssim": [0.9]}).to_csv(
        tmp_path / "errors" / "figure1.csv", index=False
    )
    found = experiments.latent_errors(tmp_path)
    assert found.plot is not None
    assert [label for _, label in found.plot.legend] == ["EC-Diff", "reuse"]
    low, high = found.plot.y.low, found.plot.y.high
    assert low < 0.15 < 0.45 < high  # the means over prompts at steps 1 and 3
    assert [one.name for one in found.tables] == ["errors-figure1"]
    assert found.too_long == ()
    long = pd.DataFrame({"noise_percent": range(experiments.MOST_ROWS + 1)})
    long.to_csv(tmp_path / "errors" / "figure1.csv", index=False)
    found = experiments.latent_errors(tmp_path)
    assert (found.tables, found.too_long) == ((), (("errors/figure1.csv", experiments.MOST_ROWS + 1),))


HOSTILE = "tie: $a^b^c$, $20 #deal, was $30, $$$ \x1b[31m \u202e \u661f <b>"


def test_prompts_are_no_formulas_in_figures(tmp_path: Path) -> None:
    stills = torch.rand(1, 3, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pictures.samples(tmp_path / "samples.png", [("a $x^y^z$", stills)], [HOSTILE])
    figure = pictures.grid([("a $x^y^z$", stills)], [HOSTILE])
    (axis,) = figure.axes
    assert axis.get_ylabel() == "a $x^y^z$"
    shown = axis.get_title().replace("\n", " ")
    assert shown == "tie: $a^b^c$, $20 #deal, was $30, $$$ \\x1b[31m \\u202e \u661f <b>"
    assert not axis.title.get_parse_math()
    plt.close(figure)
    assert escape(HOSTILE).endswith("$$$ \\x1b[31m \\u202e \u661f &lt;b&gt;")


def test_texts_in_tables(tmp_path: Path) -> None:
    table = pd.DataFrame({"prompt": ["=1+1", "@a", "-5", "- 5", "NA", "007"], "x": [-1.5, 1, 2, 3, 4, 5]})
    path = tmp_path / "a.csv"
    path.write_text(csv_text(table))
    assert path.read_text().splitlines()[1:5] == ["'=1+1,-1.5", "'@a,1.0", "-5,2.0", "'- 5,3.0"]
    read = study_data.table(path, ("x",), texts=("prompt",))
    assert read.to_dict("list") == table.to_dict("list")
    assert "| a\\|b |" in markdown(["x"], [["a|b"]])
