"""Processes that do not work on the same thing are refused, on each of them, before a step."""

import json

import pytest

from dd_plugin.distiller.agreement import _MOST_DIFFERENCES, _differences, _refuse, code_version
from tests.distiller.toy import toy_distiller
from tests.processes import run_on_two

# Many cases in one pair of processes, whose start takes longest. Each case is what process 0 and
# process 1 are given.
RUN = """
import json, os, sys
from pathlib import Path
import torch
from accelerate import Accelerator
from datasets import ClassLabel, Dataset
from dd_plugin.data import RealData
from dd_plugin.distiller import Distiller, ProcessesDifferError, SaveError
from dd_plugin.distiller import agreement, real_images, report
from tests.distiller.toy import toy_config, toy_dataset

out, rank = Path(sys.argv[1]), int(os.environ["RANK"])
SIDES = {"dtype": "float32", "networks_per_step": 2}

# A stream is one that does not fit in a buffer.
load = real_images.load_real
real_images.load_real = lambda *given, **options: load(*given, **options, buffer_size=10)


def network(width, start=None):
    def make():
        layers = [torch.nn.Flatten(), torch.nn.Linear(64, width), torch.nn.Linear(width, 3)]
        return torch.nn.Sequential(*layers)
    if start is None:
        return make
    torch.manual_seed(start)
    return make()


def changed(index):
    data = toy_dataset()
    pixels = [image.copy() for image in data["image"]]
    pixels[index].putpixel((0, 0), 255 - pixels[index].getpixel((0, 0)))
    rows = {"image": pixels, "label": list(data["label"])}
    return Dataset.from_dict(rows, features=data.features)


def renamed(data):
    names = ["left", "right", "center" if rank else "middle"]
    return data.cast_column("label", ClassLabel(names=names))


def run(model=None, data=None, test=None, **options):
    config = toy_config(out / "case", **SIDES, **options)
    train = toy_dataset() if data is None else data
    return Distiller(model, config, train, toy_dataset(30, seed=1) if test is None else test)


CASES = {
    "rows": lambda: run(data=toy_dataset(60 - 15 * rank)),
    "other images": lambda: run(data=toy_dataset(seed=rank)),
    "other images from noise": lambda: run(data=toy_dataset(seed=rank), image_init="noise"),
    "one pixel": lambda: run(data=changed(17) if rank else toy_dataset()),
    "other order": lambda: run(data=toy_dataset().select(range(59, -1, -1)) if rank else None),
    "class names": lambda: run(
        data=renamed(toy_dataset()), test=renamed(toy_dataset(30, 1))
    ),
    "size": lambda: run(data=toy_dataset(size=8 + 2 * rank), test=toy_dataset(30, 1, 8 + 2 * rank)),
    "setting": lambda: run(images_per_class=1 + rank),
    "seed": lambda: run(seed=rank),
    "evaluation images": lambda: run(test=toy_dataset(30, seed=1 + rank)),
    "width": lambda: run(network(4 + rank)),
    "start": lambda: run(network(4, start=rank), init="fixed"),
    "streams": lambda: run(data=toy_dataset(seed=rank).to_iterable_dataset()),
    "streams from noise": lambda: run(
        data=toy_dataset(seed=rank).to_iterable_dataset(), image_init="noise"
    ),
}
NOT_REFUSED = {
    "what one process alone reads": lambda: run(
        disable_tqdm=rank == 0, report_to=["none"] if rank else [], overwrite_output_dir=rank == 0
    ),
    "a network from the same start": lambda: run(network(4, start=5), init="fixed"),
    "networks of any weights": lambda: run(network(4)),
    "the same stream": lambda: run(data=toy_dataset().to_iterable_dataset()),
}
answers = {}
for name, case in {**CASES, **NOT_REFUSED}.items():
    try:
        case()
        answers[name] = "taken"
    except ProcessesDifferError as error:
        answers[name] = str(error)

# Code that differs, and sums in another order.
agreement.code_version = lambda: f"0.1.0 (checksum{rank})"
try:
    run()
    answers["code"] = "taken"
except ProcessesDifferError as error:
    answers["code"] = str(error)
agreement.code_version = lambda: "0.1.0"
mean = RealData.class_means
RealData.class_means = lambda *given, **more: mean(*given, **more) + 1e-7 * rank
rounded = run(image_init="mean")
images = Accelerator().gather(rounded.synthetic.images().detach()[None])
answers["rounding"] = str(bool(torch.equal(images[0], images[1])))
RealData.class_means = mean

# Between construction and the first step.
distiller = run(max_steps=1)
distiller.synthetic.log_step_sizes.data += 0.5 * rank
try:
    distiller.train()
    answers["a set of another start"] = "taken"
except ProcessesDifferError as error:
    answers["a set of another start"] = str(error)
distiller = run(max_steps=2, lr_scheduler_type="constant")
distiller.config.max_steps = 2 + rank
try:
    distiller.train()
    answers["steps"] = "taken"
except ProcessesDifferError as error:
    answers["steps"] = str(error)
distiller = run(max_steps=1)
distiller.train()
answers["a run"] = str(distiller.state.global_step)

# A disk that is full where the main process writes.
write_set = report.write_set
def full(*given, **more):
    raise OSError(28, "No space left on device")
report.write_set = full
try:
    distiller.save_model()
    answers["a full disk"] = "written"
except SaveError as error:
    answers["a full disk"] = str(error)
report.write_set = write_set
distiller.config.rescue_dir = str(out / "rescue")
def full_here(folder, *given, **more):
    if folder == out / "case":
        raise OSError(28, "No space left on device")
    write_set(folder, *given, **more)
report.write_set = full_here
answers["a rescue"] = str(distiller.save_model())
report.write_set = write_set
out.mkdir(exist_ok=True, parents=True)
(out / f"answers-{rank}.json").write_text(json.dumps(answers))
distiller.accelerator.wait_for_everyone()
distiller.save_model(out)
distiller.end()
"""

