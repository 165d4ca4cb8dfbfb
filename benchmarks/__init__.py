"""Benchmarks: each a script that measures ratios in one run and stores what it saw under `benchmarks/results/`."""
