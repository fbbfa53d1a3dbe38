"""The work on features: copies are augmented by row, and processes share the rows."""

import pytest
import torch

from dd_plugin.data import RealData
from dd_plugin.networks.features import features_of
from tests.bn.processes import run_on_two
from tests.networks.stand_ins import Backbone, data, only_file


def test_further_copies_are_of_augmented_images_that_the_batch_size_does_not_change():
    real = data()
    first = features_of(Backbone(), real, copies=3, augmentation="flip_crop", seed=4)
    plain = features_of(Backbone(), real)
    torch.testing.assert_close(first.values[0], plain.values[0])
    assert not torch.allclose(first.values[1], first.values[0])
    assert not torch.allclose(first.values[1], first.values[2])
    for size in (1, 7, 64, 100, 1000):
        again = features_of(
            Backbone(), real, copies=3, augmentation="flip_crop", seed=4, batch_size=size
        )
        torch.testing.assert_close(again.values, first.values)
    other = features_of(Backbone(), real, copies=3, augmentation="flip_crop", seed=5)
    assert not torch.allclose(first.values[1], other.values[1])


def test_neighbors_in_a_block_and_blocks_differ_in_their_augmentation():
    # Equal images whose features differ were augmented differently.
    real = RealData.from_dataset(
        [(torch.arange(60.0).view(3, 4, 5) / 60, i % 2) for i in range(130)]
    )
    features = features_of(Backbone(), real, copies=2, augmentation="crop_color", batch_size=50)
    assert len(features.values[0].unique(dim=0)) == 1
    assert len(features.values[1].unique(dim=0)) == 130


def gathered(rank, folder):
    """What one of two processes computes: many rows, few, and a file that is written and read."""
    import torch.distributed as dist

    def gather(tensor):
        parts = [torch.empty_like(tensor) for _ in range(2)]
        dist.all_gather(parts, tensor)
        return torch.cat(parts)

    results = {}
    for name, count, kept in (
        ("many", 150, None), ("few", 33, None), ("written", 150, folder), ("read", 150, folder)
    ):  # fmt: skip
        backbone, calls = Backbone(), []
        features = features_of(
            backbone,
            data(count),
            copies=2,
            augmentation="flip_crop",
            batch_size=16,
            folder=kept,
            on_progress=lambda done, total, calls=calls: calls.append((done, total)),
            share=(rank, 2),
            gather=gather,
        )
        results[name] = features.values.clone(), features.labels, sum(backbone.calls), calls
        dist.barrier()
    return results


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The results of both processes, and the folder that they wrote to."""
    folder = tmp_path_factory.mktemp("shared")
    return run_on_two(gathered, tmp_path_factory.mktemp("two"), folder), folder


@pytest.mark.parametrize(("name", "count"), [("many", 150), ("few", 33)])
def test_two_processes_share_the_images_and_have_the_same_features(shared, name, count):
    alone = features_of(Backbone(), data(count), copies=2, augmentation="flip_crop")
    results = [each[name] for each in shared[0]]
    assert sum(images_ for _, _, images_, _ in results) == 2 * count
    for values, labels, _, calls in results:
        torch.testing.assert_close(values, alone.values)
        assert torch.equal(labels, alone.labels)
        assert calls[-1] == (2 * count, 2 * count)
    assert torch.equal(results[0][0], results[1][0])


def test_two_processes_write_one_file_and_read_it(shared):
    results, folder = shared
    only_file(folder)
    assert [each["read"][2] for each in results] == [0, 0]
    for each in results:
        for name in ("written", "read"):
            assert torch.equal(each[name][0], results[0]["written"][0])


@pytest.mark.parametrize("processes", [1, 2, 3, 7, 40])
def test_any_number_of_processes_covers_all_rows(processes):
    """Each process in turn, with the parts of the others taken from features computed alone."""
    real, backbone = data(33), Backbone()
    alone = features_of(backbone, real, batch_size=4)
    length = -(-33 // processes)
    for process in range(processes):
        rounds = iter(range(0, length, 4))

        def gather(tensor, rounds=rounds, process=process):
            if tensor.dim() == 1:
                return tensor.repeat(processes)
            start = next(rounds)
            parts = []
            for other in range(processes):
                part = torch.zeros_like(tensor)
                first = other * length + start
                rows = alone.values[0, first : min(33, first + 4, (other + 1) * length)]
                part[: len(rows)] = rows
                parts.append(part)
            torch.testing.assert_close(parts[process], tensor)
            parts[process] = tensor
            return torch.cat(parts)

        features = features_of(
            backbone, real, batch_size=4, share=(process, processes), gather=gather
        )
        torch.testing.assert_close(features.values, alone.values)


def test_a_file_that_one_process_cannot_read_is_read_by_none(tmp_path):
    features_of(Backbone(), data(), folder=tmp_path)
    backbone = Backbone()
    answers = iter([torch.tensor([1.0, 0.0])])

    def gather(tensor):
        return next(answers, torch.cat([tensor, tensor]))

    features_of(backbone, data(), folder=tmp_path, share=(0, 2), gather=gather)
    assert backbone.calls
