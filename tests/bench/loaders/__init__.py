"""The benchmark of loaders: ours beside what users would take instead (`python -m tests.bench.loaders --help`).

Modules that a peer's environment imports (documents, packing, stream, measure, peers/) need nothing but NumPy.
"""
