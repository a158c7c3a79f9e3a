"""What an acceleration is: a name, its parameters, and how it is put into a denoiser and taken out again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ecdiff_core.errors import ParamsError

if TYPE_CHECKING:
    from torch import nn

    from ecdiff_core.methods.follower import Follower

Values = Mapping[str, Any]
"""Of a method's parameters, by name."""
Kind = Literal["int", "float", "ints", "floats", "name"]
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "ints": "a list of whole numbers",
    "floats": "a list of numbers",
}
Reset = Callable[[], None]
"""Forgets the generation before."""


@dataclass(frozen=True)
class Parameter:
    """A setting of a method.

    Args:
        kind: a number, a list of them, which is never searched, or a name.
        low, high: range of a value, both included.
        default: of the method's authors or of diffusers; None where it must be calibrated on a model.
        about: what it does, with its unit.
        grid: values that tuning tries beside each other; empty tries the default alone.
        decides: whether it is a threshold that is compared with numbers, which alone decide what is skipped.
        shows: whether the pattern of hits tells all that it does: values with one pattern make one image.
        names: that a name can be.
    """

    name: str
    kind: Kind
    low: float = 0.0
    high: float = 0.0
    default: Any = None
    about: str = ""
    grid: tuple[Any, ...] = ()
    shows: bool = True
    decides: bool = False
    names: tuple[str, ...] = ()

    def check(self, value: Any) -> Any:
        """The value, of its type.

        Raises:
            ParamsError: it is of another type or out of range.
        """
        if self.kind == "name":
            if value not in self.names:
                raise ParamsError.unknown(f"method.values.{self.name}", str(value), self.names)
            return value
        is_list, whole = self.kind in ("ints", "floats"), self.kind in ("int", "ints")
        values = value if is_list and isinstance(value, Sequence) else [value]
        empty = is_list and not values and self.default is None
        if empty or not all(_is_number(one, whole) and self.low <= one <= self.high for one in values):
            raise ParamsError(
                key=f"method.values.{self.name}",
                got=value,
                expected=f"to be {_KINDS[self.kind]} within {self.low:g} … {self.high:g}",
                advice=f"Meaning: {self.about}.",
            )
        typed = tuple(map(int if whole else float, values))
        return typed if is_list else typed[0]


def _is_number(value: Any, whole: bool) -> bool:
    return isinstance(value, int if whole else int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class Target:
    """The denoiser that a method is put into.

    Args:
        num_steps: of a generation.
        guided: whether a call has both halves of classifier-free guidance in its batch.
        video: whether its latents have frames.
        follower: knows the step and the timestep of the call under way.
    """

    model: nn.Module
    num_steps: int
    guided: bool
    video: bool
    follower: Follower


Switch = Callable[[Target, Values], AbstractContextManager[Reset]]


@dataclass(frozen=True)
class Method:
    """An acceleration of one model, without training.

    Args:
        name: in YAML and on the command line.
        label: in tables.
        source: where it is published, and whose code is run.
        parameters: its space.
        dial: the parameter that decides how much is skipped, which tuning searches.
        rising: whether a greater value of the dial skips more.
        batch_wide: whether what it does with an image depends on the others of its batch.
        adaptive: whether what it skips depends on the prompt.
        whole: the parameter that in place of all others says what is done, where it is given.
        presets: what its authors offer for so many steps: values by name.
        obstacle: why it cannot be put into a model for so many steps; None where it can.
        switch: on when entered, off when left; gives what makes it forget a generation.
    """

    name: str
    label: str
    source: str
    parameters: tuple[Parameter, ...]
    dial: str
    rising: bool
    obstacle: Callable[[nn.Module, int], str | None]
    switch: Switch
    batch_wide: bool = False
    adaptive: bool = False
    whole: str = ""
    presets: Callable[[int], Mapping[str, Values]] = lambda _: {}

    def parameter(self, name: str) -> Parameter:
        """The one of that name.

        Raises:
            ParamsError: there is none.
        """
        known = {one.name: one for one in self.parameters}
        if name not in known:
            raise ParamsError.unknown("method.values", name, known)
        return known[name]

    @property
    def calibrated(self) -> tuple[str, ...]:
        """The parameters that are measured on a model before it can be used."""
        return tuple(one.name for one in self.parameters if one.default is None)

    def complete(self, values: Values) -> dict[str, Any]:
        """Checked values, defaults where one is left out; in the order of the parameters.

        Raises:
            ParamsError: one is unknown or out of range.
        """
        given = {name: self.parameter(name).check(value) for name, value in values.items()}
        return {
            one.name: given.get(one.name, one.default)
            for one in self.parameters
            if given.get(one.name, one.default) is not None
        }

    def describe(self, values: Values) -> str:
        """Name and values in words, of lists a mask alone.

        >>> from ecdiff_core.methods import get_method
        >>> get_method("taylorseer").describe({"cache_interval": 4})
        'TaylorSeer cache_interval=4'
        """
        return " ".join(
            [self.label, *(f"{key}={shown(value)}" for key, value in values.items() if shown(value))]
        )


def shown(value: Any) -> str:
    """A parameter's value in words; empty of a list, but of one of 0 and 1.

    >>> shown(0.08000001), shown("none"), shown((1, 0, 1)), shown((0.97, 1.0))
    ('0.08', 'none', '101', '')
    """
    if isinstance(value, int | float):
        return f"{value:g}"
    is_mask = isinstance(value, str) or all(isinstance(one, int) for one in value)
    return "".join(map(str, value)) if is_mask else ""
