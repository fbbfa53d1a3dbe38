"""A fuzz of the engine: random networks, losses and options against the whole graph, in float64.

`python -m tests.bilevel.fuzz --cases 1000 --json FILE` runs it. A case is a function of its number:
`networks` and `losses` have the grammar, `cases` puts a case together, `runner` judges it.
"""
