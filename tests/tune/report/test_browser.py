"""The page in a real browser, where there is one."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ..studies import Study

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium")

PROBE = """
<script>
addEventListener("load", () => {
  const found = {errors: window.failures, tables: {}};
  const images = [...document.images].filter((one) => !one.closest("dialog"));
  found.images = images.map((one) => one.naturalWidth);
  found.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  for (const table of document.querySelectorAll("table.sortable")) {
    const before = table.tBodies[0].rows.length;
    found.tables[table.id] = [...table.tHead.rows[0].cells].flatMap((heading, column) => [0, 1].map(() => {
      heading.querySelector("button").click();
      const keys = [...table.tBodies[0].rows].map((row) => row.cells[column].dataset.key ?? null);
      const words = heading.classList.contains("word");
      return [heading.getAttribute("aria-sort"), words, keys, before];
    }));
  }
  document.getElementById("show-differences").click();
  const differences = [...document.querySelectorAll("img.difference")];
  found.differences = differences.map((one) => one.offsetParent !== null);
  document.querySelectorAll("button.open")[3].click();
  found.large = document.querySelector("#large p").textContent;
  found.shown = document.querySelector("#large img").src === differences[2].src;
  document.querySelector("#large").dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft"}));
  found.left = document.querySelector("#large p").textContent;
  document.querySelector("#large").click();
  found.closed = !document.getElementById("large").open;
  document.querySelector("#tradeoff .mark").dispatchEvent(new PointerEvent("pointerover", {bubbles: true}));
  found.hint = document.getElementById("hint").textContent;
  found.back = getComputedStyle(document.body).backgroundColor;
  const told = document.createElement("pre");
  told.id = "told";
  told.textContent = JSON.stringify(found);
  document.body.append(told);
});
</script></body>"""
FIRST = "<head><script>window.failures = []; onerror = (text) => { failures.push(text); };</script>"


@pytest.fixture(scope="module", params=["light", "dark"])
def found(
    request: pytest.FixtureRequest, tuned: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What the page says of itself once its script has run, on a phone's width."""
    study: Study = tuned[0]
    text = (study.folder / "report" / "index.html").read_text(encoding="utf-8")
    folder: Path = tmp_path_factory.mktemp("browser")
    page = folder / "index.html"
    page.write_text(text.replace("<head>", FIRST, 1).replace("</body>", PROBE, 1), encoding="utf-8")
    dark = ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] * (request.param == "dark")
    done = subprocess.run(
        [
            *(
                str(BROWSER),
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--window-size=390,844",
                *dark,
            ),
            *(
                "--enable-logging=stderr",
                f"--user-data-dir={folder / 'profile'}",
                "--virtual-time-budget=5000",
            ),
            *("--dump-dom", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    told = re.search(r'<pre id="told">(.*?)</pre>', done.stdout, re.DOTALL)
    assert told, done.stderr
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return {**json.loads(html.unescape(told[1])), "console": said, "scheme": request.param}


def test_it_runs_without_a_complaint(found: dict[str, Any]) -> None:
    assert found["errors"] == []
    assert found["console"] == []
    assert found["images"] == [32] * 21
    assert found["wide"] <= 0
    dark = sum(map(int, re.findall(r"\d+", found["back"])[:3])) < 200
    assert dark == (found["scheme"] == "dark")


def test_tables_sort(found: dict[str, Any]) -> None:
    assert {"configs", "prompts", "heldout-table", "sensitivity-table"} <= set(found["tables"])
    for sorts in found["tables"].values():
        assert {direction for direction, *_ in sorts} == {"ascending", "descending"}
        for direction, words, keys, rows in sorts:
            assert len(keys) == rows > 0
            known = [key for key in keys if key is not None]
            assert keys[: len(known)] == known  # empty cells come last
            if not words:
                numbers = [float(key) for key in known]
                assert numbers == sorted(numbers, reverse=direction == "descending")


def test_images_enlarge(found: dict[str, Any]) -> None:
    assert found["differences"] == [True] * 9
    assert found["shown"]
    assert found["large"].startswith("EC-Diff · ")
    assert found["left"].startswith("HybridSD · ")
    assert found["closed"]


def test_points_tell_what_they_are(found: dict[str, Any]) -> None:
    assert re.search(r"quality 0\.\d{4}, .* s, objective", found["hint"])
