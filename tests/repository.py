"""Files of the repository that tests read or run, where these are beside the tests.

The suite also runs on an installed wheel, from a folder that has the tests and perhaps no more.
"""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def repository_file(name):
    """The path of a file or folder; where it is absent, the module that asks for it is skipped."""
    path = ROOT / name
    if not path.exists():
        pytest.skip(f"the repository's {name} is not beside the tests", allow_module_level=True)
    return path
