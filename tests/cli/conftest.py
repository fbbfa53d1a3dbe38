"""The bundled digits, and a finished run that several files of tests ask about."""

import shutil

import pytest

from tests.distiller.toy import toy_dataset, toy_distiller


@pytest.fixture
def digits():
    pytest.importorskip("sklearn", reason="the digits come with the extra demo")


@pytest.fixture(scope="session")
def real(tmp_path_factory):
    import datasets

    folder = tmp_path_factory.mktemp("real")
    splits = {"train": toy_dataset(), "test": toy_dataset(30, 1)}
    datasets.DatasetDict(splits).save_to_disk(folder)
    return folder


@pytest.fixture(scope="session")
def distilled(tmp_path_factory, real):
    """A run with its accuracies, which no test changes."""
    folder = tmp_path_factory.mktemp("run") / "toy"
    options = {"inner_steps": 4, "max_steps": 2, "dtype": "float32", "dataset": str(real)}
    distiller = toy_distiller(folder, **options)
    distiller.train()
    distiller.compare()
    distiller.save_model()
    return folder


@pytest.fixture
def run(tmp_path, distilled):
    """A copy of the run for one test."""
    return shutil.copytree(distilled, tmp_path / "toy")
