"""The tables of the pages: from which file each is made, by which function, under which caption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from rendering import ages, costs, gpu, heads, markdown, quality, scaling, start, trials


@dataclass(frozen=True)
class Block:
    """A kind of table.

    Attributes:
        name: between its markers; may be a pattern, `policies-*`.
        render: from the content of the JSON file to Markdown.
        command: what wrote the file, where it does not say so itself.
        files: stems of the JSON files; by default the name. Of several, those that are there.
        caption: a sentence on the table, above it; a renderer of several tables has its own.
        plot: what the plot beside the first file shows, besides its title.

    A file with a value `by_hand` is one that no command wrote: what others published.
    """

    name: str
    render: Callable[[Any], str]
    command: str
    files: tuple[str, ...] = ()
    caption: str = ""
    plot: str = ""


COLLECT = "examples/reproduce/collect.py"
CURVES = "Accuracy on validation images over the minutes of a run"
SEEDS = "Accuracy of every seed, by treatment"
PROFILE = "python -m tests.benchmarks.where_time_goes"
SCALE = "python -m tests.benchmarks.scale"
HEADS = "python -m tests.benchmarks.heads"
GPU = "python -m tests.gpu"
HYPERGRADIENT = "python -m tests.benchmarks.hypergradient"
RATIOS = "ratios are medians of turns, with their range"


def of_file(stem: str, render: Callable[[Any], str]) -> Callable[[Any], str]:
    """A table of one file that has another name than the table."""
    return lambda files: render(files[stem])


BLOCKS = (
    Block(
        "results",
        start.results,
        COLLECT,
        ("digits", "mnist", "cifar10-runs", "heads", "heads-augmented"),
    ),
    *(
        Block(name, of_file("hypergradient-cpu", render), HYPERGRADIENT, ("hypergradient-cpu",))
        for name, render in (
            ("beside-higher", start.beside_higher),
            ("beside-tools", start.beside_tools),
        )
    ),
    Block(
        "results-published",
        quality.selection,
        COLLECT,
        ("digits", "mnist", "cifar10-runs", "published"),
        caption="The best recipe of each kind beside published figures of the same storage.",
    ),
    Block("baselines", quality.baselines, COLLECT, ("digits",)),
    Block("digits", quality.runs, COLLECT),
    Block("mnist", quality.runs, COLLECT, plot=CURVES),
    Block(
        "cross-architecture",
        quality.architectures,
        "dd-plugin evaluate",
        caption="Accuracy of other networks that are trained on a set, beside as many real images.",
    ),
    Block("cifar10-runs", quality.runs, COLLECT, plot=CURVES),
    Block("cifar10", quality.cases, "examples/reproduce/cifar10.py", plot=SEEDS),
    Block("policies-*", quality.cases, "examples/reproduce/batchnorm_policies.py", plot=SEEDS),
    Block(
        "distiller-cpu",
        costs.distiller,
        "python -m tests.benchmarks.distiller",
        caption="Time and peak memory of an outer step; every line changes one thing of the first.",
        plot="Time and memory of an outer step as multiples of the base case",
    ),
    Block(
        "hub-cpu",
        costs.hub,
        "python -m tests.benchmarks.hub",
        caption="Seconds to write, publish and read a set, by its number of images.",
    ),
    Block(
        "ensembles-cpu",
        costs.ensembles,
        "python -m tests.benchmarks.ensembles",
        caption="Several networks one by one and batched; ratios are medians with quartiles.",
        plot="Time of a batched call over that of a sequential one",
    ),
    Block(
        "layers",
        costs.layers,
        "python -m tests.benchmarks.layers",
        caption="Processor time of converted models over that of the original, with quartiles.",
    ),
    Block(
        "hypergradient-cpu",
        costs.hypergradient,
        HYPERGRADIENT,
        caption=f"Time and memory of a hypergradient by each tool; {RATIOS}.",
        plot="Time of a hypergradient by each tool, as a multiple of that of higher",
    ),
    Block(
        "five-tasks",
        quality.five_tasks,
        "examples/growing_set.py",
        caption="Accuracy on all classes so far, after each task.",
    ),
    Block(
        "dates",
        ages.ages,
        ages.COMMAND,
        caption="When the figures were measured.",
    ),
    Block(
        "transfer",
        trials.transfer,
        "python -m tests.benchmarks.transfer",
        caption="Accuracy of networks trained on a set, ± over its seeds with three networks each.",
    ),
    Block(
        "transfer-mnist",
        trials.transfer,
        "python -m tests.benchmarks.transfer",
        caption="Accuracy of networks trained on a set, ± over its seeds with three networks each.",
    ),
    Block(
        "transfer-augmented",
        trials.transfer,
        "python -m tests.benchmarks.transfer",
        caption="The same for CIFAR-10 with strong augmentation, of all sets alike.",
    ),
    Block(
        "transfer-mnist-augmented",
        trials.transfer,
        "python -m tests.benchmarks.transfer",
        caption="The same for MNIST with cropping, scaling and turning, of all sets alike.",
    ),
    Block(
        "recipe-changes",
        trials.recipe_changes,
        "python -m tests.benchmarks.recipe_changes",
        caption="A recipe with settings changed, each for 240 seconds of a core; one seed.",
    ),
    Block(
        "windows",
        quality.windows,
        "python -m tests.benchmarks.windows",
        caption="Accuracy by the place of the window, at equal seconds.",
    ),
    Block(
        "window-gradients",
        trials.window_gradients,
        "python -m tests.benchmarks.window_gradients",
        caption="Gradients by the length of the window, and what a step along each does.",
    ),
    Block(
        "first-hour",
        costs.first_hour,
        "python -m tests.benchmarks.first_hour",
        caption="Minutes from the command to a picture, the finished set and its comparison.",
    ),
    Block(
        "step-graphs",
        costs.step_graphs,
        "python -m tests.benchmarks.step_graphs",
        caption="Milliseconds of a part of a step in two forms; ratios are medians with quartiles.",
    ),
    Block(
        "one-pixel",
        costs.one_pixel,
        "python -m tests.benchmarks.one_pixel",
        caption="Convolutions to one pixel, by torch and as products; medians with quartiles.",
    ),
    Block(
        "tutorials",
        costs.tutorials,
        "python -m tests.benchmarks.tutorials",
        caption="The tutorials as printed, in a fresh clone and environment.",
    ),
    Block(
        "kernel-gradients",
        costs.kernel_gradients,
        "python -m tests.benchmarks.kernel_gradients",
        caption="The sum of two gradients of a kernel; medians with quartiles.",
    ),
    Block(
        "products",
        costs.products,
        "python -m tests.benchmarks.products",
        caption="Products of float32 matrices; medians of four layouts, with their range.",
    ),
    Block(
        "exactness",
        costs.exactness,
        "python -m tests.bilevel.grid --all",
        caption="Largest relative error against the whole graph, by each value of each choice.",
    ),
    Block(
        "exactness-compiled",
        costs.exactness,
        "python -m tests.bilevel.grid --all --path compiled",
        caption="The same for compiled steps.",
    ),
    Block(
        "fuzz",
        costs.fuzz,
        "python -m tests.bilevel.fuzz",
        caption="Random cases by the way in which they are run, and the largest relative error.",
    ),
    Block(
        "profile-time",
        scaling.profile_time,
        PROFILE,
        ("profile-cpu",),
        caption="Shares of an outer step's wall-clock time, by function.",
        plot="Shares of an outer step by group of functions, at each scale",
    ),
    Block(
        "profile-operations",
        scaling.profile_operations,
        PROFILE,
        ("profile-cpu",),
        caption="Shares of an outer step's time, by kind of torch operation.",
    ),
    Block(
        "profile-removed",
        scaling.profile_removed,
        PROFILE,
        ("profile-cpu",),
        caption=f"Time as it is over the time with an item put back; {RATIOS}.",
    ),
    Block(
        "two-trees",
        scaling.two_trees,
        "python -m tests.benchmarks.two_trees",
        caption="Seconds of a hypergradient before and after; ratios are medians with quartiles.",
    ),
    Block(
        "kept-activations",
        scaling.kept_activations,
        "python -m tests.benchmarks.kept_activations",
        caption=f"Processor seconds with no activations kept and with all; {RATIOS}.",
    ),
    Block(
        "layouts",
        scaling.layouts,
        "python -m tests.benchmarks.layouts",
        caption=f"Seconds of a hypergradient in two memory layouts; {RATIOS}.",
    ),
    Block(
        "compile-choice",
        scaling.compile_choice,
        "python -m tests.benchmarks.compile_choice",
        caption="Whole runs traced, compiled and with the default, which chooses.",
    ),
    Block(
        "kept-memory",
        scaling.kept_memory,
        "python -m tests.benchmarks.kept_memory",
        caption=f"Seconds of a hypergradient without and with freed memory kept; {RATIOS}.",
    ),
    Block(
        "start-up",
        scaling.start_up,
        "python -m tests.benchmarks.start_up",
        caption=f"Processor seconds from the command until something is shown; {RATIOS}.",
    ),
    Block(
        "closing-comparison",
        scaling.closing_comparison,
        "python -m tests.benchmarks.closing_comparison",
        caption="Processor seconds of a run's steps and of the comparison at its end.",
    ),
    Block(
        "higher-cpu",
        scaling.higher,
        "python -m tests.benchmarks.higher_loop",
        caption=f"An outer step by the trainer and by a loop with higher; {RATIOS}.",
    ),
    Block(
        "scale-unroll",
        scaling.sizes("unroll", "inner_steps"),
        SCALE,
        ("scale-cpu",),
        caption="An outer step by the number of inner steps and what is stored.",
        plot="Seconds and peak memory against inner steps",
    ),
    Block(
        "scale-images",
        scaling.sizes("images per class", "images_per_class"),
        SCALE,
        ("scale-cpu",),
        caption="An outer step by the images per class.",
    ),
    Block(
        "scale-resolution",
        scaling.sizes("resolution", "image"),
        SCALE,
        ("scale-cpu",),
        caption="An outer step by the height and width of the images.",
    ),
    Block(
        "scale-pages",
        scaling.pages,
        SCALE,
        ("scale-cpu",),
        caption=f"Seconds of an outer step without and with large pages; {RATIOS}.",
    ),
    Block(
        "scale-processes",
        scaling.processes,
        SCALE,
        ("scale-cpu",),
        caption="Inner steps per second of all processes together.",
    ),
    Block("imagenet-plan", scaling.plan, "python -m tests.benchmarks.imagenet_plan"),
    Block(
        "gpu-right",
        gpu.right,
        GPU,
        caption="Checks against a CPU in float64, by kind, with their largest relative error.",
    ),
    *(
        Block(f"heads-{name}", of_file("heads", render), HEADS, ("heads",), caption)
        for name, render, caption in (
            ("one", heads.one_image, "Accuracy in percent with one image per class of 112 x 112."),
            ("ten", heads.ten_images, "Accuracy in percent with ten images per class."),
            ("size", heads.other_size, "Accuracy in percent with one image per class of 64 x 64."),
            ("objectives", heads.objectives, "Accuracy in percent by the loss, at equal steps."),
            ("trials", heads.trials, "Accuracy in percent with one setting changed at a time."),
        )
    ),
    Block(
        "heads-augmented",
        heads.augmented,
        "python -m tests.benchmarks.augmented_heads",
        ("heads-augmented", "heads"),
        caption="Accuracy in percent of heads that are trained on each image and 16 copies of it.",
    ),
    Block(
        "heads-recipe",
        start.recipe_of_heads,
        "python -m tests.benchmarks.augmented_heads",
        ("heads-augmented", "heads"),
    ),
    Block(
        "head-step",
        heads.cost,
        "python -m tests.benchmarks.head_step",
        caption="Time and memory of an outer step as multiples of one pass through the network.",
    ),
    Block(
        "gpu-fast",
        gpu.fast,
        GPU,
        caption="Seconds and memory of a hypergradient by each tool; ratios are within one run.",
    ),
    Block(
        "gpu-good",
        gpu.accuracy,
        GPU,
        caption="Accuracy of 100 images of CIFAR-10: the best evaluation of a recipe and the last.",
        plot="Accuracy over the seconds of distilling",
    ),
    Block(
        "gpu-recorded",
        of_file("gpu-fast", gpu.recorded),
        GPU,
        ("gpu-fast",),
        caption="Seconds of a hypergradient before and now, and multiples of the time of higher.",
    ),
    Block("*", markdown.generic, "tests/benchmarks"),
)


def block_of(name: str) -> Block:
    """The first kind of table that a name fits."""
    return next(block for block in BLOCKS if fnmatch(name, block.name))
