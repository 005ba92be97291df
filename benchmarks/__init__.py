"""Ratios against peers, all durable, in one interleaved run: `python -m benchmarks`."""
