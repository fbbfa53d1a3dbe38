"""Step sizes: what is accepted."""

import numpy as np
import pytest
import torch

from tests.bilevel.problems import convnet, relative_error
from tests.bilevel.runs import run


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_step_sizes_may_be_any_sequence(kind):
    problem = convnet()
    expected = run(problem=problem, step_size=torch.tensor([0.1, 0.2], dtype=torch.float64))
    found = run(problem=problem, step_size=kind([0.1, 0.2]))
    # torch.tensor rounds to float32.
    tolerance = 1e-6 if kind is torch.tensor else 1e-14
    assert relative_error(found.step_size, expected.step_size) < tolerance
