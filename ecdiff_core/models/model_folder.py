"""What must lie in a model's diffusers folder, and the fingerprint of it."""

from __future__ import annotations

import hashlib
from importlib import import_module
from pathlib import Path
from typing import Any

from ecdiff_core.errors import PairError, first_line
from ecdiff_core.io.file_digest import file_digest
from ecdiff_core.models.answers import check_answers
from ecdiff_core.models.compatibility import load_scheduler, whole_config
from ecdiff_core.models.families import Family
from ecdiff_core.models.families.parts import part_class
from ecdiff_core.models.weight_files import missing_file, part_path, weight_files
from ecdiff_core.models.weight_headers import refuse_pointer


def check_parts(folder: Path, family: type[Family]) -> None:
    """See to it that tokenizers and scheduler of a cloud model are there, can be read, and are its own.

    Raises:
        PairError: one of them is missing, or lacks what would be filled in without a word: transformers makes
            a tokenizer without a vocabulary, to which every prompt is the same. Or the scheduler is one for
            other models.
    """
    absent = family.absent_parts(folder)
    for part in family.unweighted_parts:
        if part in absent:
            continue
        if not (folder / part).is_dir():
            raise missing_file(folder / part)
        for path in filter(Path.is_file, (folder / part).iterdir()):
            refuse_pointer(path)
        if part.startswith("tokenizer"):
            _check_tokenizer(folder, part)
    check_answers(load_scheduler(folder), family.answers, whole_config(folder, "vae"))


def _check_tokenizer(folder: Path, part: str) -> None:
    here = folder / part
    try:
        tokenizer_class: Any = part_class(folder, part)
    except ValueError as error:
        path = folder / "model_index.json"
        raise PairError(f"{path} cannot be used: {error}", key=str(path)) from error
    if not (here / "tokenizer_config.json").is_file():  # without it prompts are cut at no length
        raise missing_file(here / "tokenizer_config.json")
    names = dict(tokenizer_class.vocab_files_names)
    whole = names.pop("tokenizer_file", "tokenizer.json")
    if (here / whole).is_file():
        return
    if not all((here / name).is_file() for name in names.values()):
        line = f"No vocabulary in {here}: expected {whole}, or {' and '.join(names.values())}."
        raise PairError(line, key=str(here), expected=[whole, *names.values()])
    if any(name.endswith(".model") for name in names.values()):
        _check_sentencepiece(here / names["vocab_file"])


def _check_sentencepiece(vocabulary: Path) -> None:
    try:
        import_module("sentencepiece.sentencepiece_model_pb2")
    except Exception as error:  # protobuf has a kind of its own where the two do not fit together
        raise PairError(
            f"{vocabulary} takes sentencepiece and protobuf to read ({first_line(error)}).",
            key=str(vocabulary),
            expected=["sentencepiece", "protobuf"],
            advice="Run `pip install -U sentencepiece protobuf`, which the extra ecdiff[video] holds.",
        ) from error


def fingerprint(
    folder: Path,
    weighted: tuple[str, ...],
    unweighted: tuple[str, ...] = (),
    variant: str | None = None,
    checkpoint: Path | None = None,
) -> str:
    """The first 16 hex digits of the SHA-256 over what is loaded of those parts of a folder.

    Of ``unweighted`` parts (tokenizer, scheduler) that is every file. A denoiser alone has the fingerprint
    that it has within a whole model.

    Args:
        variant: of the weight files; None is the plain ones.
        checkpoint: the file that holds the weights in place of the folder, which has the configs.

    Raises:
        PairError: a part has no weights.
    """
    if checkpoint is None:
        files = [
            (f"{part}/{path.name}", path) for part in weighted for path in weight_files(folder, part, variant)
        ]
    else:
        configs = [(f"{part}/config.json", part_path(folder, part) / "config.json") for part in weighted]
        files = [*configs, ("checkpoint", checkpoint)]
    for part in unweighted:
        there = sorted((folder / part).iterdir())
        files += [(f"{part}/{path.name}", path) for path in there if path.is_file()]
    digest = hashlib.sha256()
    for name, path in files:
        digest.update(name.encode() + file_digest(path))
    return digest.hexdigest()[:16]
