"""Checkpoints that have settings and nothing else."""

import json

from dd_plugin.distiller import DistillerConfig


def write_checkpoint(folder, step=2, more=None, **settings):
    """A checkpoint of a run with these settings, as far as a resumed command reads it."""
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    state = {
        "config": DistillerConfig(output_dir="elsewhere", **settings).to_dict(),
        "recipe_name": None,
        "directory": str(folder.parent),
        "processes": 1,
        "networks_per_step": 1,
        "state": {"global_step": step},
        **(more or {}),
    }
    (path / "state.json").write_text(json.dumps(state))
    return path
