"""Where and how a graph runs: engines and workers, scratch, object stores, errors and progress across processes."""
