"""Seeds: every random number is a function of (seed, purpose, indices).

At the bottom, for every part. A seed is never used for two things: `mix` makes one from a seed, its
purpose and its place in the run. So no number depends on what was drawn before, or in which
process.

The numbers of the purposes are part of the format of checkpoints and of published results: a new
purpose gets a new number, and none is ever changed.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from enum import IntEnum, unique

import torch

_MASK = (1 << 63) - 1


@unique
class Purpose(IntEnum):
    """The uses of the seed of a run, or of one network of an evaluation."""

    FIRST_NETWORK = 0
    SECOND_NETWORK = 1
    RANDOM_NETWORK = 2
    POOL_SLOT = 3
    POOL_MEMBER = 4
    INITIAL_IMAGES = 5
    REAL_BATCH = 6
    INNER_RUN = 7
    MODEL_NOISE = 8
    EVALUATED_NETWORK = 9
    REAL_BASELINE_IMAGES = 10
    REAL_BASELINE_TRAINING = 11
    FULL_BASELINE_TRAINING = 12
    STANDARD_TRAINING = 13
    CHECK_IMAGES = 14
    STREAM = 15
    FEATURE_COPIES = 16
    FEATURE_AUGMENTATION = 17
    PROBE_FOLDS = 18
    RANDOM_ROWS = 19
    HEAD_REAL_BATCH = 20
    HEAD_INNER_RUN = 21
    TURNS = 22
    HEAD_OBJECTIVE = 23
    FULL_BASELINE_PROBE = 24
    HEAD_BASELINE_ROWS = 25
    BACKBONE_WEIGHTS = 26
    TRIAL_RUN = 27
    HEAD_COPIES = 28
    HELD_OUT = 29
    MEASURED_STEPS = 30
    COUNTED_WORK = 31
    DIFFICULTY_NETWORK = 32
    LABELED_IMAGES = 33


@unique
class InnerPurpose(IntEnum):
    """The uses of the seed of an inner run, which has a purpose already.

    Beside these, `nth_seed` gives every inner step its seed. Hence the three large numbers, which
    no step has. The small ones always come with indices.
    """

    ENSEMBLE_NETWORK = 2
    MINIBATCHES = 3
    AUGMENTATION = 4
    WINDOW = 1 << 40
    OUTER_BATCH = 1 << 41
    MADE_BATCH = 1 << 42


def mix(seed: int, purpose: Purpose | InnerPurpose, *indices: int) -> int:
    """Return the seed for a purpose, at the place in the run that the indices name."""
    return _mixed(seed, purpose, *indices)


def nth_seed(seed: int, index: int) -> int:
    """Return the seed of one member of a sequence that has a seed."""
    return _mixed(seed, index)


def _mixed(*values: int) -> int:
    """Return one 63-bit seed from several integers (the finalizer of splitmix64 over each)."""
    state = 0x9E3779B97F4A7C15
    for value in values:
        state = (state + value + 0x9E3779B97F4A7C15) & ((1 << 64) - 1)
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & ((1 << 64) - 1)
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & ((1 << 64) - 1)
        state ^= state >> 31
    return state & _MASK


def seed_global_generators(seed: int) -> None:
    """Seed torch's, Python's and, if it is in use, NumPy's global generators."""
    # Not `torch.manual_seed`, which formats the stack for every device that is not in use.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed & 0xFFFFFFFF)


@contextlib.contextmanager
def untouched_generators() -> Iterator[None]:
    """Put torch's, Python's and NumPy's global generators back on exit."""
    numpy = sys.modules.get("numpy")
    python_state = random.getstate()
    numpy_state = numpy.random.get_state() if numpy is not None else None
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python_state)
            if numpy is not None:
                numpy.random.set_state(numpy_state)


@contextlib.contextmanager
def seeded_generators(seed: int) -> Iterator[None]:
    """Seed the global generators, and put them back on exit."""
    with untouched_generators():
        seed_global_generators(seed)
        yield
