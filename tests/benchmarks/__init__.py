"""Benchmarks of our implementations against others: `make bench`, or some by name:
`python -m tests.benchmarks lenses probes`.

A file `bench_<topic>.py` here defines its `THREADS`, its sizes `FULL` and `TOY`, and `run(size=FULL)`,
which returns `{name: measure.row(...)}`; a name says how its ratio is formed and, if there is one, its
bar. Each file runs in a process of its own. At `TOY` size all of them are tests, too:
`tests/test_benchmarks.py`.
"""
