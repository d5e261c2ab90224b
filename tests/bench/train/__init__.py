"""The benchmark of training steps: ours beside others of the same shape (`python -m tests.bench.train --help`)."""
