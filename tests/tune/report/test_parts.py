"""What a page is drawn with: figures, tables, images, what other commands left."""

from __future__ import annotations

import base64
import html
import io
import math
import re
import warnings
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image, ImageSequence

from ecdiff_core.config import Sampling
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_core.sampling.plan_of_params import plan
from ecdiff_tune.cli import samples
from ecdiff_tune.data.spreadsheets import csv_text
from ecdiff_tune.evaluation.candidate import Candidate
from ecdiff_tune.evaluation.ledger import Measurement
from ecdiff_tune.experiments import summary
from ecdiff_tune.experiments.methods import ComparedMethod, Sampler
from ecdiff_tune.report import (
    experiments,
    figures,
    gallery,
    image_grid,
    paper_figures,
    sortable,
    study_data,
    study_figures,
)
from ecdiff_tune.report.figure_files import inline
from ecdiff_tune.report.table_files import markdown
from ecdiff_tune.report.tables import present_names
from ecdiff_tune.study.folder import StudyError

from ...refusals import refused

SAMPLER = Sampler(Sampling(12))


def marks(axis: Axes) -> list[tuple[float, float]]:
    """Where the points of a figure are."""
    some = [one.get_offsets() for one in axis.collections if isinstance(one, PathCollection)]
    return [(float(x), float(y)) for places in some for x, y in places]


def titles(figure: Figure) -> list[str]:
    """What its points tell in the page."""
    return [html.unescape(one) for one in re.findall(r"<title>([^<]*)</title>", inline(figure))]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def star(figure: Figure) -> tuple[float, float]:
    """Of the best."""
    (best,) = [one for one in figure.axes[0].collections if one.get_label() == "best"]
    ((x, y),) = best.get_offsets()  # type: ignore[misc]
    return float(x), float(y)


def test_text_is_escaped_in_figures() -> None:
    with figures.drawing("<name>") as (figure, (axis,)):
        axis.set(xlabel="<x>", ylabel="& \x1b[31m".replace("\x1b", "y"))
        figures.points(axis, [0.5], [0.5], ["</title><script>\n\x1b 100%"], color=figures.colours()["s0"])
        figures.label(axis, 0.5, 0.5, '"<b>" $x$ \u202e', "s0")
    svg = inline(figure)
    for raw in ("<name>", "<x>", "<script>", "<b>", "\x1b", "\u202e"):
        assert raw not in svg
    assert titles(figure) == ["</title><script>\n\\x1b 100%"]
    assert "&lt;b&gt;" in svg
    assert "$x$ \\u202e" in svg


def test_figures_follow_the_theme_and_need_nothing_else() -> None:
    def drawn(name: str) -> str:
        with figures.drawing(name) as (figure, (axis,)):
            axis.plot([0, 1], [0, 1], color=figures.colours()["s1"], label="a line")
            axis.set_xlabel("seconds")
        return inline(figure)

    one, other = drawn("one"), drawn("other")
    assert "stroke: var(--s1)" in one
    assert "fill: var(--ink)" in one
    assert not re.findall(r"#[0-9a-f]{6}|url\(|://", one)
    assert one == drawn("one")
    ids = [set(re.findall(r' id="([^"]*)"', svg)) for svg in (one, other)]
    assert not ids[0] & ids[1]


def test_labels_make_way() -> None:
    """For each other and for marks, however near their points are."""
    with figures.drawing("crowd") as (figure, (axis,)):
        places = [(0.5 + 0.01 * i, 0.5 + 0.004 * (i % 3)) for i in range(7)]
        figures.points(axis, *np.transpose(places), color=figures.colours()["s0"])
        figures.points(axis, [0, 1], [0, 1], color=figures.colours()["s0"])
        for i, (x, y) in enumerate(places):
            figures.label(axis, x, y, f"method {i}", "s0")
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in axis.texts]  # without the lines that lead to them
    assert len(boxes) == len(places)
    for one, other in combinations(boxes, 2):
        assert not one.overlaps(other)
    pixels = axis.transData.transform(places)
    assert not any(box.contains(*place) for box in boxes for place in pixels)
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)


