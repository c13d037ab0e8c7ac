"""Measurements: each run writes its JSON to benchmarks/results and renews REPORT.md; nothing else does."""
