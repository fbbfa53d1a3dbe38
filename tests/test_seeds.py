"""No two purposes of a run share their random numbers."""

import ast
from collections import defaultdict

import pytest
import torch

from dd_plugin import seeds
from dd_plugin.data import RealData
from tests.distiller.toy import toy_dataset, toy_distiller
from tests.repository import ROOT, repository_file

# Indices with which a purpose is used.
PLACES = [(), *((i,) for i in range(8)), *((i, j) for i in range(8) for j in range(8))]
# The seed of an inner run, or of one network of an evaluation, has a purpose already.
PURPOSES = (*seeds.Purpose, *seeds.InnerPurpose)


def calls_of(name):
    """Every call of a function of `seeds` in the package, with the file that it is in."""
    repository_file("dd_plugin/seeds.py")
    for path in sorted((ROOT / "dd_plugin").rglob("*.py")):
        if path.name == "seeds.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == name:
                yield path.relative_to(ROOT / "dd_plugin").as_posix(), node


def test_the_numbers_are_those_of_every_release():
    # Of 0.1.0, with the purposes as bare numbers. Others would change every published result.
    assert seeds.mix(0, seeds.Purpose.FIRST_NETWORK) == 5_095_610_196_844_313_600
    assert seeds.mix(3, seeds.Purpose.REAL_BATCH, 1, 2) == 1_181_705_329_852_365_387
    assert seeds.mix(3, seeds.InnerPurpose.WINDOW) == 1_073_244_147_075_955_144
    assert seeds.nth_seed(3, 5) == 4_483_965_813_565_957_406
    assert sorted(seeds.Purpose) == list(range(34))
    assert sorted(seeds.InnerPurpose) == [2, 3, 4, 1 << 40, 1 << 41, 1 << 42]


def test_no_two_purposes_share_a_number():
    for purposes in (seeds.Purpose, seeds.InnerPurpose):
        assert len({int(purpose) for purpose in purposes.__members__.values()}) == len(
            purposes.__members__
        )


@pytest.mark.parametrize("seed", [0, 1, 42, 2**62])
def test_no_two_purposes_give_the_same_stream(seed):
    inner = seeds.mix(seed, seeds.Purpose.INNER_RUN, 0)
    made = [seeds.mix(seed, p, *at) for p in seeds.Purpose for at in PLACES]
    made += [seeds.mix(inner, p, *at) for p in seeds.InnerPurpose for at in PLACES if at]
    made += [seeds.mix(inner, p) for p in seeds.InnerPurpose if p >= 1 << 40]
    made += [seeds.nth_seed(inner, step) for step in range(1000)]
    assert len(set(made)) == len(made) > 2000
    assert all(0 <= value < 1 << 63 for value in made)
    first = {
        tuple(torch.rand(4, generator=torch.Generator().manual_seed(v)).tolist()) for v in made
    }
    assert len(first) == len(made)


def test_every_purpose_is_used_in_one_file():
    places = defaultdict(set)
    for path, call in calls_of("mix"):
        purpose = call.args[1]
        assert isinstance(purpose, ast.Attribute), f"{path}: {ast.unparse(call)}"
        assert ast.unparse(purpose.value) in ("Purpose", "InnerPurpose")
        places[ast.unparse(purpose)].add(path)
    assert {name for name, paths in places.items() if len(paths) != 1} == set()
    assert set(places) == {f"{type(purpose).__name__}.{purpose.name}" for purpose in PURPOSES}


def test_the_purposes_of_an_inner_run_never_stand_alone_where_a_step_has_their_number():
    for path, call in calls_of("mix"):
        purpose = ast.unparse(call.args[1])
        if purpose.startswith("InnerPurpose.") and seeds.InnerPurpose[purpose[13:]] < 1 << 40:
            assert len(call.args) > 2, f"{path}: {ast.unparse(call)}"


def test_the_first_images_are_not_those_that_networks_are_tried_with(tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(
        "dd_plugin.distiller.networks.check_outputs",
        lambda model, images, classes: tried.append(images.clone()),
    )
    distiller = toy_distiller(tmp_path, image_init="noise")
    start = distiller.synthetic.images().detach()
    assert tried[0].shape == start[:2].shape
    assert not torch.equal(tried[0], start[:2])
    assert (tried[0] - start[:2]).abs().max() > 0.01


@pytest.mark.parametrize("init", ["random", "pool"])
def test_no_seed_is_made_for_two_purposes(tmp_path, monkeypatch, init):
    """Seeds that a whole run makes, by the place that makes them."""
    import sys

    made = defaultdict(set)

    def noted(make):
        def noting(*values):
            seed = make(*values)
            frame = sys._getframe(1)
            made[seed].add((frame.f_code.co_filename, frame.f_code.co_name, values))
            return seed

        return noting

    for function in ("mix", "nth_seed"):
        make = getattr(seeds, function)
        for name, module in list(sys.modules.items()):
            if name.startswith("dd_plugin.") and getattr(module, function, None) is make:
                monkeypatch.setattr(module, function, noted(make))
    pool = {"window": "last", "window_length": 2, "pool_size": 2} if init == "pool" else {}
    distiller = toy_distiller(
        tmp_path,
        init=init,
        image_init="noise",
        augmentation="flip_rotate",
        augmentations_per_step=3,
        max_steps=2,
        **pool,
    )
    distiller.train()
    distiller.compare()
    assert len(made) > 20
    # The network that is redrawn in place is compared with the one that was made of its seed.
    again = {"__init__", "_check_factory"}
    shared = {
        seed: places
        for seed, places in made.items()
        if len({(file, name) for file, name, _ in places if name not in again}) > 1
    }
    assert shared == {}


def test_a_stream_has_numbers_of_its_own():
    examples = toy_dataset().to_iterable_dataset()
    stream = RealData.from_dataset(examples, buffer_size=10, seed=0)._rows
    # On the ninth pass, from a row on, it had those of a network of an evaluation.
    stream._epoch, stream._row = 9, 2
    assert stream._generator().initial_seed() != seeds.mix(0, seeds.Purpose.EVALUATED_NETWORK, 2)
