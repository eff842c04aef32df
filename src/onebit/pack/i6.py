"""i6: integer codes -32 to 31, four to three bytes. Page: docs/formats/i6.md."""

from onebit.pack.bits import BitsFormat


class I6(BitsFormat):
    """Integers of 6 bits, four to three bytes."""

    name = "i6"
    codes = (-32, 31)
    bits = 6
