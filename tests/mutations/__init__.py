"""Twenty-odd small faults of the package, each of which tests of its part have to notice.

    python -m tests.mutations                  # all; a quarter of an hour
    python -m tests.mutations --only optimizers windows

Run before and after tests are moved, merged or made faster: what was noticed has to stay noticed.
The pins of `tests.pins` would notice most of them and are not asked, since they go with nothing.
"""
