"""The pair and the prompts of a Python call as settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ecdiff_core.config import TunedConfig
from ecdiff_core.errors import nearest
from ecdiff_core.hook.loaded import pair_of
from ecdiff_core.io.atomic_files import write_text
from ecdiff_core.models.devices import dtype_name
from ecdiff_core.models.one_side import Elsewhere
from ecdiff_core.models.pair import Pair
from ecdiff_core.pipeline import ECDiffPipeline
from ecdiff_tune.cli.composing import compose_settings
from ecdiff_tune.cli.keywords import overrides_of, settings_by_name
from ecdiff_tune.cli.restore import settings_of_config
from ecdiff_tune.cli.study_spec import study_path
from ecdiff_tune.config import Settings, SettingsError
from ecdiff_tune.data.conf_folder import config_folder
from ecdiff_tune.data.prompt_files import read_rows
from ecdiff_tune.study import files

Say = Callable[[str], None]
PAIR = "the name of a pair, a folder with cloud/ and edge/, a tuned YAML, an ECDiffPipeline, or (cloud, edge)"
_OWN = ("cloud", "edge")
_FOR_LOADING = ("device", "dtype", "offload", "vae_slicing", "vae_tiling")
"""Settings that say how a pair is loaded: of one that is loaded they are what they are."""


def settings_of_call(
    pair: Any, prompts: Any, search: Any, folder: Any, keywords: Mapping[str, Any], say: Say
) -> tuple[Settings, Pair | None]:
    """The settings that a call of ``ecdiff_tune.tune`` asks for, and its pair where that is loaded.

    Args:
        say: called with a line about whatever is not as it was given.

    Raises:
        ECDiffError: an argument cannot be used.
    """
    if not isinstance(folder, str | Path):
        raise SettingsError(key="folder", got=folder, expected="to be the path of a folder")
    given, named = given_pair(pair), settings_by_name(keywords)
    own = {"search": search, "output_dir": folder}
    composed = compose_settings("tune", overrides_of({**given.with_keywords(named), **own}), say)
    return with_prompts(composed, prompts, named), given.pair


@dataclass(frozen=True)
class GivenPair:
    """What a pair says of settings.

    Args:
        settings: by their whole names, which other keywords go before.
        pair: where it is loaded already.
    """

    settings: Mapping[str, Any]
    pair: Pair | None = None
    fixed: tuple[str, ...] = field(default=())

    def with_keywords(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All settings.

        Args:
            given: the call's keywords by the settings' whole names.

        Raises:
            SettingsError: one of them would make another pair of one that is loaded.
        """
        for name in self.fixed if self.pair is not None else ():
            own = self.settings.get(name)
            if name in given and str(given[name]) != str(own):
                raise SettingsError(
                    key=name.replace(".", "_"),
                    got=given[name],
                    expected=f"{own}, as the pipeline is" if own is not None else "to be left out",
                    advice="A pipeline is taken as it is: change it before, or give names or folders.",
                )
        return {**self.settings, **given}


def given_pair(pair: Any) -> GivenPair:
    """What ``ecdiff_tune.tune`` was given as the pair.

    Raises:
        SettingsError: it is nothing that a pair can be had from.
        ECDiffError: it cannot be read, or the two cannot be a pair.
    """
    if isinstance(pair, ECDiffPipeline):
        if pair.cloud is not None or any(
            isinstance(one, Elsewhere) for one in (pair.pair.cloud, pair.pair.edge)
        ):
            raise SettingsError(key="pair", got=pair, expected="to have both models on this machine")
        return _loaded(pair.pair, settings_of_config(replace(pair.config, pair=pair.pair.spec)))
    if isinstance(pair, TunedConfig):
        return GivenPair(_custom(settings_of_config(pair)))
    if isinstance(pair, str | Path):
        return _named(pair)
    if isinstance(pair, Sequence) and len(pair) == 2:
        if all(isinstance(one, str | Path) for one in pair):
            cloud, edge = map(str, pair)
            return GivenPair(_custom({"pair.cloud": cloud, "pair.edge": edge}))
        if not any(isinstance(one, str | Path) for one in pair):
            loaded = pair_of("custom", *pair)
            scheduler = type(pair[0].scheduler).__name__
            denoiser: Any = loaded.cloud
            names = {"pair.cloud": loaded.spec.cloud.id, "pair.edge": loaded.spec.edge.id}
            return _loaded(
                loaded, {**names, "dtype": dtype_name(denoiser.dtype), "sampling.scheduler": scheduler}
            )
    raise SettingsError(key="pair", got=pair, expected=f"to be {PAIR}")