EXPECTED = {
    "rows": ["number of training images: 60 in process 0, 45 in process 1"],
    "other images": ["training images: "],
    "other images from noise": ["training images: "],
    "one pixel": ["training images: "],
    "other order": ["training images: "],
    "class names": ["classes: ['left', 'right', 'middle'] in process 0", "center"],
    "size": ["shape of the images: (1, 8, 8) in process 0, (1, 10, 10) in process 1"],
    "setting": ["`images_per_class`: 1 in process 0, 2 in process 1"],
    "seed": ["`seed`: 0 in process 0, 1 in process 1"],
    "evaluation images": ["evaluation images: "],
    "width": ["tensors of the network: "],
    "start": ["start of the network: "],
    "streams": ["training images: "],
    "streams from noise": ["training images: "],
    "code": ["code of dd_plugin: 0.1.0 (checksum0) in process 0, 0.1.0 (checksum1) in process 1"],
    "a set of another start": ["log_step_sizes (process 1 against process 0)"],
    "steps": ["`max_steps`: 2 in process 0, 3 in process 1"],
}
TAKEN = {
    "what one process alone reads",
    "a network from the same start",
    "networks of any weights",
    "the same stream",
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    done = run_on_two(RUN, folder / "out", folder / "out")
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / "out" / f"answers-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("case", EXPECTED)
def test_processes_that_differ_are_refused(answers, case):
    # The same on both: the message of either is the whole story.
    assert answers[0][case] == answers[1][case]
    assert "the processes must have the same data, settings, network and code" in answers[0][case]
    for part in EXPECTED[case]:
        assert part in answers[0][case]


@pytest.mark.parametrize("case", sorted(TAKEN))
def test_what_may_differ(answers, case):
    assert [own[case] for own in answers] == ["taken", "taken"]


def test_rounding_is_made_the_same(answers):
    assert [own["rounding"] for own in answers] == ["True", "True"]


def test_processes_that_agree_run(answers):
    assert [own["a run"] for own in answers] == ["1", "1"]


def test_every_process_learns_where_the_set_went(answers):
    assert answers[0]["a full disk"] == answers[1]["a full disk"]
    assert "No space left on device" in answers[0]["a full disk"]
    assert answers[0]["a rescue"] == answers[1]["a rescue"]
    assert answers[0]["a rescue"].endswith("rescue/case")


def test_all_ranks_that_differ_are_named():
    lines = _differences([{"a": "1", "b": "x"}, {"a": "2", "b": "x"}, {"a": "2"}, {"a": "1"}])
    assert lines == [
        "a: 1 in processes 0, 3, 2 in processes 1, 2",
        "b: x in processes 0, 1, none in processes 2, 3",
    ]
    with pytest.raises(ValueError, match=r"; and 2 more\. Give every process the same"):
        _refuse([f"{n}: differs" for n in range(_MOST_DIFFERENCES + 2)])


def test_one_process_compares_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("dd_plugin.distiller.agreement.compare_facts", None)
    toy_distiller(tmp_path, max_steps=1).train()
    assert code_version() == code_version()
