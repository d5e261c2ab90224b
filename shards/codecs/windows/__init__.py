"""Equal-information windows: what turns a byte model's integer predictions into symbols, whatever the model is.

`coder.py` names byte strings by codes, `segments.py` cuts text where the model is surprised. Neither knows of a
network: a model is seen only through integers, so a table of counts serves as well.
"""
