"""The trainer: where networks come from, the outer loop, its checkpoints and its processes."""