@pytest.mark.parametrize("values", [[0.3], [0.3, 0.3], [1e-5, 1e-4], [7.0, 12.0], [-1e6, 1e6]])
def test_points_lie_inside(values: list[float]) -> None:
    with figures.drawing("x") as (_, (axis,)):
        figures.points(axis, values, values, color=figures.colours()["s0"])
    for (low, high), ticks in ((axis.get_xlim(), axis.get_xticks()), (axis.get_ylim(), axis.get_yticks())):
        assert all(low < value < high for value in values)
        assert 2 <= sum(low <= tick <= high for tick in ticks) <= 10


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


def test_figures_of_the_search() -> None:
    one, two = study_figures.search_figures(TRIALS)
    assert sorted(marks(one.axes[0])) == [(0.5, 0.5), (0.5, 0.6), (0.6, 0.4)]
    assert sorted(marks(two.axes[0])) == [(7, 0.9), (9, 0.8)]
    assert "trial 3: p=3 k=2 alpha=0.5\nobjective 0.6000, quality 0.7000, 1 s" in titles(one)
    assert legend(one) == ["k = 1", "k = 2", "best", "order of the search"]
    assert [line.get_xydata().tolist() for line in one.axes[0].lines[:2]] == [[[0.5, 0.5], [0.6, 0.4]]] * 2
    assert [text.get_text() for text in one.axes[0].texts] == ["1", "2", "3"]  # the order of the search
    assert star(one) == (0.5, 0.6)
    assert study_figures.left_out(TRIALS) == "1 infeasible"
    assert study_figures.search_figures(pd.DataFrame()) == []
    assert study_figures.left_out(pd.DataFrame()) == ""


def test_the_best_was_measured_on_all_prompts() -> None:
    states = ["complete", "complete", "discarded", "infeasible", "complete", "complete"]  # an older table's
    older = TRIALS.assign(state=states, prompts=[10, 10, 5, 10, 10, 10], discarded="")
    present = present_names(older)
    assert "pruned" in present.columns
    one, _ = study_figures.search_figures(present)
    assert star(one) == (0.5, 0.5)
    assert any(title.endswith("pruned after 5 prompts") for title in titles(one))
    assert "pruned, over the prompts it was seen on" in legend(one)


def test_the_best_keeps_the_limits() -> None:
    one, two = study_figures.search_figures(TRIALS, min_quality=0.75)
    assert star(one) == (0.5, 0.5)
    assert star(two) == (7, 0.9)  # none keeps it: the best of all


def test_a_joint_search_has_no_path() -> None:
    joint = TRIALS.assign(stage="joint", s=9, estimator=["gradient", "secant"] * 3)
    one, two = study_figures.search_figures(joint)
    assert one.axes[0].get_xlabel() == "alpha"
    assert two.axes[0].get_xlabel() == "s, steps on the cloud side"
    assert not one.axes[0].lines
    assert "k = 1 secant" in legend(one)
    listed = joint.assign(p=None, k=[None, None, 2, 2, 2, 2])
    one, two = study_figures.search_figures(listed)
    assert legend(two)[:2] == ["k = 2 gradient", "k = 2 secant"]
    assert "listed steps gradient" in legend(two)
    assert any(title.startswith("trial 1: alpha=0.5 s=9") for title in titles(one))


PROFILE = pd.DataFrame({"step": range(1, 12), "mean": [0.4, *[0.1] * 9, 9.0], "variance": 0.0004})


def test_the_change_of_the_noise() -> None:
    (axis,) = paper_figures.noise_change(PROFILE, 2).axes
    curve, rule = axis.lines
    assert curve.get_xydata().tolist() == PROFILE[["step", "mean"]].to_numpy().tolist()
    assert list(rule.get_xdata()) == [2, 2]
    assert [text.get_text() for text in axis.texts] == ["p = 2"]
    assert (axis.get_yscale(), axis.get_ylabel()) == ("log", "mean |ε(i) − ε(i−1)|")
    figure = paper_figures.noise_change(PROFILE, 2, both_scales=True, over="3 prompts")
    assert [axis.get_yscale() for axis in figure.axes] == ["linear", "log"]
    assert legend(figure) == ["mean over 3 prompts, ± standard deviation"]
    linear = figure.axes[0]
    assert linear.get_ylim()[1] < 9 < figure.axes[1].get_ylim()[1]
    assert "up to 9\nat step 11" in [text.get_text() for text in linear.texts]


