"""`dd_plugin.distiller.machine`: cores and memory, with the limits of containers."""

import os

import pytest
import torch

from dd_plugin.distiller.machine import free_memory, has_bfloat16, processor, usable_cores

CPU = torch.device("cpu")


@pytest.fixture
def system(tmp_path):
    """A system with 8 GiB free, and a process in a group within a group."""
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 16777216 kB\nMemAvailable:    8388608 kB\n")
    (proc / "self" / "cgroup").write_text("0::/outer/inner\n")
    (groups / "outer" / "inner").mkdir(parents=True)
    return {"cgroups": groups, "proc": proc}


def test_without_limits_it_is_what_the_system_has(system):
    assert free_memory(CPU, **system) == 8 << 30
    if hasattr(os, "sched_getaffinity"):
        assert usable_cores(**system) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("group", ["outer", "outer/inner"])
def test_the_limits_of_every_group_around_the_process_count(system, group, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    folder = system["cgroups"] / group
    (folder / "cpu.max").write_text("250000 100000\n")
    (folder / "memory.max").write_text(f"{4 << 30}\n")
    (folder / "memory.current").write_text(f"{3 << 30}\n")
    (folder / "memory.stat").write_text(f"anon 7\ninactive_file {1 << 29}\nactive_file 0\n")
    assert usable_cores(**system) == 2
    # The limit less what is used, and the files in memory can go.
    assert free_memory(CPU, **system) == (1 << 30) + (1 << 29)


def test_a_limit_of_max_and_one_of_half_a_core(system, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    outer = system["cgroups"] / "outer"
    (outer / "cpu.max").write_text("max 100000\n")
    (outer / "memory.max").write_text("max\n")
    assert usable_cores(**system) == 64
    assert free_memory(CPU, **system) == 8 << 30
    (outer / "cpu.max").write_text("50000 100000\n")
    assert usable_cores(**system) == 1


def test_a_system_that_does_not_tell(tmp_path):
    assert free_memory(CPU, tmp_path, tmp_path) is None
    assert usable_cores(tmp_path, tmp_path) >= 1


def test_the_processor_has_a_name_that_stays():
    assert processor(CPU) == processor(CPU) != ""


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"amx_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),
        ({"avx512_f": True, "avx512_bf16": False}, False),
    ],
)
def test_products_in_bfloat16(monkeypatch, known, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    assert has_bfloat16(torch.device("cpu")) is expected
