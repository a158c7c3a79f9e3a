"""A method on prompts: images held against those without it, paid for once a pattern of what is skipped."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ecdiff_core.config import Sampling
from ecdiff_core.errors import ConfigError, NonFiniteLatentsError
from ecdiff_core.methods import get_method
from ecdiff_core.methods.choice import MethodChoice
from ecdiff_core.methods.enable import Enabled
from ecdiff_core.methods.in_pair import accelerated
from ecdiff_core.methods.method import Method, shown
from ecdiff_core.models.memory import Batches
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_core.sampling.params import ECDiffParams
from ecdiff_tune.evaluation.candidate import Candidate, ConfigKey
from ecdiff_tune.evaluation.compared import compared
from ecdiff_tune.evaluation.ledger import Ledger, Measurement
from ecdiff_tune.evaluation.reference import Reference
from ecdiff_tune.methods.seen import Seen


def content(choice: MethodChoice) -> str:
    """Name and those values whose effect no pattern tells: with them, a pattern decides the image."""
    values = [
        f"{one.name}={shown(choice.values[one.name])}"
        for one in choice.method.parameters
        if not one.shows and one.name in choice.values
    ]
    return " ".join([choice.method.label, *values])


def frame(choice: MethodChoice) -> str:
    """All values but the dial, which runs that differ in the dial alone have in common."""
    others = {name: value for name, value in choice.values.items() if name != choice.method.dial}
    return json.dumps([choice.name, others], sort_keys=True)


def whole_key(sampling: Sampling) -> ConfigKey:
    """In the ledger: the cloud alone, every call computed."""
    whole = Candidate(ECDiffParams.cloud_only(sampling.num_steps), sampling.estimator)
    return whole.resolve(sampling.num_steps, sampling.handoff).key


class Runs:
    """What was skipped in every run, one JSON object a line: by prompt, values, and the interval of the dial
    that does the same. Only ever added to.

    What a method that is not adaptive skips on one prompt, it skips on all.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[tuple[str, str], list[dict[str, Any]]] = {}
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        self._break = "\n" if text and not text.endswith("\n") else ""  # a line that a kill cut off
        for line in text.splitlines():
            try:
                self._keep(json.loads(line))
            except (ValueError, KeyError, ConfigError):
                continue

    def _keep(self, row: dict[str, Any]) -> None:
        name, _ = json.loads(row["frame"])
        self._known.setdefault(_place(get_method(name), row["frame"], row["prompt"]), []).append(row)

    def find(self, choice: MethodChoice, prompt: str) -> dict[str, Any] | None:
        """The run of that prompt with that value of the dial, or with one that does the same; of a method
        that is not adaptive, of any prompt."""
        value = choice.values[choice.method.dial]
        found: dict[str, Any] | None = None
        for row in self._known.get(_place(choice.method, frame(choice), prompt), ()):
            low, high = _interval(row)
            if row["value"] == value or low <= value < high:
                if row["prompt"] == prompt:
                    return row
                found = found or row
        return found

    def choices(self) -> list[MethodChoice]:
        """All settings that there are runs of, the first first."""
        found: dict[str, MethodChoice] = {}
        for (text, _), rows in self._known.items():
            name, others = json.loads(text)
            for row in rows:
                choice = with_value(MethodChoice(name, others), row["value"])
                found.setdefault(f"{text} {row['value']}", choice)
        return list(found.values())

    def recall(self, ledger: Ledger, whole: ConfigKey, choice: MethodChoice, prompt: str) -> Seen | None:
        """What became of a setting on a prompt; None where it was not measured.

        Args:
            whole: the key of the cloud alone.
        """
        row = self.find(choice, prompt)
        measured = row and ledger.read(_key(whole, choice, row["pattern"])).get(prompt)
        if not row or not measured:
            return None
        place = row["work"], row["calls"], row["reused"], row["pattern"]
        return Seen(measured.ssim, *place, *_interval(row))

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add runs, written at once."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(self._break + "".join(json.dumps(row) + "\n" for row in rows))
        self._break = ""
        for row in rows:
            self._keep(row)


