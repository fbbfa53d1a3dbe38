"""A set beside what it has to be compared with: as the trainer measured it, to the last image."""

from dd_plugin import DistilledDataset
from dd_plugin.data import RealData
from dd_plugin.hub.comparison import Request, compare
from tests.distiller.toy import toy_dataset, toy_distiller


def test_an_upsampled_set_is_compared_with_as_much_storage_as_the_trainer_did(tmp_path):
    options = {"parametrization": "upsampled", "max_steps": 1, "baselines": True}
    distiller = toy_distiller(tmp_path, dtype="float32", **options)
    distiller.train()
    distiller.compare()
    distiller.save_model()
    distilled = DistilledDataset.from_pretrained(tmp_path)
    # Twelve images at a quarter of the pixels: one real image of each class.
    assert (len(distilled), distilled.images_per_class) == (12, 1)
    lines = (tmp_path / "results.md").read_text().splitlines()
    cells = [line.split("|")[2].strip() for line in (lines[0], *lines[2:])]
    assert cells[1:] == ["12, stored as 3", "3", "all"]
    assert lines[3].startswith("| random real images of that storage |")
    test, train = (RealData.from_dataset(data) for data in (toy_dataset(30, seed=1), toy_dataset()))
    request = Request(models=["timm/dd_convnet"], test=test, train=train, networks=2)
    rows = compare(distilled, request)
    found = {(row.trained_on, row.pixels): row.accuracies for row in rows}
    noted = {name: scores.accuracies for name, scores in distiller.results.items()}
    assert found["distilled images", "exact"] == noted["distilled"]
    assert found["random real images", None] == noted["random real"]
    assert found["all real images", None] == noted["full data"]
