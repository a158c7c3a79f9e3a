"""What a latency profile was measured under: seconds of two profiles compare where these are equal."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch

from ecdiff_core.io.threads import wait_policy
from ecdiff_core.models.devices import device_name

if TYPE_CHECKING:
    from ecdiff_core.pipeline import ECDiffPipeline


@dataclass(frozen=True)
class Conditions:
    """What a profile was measured under.

    Args:
        pair: the pair's name.
        dtype: of the models.
        device: the hardware in words.
        threads: of torch on the CPU.
        wait_policy: how they wait: ``passive``, ``active``, or ``default`` where nobody has chosen.
    """

    pair: str
    dtype: str
    device: str
    threads: int
    wait_policy: str

    @classmethod
    def of(cls, pipe: ECDiffPipeline) -> Conditions:
        """Those of this process."""
        return cls(
            pipe.pair.spec.name,
            pipe.config.sampling.dtype,
            device_name(pipe.device),
            torch.get_num_threads(),
            wait_policy(),
        )

    def differences(self, other: Conditions) -> list[str]:
        """In words, what differs between these and ``other``.

        >>> ours = Conditions("shapes", "float32", "cpu (x86_64, 2 threads)", 2, "passive")
        >>> ours.differences(Conditions("shapes", "float16", "cpu (x86_64, 2 threads)", 2, "passive"))
        ['dtype float32 in place of float16']
        """
        mine, theirs = asdict(self), asdict(other)
        return [
            f"{name.replace('_', ' ')} {mine[name]} in place of {theirs[name]}"
            for name in mine
            if mine[name] != theirs[name]
        ]