def test_the_latent_error() -> None:
    errors = {"ours": np.array([[0.0, 0.1, 0.2, 0.4, 0.3, 0.3], [0.0, 0.1, 0.4, 0.8, 0.5, 0.5]])}
    steps = plan(ECDiffParams(2, 1, 0.3, 4), 5)
    example = paper_figures.Example("(b)", errors["ours"][0], 2, 4, 3)
    figure = paper_figures.latent_error(errors, steps, [example])
    whole, part = figure.axes
    assert np.allclose(whole.lines[0].get_ydata(), [0, 0.1, 0.3, 0.6, 0.4, 0.4])
    assert [text.get_text() for text in whole.texts] == ["handoff, s = 4"]
    assert part.lines[0].get_xydata().tolist() == [[2, 0.2], [3, 0.4], [4, 0.3]]
    assert sorted(marks(part)) == [(2, 0.2), (3, 0.4), (4, 0.3)]
    assert {"ours", "after a real call", "after an approximated step", "the correcting call"} <= set(
        legend(figure)
    )


def test_cells() -> None:
    assert sortable.cell(math.inf) == sortable.Cell("∞", 1e308)
    assert sortable.cell(math.nan).key is None
    assert sortable.cell(pd.NA).key is None
    frame = pd.DataFrame({"alpha": [0.30000000000000004], "name": ["x"], "quality": [0.123456]})
    made = sortable.Table("t", frame, ["winner"], {"quality": ["best"]})
    ((style, cells),) = made.rows()
    assert [one.text for one in cells] == ["0.3", "x", "0.1235"]
    assert (style, [one.style for one in cells]) == ("winner", ["", "", "best"])
    assert made.words == {1}
    assert sortable.cell(7.5, "PSNR, dB").text == "7.50"


