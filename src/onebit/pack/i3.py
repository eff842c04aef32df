"""i3: integer codes -4 to 3, eight to three bytes. Page: docs/formats/i3.md."""

from onebit.pack.bits import BitsFormat


class I3(BitsFormat):
    """Integers of 3 bits, eight to three bytes."""

    name = "i3"
    codes = (-4, 3)
    bits = 3
