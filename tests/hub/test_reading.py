"""Reading a folder: everything comes back, and whatever is wrong with it ends in a clear error."""

import copy
import json
import os
import pickle
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dd_plugin.hub.card.text import make_card
from dd_plugin.hub.comparison import merge_rows
from dd_plugin.hub.limits import DistilledFormatError, Limits
from dd_plugin.hub.reading import read_record, read_set
from dd_plugin.hub.record import Evaluation
from tests.hub.records import a_record
from tests.hub.toy import change_record, change_tensors, seal, synthetic_set, write_toy

FILES = ("recipe.json", "tensors.safetensors", "data/train-00000-of-00001.parquet")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_everything_comes_back(tmp_path, dtype):
    constants = {"bn.momentum_shift": torch.tensor(0.5, dtype=dtype)}
    options = {"soft_labels": True, "constants": constants, "dtype": dtype, "init": "random"}
    own = synthetic_set(**options)
    read = read_set(write_toy(tmp_path, **options))
    found = read.synthetic
    assert torch.equal(found.images(), own.images())
    assert torch.equal(found.labels, own.labels)
    torch.testing.assert_close(found.targets(), own.targets().detach())
    torch.testing.assert_close(found.step_sizes(), own.step_sizes().detach())
    assert found.constants().keys() == constants.keys()
    assert torch.equal(found.constants()["bn.momentum_shift"], constants["bn.momentum_shift"])
    assert found.recipe == own.recipe
    assert not any(p.requires_grad for p in found.parameters())
    assert read.record.distilled.mean == 0.75


def test_small_images_are_not_enlarged_beyond_the_limits(tmp_path):
    write_toy(tmp_path, factor=8)
    change_record(tmp_path, _set("recipe", "shape", [1, 65, 65]))
    with pytest.raises(DistilledFormatError, match=r"times smaller, up to 64, got \(4, 1, 1, 1\)"):
        read_set(tmp_path)
    change_record(tmp_path, _set("recipe", "shape", [1, 64, 64]))
    assert read_set(tmp_path).synthetic.images().shape == (4, 1, 64, 64)
    with pytest.raises(DistilledFormatError, match="would have 65,536 bytes in full size"):
        read_set(tmp_path, limits=Limits(max_expanded_bytes=60_000))


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(tmp_path, name):
    write_toy(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DistilledFormatError, match=name.replace(".", r"\.")):
        read_set(tmp_path)


def test_no_folder_at_all(tmp_path):
    with pytest.raises(DistilledFormatError, match="there is no such folder"):
        read_set(tmp_path / "none")


def _set(*path_and_value):
    *path, value = path_and_value

    def change(record):
        for key in path[:-1]:
            record = record[key]
        record[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("schema_version", 2), "Install a newer one: pip install -U dd-plugin"),
        (_set("schema_version", True), "`schema_version` must be a whole number, got True"),
        (_set("schema_version", "1"), "`schema_version` must be a whole number, got '1'"),
        (lambda record: [record], "has no schema_version"),
        (_set("recipe", None), "must have an object 'recipe'"),
        (_set("evaluations", {}), "'evaluations' must be a list"),
        (_set("results", []), "'results' must be an object"),
        (_set("evaluations", [1]), "'evaluations' must be a list of objects"),
        (_set("results", "distilled", 0.5), "'results.distilled' must be an object or null"),
        (_set("about", "config", "x"), "'about.config' must be an object or null"),
        (_set("protocol", "dataset", 5), "'protocol.dataset' must be a text or null"),
        (_set("source", "licenses", [None]), "'source.licenses' must be a list of texts"),
        (_set("images", {}), "`count` of the images must be a whole number up to .*, got None"),
        (_set("images", "count", 5), "`count` of the images must be 4, got 5"),
        (
            _set("images", "per_class", "2"),
            "`per_class` of the images must be a number from 0 to their number, got '2'",
        ),
        (_set("images", "num_bytes", "many"), "`num_bytes` of the images must be a whole number"),
        (_set("recipe", "steps", 10**12), "`steps` of the recipe must be a whole number up to"),
        (_set("recipe", "steps", 2), "must be positive and of shape"),
        (_set("recipe", "steps", "3"), "`steps` of the recipe must be a whole number"),
        (_set("recipe", "shape", [1, 8]), "`shape` of the recipe must be three whole numbers"),
        (_set("recipe", "shape", [1, 10**9, 8]), "`shape` of the recipe must be three"),
        (_set("recipe", "shape", [1, 9000, 9000]), r"images must be \(N, 1, 9000, 9000\), got"),
        (_set("recipe", "class_names", "ab"), "`class_names` of the recipe must be a list"),
        (_set("recipe", "class_names", ["a"]), "labels must be from 0 to 0, got 0 to 1"),
        (_set("recipe", "optimizer", "lbfgs"), "`optimizer` must be one of sgd, adam, adamw"),
        (_set("recipe", "optimizer_args", {"speed": 1}), "`optimizer_args` of the recipe are not"),
        (_set("recipe", "optimizer_args", {"momentum": None}), "`optimizer_args` of the recipe"),
        (_set("recipe", "optimizer_args", {"momentum": "x"}), "`optimizer_args` of the recipe"),
        (_set("recipe", "optimizer_args", {"momentum": 10**400}), "`optimizer_args` of the reci"),
        (_set("recipe", "optimizer_args", {"weight_decay": [1]}), "`optimizer_args` of the reci"),
        (_set("recipe", "augmentation", "melt"), "melt"),
        (_set("recipe", "augmentation", "flip+noise_crop"), "either by '_'"),
        (_set("recipe", "augmentations_per_step", 10**6), "`augmentations_per_step` of the recipe"),
        (_set("recipe", "augmentations_per_step", 0), "`augmentations_per_step` of the recipe"),
        (_set("recipe", "model_args", {"trust_remote_code": True}), "could load other files or"),
        (_set("recipe", "model_args", {"checkpoint_path": "/x"}), "could load other files or code"),
        (_set("recipe", "model_args", {"width": {"a": 1}}), "must be an object of plain values"),
        (_set("recipe", "unheard_of", 1), "unheard_of"),
        (_set("transform", "kind", "pickle"), "`kind` of a transform must be"),
        (_set("transform", "std", [0]), "`std` positive"),
        (_set("transform", "mean", [1, 2]), "one value per channel"),
        (_set("files", {}), "has no checksum of data/train"),
        (_set("files", "tensors.safetensors", "sha256", "0"), "its checksum differs"),
        (_set("files", "tensors.safetensors", "size", 1), "bytes instead of 1"),
    ],
)
def test_a_wrong_record_says_what_is_wrong(tmp_path, change, message):
    change_record(write_toy(tmp_path), change)
    with pytest.raises(DistilledFormatError, match=message):
        read_set(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 200_000, '{"schema_version": NaN}', "\x00", '{"a": ' + "9" * 5000 + "}"],
    ids=["empty", "cut", "deep", "nan", "zero", "digits"],
)
def test_what_is_no_json(tmp_path, text):
    write_toy(tmp_path)
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(DistilledFormatError, match=r"recipe\.json"):
        read_set(tmp_path)