def image(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_images_are_kept_as_they_are(tmp_path: Path) -> None:
    kept = image(0, 3, 16, 24)
    name = samples.save_image(tmp_path / "00_cloud", kept)
    assert name == "00_cloud.png"
    with Image.open(tmp_path / name) as opened:
        found = np.asarray(opened)
    assert found.shape == (16, 24, 3)
    assert np.abs(found / 255 - kept.permute(1, 2, 0).numpy()).max() <= 0.5 / 255 + 1e-6


def test_videos_loop(tmp_path: Path) -> None:
    steps = torch.tensor([0, 0, 0.1, 0.3, 0.6])[:, None, None, None].expand(5, 3, 32, 32)
    name = samples.save_image(tmp_path / "00_cloud", steps)
    other = samples.save_image(tmp_path / "00_EC-Diff", steps.flip(0))
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
    for uri in (cloud.image, tuned.image, tuned.difference):
        assert uri.startswith("data:image/webp;base64,")
        image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
        durations = []
        for frame in ImageSequence.Iterator(image):
            frame.load()
            durations.append(frame.info["duration"])
        assert (sum(durations), image.info["loop"]) == (5 * 125, 0)
        assert len(durations) > 2  # equal frames may be kept as one
    first = Image.open(io.BytesIO(base64.b64decode(cloud.image.partition(",")[2]))).convert("RGB")
    assert max(first.getpixel((16, 16))) < 12  # type: ignore[arg-type, type-var]


def test_differences_from_dark_to_light() -> None:
    black = np.zeros((1, 3, 3), np.uint8)
    other = np.array([[[0, 0, 0], [20, 20, 20], [64, 64, 64]]], np.uint8)
    (found,) = gallery.difference([other], [black])
    light = found.astype(int).sum(axis=2)[0]
    assert light[0] < light[1] < light[2]
    assert found[0, 2].tolist() == [252, 240, 170]  # a quarter of the range, times four


def test_large_images_are_scaled_down() -> None:
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
    assert [(one.label, one.seconds, one.quality) for one in found.spots] == [
        ("edge", 1.0, 0.5),
        ("EC-Diff", 1.5, 0.8),
        ("HybridSD", 3.0, 0.9),
    ]
    (table,) = found.tables
    assert table.headings == ["method", "SSIM", "SSIM 95%", "seconds"]
    styles, shown = zip(*table.rows(), strict=True)
    assert [cells[1].style for cells in shown] == ["", "", "second", "best", ""]
    assert [cells[3].style for cells in shown] == ["", "", "best", "second", ""]
    assert list(styles) == ["", "", "winner", "", ""]
    assert shown[1][2].text == "0.400 … 0.600"
    path = tmp_path / "compare" / "table1.csv"
    path.write_text("nothing\n1\n")
    with refused(StudyError, key=path, got=["nothing"], expected=re.compile("'method', 'label'")):
        experiments.methods_compared(tmp_path)


def test_extra_metrics_that_compare_left(tmp_path: Path) -> None:
    names = ["cloud", "edge", "tuned", "hybrid_10"]
    values = {
        "ssim": (1.0, 0.5, 0.8, 0.9),
        "lpips_alex": (0.0, 0.4, 0.1, 0.2),
        "lpips_vgg": (0.0, 0.4, 0.3, 0.2),
        "clip_vit_base": (32.0, 29.0, 30.0, 31.0),
    }
    methods = [ComparedMethod(name, name, Candidate(ECDiffParams(3, 1, 0.3, 9)), SAMPLER) for name in names]
    measured = {}
    for i, name in enumerate(names):
        more = {metric: column[i] for metric, column in values.items() if metric != "ssim"}
        measured[name] = [Measurement(values["ssim"][i], 30.0, 1.0, more)] * 2
    (tmp_path / "compare").mkdir()
    frame = summary.quality_table(methods, measured, seed=0)
    frame.to_csv(tmp_path / "compare" / "table1.csv", index=False)
    (table,) = experiments.methods_compared(tmp_path).tables
    rows = [cells for _, cells in table.rows()]
    styles = {heading: [cells[i].style for cells in rows] for i, heading in enumerate(table.headings)}
    first, second = ["", "", "best", "second"], ["", "", "second", "best"]
    assert styles["SSIM"] == second
    assert styles["LPIPS (alex)"] == first
    assert styles["LPIPS (vgg)"] == second
    assert styles["CLIP score (vit_base)"] == second
    intervals = [heading for heading in table.headings if heading.endswith("95%")]
    assert {"LPIPS (alex) 95%", "CLIP score (vit_base) 95%"} < set(intervals)
    assert all(set(styles[heading]) == {""} for heading in intervals)


def test_what_errors_left(tmp_path: Path) -> None:
    assert experiments.latent_errors(tmp_path) == experiments.ErrorTables(None, (), ())
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
    assert found.figure is not None
    assert legend(found.figure) == ["EC-Diff", "reuse"]
    means = found.figure.axes[0].lines[0].get_xydata()
    assert np.allclose(means, [[0, 0], [1, 0.15], [2, 0.3], [3, 0.45]])
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
        image_grid.samples(tmp_path / "samples.png", [("a $x^y^z$", stills)], [HOSTILE])
    figure = image_grid.grid([("a $x^y^z$", stills)], [HOSTILE])
    (axis,) = figure.axes
    assert axis.get_ylabel() == "a $x^y^z$"
    shown = axis.get_title().replace("\n", " ")
    assert shown == "tie: $a^b^c$, $20 #deal, was $30, $$$ \\x1b[31m \\u202e \u661f <b>"
    assert not axis.title.get_parse_math()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with figures.drawing("x") as (drawn, (axis,)):
            axis.plot([0, 1], label=HOSTILE)
            figures.label(axis, 0, 0, HOSTILE, "ink")
        assert inline(drawn).count("$$$ \\x1b[31m \\u202e \u661f &lt;b&gt;</text>") == 2


def test_texts_in_tables(tmp_path: Path) -> None:
    table = pd.DataFrame({"prompt": ["=1+1", "@a", "-5", "- 5", "NA", "007"], "x": [-1.5, 1, 2, 3, 4, 5]})
    path = tmp_path / "a.csv"
    path.write_text(csv_text(table))
    assert path.read_text().splitlines()[1:5] == ["'=1+1,-1.5", "'@a,1.0", "-5,2.0", "'- 5,3.0"]
    read = study_data.table(path, ("x",), texts=("prompt",))
    assert read.to_dict("list") == table.to_dict("list")
    assert "| a\\|b |" in markdown(pd.DataFrame({"x": ["a|b"]}))
