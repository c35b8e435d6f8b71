"""Benchmarks of our implementations against others: `make bench`.

A file `bench_<topic>.py` here defines `run() -> dict[str, dict]`, one entry per measurement:
`{name: {"ours": float, "theirs": float, "ratio": float, "unit": str}}`.
"""
