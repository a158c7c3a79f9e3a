"""``check``: can these two models work together? Told before any weights are read or fetched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ecdiff_core.errors import PairError
from ecdiff_core.models.compatibility import NEEDS_MATCHED, Row, Verdict, compare, load_scheduler
from ecdiff_core.models.find import (
    ModelFiles,
    cached_weights,
    find_configs,
    is_checkpoint,
    is_local,
    local_path,
)
from ecdiff_core.models.inventory import Part, fetched, inventory, larger_edge
from ecdiff_core.models.lora import find_lora
from ecdiff_core.models.model_folder import check_parts
from ecdiff_core.models.pair_files import (
    ONE_MODEL,
    PairFiles,
    check_files,
    check_weights,
    common_family,
    parts_of,
)
from ecdiff_core.models.pair_spec import ModelRef, PairSpec
from ecdiff_core.sampling.schedulers import try_scheduler
from ecdiff_tune.config import Settings

SWAPPED = (
    " They are probably swapped, though: tune refuses a cloud that is not slower than its edge. Exchange "
    "pair.cloud and pair.edge."
)


def check(settings: Settings) -> None:
    """Print a row a property with its verdict, the files, and what follows from them.

    Raises:
        PairError: a model cannot be found or lacks a part, or the two cannot work together.
        ParamsError: the scheduler cannot be used with the cloud model, or not with so many steps.
    """
    spec = settings.pair_spec()
    cloud, edge = find_configs(spec.cloud), find_configs(spec.edge, tokenizers=False)
    family = common_family(cloud, edge)
    check_parts(cloud, family)
    rows = compare(cloud, edge, family)
    print(f"cloud {_named(spec.cloud, cloud)}\nedge  {_named(spec.edge, edge)}")
    print(f"family {family.__name__} ({family.pipeline_class.__name__})\n")
    print("\n".join(table(rows)))
    refused = [row.name for row in rows if row.verdict is Verdict.REFUSED]
    if refused:
        line = f"These two cannot work together: {', '.join(refused)}."
        raise PairError(line, key="pair", got=refused, advice="Choose another edge model.")
    sampling = settings.sampling
    try_scheduler(sampling.scheduler, load_scheduler(cloud), sampling.num_inference_steps)
    whole, denoiser = parts_of(family, cloud)[0], (family.denoiser_part,)
    ours, theirs = _files(spec.cloud, cloud, whole), _files(spec.edge, edge, denoiser)
    swapped = _check_files(spec, PairFiles(family, ours, theirs, tuple(rows)))
    print(f"\n{_verdict(rows)}{SWAPPED if swapped else ''}")


def _check_files(spec: PairSpec, files: PairFiles) -> bool:
    """Print what would be loaded, and what ``tune`` would say of it; whether the edge is the larger one."""
    ours = inventory(files.cloud, parts_of(files.family, files.cloud.folder)[0])
    theirs = inventory(files.edge, files.denoiser)
    print("\n" + "\n".join(file_table(ours, theirs)))
    for lora in find_lora(spec):
        print(f"LoRA {lora.path}, weight {lora.weight} on {lora.on}")
    there = all(part.files for part in (*ours, *theirs))
    if there and spec.lora_on("cloud") == spec.lora_on("edge") and files.same_denoiser():
        raise PairError(ONE_MODEL, key="pair.edge")
    larger = larger_edge(ours[0].parameters, theirs[0].parameters)
    for note in (*files.notes(spec), *larger):
        print(f"note: {note}")
    return bool(larger)


def _files(ref: ModelRef, folder: Path, parts: Sequence[str]) -> ModelFiles:
    """What would be loaded: of a folder it must be there, of the hub what was fetched so far."""
    if is_local(ref):
        return check_weights(ref, folder, parts)
    found = cached_weights(ref, folder, parts)
    for part in parts:
        check_files(fetched(found, part))
    return found


def _named(ref: ModelRef, folder: Path) -> str:
    return f"{local_path(ref)}, with the configs of {folder}" if is_checkpoint(ref) else str(folder)


def _verdict(rows: Sequence[Row]) -> str:
    if any(row.why == NEEDS_MATCHED for row in rows):
        return "These two can work together, but only with sampling.handoff_adapter=matched."
    if any(row.verdict is Verdict.CONVERTIBLE for row in rows):
        return "These two can work together with sampling.handoff_adapter=matched."
    return "These two can work together."


def table(rows: Sequence[Row]) -> list[str]:
    """The rows as lines of aligned columns."""
    cells = [("property", "cloud", "edge", "verdict", "")]
    cells += [(row.name, row.cloud, row.edge, row.verdict.value, row.why) for row in rows]
    return _aligned(cells)


def file_table(cloud: Sequence[Part], edge: Sequence[Part]) -> list[str]:
    """The files of both models as lines of aligned columns."""
    cells = [("weights", "parameters", "size", "files")]
    for side, parts in (("cloud", cloud), ("edge", edge)):
        for part in parts:
            names = part.files[0] if part.files else "to be fetched"
            if len(part.files) > 1:
                names += f" and {len(part.files) - 1} more"
            if part.quantized:
                names += f" ({part.quantized})"
            size = f"{part.size_bytes / 1e6:,.1f} MB" if part.files else ""
            cells.append((f"{side} {part.name}", f"{part.parameters / 1e6:,.2f} M", size, names))
    return _aligned(cells)


def _aligned(cells: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]) - 1)]
    return [
        "  ".join([*(c.ljust(w) for c, w in zip(line, widths, strict=False)), line[-1]]).rstrip()
        for line in cells
    ]
