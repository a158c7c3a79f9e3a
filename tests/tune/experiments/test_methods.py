"""What methods are made of, and how their measurements are told."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
from matplotlib.collections import PathCollection

from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_tune.data.paper import paper_config
from ecdiff_tune.evaluation.latency import LatencyProfile
from ecdiff_tune.evaluation.ledger import Measurement
from ecdiff_tune.experiments import paper_tables, summary
from ecdiff_tune.experiments.baselines import MAKERS, Known, equal_cost_steps, made
from ecdiff_tune.experiments.error_runs import runs_beside
from ecdiff_tune.experiments.method_names import METHODS
from ecdiff_tune.experiments.methods import ComparedMethod, distinct
from ecdiff_tune.report import comparison, quality_seconds
from ecdiff_tune.report.comparison import value
from ecdiff_tune.report.table_files import latex


def papers_pair(latency: LatencyProfile, **sampling: object) -> Known:
    """A study of SD-v1.4 + BK-SDM-Small that found another config than the paper."""
    paper = paper_config("sd14_bksdm_small")
    assert paper is not None
    params = ECDiffParams(3, 5, 0.1, 15)
    tuned = replace(paper, params=params, sampling=replace(paper.sampling, **sampling))  # type: ignore[arg-type]
    return Known(tuned, paper, None, latency)


def by_name(known: Known) -> dict[str, ComparedMethod]:
    return {one.name: one for one in made(known, METHODS)[0]}


def test_every_name_is_made_in_the_same_order() -> None:
    assert tuple(MAKERS) == METHODS


def test_the_papers_row_for_its_own_pair(latency: LatencyProfile) -> None:
    plan = by_name(papers_pair(latency))["paper"].plan
    assert (plan.cloud_calls, plan.approximated, plan.edge_calls) == (16, 18, 16)
    assert paper_config("shapes") is None


def test_steps_are_scaled_to_other_numbers(latency: LatencyProfile) -> None:
    found = by_name(papers_pair(latency, num_inference_steps=25))
    assert found["paper"].candidate.params == ECDiffParams(4, 2, 0.3, 17)
    assert found["hybrid_10"].plan.schedule == "20C5E"
    assert found["hybrid_10"].label == "HybridSD (k=5)"
    # PNDM makes a step more, and all of it counts.
    found = by_name(papers_pair(latency, scheduler="PNDMScheduler"))
    assert found["hybrid_10"].plan.schedule == "41C10E"
    beside = runs_beside(papers_pair(latency, scheduler="PNDMScheduler").tuned)[1:]
    assert [one.plan for one in beside] == [found["hybrid_10"].plan, found["hybrid_25"].plan]
    assert found["paper"].candidate.params == ECDiffParams(7, 2, 0.3, 34)
    assert found["fewer_own"].plan.cloud_calls == found["fewer_ddim"].plan.cloud_calls


def test_methods_differ_from_the_tuned_config_in_what_they_are_named_for(latency: LatencyProfile) -> None:
    known = papers_pair(latency)
    found = by_name(known)
    tuned = found["tuned"].candidate
    assert tuned.params == known.tuned.params
    assert found["reuse"].candidate == replace(tuned, estimator="reuse")
    assert found["secant"].candidate == replace(
        tuned, estimator="secant", params=replace(tuned.params, alpha=1.0)
    )
    assert "schedule" not in found
    assert "fewer_own" not in found  # it is DDIM
    assert found["pab"].key(known.sampling).sampler == (
        "PAB spatial_attention_block_skip_range=2 cross_attention_block_skip_range=1 "
        "timestep_low=100 timestep_high=800"
    )
    assert found["cloud"].key(known.sampling).sampler == ""


def test_equal_cost(latency: LatencyProfile) -> None:
    known = papers_pair(latency)
    plan = known.tuned.plan()  # 3C5A1C5A1C35E
    assert latency.seconds(plan) == pytest.approx(0.008 + 5 * 0.020 + 35 * 0.008 + 0.010)
    assert equal_cost_steps(latency, plan) == 20  # 0.39 s are 19.5 cloud calls
    free = replace(latency, transfer_seconds=0.0)
    assert equal_cost_steps(free, plan) == 19  # exactly
    steps = by_name(known)["fewer_dpm"].sampler.sampling
    assert (steps.scheduler, steps.num_inference_steps) == ("DPMSolverMultistepScheduler", 20)


def test_what_makes_equal_images_is_left_out(latency: LatencyProfile) -> None:
    known = papers_pair(latency)
    known = replace(known, tuned=replace(known.tuned, params=ECDiffParams(7, 2, 0.3, 34)))
    found, left_out = distinct(made(known, ["tuned", "paper", "reuse"])[0], known.sampling)
    assert [one.name for one in found] == ["tuned", "reuse"]
    assert left_out == {"paper": "it makes the same images as tuned"}


def two(latency: LatencyProfile) -> list[ComparedMethod]:
    found = by_name(papers_pair(latency))
    return [found["cloud"], found["tuned"], found["reuse"]]


def test_prompts_without_a_finite_image_are_counted(latency: LatencyProfile) -> None:
    good, none = Measurement(0.5, 20.0, 1.0), Measurement(None, None, 1.0)
    equal = Measurement(1.0, float("inf"), 1.0)
    table = summary.quality_table(
        two(latency), {"cloud": [equal] * 2, "tuned": [good, none], "reuse": [none] * 2}, 0
    ).set_index("method")
    assert table.loc["cloud", "psnr"] == float("inf")
    assert pd.isna(table.loc["cloud", "psnr_low"])
    assert table.loc["tuned", ["ssim", "ssim_low", "prompts", "failed"]].tolist() == [0.5, 0.5, 1, 1]
    assert pd.isna(table.loc["reuse", "ssim"])
    assert value("psnr", "{:.2f}")(table.loc["cloud"]) == "∞"
    assert value("ssim")(table.loc["tuned"]) == "0.500 (0.500 … 0.500)"
    assert value("ssim")(table.loc["reuse"]) == "–"


def test_seconds_of_a_cache_are_the_clocks(latency: LatencyProfile) -> None:
    found = by_name(papers_pair(latency))
    methods = [found["cloud"], found["tuned"], found["pab"]]
    timed = {"cloud": 2.0, "tuned": 0.6, "pab": 1.5}
    costs = summary.cost_table(methods, replace(latency, payload_values=1000), timed, 50)
    assert costs["measured_seconds"].tolist() == pytest.approx([2.0, 0.6 + 0.010, 1.5])
    assert costs["measured_speedup"].tolist() == pytest.approx([1.0, 2 / 0.61, 2 / 1.5])
    assert costs["bytes"].tolist() == [0, 2000, 0]
    assert pd.isna(costs["seconds"].iloc[2])
    for budget, within in ((1.5, "yes"), (1.4, "no")):
        held = summary.with_budget(costs, methods, budget)["within_budget"]
        assert held.fillna("").tolist() == ["", "", within]
    untimed = summary.cost_table(methods, latency, {**timed, "pab": None}, 50)
    assert summary.with_budget(untimed, methods, 1.5)["within_budget"].isna().all()
    assert summary.comparable_seconds(costs).tolist() == pytest.approx([1.008, 0.398, 1.008 * 1.5 / 2])


def test_marks_of_the_best_and_the_second_best() -> None:
    table = pd.DataFrame(
        {
            "method": list("abcd"),
            "label": list("ABCD"),
            "ssim": [1.0, 0.5, 0.7, None],
            "seconds": [9.0, 1.0, 2.0, 3.0],
            "calls": [4, 3, 2, 1],
        }
    )
    columns = [
        ("ssim", "SSIM ↑", value("ssim")),
        ("seconds", "seconds ↓", value("seconds")),
        ("calls", "calls", value("calls", "{}")),
    ]
    shown = comparison.cells(table, columns, unranked=["a"])
    assert list(shown.columns) == ["method", "SSIM ↑", "seconds ↓", "calls"]
    assert shown.to_numpy().tolist() == [
        ["A", "1.000", "9.000", "4"],
        ["B", "_0.500_", "**1.000**", "3"],
        ["C", "**0.700**", "_2.000_", "2"],
        ["D", "–", "3.000", "1"],
    ]


def test_latex_knows_all_signs() -> None:
    text = latex(
        pd.DataFrame({"SSIM ↑": ["∞", "**50 %**"], "LPIPS ↓": ["0.5 (0.4 … 0.6) – 1.47×", "a_b & {c}"]})
    )
    assert text.isascii()
    assert r"SSIM $\uparrow$ & LPIPS $\downarrow$ \\" in text
    assert r"$\infty$ & 0.5 (0.4 \dots{} 0.6) -- 1.47$\times$ \\" in text
    assert r"\textbf{50 \%} & a\_b \& \{c\} \\" in text


def test_a_figure_has_a_point_a_method() -> None:
    table = pd.DataFrame(
        {
            "method": ["cloud", "tuned", "pab"],
            "label": ["cloud", "EC-Diff (tuned)", "PAB"],
            "seconds": [2.0, 1.0, None],
            "ssim": [1.0, 0.9, 0.8],
            "ssim_low": [1.0, 0.8, 0.7],
            "ssim_high": [1.0, 0.95, 0.9],
        }
    )
    (axis,) = quality_seconds.methods(table, "video").axes
    assert [one.get_text() for one in axis.texts] == ["cloud alone", "EC-Diff (tuned)"]
    (point,) = [one.get_offsets().tolist() for one in axis.collections if isinstance(one, PathCollection)]
    assert point == [[1.0, 0.9]]
    cloud, interval = axis.lines
    assert list(cloud.get_xdata()) == [2.0, 2.0]
    assert interval.get_xydata().tolist() == [[1.0, 0.8], [1.0, 0.95]]
    assert axis.get_xlabel() == "seconds per video"
    assert axis.get_ylabel() == "quality (mean SSIM to the cloud's video)"
    assert paper_tables.table6(table, "video").caption.startswith("Seconds per video by")
