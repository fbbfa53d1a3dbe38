"""`dd_plugin.hub.written`: a set written elsewhere leaves its own folder as it is."""

from dd_plugin import DistilledDataset
from tests.hub.sets import set_folder


def test_a_set_is_written_in_every_form_and_stays(tmp_path):
    source = set_folder(tmp_path / "set")
    before = {path.name: path.read_bytes() for path in source.iterdir() if path.is_file()}
    distilled = DistilledDataset.from_pretrained(source)
    copy = DistilledDataset.from_pretrained(distilled.save_pretrained(tmp_path / "copy"))
    assert copy.images.equal(distilled.images)
    distilled.export_image_folder(tmp_path / "images")
    assert len(list((tmp_path / "images").rglob("*.png"))) == 6
    distilled.export_dd_ranking(tmp_path / "ranking")
    assert (tmp_path / "ranking" / "images.pt").is_file()
    assert before == {path.name: path.read_bytes() for path in source.iterdir() if path.is_file()}
