"""A small run, of which a test changes one thing."""

import torch

from dd_plugin.bilevel import hypergradient
from tests.bilevel.problems import convnet, hard_batch, soft_batches

with torch.random.fork_rng():
    torch.manual_seed(0)
    BATCHES, OUTER = soft_batches(2), hard_batch()
IMAGES, LABELS = BATCHES[0]
INDICES = torch.zeros(6, dtype=torch.int64)


def run(batches=BATCHES, outer=OUTER, problem=None, **options):
    problem = convnet() if problem is None else problem
    return hypergradient(problem, batches, outer, **{"step_size": 0.1, **options})
