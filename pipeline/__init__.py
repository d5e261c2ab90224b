"""From a corpus of code to a shard set: `python -m pipeline build CORPUS`.

`graph.py` has the two Beam graphs, `build.py` the order in which they run.
"""
