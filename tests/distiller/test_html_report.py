"""The report of a run: one file, well-formed, without a network, whatever names it shows."""

import shutil
import subprocess
from html.parser import HTMLParser

import pytest
import torch

from dd_plugin.data import Normalization, Recipe
from dd_plugin.data.parametrization import Pixels
from dd_plugin.data.synthetic import SyntheticSet
from dd_plugin.distiller import html_report
from dd_plugin.distiller.html_report import Page, report_page, shown
from tests.distiller.toy import toy_distiller

VOID = {"meta", "img", "br", "circle", "path"}
EVIL = "</figcaption><script>alert('1')</script><img src=\"https://x.test/a.png\">&amp;"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


class Checker(HTMLParser):
    """Reads a page strictly: every tag is closed in its order."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attrs]

    def handle_endtag(self, tag):
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def checked(page):
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    # Nothing is loaded from anywhere, and nothing runs.
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(checker.tags)
    for tag, name, value in checker.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "srcset", "action", "style"):
            assert value.startswith("data:image/"), (tag, name, value)
    assert "url(" not in page
    assert "@import" not in page
    return checker


def a_set(count=4, shape=(1, 8, 8), names=("cat", "dog"), soft=False, model="timm/dd_convnet"):
    recipe = Recipe(shape=shape, class_names=tuple(names), steps=1, model=model, model_args={})
    torch.manual_seed(0)
    return SyntheticSet(
        recipe,
        Pixels(torch.rand(count, *shape)),
        torch.arange(count) % len(names),
        torch.tensor(0.1),
        transform=Normalization([0.5] * shape[0], [0.5] * shape[0]),
        soft_labels=soft,
    )


def page_of(synthetic, **options):
    return report_page(Page(synthetic=synthetic, **{**OPTIONS, **options}))


OPTIONS = {"folder": "runs/mine", "step": 3, "max_steps": 9}


def test_a_report_shows_images_curve_table_settings_and_how_to_load():
    history = [
        {"step": 1, "outer_loss": 2.0},
        {"step": 3, "eval_accuracy_mean": 0.5, "eval_accuracy_std": 0.1, "eval_networks": 2.0},
    ]
    page = page_of(
        a_set(),
        history=history,
        header=("trained on", "accuracy"),
        rows=[("distilled images", "50.0 ± 10.0 %")],
        settings={"seed": 3, "model_args": {"width": 4}},
        versions={"torch": "2.0"},
        animation=b"webp",
    )
    read = checked(page)
    assert read.tags.count("figure") == 4 + 2
    assert read.tags.count("svg") == 2
    for text in ("cat", "50.0 ± 10.0 %", '{"width": 4}', "torch", "3 of 9 outer steps done."):
        assert text in read.text
    assert "DistilledDataset.from_pretrained('runs/mine')" in read.text
    assert "data:image/webp;base64," in page
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport" content="width=device-width' in page


def test_what_a_run_has_not_yet_is_left_out():
    read = checked(page_of(a_set(), running=True))
    assert "Curve" not in read.text
    assert "Accuracy" not in read.text
    assert "Settings" not in read.text
    assert "The run was not finished" in read.text


def test_the_latest_accuracy_stands_in_for_the_table():
    history = [{"step": 2, "eval_accuracy_mean": 0.25, "eval_accuracy_std": 0.1}]
    assert "Accuracy at step 2: 25.0 %." in page_of(a_set(), history=history)
    history[0]["eval_networks"] = 3.0
    assert "Accuracy at step 2: 25.0 ± 10.0 %." in page_of(a_set(), history=history)


def test_texts_of_others_are_escaped():
    page = page_of(
        a_set(names=(EVIL, "a\udcffb\x00")),
        folder=f"runs/{EVIL}",
        header=(EVIL,),
        rows=[(EVIL,)],
        settings={EVIL: EVIL, "nested": {EVIL: [EVIL]}},
        versions={EVIL: EVIL},
    )
    page.encode()
    read = checked(page)
    assert "<script" not in page
    assert "https://x.test" in read.text
    assert read.text.count("alert('1')") > 5


def test_learned_labels_are_told():
    page = page_of(a_set(names=("cat", "<b>", "bird"), soft=True))
    checked(page)
    assert "cat 0.90, " in page
    assert "<b>" not in page


@pytest.mark.parametrize(
    ("count", "side"), [(10, 8), (100, 32), (100, 33), (40, 96), (100, 224), (3000, 8), (3000, 33)]
)
def test_a_report_stays_small(count, side):
    synthetic = a_set(count, (3, side, side), names=tuple(map(str, range(10))))
    page = page_of(synthetic)
    read = checked(page)
    assert len(page) < 700_000
    assert read.tags.count("figure") == min(count, 100)
    assert ("of the 3,000 images" in page) == (count == 3000)
    assert ("They are smaller here than in the set" in page) == (side == 224)


def test_an_animation_that_is_large_stays_outside():
    page = page_of(a_set(), animation=bytes(html_report._MOST_ANIMATION + 1))
    assert "image/webp" not in page
    assert "course.webp" in page


def test_a_sample_has_as_many_images_of_each_class():
    labels = torch.arange(60) % 3
    chosen = [int(labels[place]) for place in shown(labels, 3, most=10)]
    assert chosen == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert shown(labels, 3, most=60) == torch.argsort(labels, stable=True).tolist()
    assert len(shown(torch.arange(500), 500, most=100)) == 100


def test_a_network_without_a_name_is_asked_for():
    assert "distilled.fit(network)" in page_of(a_set(model=None))
    assert "distilled.fit()" in page_of(a_set())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "out"
    distiller = toy_distiller(folder, eval_steps=2)
    distiller.train()
    distiller.compare()
    return distiller.save_model() / "report.html"


def test_the_report_of_a_run(finished):
    read = checked(finished.read_text("utf-8"))
    for text in ("left", "distilled images", "inner_steps", "Images over time", "Outer loss"):
        assert text in read.text
    assert "output_dir" not in read.text
    assert "4 of 4 outer steps done." in read.text


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_it(finished, tmp_path, width):
    picture = tmp_path / "page.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},2000"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={picture}"]
    done = subprocess.run(
        [CHROMIUM, *options, finished.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert picture.exists(), done.stderr[-2000:]
    from PIL import Image

    with Image.open(picture) as shot:
        assert shot.width >= width
        assert len(shot.convert("L").getcolors()) > 10
