"""Prompts out of public data sets, drawn by a seed, with where each came from.

The paper tunes on 100 prompts of MS-COCO 2014 (images) and of WebVid (videos), its A.5.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ecdiff_core.errors import ECDiffError, nearest
from ecdiff_core.io.atomic_files import write_text
from ecdiff_core.io.text import counted
from ecdiff_tune.data.prompt_tables import column_name, is_text, read_table
from ecdiff_tune.data.spreadsheets import csv_text
from vbench_suite.scores import full_info_prompts

WEBVID = ("videoid", "name")
"""WebVid's columns of ids and captions."""
OUTPUTS = (".jsonl", ".csv")


class PromptSourceError(ECDiffError):
    """A source of prompts cannot be read, or holds too few."""


@dataclass(frozen=True)
class Request:
    """What to draw.

    Args:
        source: ``captions_train2014.json`` or another caption file of COCO, a csv of WebVid,
            ``VBench_full_info.json``, or any txt, csv, jsonl or parquet file.
        out: jsonl or csv file to write.
        count: prompts, all different.
        heldout: so many more, different from those, for a second file.
        seed: of the draw.
        column, id_column: of a table; None takes the usual names, and for ids else the row's number.

    Raises:
        PromptSourceError: a value is out of range, or a file would replace the source.
    """

    source: Path
    out: Path
    count: int = 150
    heldout: int = 0
    seed: int = 0
    column: str | None = None
    id_column: str | None = None

    def __post_init__(self) -> None:
        if self.count < 1 or self.heldout < 0:
            raise PromptSourceError(
                f"Expected --count >= 1 and --heldout >= 0, got {self.count} and {self.heldout}.",
                key="--count and --heldout",
                got={"count": self.count, "heldout": self.heldout},
            )
        if self.out.suffix.lower() not in OUTPUTS:
            raise PromptSourceError(
                key="--out", got=str(self.out), expected=f"to end with {' or '.join(OUTPUTS)}"
            )
        if self.source.resolve() in (self.out.resolve(), self.heldout_out.resolve()):
            line = f"--out would replace the source {self.source}."
            raise PromptSourceError(line, key="--out", got=str(self.out), advice="Choose another file.")

    @property
    def heldout_out(self) -> Path:
        """The file of the held-out prompts, beside ``out``."""
        return self.out.with_stem(f"{self.out.stem}_heldout")


def prepare(request: Request) -> list[str]:
    """Draw prompts and write them, ids and the source's sha256 beside each.

    Returns:
        Lines that tell what was written.

    Raises:
        PromptSourceError, PromptFileError, VBenchError: the source cannot be read, or holds too few.
        OutputError: a file cannot be written.
    """
    table = _read(request)
    drawn = _draw(table, request.count + request.heldout, request)
    drawn["source"] = request.source.name
    with request.source.open("rb") as file:
        drawn["source_sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    parts = {request.out: drawn[: request.count]}
    if request.heldout:
        parts[request.heldout_out] = drawn[request.count :]
    texts = {path: _text(part, path.suffix.lower()) for path, part in parts.items()}
    for path, text in texts.items():
        write_text(path, text)
    return [
        f"{path}  {counted(len(part), 'prompt')} of {len(table)} in {request.source}"
        for path, part in parts.items()
    ]


def _text(drawn: pd.DataFrame, kind: str) -> str:
    if kind == ".csv":
        return csv_text(drawn)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in drawn.to_dict("records"))


def _read(request: Request) -> pd.DataFrame:
    """A row a candidate: ``prompt``, ``id``, and of COCO ``caption_id``."""
    path, kind = request.source, request.source.suffix.lower()
    if not path.is_file():  # in one place: the readers' words for it differ
        raise _unreadable(path, "there is no such file")
    if kind == ".json":
        return _read_json(path, request.seed)
    table = read_table(path, WEBVID if request.column is None and request.id_column is None else ())
    names = [str(name) for name in table.columns]
    webvid = request.column is None and set(WEBVID) <= set(names)
    column = (
        "name" if webvid else column_name(table, None if is_text(path) else request.column, path, "--column")
    )
    ids = request.id_column or next((one for one in (WEBVID[0], "id") if one in names), None)
    if ids is not None and ids not in names:
        line = f"{path} has no column {ids!r}: {nearest(ids, names)}."
        raise PromptSourceError(line, key="--id-column", got=ids, expected=names)
    numbers = pd.Series(range(1, len(table) + 1), index=table.index)
    return pd.DataFrame({"prompt": table[column], "id": numbers if ids is None else table[ids]})