def _loaded(pair: Pair, settings: Mapping[str, Any]) -> GivenPair:
    """Of a pair in memory, which stays where and as it is."""
    own = {**_custom(settings), "device": str(pair.family.device)}
    own["vae_tiling"] = bool(getattr(pair.family.vae, "use_tiling", False))
    models = [name for name in vars(Settings().pair) if name != "name"]
    return GivenPair(own, pair, (*_FOR_LOADING, *(f"pair.{name}" for name in models)))


def _custom(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"pair": "custom", **settings}


def _named(name: str | Path) -> GivenPair:
    known = sorted(path.stem for path in (config_folder() / "pair").glob("*.yaml"))
    if str(name) in known:
        return GivenPair({"pair": str(name)})
    path = Path(name).expanduser()
    if path.is_file():
        return GivenPair(_custom(settings_of_config(TunedConfig.load(path))))
    if all((path / side).is_dir() for side in _OWN):
        models = {f"pair.{side}": str(path.resolve() / side) for side in _OWN}
        return GivenPair(_custom({"pair.name": path.resolve().name, **models}))
    raise SettingsError(
        f"Unknown pair {str(name)!r}: {nearest(str(name), known)}; or give {PAIR}.",
        key="pair",
        got=str(name),
        expected=known,
    )


def with_prompts(settings: Settings, prompts: Any, given: Mapping[str, Any]) -> Settings:
    """Settings with the prompts to tune on and to check on.

    Where there are too few for the numbers that are set by nobody, a third of them is held out.

    Args:
        prompts: texts, which are written beside the pair's references; the path of a file; or None for the
            embedded pair's captions.
        given: the call's keywords by the settings' whole names.

    Raises:
        SettingsError: they are neither.
        PromptFileError: the file cannot be read, or holds no prompt.
    """
    if prompts is None:
        return settings
    path = _file(settings, prompts)
    column = settings.calibration.column if isinstance(prompts, str | Path) else None
    there, calibration, heldout = len(read_rows(path, column).prompts), settings.calibration, settings.heldout
    tuned_on, checked_on = calibration.num_prompts, heldout.num_prompts
    own = "calibration.num_prompts" in given
    if "heldout.num_prompts" not in given:
        checked_on = max(0, min(checked_on, there - tuned_on if own else there // 3))
    if not own:
        tuned_on = max(1, min(tuned_on, there - checked_on))
    return replace(
        settings,
        calibration=replace(calibration, file=str(path), column=column, num_prompts=tuned_on),
        heldout=replace(heldout, num_prompts=checked_on),
    )


def _file(settings: Settings, prompts: Any) -> Path:
    """The file with the prompts, written where they are a list: its name is made of them."""
    expected = "to be a list of texts, or the path of a file that is there"
    if isinstance(prompts, str | Path):
        if not (path := Path(prompts).expanduser()).is_file():
            raise SettingsError(key="prompts", got=str(prompts), expected=expected)
        return path
    if not isinstance(prompts, Iterable) or isinstance(prompts, bytes | Mapping | Set):  # sets have no order
        raise SettingsError(key="prompts", got=prompts, expected=expected)
    texts = list(prompts)
    if wrong := [one for one in texts if not isinstance(one, str)]:
        raise SettingsError(key="prompts", got=wrong[0], expected=expected)
    if not any(one.strip() for one in texts):
        raise SettingsError(key="prompts", got=texts, expected="to hold at least one prompt")
    lines = "".join(json.dumps({"prompt": one}) + "\n" for one in texts)
    digest = hashlib.sha256(lines.encode()).hexdigest()[:16]
    path = study_path(settings).parent / files.REFERENCE_FOLDER / f"prompts-{digest}.jsonl"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        line = f"Cannot write to {path.parent}: {error.strerror}. Give a folder that can be written to."
        raise SettingsError(line, key="folder") from error
    write_text(path, lines)
    return path
