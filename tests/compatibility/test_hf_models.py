"""The list of tiny transformers models is complete, by the sources of the release at hand."""

import importlib.util
import re
from pathlib import Path

import pytest
from transformers.models.auto import modeling_auto

from tests.compatibility.hf_models import HF_MODELS, LEFT_OUT, WITHOUT_BATCHNORM

_SPEC = importlib.util.find_spec("transformers")
assert _SPEC is not None
assert _SPEC.origin is not None
_SOURCES = Path(_SPEC.origin).parent / "models"
_LISTED = {name.partition("/")[0] for name in HF_MODELS}
_CLASS = re.compile(r"^class (\w+)\(", re.MULTILINE)


def _sources_with_batchnorm():
    """Text of the model files, by folder, that build or name a BatchNorm."""
    found = {}
    for path in sorted(_SOURCES.glob("*/modeling_*.py")):
        text = path.read_text(encoding="utf-8")
        if "BatchNorm" in text:
            found[path.parent.name] = found.get(path.parent.name, "") + text
    return found


_WITH_BATCHNORM = _sources_with_batchnorm()


@pytest.mark.parametrize("folder", sorted(_WITH_BATCHNORM))
def test_model_type_is_listed_or_left_out_for_a_reason(folder):
    listed = _LISTED & set(_CLASS.findall(_WITH_BATCHNORM[folder]))
    assert bool(listed) != (folder in LEFT_OUT)


def _classes(mapping):
    for entry in mapping.values():
        yield from (entry,) if isinstance(entry, str) else entry


def test_every_image_classifier_and_backbone_is_listed():
    # Read from the two registries, since one folder may hold a listed class and a forgotten one.
    registered = {
        *_classes(modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES),
        *_classes(modeling_auto.MODEL_FOR_BACKBONE_MAPPING_NAMES),
    }
    left_out = {n for f in LEFT_OUT for n in _CLASS.findall(_WITH_BATCHNORM.get(f, ""))}
    in_files = {n for text in _WITH_BATCHNORM.values() for n in _CLASS.findall(text)}
    assert (registered & in_files) - left_out - _LISTED - WITHOUT_BATCHNORM == set()


def test_no_class_is_both_listed_and_said_to_have_no_batchnorm():
    assert not _LISTED & WITHOUT_BATCHNORM
