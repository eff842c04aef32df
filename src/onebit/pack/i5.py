"""i5: integer codes -16 to 15, eight to five bytes. Page: docs/formats/i5.md."""

from onebit.pack.bits import BitsFormat


class I5(BitsFormat):
    """Integers of 5 bits, eight to five bytes."""

    name = "i5"
    codes = (-16, 15)
    bits = 5