IMAGES = torch.rand(4, 1, 8, 8)


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ({"images": None}, "has no images"),
        ({"images": IMAGES.masked_fill(IMAGES < 0.1, torch.nan)}, "'images' has values that are"),
        ({"images": IMAGES + 1}, "numbers from 0 to 1"),
        ({"images": IMAGES.to(torch.uint8)}, "'images' must not be torch.uint8"),
        ({"images": IMAGES[:, :, :4]}, r"images must be \(N, 1, 8, 8\), got \(4, 1, 4, 8\)"),
        ({"images": IMAGES[:0]}, r"images must be \(N, 1, 8, 8\), got \(0, 1, 8, 8\)"),
        (
            {"images": None, "small_images": IMAGES[:, :, :3]},
            r"small_images must be \(N, 1, 8, 8\)",
        ),
        ({"images": None, "small_images": IMAGES[:, :, :4]}, "a whole number of times smaller"),
        ({"images": None, "small_images": IMAGES[:0]}, "small_images must be"),
        ({"images": None, "small_images": IMAGES + 1}, "small_images must be floating-point"),
        ({"images": IMAGES[:3]}, r"labels must be int64 of shape \(3,\)"),
        ({"labels": torch.tensor([0, 1, 2, 3])}, "labels must be from 0 to 1, got 0 to 3"),
        ({"labels": torch.tensor([0, 1, -1, 0])}, "labels must be from 0 to 1, got -1 to 1"),
        ({"labels": torch.zeros(4)}, "labels must be int64"),
        ({"step_sizes": torch.tensor([0.1, -0.1, 0.1])}, "must be positive"),
        ({"step_sizes": torch.ones(5)}, "must be positive and of shape"),
        ({"soft_labels": torch.ones(4, 2)}, "soft_labels must be probabilities"),
        ({"soft_labels": torch.full((4, 3), 1 / 3)}, "soft_labels must be probabilities"),
        ({"../../evil": torch.ones(1)}, "of no known use"),
    ],
)
def test_wrong_tensors_are_named(tmp_path, new, message):
    change_tensors(write_toy(tmp_path), **new)
    with pytest.raises(DistilledFormatError, match=message):
        read_set(tmp_path)


