"""`dd_plugin.distiller.publishing`: one process pushes, and all of them wait for it.

Where to and with what is tested in `test_distiller`, what arrives in `tests/hub`.
"""

from types import SimpleNamespace

import pytest

from dd_plugin.distiller import publishing
from dd_plugin.distiller.run import Run
from dd_plugin.hub import PushResult
from tests.distiller.toy import toy_config


@pytest.mark.parametrize("is_main", [True, False])
def test_the_main_process_pushes(tmp_path, monkeypatch, is_main):
    events = []

    def push(folder, repo_id, **options):
        events.append((folder, repo_id))
        return PushResult("address", "oid")

    monkeypatch.setattr("dd_plugin.hub.push_folder", push)
    accelerator = SimpleNamespace(
        is_main_process=is_main,
        num_processes=2,
        wait_for_everyone=lambda: events.append("all"),
    )
    run = Run.of(toy_config(tmp_path), accelerator)
    address = publishing.publish(run, lambda: tmp_path, "me/toy")
    assert address == ("address" if is_main else "")
    assert events == ([(tmp_path, "me/toy"), "all"] if is_main else ["all"])
