"""Figures of how the package is built, before and after it is rebuilt.

The table, the same stored, before beside after (`before.json` is the package before it was rebuilt
around the pins of `tests.pins`), and where the things are that a figure counts:

    python -m tests.house
    python -m tests.house --json after.json
    python -m tests.house --against tests/house/before.json
    python -m tests.house --list "functions over 60 lines"

How each is counted is in `figures.py` and `graph.py`.
"""