def test_nothing_is_executed(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    write_toy(tmp_path / "set")
    (tmp_path / "set" / "tensors.safetensors").write_bytes(pickle.dumps(Bomb()))
    seal(tmp_path / "set")
    with pytest.raises(DistilledFormatError, match="cannot be read"):
        read_set(tmp_path / "set")
    assert not (tmp_path / "executed").exists()


def test_sizes_are_looked_at_first(tmp_path):
    write_toy(tmp_path)
    with (tmp_path / "tensors.safetensors").open("r+b") as file:
        file.truncate(1 << 40)  # takes no room: a hole
    with pytest.raises(DistilledFormatError, match="over the limit"):
        read_set(tmp_path)
    shutil.copy(tmp_path / "preview.png", tmp_path / "tensors.safetensors")
    with (tmp_path / "recipe.json").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(DistilledFormatError, match="over the limit"):
        read_set(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in the file system")
@pytest.mark.parametrize("name", FILES)
def test_a_pipe_is_not_waited_for(tmp_path, name):
    write_toy(tmp_path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(DistilledFormatError, match="is not a file"):
        read_set(tmp_path)


def test_a_header_that_declares_too_much(tmp_path):
    write_toy(tmp_path)
    entry = {"images": {"dtype": "F32", "shape": [1 << 40, 1 << 20], "data_offsets": [0, 1 << 62]}}
    header = json.dumps(entry).encode()
    content = len(header).to_bytes(8, "little") + header
    for start in (content, (1 << 62).to_bytes(8, "little") + header):
        (tmp_path / "tensors.safetensors").write_bytes(start)
        seal(tmp_path)
        with pytest.raises(DistilledFormatError, match="cannot be read"):
            read_set(tmp_path)


# --- at random ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pristine")
    return write_toy(folder, soft_labels=True)


many = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@many
@given(data=st.data())
def test_files_changed_at_random_are_refused(pristine, tmp_path, data):
    name = data.draw(st.sampled_from(FILES[1:]))
    content = bytearray((pristine / name).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    how = data.draw(st.sampled_from(["flip", "cut", "grow"]))
    if how == "flip":
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    elif how == "cut":
        content = content[:place]
    else:
        content[place:place] = data.draw(st.binary(min_size=1, max_size=20))
    shutil.copytree(pristine, tmp_path / "set", dirs_exist_ok=True)
    (tmp_path / "set" / name).write_bytes(content)
    with pytest.raises(DistilledFormatError):
        read_set(tmp_path / "set")
    if name.startswith("tensors"):
        # And without the help of checksums: refused, or read as what it then says.
        seal(tmp_path / "set")
        _read_or_refuse(tmp_path / "set")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=10)
    | st.sampled_from(["sgd", "random", "learned", "../..", "timm/resnet18", 0, 1, 2]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)


def _places(tree, path=()):
    yield path
    inner = {}
    if isinstance(tree, dict | list):
        inner = tree if isinstance(tree, dict) else dict(enumerate(tree))
    for key, value in inner.items():
        yield from _places(value, (*path, key))


@pytest.mark.parametrize(
    "value",
    [None, True, -1, 10**400, 1e308, "x", "", [], [[1]], [None], {}, {"a": 1}, ...],
    ids=lambda value: "left out" if value is ... else repr(value)[:9],
)
def test_what_is_read_has_a_card(pristine, tmp_path, value):
    folder = shutil.copytree(pristine, tmp_path / "set")
    told = a_record()

    def full(record):
        for part in ("source", "results", "protocol", "evaluations", "about"):
            record[part] = told[part]
        record["results"]["distilled"]["accuracies"] *= 2
        record["results"]["distilled"]["seeds"] = [1, 2]
        record["about"]["network"] = {"class": "Net", "parameters": 5}

    change_record(folder, full)
    honest = json.loads((folder / "recipe.json").read_text())
    make_card(read_record(folder))
    read = 0
    for place in [place for place in _places(honest) if place]:
        if place[0] == "files":
            continue
        changed = copy.deepcopy(honest)
        inner = changed
        for key in place[:-1]:
            inner = inner[key]
        if value is ...:
            del inner[place[-1]]
        else:
            inner[place[-1]] = value
        (folder / "recipe.json").write_text(json.dumps(changed))
        try:
            record = read_set(folder).record
        except DistilledFormatError:
            continue
        read += 1
        make_card(record)
        merge_rows(record.evaluations, list(map(Evaluation.from_json, told["evaluations"])))
    assert read > 10


@many
@given(data=st.data())
def test_records_changed_at_random_are_refused_or_mean_something(pristine, tmp_path, data):
    shutil.copytree(pristine, tmp_path / "set", dirs_exist_ok=True)

    def change(record):
        place = data.draw(st.sampled_from(sorted(_places(record), key=repr)))
        value = data.draw(json_values)
        if not place:
            return value
        *path, last = place
        inner = record
        for key in path:
            inner = inner[key]
        if data.draw(st.booleans()):
            inner[last] = value
        else:
            del inner[last]
        return record

    path = tmp_path / "set" / "recipe.json"
    record = json.loads((pristine / "recipe.json").read_text())
    path.write_text(json.dumps(change(record)))
    _read_or_refuse(tmp_path / "set")


def _read_or_refuse(folder):
    try:
        read = read_set(folder)
    except DistilledFormatError:
        return
    images, labels = read.synthetic.batch(0, seed=0)
    assert bool(images.isfinite().all())
    assert len(images) == len(labels) >= 1
    make_card(read.record)


@pytest.mark.parametrize("betas", ["x", [1], [], [None, 0.9], 3])
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_odd_betas(tmp_path, optimizer, betas):
    change = {"optimizer": optimizer, "optimizer_args": {"betas": betas}}
    change_record(write_toy(tmp_path), lambda record: record["recipe"].update(change))
    with pytest.raises(DistilledFormatError, match="`optimizer_args` of the recipe are not"):
        read_set(tmp_path)
