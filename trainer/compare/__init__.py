"""Recipes compared at equal FLOPs, and at equal bytes of text: a plan of runs, driven to its end in slices."""
