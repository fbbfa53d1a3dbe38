"""Programs that measure; run by name (`python -m tests.benchmarks.NAME`), not by pytest."""
