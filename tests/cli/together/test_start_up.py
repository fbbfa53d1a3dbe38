"""What a start of `dd-plugin distill` imports: nothing that it has no use for.

The modules of a fresh process are looked at, not the time: that depends on the machine, and
`python -m tests.benchmarks.start_up` measures it.
"""

import json
import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "timm",
    "torchvision",
    "transformers",
    "accelerate",
    "datasets",
    "numpy",
    "sklearn",
)

COMMAND = """
import json, sys
from dd_plugin.cli import main
try:
    code = main({words!r})
except SystemExit as end:
    code = end.code
print(json.dumps([code, *sys.modules]))
"""

# What the trainer on the digits does without.
NOT_FOR_DIGITS = {
    "datasets",
    "matplotlib",
    "pandas",
    "pyarrow",
    "scipy",
    "sklearn",
    "tensorboard",
    "timm",
    "torchvision",
    "transformers",
    "wandb",
    # The client of the Hub, of which others import the errors.
    "huggingface_hub.hf_api",
}

TRAINER = """
import json, sys
from dd_plugin import Distiller, DistillerConfig
config = DistillerConfig(
    output_dir={folder!r},
    max_steps=1,
    eval_steps=0,
    save_steps=0,
    baselines=False,
    disable_tqdm=True,
    compile="no",
    inner_steps=1,
)
distiller = Distiller(config=config)
made = sorted(sys.modules)
{then}
print(json.dumps([made, sorted(sys.modules)]))
"""


def printed(code):
    """The JSON in the last line that a fresh interpreter prints, and its messages."""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1]), result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--imag-per-class=3"], "no option --imag-per-class; did you mean --images-per-class?"),
        (["--max_steps=many"], "--max_steps must be a whole number, got 'many'"),
        (["--soft-labels=maybe"], "--soft-labels must be true or false, got 'maybe'"),
        (["recipe:cifar100"], "no recipe 'cifar100'"),
        (["recipe:mnist_random_ipc10", "--max_grad_norm=-1"], "--max_grad_norm must not be neg"),
        (["--window=randon"], "random, adaptive, got 'randon'; did you mean 'random'?"),
        (["--images_per_class=0"], "--images_per_class must be at least 1, got 0"),
        (["--inner_lr=1e-60"], "--inner_lr must be a number that float32 can hold"),
        (["--augmentation=flipp"], "did you mean 'flip'?"),
        (["--augmentations_per_step=257"], "--augmentations_per_step must be at most 256"),
        (["--image_size=8", "--parametrization=pyramid", "--pyramid_levels=9"], "from 1 to 4"),
        (["--image_size=9", "--parametrization=upsampled"], "must divide the size of the images"),
        (["--trainable=head", "--batching=groups"], '--batching must be "all"'),
        (["--model", "timm/resnet18", "timm/resnet18"], "--model must name different networks"),
        (["--model_args={width: 3}"], "--model_args must be JSON"),
        # Another mistake comes before the arguments of the optimizer, which torch tries.
        (['--inner_optimizer_args={"momentum": 0.9}', "--pool_size=0"], "--pool_size must be"),
    ],
)
def test_a_mistake_is_refused_before_anything_heavy_is_imported(words, message):
    (code, *modules), told = printed(COMMAND.format(words=["distill", *words]))
    assert code == 2
    assert message in " ".join(told.split())
    assert set(HEAVY).isdisjoint(modules)


def test_settings_are_made_without_torch():
    code = """
import json, sys
from dd_plugin import DistillerConfig
config = DistillerConfig(soft_labels="yes", augmentation="dsa")
config.to_dict()
print(json.dumps([*sys.modules]))
"""
    modules, _ = printed(code)
    assert set(HEAVY).isdisjoint(modules)


def test_the_trainer_on_the_digits_imports_what_it_needs(tmp_path):
    pytest.importorskip("sklearn", reason="the digits come with the extra demo")
    then = "distiller.train()"
    imported, _ = printed(TRAINER.format(folder=str(tmp_path), then=then))
    made, trained = map(set, imported)
    assert "dd_plugin.networks.benchmark_networks" in made
    assert NOT_FOR_DIGITS.isdisjoint(made)
    assert NOT_FOR_DIGITS.isdisjoint(trained)