def _read_json(path: Path, seed: int) -> pd.DataFrame:
    try:
        tree = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise _unreadable(path, error.strerror) from error
    except ValueError as error:  # neither UTF-8 nor JSON
        raise _unreadable(path, "it is not JSON") from error
    if isinstance(tree, dict) and "annotations" in tree:
        return _coco(tree["annotations"], path, seed)
    if not isinstance(tree, list):
        raise PromptSourceError(
            f"Expected the captions of COCO (captions_train2014.json) or VBench_full_info.json, got {path}.",
            key=str(path),
            got=type(tree).__name__,
            expected=["captions_train2014.json", "VBench_full_info.json"],
        )
    prompts = full_info_prompts(path)
    return pd.DataFrame({"prompt": prompts, "id": range(len(prompts))})


def _coco(annotations: Any, path: Path, seed: int) -> pd.DataFrame:
    """One caption an image, drawn among its five or more; both orders are those of the ids."""
    images: dict[int, list[tuple[int, str]]] = {}
    try:
        for one in annotations:
            images.setdefault(int(one["image_id"]), []).append((int(one["id"]), one["caption"]))
    except (KeyError, TypeError, ValueError) as error:
        raise PromptSourceError(
            f"Expected annotations with image_id, id and caption in {path}, as captions_train2014.json has.",
            key=str(path),
            expected=["image_id", "id", "caption"],
        ) from error
    generator = random.Random(seed)
    rows = []
    for image in sorted(images):
        caption_id, caption = generator.choice(sorted(images[image]))
        rows.append({"prompt": caption, "id": image, "caption_id": caption_id})
    return pd.DataFrame(rows, columns=["prompt", "id", "caption_id"])


def _draw(table: pd.DataFrame, count: int, request: Request) -> pd.DataFrame:
    """So many rows of different prompts and different ids, white space within a prompt as single blanks."""
    prompts, ids = table["prompt"], table["id"]
    taken: list[int] = []
    seen_prompts: set[str] = set()
    seen_ids: set[str] = set()
    order = [*range(len(table))]
    random.Random(f"draw {request.seed}").shuffle(order)
    for row in reversed(order):  # as lists of earlier versions were drawn
        prompt, name = _cleaned(prompts.iat[row], request.source), str(ids.iat[row])
        if not prompt or prompt in seen_prompts or name in seen_ids:
            continue
        seen_prompts.add(prompt)
        seen_ids.add(name)
        taken.append(row)
        if len(taken) == count:
            drawn = table.iloc[taken].reset_index(drop=True)
            drawn["prompt"] = [_cleaned(prompt, request.source) for prompt in drawn["prompt"]]
            return drawn
    raise PromptSourceError(
        f"Expected at least {count} different prompts in {request.source} ({request.count} and "
        f"{request.heldout} held out), got {len(taken)}.",
        key=str(request.source),
        got=len(taken),
        expected=f">= {count}",
        advice="Lower --count or --heldout.",
    )


def _cleaned(value: Any, path: Path) -> str:
    if value is None or value != value:  # nan
        return ""
    if not isinstance(value, str | int | float):
        kind = type(value).__name__
        line, advice = f"Expected text as prompts in {path}, got a {kind}.", "Name a column with --column."
        raise PromptSourceError(line, key=str(path), got=kind, expected="text", advice=advice)
    return " ".join(str(value).split())


def _unreadable(path: Path, reason: str | None) -> PromptSourceError:
    return PromptSourceError(f"Cannot read {path}: {reason}.", key=str(path), got=reason)
