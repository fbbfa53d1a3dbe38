"""`dd-plugin env`: the versions and the hardware that a bug report needs.

It prints no names of users and machines, no paths, and no values of variables but one, the number
of threads.
"""

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dd_plugin import __version__

_PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "accelerate",
    "datasets",
    "huggingface_hub",
    "safetensors",
    "numpy",
    "pyarrow",
    "scikit-learn",
    "matplotlib",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `env`, of which it has none of its own."""
    parser.description = (
        "Print the versions and the hardware that a bug report needs, as a list to paste into it. "
        "User names, paths and tokens are not in it."
    )


def run(args: argparse.Namespace) -> int:
    """Print the list."""
    facts = {"dd_plugin": __version__, "python": _python(), "system": _system()}
    facts |= {name: _version_of(name) for name in _PACKAGES}
    facts |= {"processor": processor_name(), "compiler": compiler(), **_hardware()}
    if threads := os.environ.get("OMP_NUM_THREADS", ""):
        facts["OMP_NUM_THREADS"] = threads if threads.isdigit() else "set, but no number"
    print("\n".join(f"- {name}: {fact}" for name, fact in facts.items()))
    return 0


def _python() -> str:
    return f"{platform.python_version()} ({platform.python_implementation()})"


def _system() -> str:
    name = f"{platform.system()} {platform.release()} {platform.machine()}"
    with suppress(OSError):
        return f"{name}, {platform.freedesktop_os_release()['PRETTY_NAME']}"
    return name


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the name of the processor, or that of its family where the system tells no more."""
    with suppress(OSError, UnicodeDecodeError):
        if found := re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE):
            return found[1].strip()
    return platform.processor() or platform.machine() or "unknown"


def compiler() -> str:
    """Return name and version of the compiler that `torch.compile` calls, without its path."""
    words = os.environ.get("CXX", "").split() or ["clang++" if sys.platform == "darwin" else "g++"]
    program = shutil.which(words[0])
    name = Path(words[0]).name
    if program is None:
        return f"{name}, which is not installed"
    try:
        told = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=20, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return f"{name}, which does not tell its version"
    numbers = re.findall(r"(?<![\w.])\d+(?:\.\d+)+", told.partition("\n")[0])
    return f"{name} {numbers[-1] if numbers else 'of an unknown version'}"


def _hardware() -> dict[str, str]:
    """Return cores, memory and GPUs as torch sees them."""
    try:
        import torch

        from dd_plugin.distiller.machine import free_memory, usable_cores
    except (ImportError, OSError) as error:  # such as a library of its that is missing
        # Not the message, which names files.
        return {"torch": f"cannot be imported ({type(error).__name__})"}
    free, total = free_memory(torch.device("cpu")), _total_memory()
    facts = {
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": f"{usable_cores()} usable of {os.cpu_count()}; torch uses "
        f"{torch.get_num_threads()}",
        "memory": f"{_gib(free)} free of {_gib(total)}",
        "CUDA": f"{torch.version.cuda or 'torch was built without it'}",
    }
    if not torch.cuda.is_available():
        return {**facts, "GPU": "none"}
    for index in range(torch.cuda.device_count()):
        of = torch.cuda.get_device_properties(index)
        facts[f"GPU {index}"] = f"{of.name}, {_gib(of.total_memory)}, sm_{of.major}{of.minor}"
    return facts


def _total_memory() -> int | None:
    with suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def _gib(size: int | None) -> str:
    return "unknown" if size is None else f"{size / (1 << 30):.1f} GiB"
