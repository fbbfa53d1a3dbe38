"""Functions of a step as flat graphs of tensor operations, simplified, compiled and recorded.

Below `steps`, which calls them. `compile` makes the graphs, `passes` and `simplify` clean them,
`products` chooses who multiplies, `writes` takes writes out of them, `halves` cuts them in two,
and `recorded` replays them on a GPU; `cache` mends the compiler's cache.
"""
