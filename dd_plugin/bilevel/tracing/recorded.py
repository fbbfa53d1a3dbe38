"""A function of a list of tensors, recorded on a GPU as one CUDA graph and replayed.

Beside `compile`, which runs its graphs so. A step of a small network is hundreds of short kernels,
and launching them one by one takes longer than they do; a replay launches all of them at once. A
recording has its own inputs and outputs: arguments are copied in, results are copied out.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from dd_plugin.private import copy_all, version_of
from dd_plugin.text import first_line

Function = Callable[[list[Tensor]], list[Tensor]]

# Threads may use one problem: a recording has one set of inputs and outputs.
_one_at_a_time = threading.RLock()
# Whether this thread runs functions as they are, not recorded.
_plainly: ContextVar[bool] = ContextVar("dd_plugin_functions_as_they_are", default=False)


class RecordingWarning(UserWarning):
    """A function cannot be recorded as a CUDA graph; its kernels are launched one by one."""


def on_gpu(tensors: Iterable[Tensor]) -> bool:
    """Whether all tensors are on a GPU, which is where functions are recorded."""
    return all(t.is_cuda for t in tensors)


@contextlib.contextmanager
def as_they_are(yes: bool = True) -> Iterator[None]:
    """Enter where functions are not recorded and replayed: where what calls them is."""
    before = _plainly.set(yes or _plainly.get())
    try:
        yield
    finally:
        _plainly.reset(before)


class MemoryPool:
    """The memory that the recordings of one problem share; they run one after the other.

    One recording may use what another has computed in, since nothing of a replay is read after the
    next one but the copies of its results. A copy or pickle of a pool is a new pool.

    Attributes:
        run: a number of the run that the recordings are used in, see `next_run`.
    """

    def __init__(self) -> None:
        self._handle: Any = None
        self._stream: torch.cuda.Stream | None = None
        self.run = 0

    def __getstate__(self) -> dict[str, Any]:
        return vars(MemoryPool())

    def next_run(self) -> None:
        """Have all arguments copied once more, whatever they seem to be.

        Between two runs a caller may write into a tensor through ``.data``, which does not count as
        a write.
        """
        self.run += 1

    def handle(self) -> Any:
        """What `torch.cuda.graph` takes as ``pool``."""
        if self._handle is None:
            self._handle = torch.cuda.graph_pool_handle()
        return self._handle

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Enter for a replay: on whatever stream, it waits for the last; holds `_one_at_a_time`."""
        stream = torch.cuda.current_stream()
        if self._stream is not None and stream != self._stream:
            stream.wait_stream(self._stream)
        self._stream = stream
        yield


class Recordings:
    """Recordings of whole runs by their kind, None where there is none to be; a copy is empty."""

    def __init__(self) -> None:
        self.by_kind: dict[Any, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return vars(Recordings())


class Recorded:
    """A function that is recorded at its second call and replayed from then on.

    The first call runs it as it is: compilers do their work there, and libraries choose their
    kernels. All calls must bring tensors of the same shapes, dtypes and layouts, contiguous and on
    one GPU. A copy or pickle of it is not recorded yet.

    Args:
        function: of a list of tensors, without effect but its results, and without a value that
            the host reads.
        pool: the memory of the recording.
        has_run: the function has run with such tensors: record it at the first call.
        instead: what happens if it cannot be recorded, in the words of the warning.

    Attributes:
        is_refused: whether it could not be recorded.
    """

    def __init__(
        self,
        function: Function,
        pool: MemoryPool,
        *,
        has_run: bool = False,
        instead: str = "the kernels of this step are launched one by one",
    ) -> None:
        self._function, self._pool, self._instead = function, pool, instead
        self._has_run, self.is_refused = has_run, False
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._latest: list[tuple[weakref.ref[Tensor], int] | None] = []
        self._run = -1

    def __getstate__(self) -> dict[str, Any]:
        return vars(Recorded(self._function, self._pool))

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The function's results, which belong to the caller."""
        tensors = list(tensors)
        plainly = _plainly.get() or not self._has_run or self.is_refused
        if plainly or not tensors or not on_gpu(tensors):
            results = self._function(tensors)
            self._has_run = True
            return results
        with _one_at_a_time:
            if self._graph is None and not self._record(tensors):
                return self._function(tensors)
            assert self._graph is not None
            device = torch.cuda.device(self._inputs[0].device)
            with torch.no_grad(), device, self._pool.in_use():
                self._fill(tensors)
                self._graph.replay()
                results = [torch.empty_like(t) for t in self._outputs]
                copy_all(results, self._outputs)
            return results

    def _fill(self, tensors: Sequence[Tensor]) -> None:
        """Copy the arguments in, but for those that are there since the call before."""
        if self._run != self._pool.run:
            self._run, self._latest = self._pool.run, [None] * len(tensors)
        new = [
            index
            for index, (t, latest) in enumerate(zip(tensors, self._latest, strict=True))
            if latest is None or latest[0]() is not t or latest[1] != version_of(t)
        ]
        copy_all([self._inputs[i] for i in new], [tensors[i] for i in new])
        for i in new:
            version = version_of(tensors[i])
            self._latest[i] = None if version is None else (weakref.ref(tensors[i]), version)

    def _record(self, tensors: list[Tensor]) -> bool:
        """Record the function; returns whether that went well."""
        device = tensors[0].device
        graph = torch.cuda.CUDAGraph()
        try:
            # What is made in inference mode could not be written into outside of it.
            with (
                torch.inference_mode(False),
                torch.no_grad(),
                torch.cuda.device(device),
                as_they_are(),
            ):
                inputs = [t.clone() for t in tensors]
                side = torch.cuda.Stream()
                side.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(side):
                    self._function(inputs)  # what a library sets up per stream
                torch.cuda.current_stream().wait_stream(side)
                # Other threads may go on with what they do on the GPU meanwhile.
                with torch.cuda.graph(
                    graph,
                    pool=self._pool.handle(),
                    stream=side,
                    capture_error_mode="thread_local",
                ):
                    outputs = self._function(inputs)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            warnings.warn(
                "this problem cannot be recorded as a CUDA graph "
                f"({first_line(error)}): {self._instead}, which gives the same results, slower",
                RecordingWarning,
                stacklevel=2,
            )
            self.is_refused = True
            return False
        self._graph, self._inputs, self._outputs = graph, inputs, outputs
        return True


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error is one of memory, or came up while a capture was ended by one."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False
