"""i2: integer codes -2 to 1, four to a byte. Page: docs/formats/i2.md."""

from onebit.pack.bits import BitsFormat


class I2(BitsFormat):
    """Integers of 2 bits, four to a byte."""

    name = "i2"
    codes = (-2, 1)
    bits = 2