class MethodMeasurer:
    """Measures methods on the prompts of a reference.

    Args:
        pipe: the pair, its cloud model alone.
        batches: of prompts; a method that decides for a whole batch gets one prompt at a time.
        calls: to count model calls and decodes in.
    """

    def __init__(
        self,
        pipe: ECDiffPipeline,
        reference: Reference,
        ledger: Ledger,
        runs: Runs,
        batches: Batches,
        calls: Counter[str],
    ) -> None:
        self._pipe, self._reference, self._ledger = pipe, reference, ledger
        self._runs, self._batches, self._calls = runs, batches, calls
        self._whole = whole_key(pipe.config.sampling)

    def measure(self, choice: MethodChoice, first: int | None = None) -> list[Seen]:
        """A method on the first so many prompts; None is all. What is known is not generated again."""
        names = self._reference.prompt_set.keys[:first]
        size = 1 if choice.method.batch_wide else self._batches.size
        lacking = list(range(len(names)))
        # After a batch it is known what the setting skips, and other prompts may have that already.
        while lacking := [row for row in lacking if self._known(choice, names[row]) is None]:
            self._generate(choice, lacking[:size])
            lacking = lacking[size:]
        found = [self._known(choice, name) for name in names]
        return [one for one in found if one is not None]

    def _known(self, choice: MethodChoice, name: str) -> Seen | None:
        return self._runs.recall(self._ledger, self._whole, choice, name)

    def _generate(self, choice: MethodChoice, rows: Sequence[int]) -> None:
        pipe, prompts = self._pipe, self._reference.prompt_set
        sampling = pipe.config.sampling
        switched = accelerated(
            pipe.pair, choice, pipe.num_steps, sampling.guidance_scale, pipe.scheduler, counts=True
        )
        with switched as on:
            assert on is not None
            measured = self._compared(rows)
            row = _row(choice, on)
        self._calls.update(cloud=len(rows) * pipe.num_steps, decode=len(rows))
        names = [prompts.keys[row] for row in rows]
        # The ledger first: a run without its measurement would be looked for in vain.
        self._ledger.append(_key(self._whole, choice, row["pattern"]), zip(names, measured, strict=True))
        self._runs.add([{**row, "prompt": name} for name in names])

    def _compared(self, rows: Sequence[int]) -> list[Measurement]:
        prompts = self._reference.prompt_set
        texts = [prompts.prompts[row] for row in rows]
        generators = [torch.Generator().manual_seed(prompts.seeds[row]) for row in rows]
        try:
            output = self._pipe(texts, generator=generators, output_type="pt")
        except NonFiniteLatentsError:
            return [Measurement(None, None, 0.0)] * len(rows)
        cloud = torch.stack([self._reference.prompts[row].cloud for row in rows]).float()
        seconds = (output.seconds.total - output.seconds.encode) / len(rows)
        return compared(output.latents, output.images.cpu(), cloud, texts, seconds)


def _key(whole: ConfigKey, choice: MethodChoice, pattern: str) -> ConfigKey:
    """In the ledger: values that skip the same calls have one."""
    return replace(whole, sampler=f"{content(choice)} skipping {pattern}")


def _place(method: Method, text: str, prompt: str) -> tuple[str, str]:
    """Where a run is kept, by its frame."""
    return text, prompt if method.adaptive else ""


def _interval(row: Mapping[str, Any]) -> tuple[float, float]:
    low, high = row["low"], row["high"]
    return -math.inf if low is None else low, math.inf if high is None else high


def _row(choice: MethodChoice, on: Enabled) -> dict[str, Any]:
    """What a run skipped."""
    value, hits = choice.values[choice.method.dial], on.hits
    low, high = on.interval or (value, value)
    return {
        "frame": frame(choice),
        "value": value,
        "pattern": hits.pattern,
        "text": str(hits),
        "work": round(hits.work, 6),
        "calls": len(hits.calls),
        "reused": hits.reused,
        "low": low if math.isfinite(low) else None,  # JSON has no infinity that every reader knows
        "high": high if math.isfinite(high) else None,
    }


def with_value(choice: MethodChoice, value: float) -> MethodChoice:
    """The method with another value of its dial."""
    values: Mapping[str, Any] = {**choice.values, choice.method.dial: value}
    return MethodChoice(choice.name, values)
