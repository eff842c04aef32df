"""Codes <-> bytes, in NumPy, for every format we read or write.

A format turns integer codes into bytes and back; nothing here rounds. Whatever the bytes look like,
they unpack to the same three arrays, and the weights are

    value = code * scale          (+ minimum, for the formats that have one)

Shape letters: N rows (out features), K columns (in features), G groups of a row that share a scale.
"""
