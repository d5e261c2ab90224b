"""The neural codec: a small byte LM, in integers alone, whose predictions drive the windows of `shards.codecs.windows`.

`codec.py` is the codec, `lm.py` the model and its forward pass over many positions, `kernels.py` what lies between its
matrix products, `device.py` the same pass on a GPU, `lanes.py` decoding, `quantise.py` what turns trained weights into
the artifact. Nothing here imports the trainer. The model computes the same integers on any machine, whatever is
computed beside it: see `kernels.py`.
"""
