"""What makes a run choose as a test wants it: times, cores and a process beside the run.

What stands in for the compiler rounds otherwise than a trace and takes no time.
"""

from dd_plugin.bilevel.tracing import compile as compiling
from dd_plugin.distiller import distiller as trainer
from dd_plugin.distiller.auto_compile import AutoCompile

AUTO = {"compile": "auto", "max_steps": 30, "dtype": "float32", "soft_labels": True}


class Clock:
    """Seconds that pass only inside of steps: long ones traced, shorter ones compiled.

    With channels last they are shorter by as much as a test says.
    """

    def __init__(self, distiller, traced=100.0, compiled=50.0, last=0.0):
        self.now, self.seconds = 0.0, {"trace": traced, True: compiled}
        self.distiller, self.last = distiller, last

    def __call__(self):
        # It is read before and after each step that is timed.
        problem = self.distiller.architectures.problems[0]
        self.now += self.seconds[problem.compile] - (self.last if problem.channels_last else 0.0)
        return self.now


class Beside:
    """A process that has compiled when it is looked at a second time."""

    def __init__(self, problems, recipe, kept, workers, failure=""):
        self.looks, self.failure, self.stopped = 0, failure, 0

    @property
    def is_running(self):
        self.looks += 1
        return self.looks <= 1

    def stop(self):
        self.stopped += 1


class Injected:
    """The controllers of the runs of a test, made with these instead of the machine's."""

    def __init__(self, monkeypatch, *, cores=2, fill=Beside, **times):
        self.made, self.begun, self.trials = [], [], 0
        self.cores, self.fill, self.times = cores, fill, times
        monkeypatch.setattr(trainer, "AutoCompile", self.make)
        monkeypatch.setattr("dd_plugin.distiller.auto_compile.is_filled", lambda *_: False)
        monkeypatch.setattr("dd_plugin.distiller.auto_compile.note_filled", lambda *_: None)
        self.clock = None

    def make(self, run, state, try_out):
        def counted():
            self.trials += 1
            try_out()

        def fill(*args):
            self.begun.append(self.fill(*args))
            return self.begun[-1]

        distiller = type("Has", (), {"architectures": state.networks})
        clock = Clock(distiller, **self.times)
        made = AutoCompile(run, state, counted, clock=clock, fill=fill, cores=self.cores)
        self.made.append(made)
        return made


def use_quick_compiler(monkeypatch):
    """Run graphs that are to be compiled as they are, and round their results."""

    def compiled(self):
        def run(tensors):
            return [t * (1 + 2**-20) if t.is_floating_point() else t for t in graph(tensors)]

        graph = self._graph
        return run

    monkeypatch.setattr(compiling.CompiledGraph, "_compile", compiled)
