"""Damage packets at random, and see that each is refused quickly, in little memory, without a crash.

python scripts/fuzz_packets.py                # 10,000 of them
python scripts/fuzz_packets.py --count 300 --seed 7
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ecdiff_core.errors import ECDiffError
from ecdiff_core.io.console import run_command
from ecdiff_core.io.tensor_file import TensorSpec
from ecdiff_core.serving.packet import Encoding, Form, read_packet, write_packet

Mutation = Callable[[bytes, random.Random], bytes]

FORM = Form(
    {
        "latents": TensorSpec(torch.float32, (1, 4, 16, 16)),
        "scheduler.model_outputs.1": TensorSpec(torch.float32, (1, 4, 16, 16)),
        "conditioning.encoder_hidden_states": TensorSpec(torch.float16, (2, 24, 48)),
    },
    {"plan": "7C2A1C3E", "step": "10", "scheduler": "DPMSolverMultistepScheduler", "seed": "3"},
)


_HUGE = (
    *(b"[" * 2**16, b'{"a":' * 10_000, b"1" * 2**16, b'"' + b"a" * 2**16),
    b"{%s}" % b",".join(b'"%d":0' % i for i in range(2**17)),
    b"{%s}" % b",".join(b'"%d":0' % i for i in range(2**12)),
)
"""Headers."""


@dataclass(frozen=True)
class Outcome:
    """Of many mutations.

    Args:
        accepted, crashed: what was done to those that were, by the number of the mutation.
        slowest: seconds of one refusal.
        grown_bytes: of the process's memory at its height.
    """

    count: int
    accepted: dict[int, str]
    crashed: dict[int, str]
    slowest: float
    grown_bytes: int


def packet(encoding: Encoding) -> bytes:
    """A good one."""
    torch.manual_seed(0)
    return write_packet(
        {name: torch.randn(spec.shape).to(spec.dtype) for name, spec in FORM.tensors.items()},
        FORM.facts,
        encoding,
    )


def flip(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


def flip_in_header(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(8 + _length(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def lengthen(data: bytes, rng: random.Random) -> bytes:
    return data + rng.randbytes(rng.choice((1, 8, 4096, 2**20)))


def drop(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + data[place + rng.randrange(1, 64) :]


def claim_length(data: bytes, rng: random.Random) -> bytes:
    return rng.choice((0, 1, 7, 2**16 + 1, 2**31, 2**63, 2**64 - 1)).to_bytes(8, "little") + data[8:]


def huge_header(data: bytes, rng: random.Random) -> bytes:
    text = rng.choice(_HUGE)
    return len(text).to_bytes(8, "little") + text + data[8 + _length(data) :]


def change_entry(data: bytes, rng: random.Random) -> bytes:
    """Another value somewhere in an entry, or another name."""
    header = json.loads(data[8 : 8 + _length(data)])
    name = rng.choice([*header])
    kind = rng.randrange(5)
    if name == "__metadata__":
        header[name][rng.choice([*header[name]])] = junk(rng)
    elif kind == 0:
        header[str(junk(rng))] = header.pop(name)
    elif kind == 1:
        header[name] = junk(rng)
    elif kind == 2:
        header[name][str(junk(rng))] = junk(rng)
    else:
        key = rng.choice([*header[name]])
        if isinstance(header[name][key], list) and rng.random() < 0.7:
            header[name][key][rng.randrange(len(header[name][key]))] = junk(rng)
        else:
            header[name][key] = junk(rng)
    return _with_header(header, data)


def repeat_entry(data: bytes, rng: random.Random) -> bytes:
    text = data[8 : 8 + _length(data)].rstrip()
    name = rng.choice([*json.loads(text)])
    text = text[:-1] + b"," + json.dumps(name).encode() + b":" + json.dumps(junk(rng)).encode() + b"}"
    return len(text).to_bytes(8, "little") + text + data[8 + _length(data) :]


def not_finite(data: bytes, rng: random.Random) -> bytes:
    """Infinite or no number, where float32 values lie."""
    begin = 8 + _length(data)
    place = begin + 4 * rng.randrange(64)
    return data[:place] + rng.choice((b"\0\0\x80\x7f", b"\0\0\xc0\xff")) + data[place + 4 :]


def noise(data: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice((0, 1, 8, 100, 10_000)))


MUTATIONS: tuple[Mutation, ...] = (
    *(flip, flip_in_header, cut, lengthen, drop, claim_length, huge_header, change_entry, repeat_entry),
    *(not_finite, noise),
)


def _length(data: bytes) -> int:
    return int.from_bytes(data[:8], "little")


def _with_header(header: object, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + _length(data) :]


def _means_the_same(data: bytes, good: bytes) -> bool:
    """Whether a packet differs in how its header is spaced alone."""
    headers = [json.loads(one[8 : 8 + _length(one)]) for one in (data, good)]
    return headers[0] == headers[1] and data[8 + _length(data) :] == good[8 + _length(good) :]


def junk(rng: random.Random) -> object:
    """A value that nobody sends."""
    return rng.choice(
        (
            *(-1, 0, 1, 2**31, 2**63, 10**18, 1.5, 1e308, True, None, "", "F64", "I64", "BOOL", "a" * 999),
            *(
                [],
                {},
                [[]],
                [2**40, 2**40],
                [0] * 999,
                {"a": {"b": []}},
                "../../x",
                "\0",
                "é" * 99,
                "latents",
            ),
        )
    )


def fuzz(count: int, seed: int) -> Outcome:
    """Read that many damaged packets."""
    rng = random.Random(seed)
    good: dict[Encoding, bytes] = {name: packet(name) for name in ("computed", "float16", "int8")}
    for encoding, data in good.items():
        read_packet(data, FORM, encoding)
    gc.collect()
    gc.freeze()  # else a collection among the libraries' million objects counts as a slow refusal
    accepted, crashed, slowest, before = {}, {}, 0.0, memory_height()
    for number in range(count):
        encoding: Encoding = rng.choice([*good])
        mutation = rng.choice(MUTATIONS)
        data = mutation(good[encoding], rng)
        began = time.thread_time()
        try:
            read_packet(data, FORM, encoding)
            if not _means_the_same(data, good[encoding]):
                accepted[number] = mutation.__name__
        except ECDiffError as error:
            if "\n" in str(error) or len(str(error)) > 500:
                crashed[number] = f"{mutation.__name__}: {str(error)[:60]!r}"
        except Exception as error:
            crashed[number] = f"{mutation.__name__}: {error!r}"
        slowest = max(slowest, time.thread_time() - began)
    return Outcome(count, accepted, crashed, slowest, memory_height() - before)


def memory_height() -> int:
    """Of the process's memory, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def parse_args(description: str, what: str, arguments: list[str] | None) -> argparse.Namespace:
    """How many to damage, and by which seed."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000, metavar="N", help=f"{what} (default 10000)")
    parser.add_argument("--seed", type=int, default=0, help="of the damage (default 0)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(__doc__, "packets", arguments)

    def run() -> None:
        found = fuzz(args.count, args.seed)
        for what, which in (("accepted", found.accepted), ("crashed", found.crashed)):
            for number, why in which.items():
                print(f"{what}: number {number}, {why}")
        print(
            f"{found.count} damaged packets: {len(found.accepted)} accepted, {len(found.crashed)} crashed; "
            f"slowest refusal {found.slowest * 1000:.1f} ms, memory {found.grown_bytes / 2**20:.1f} MiB more"
        )
        if found.accepted or found.crashed:
            raise ECDiffError("Not every damaged packet was refused in one line.", key="packets")

    return run_command(run)


if __name__ == "__main__":
    sys.exit(main())
