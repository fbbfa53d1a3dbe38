"""Functions recorded as CUDA graphs, with a stand-in for torch.cuda on CPU tensors."""

import copy
import pickle
import threading

import pytest
import torch
from torch import nn

from dd_plugin.bilevel import RecordingWarning
from dd_plugin.bilevel.tracing.recorded import MemoryPool, Recorded
from tests.bilevel import fake_cuda


@pytest.fixture(autouse=True)
def cuda(monkeypatch):
    return fake_cuda.install(monkeypatch)


def product(tensors):
    """Views, writes into what it has made, and several results, one of which is an argument."""
    x, y = tensors
    z = x * y
    z[0].add_(1.0)
    return [z.t(), z.sum(), x]


def expected_of(tensors):
    return product([t.clone() for t in tensors])


def arguments(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(3, 2, generator=generator, dtype=torch.float64) for _ in range(2)]


def assert_same(found, expected):
    assert len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_first_call_is_direct_the_second_is_recorded_and_all_others_are_replayed(cuda):
    calls = []

    def function(tensors):
        calls.append(len(calls))
        return product(tensors)

    run = Recorded(function, MemoryPool())
    seen = []
    for seed in range(5):
        assert_same(run(arguments(seed)), expected_of(arguments(seed)))
        seen.append((len(calls), cuda.counts["captures"], cuda.counts["replays"]))
    # The second call runs the function for the library's sake, and to capture it.
    assert seen == [(1, 0, 0), (3, 1, 1), (3, 1, 2), (3, 1, 3), (3, 1, 4)]


def test_results_belong_to_the_caller():
    run = Recorded(product, MemoryPool())
    results = [run(arguments(seed)) for seed in range(4)]
    for seed, found in enumerate(results):
        assert_same(found, expected_of(arguments(seed)))
    # Nor does writing into them reach the next call.
    for t in results[-1]:
        t.zero_()
    assert_same(run(arguments(3)), expected_of(arguments(3)))


def test_arguments_are_only_read():
    run, given = Recorded(product, MemoryPool()), arguments()
    for _ in range(3):
        run(given)
    assert_same(given, arguments())


def test_recordings_of_one_pool_overwrite_each_other_and_nobody_notices(cuda):
    pool = MemoryPool()
    runs = [Recorded(product, pool) for _ in range(3)]
    for seed in range(4):
        for run in runs:
            assert_same(run(arguments(seed)), expected_of(arguments(seed)))
    assert [len(graphs) for graphs in cuda.pools.values()] == [3]


def writes(t):
    """Ways to change a tensor's values that count as writes."""
    yield lambda: t.add_(1.0)
    yield lambda: t.copy_(torch.ones_like(t))
    yield lambda: t[1].mul_(2.0)
    yield lambda: t.detach().sub_(0.5)
    yield lambda: t.view(-1).index_fill_(0, torch.tensor([0]), 3.0)
    yield lambda: torch.mul(t, 2.0, out=t)
    yield lambda: torch._foreach_add_([t], 1.0)
    yield lambda: nn.init.uniform_(t)


def test_an_argument_is_copied_only_if_it_is_another_or_was_written_into(copied):
    run, (x, y) = Recorded(product, MemoryPool()), arguments()
    for _ in range(3):
        run([x, y])
    copied.clear()
    run([x, y])
    assert copied == [0, 3]  # in, out
    for write in writes(x):
        write()
        copied.clear()
        assert_same(run([x, y]), expected_of([x, y]))
        assert copied == [1, 3]
    copied.clear()
    assert_same(run([x, x]), expected_of([x, x]))
    assert_same(run([x, y.clone()]), expected_of([x, y]))
    assert copied == [1, 3, 1, 3]


def test_a_write_in_inference_mode_is_seen():
    run, (x, y) = Recorded(product, MemoryPool()), arguments()
    for _ in range(3):
        run([x, y])
        with torch.inference_mode():
            x.add_(1.0)
        assert_same(run([x, y]), expected_of([x, y]))


def test_calls_in_and_out_of_inference_mode():
    run = Recorded(product, MemoryPool())
    for seed in range(6):
        with torch.inference_mode(seed in (0, 1, 4)):
            given = arguments(seed)
            found, again = run(given), run(given)
            if torch.is_inference_mode_enabled():
                given[0].mul_(2.0)  # such tensors do not count their writes
                doubled = run(given)
                assert_same(doubled, expected_of(given))
                given[0].div_(2.0)
            assert_same(found, expected_of(given))
            assert_same(again, expected_of(given))


def test_in_another_run_everything_is_copied_again(copied):
    pool = MemoryPool()
    run, (x, y) = Recorded(product, pool), arguments()
    for _ in range(3):
        run([x, y])
    x.data.mul_(3.0)  # which does not count as a write
    pool.next_run()
    copied.clear()
    assert_same(run([x, y]), expected_of([x, y]))
    run([x, y])
    assert copied == [2, 3, 0, 3]


