"""i7: integer codes -64 to 63, eight to seven bytes. Page: docs/formats/i7.md."""

from onebit.pack.bits import BitsFormat


class I7(BitsFormat):
    """Integers of 7 bits, eight to seven bytes."""

    name = "i7"
    codes = (-64, 63)
    bits = 7
