"""The operations that must be fast, behind one door.

`ops` checks and calls; `cpu` is the native extension (csrc/); `reference` is the slow truth in
NumPy. Nothing here imports torch.
"""