def test_a_tensor_in_the_place_of_one_that_is_gone_is_copied():
    run, y = Recorded(product, MemoryPool()), arguments()[1]
    for value in range(20):
        x = torch.full((3, 2), float(value), dtype=torch.float64)
        assert_same(run([x, y]), expected_of([x, y]))
        del x


def test_arguments_with_a_graph_leave_none_behind():
    run, (x, y) = Recorded(product, MemoryPool()), arguments()
    x.requires_grad_()
    for _ in range(3):
        with torch.no_grad():
            expected = expected_of([x, y])
        found = run([x, y]) if run._graph else [t.detach() for t in run([x, y])]
        assert_same(found, expected)
    assert not any(t.requires_grad for t in found)


def reading(tensors):
    return [tensors[0] * float(tensors[1].sum())]


def test_what_cannot_be_recorded_is_run_directly_and_said_once(cuda):
    run = Recorded(reading, MemoryPool())
    run(arguments())
    with pytest.warns(RecordingWarning, match="cannot be recorded as a CUDA graph") as caught:
        found = run(arguments(1))
    assert len(caught) == 1
    assert "the same results, slower" in str(caught[0].message)
    assert_same(found, reading(arguments(1)))
    for seed in range(3):  # warnings are errors here
        assert_same(run(arguments(seed)), reading(arguments(seed)))
    assert cuda.counts["captures"] == 1
    assert cuda.counts["replays"] == 0


@pytest.mark.parametrize("when", ["before", "during"])
def test_out_of_memory_comes_out(cuda, when):
    full = True

    def function(tensors):
        if full and cuda.counts["captures"] == (when == "during") and calls:
            raise torch.OutOfMemoryError("CUDA out of memory")
        calls.append(0)
        return product(tensors)

    calls = []
    run = Recorded(function, MemoryPool())
    run(arguments())
    with pytest.raises(RuntimeError) as caught:
        run(arguments())
    chain = [caught.value, caught.value.__context__]
    assert any(isinstance(error, torch.OutOfMemoryError) for error in chain)
    # With room again it is recorded after all.
    full = False
    for seed in range(3):
        assert_same(run(arguments(seed)), expected_of(arguments(seed)))
    assert cuda.counts["replays"] == 3


def test_a_first_call_that_fails_does_not_count(cuda):
    broken = True

    def function(tensors):
        if broken:
            raise ValueError("broken")
        return product(tensors)

    run = Recorded(function, MemoryPool())
    with pytest.raises(ValueError, match="broken"):
        run(arguments())
    broken = False
    run(arguments())
    assert cuda.counts["captures"] == 0
    run(arguments())
    assert cuda.counts["captures"] == 1


def test_tensors_that_are_not_all_on_the_gpu_are_not_recorded(cuda):
    def shapes(tensors):
        return [torch.ones(tensors[0].shape)]

    run = Recorded(shapes, MemoryPool())
    for _ in range(3):
        assert_same(run([torch.empty(2, device="meta"), torch.ones(1)]), [torch.ones(2)])
    without = Recorded(lambda tensors: [torch.ones(2)], MemoryPool())
    for _ in range(3):
        assert_same(without([]), [torch.ones(2)])
    assert cuda.counts["captures"] == 0


def test_a_replay_waits_for_the_one_before_on_another_stream(cuda):
    pool, streams = MemoryPool(), [fake_cuda.Stream(), fake_cuda.Stream()]
    runs = [Recorded(product, pool) for _ in streams]
    for _ in range(2):
        for run, stream in zip(runs, streams, strict=True):
            with cuda.use(stream):
                run(arguments())
    cuda.waits.clear()
    for stream in (streams[0], streams[0], streams[1], streams[0]):
        with cuda.use(stream):
            assert_same(runs[0](arguments()), expected_of(arguments()))
    first, second = streams
    assert cuda.waits == [(first, second), (second, first), (first, second)]


@pytest.mark.parametrize("recorded_before", [True, False])
def test_threads_share_a_recording(cuda, recorded_before):
    run, wrong = Recorded(product, MemoryPool()), []
    for _ in range(2 if recorded_before else 1):
        run(arguments())
    together = threading.Barrier(4)

    def work(index):
        together.wait()
        for repeat in range(30):
            given = arguments(100 * index + repeat)
            try:
                assert_same(run(given), expected_of(given))
            except BaseException as error:
                wrong.append(error)
                raise

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert cuda.counts["captures"] == 1


@pytest.mark.parametrize("again", [copy.deepcopy, lambda run: pickle.loads(pickle.dumps(run))])
def test_a_copy_is_recorded_by_itself(cuda, again):
    pool = MemoryPool()
    runs = [Recorded(product, pool), Recorded(product, pool)]
    for _ in range(3):
        for run in runs:
            run(arguments())
    copies = again(runs)
    assert copies[0]._pool is copies[1]._pool is not pool
    for seed in range(3):
        for run in (*copies, *runs):
            assert_same(run(arguments(seed)), expected_of(arguments(seed)))
    assert cuda.counts["captures"] == 4
    assert sorted(len(graphs) for graphs in cuda.pools.values()) == [2, 2]
