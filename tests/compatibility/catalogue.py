"""All models of the sweep by the names they have in its table."""

import importlib.util

from tests.compatibility.checks import Build
from tests.compatibility.timm_models import TIMM_MODELS


def models() -> dict[str, Build]:
    """Name in the table to what builds the model."""
    found = dict(TIMM_MODELS)
    if importlib.util.find_spec("tests.compatibility.hf_models") is not None:
        from tests.compatibility.hf_models import HF_MODELS

        found |= {f"transformers {name}": make for name, make in HF_MODELS.items()}
    return found
