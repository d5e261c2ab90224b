"""The n-gram codec: tables of counts, fitted on a set's own sample, drive the windows of `shards.codecs.windows`.

`codec.py` is the codec, `model.py` the tables and what they predict, `fit.py` how they are counted. All in integers.
"""
