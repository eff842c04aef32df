"""The error tree. Every message says what was given, what is accepted and what to do.

OnebitError
├── InputError (also ValueError)    something the caller handed over
│   ├── ShapeError                  a width, length or dimension
│   ├── OptionError                 a name, a setting, a recipe or a scheme
│   └── NotTernaryError             weights that are not on the grid they claim
├── FileError                       a file or folder
│   ├── MissingError                it, or a part of it, is not there
│   └── FormatError                 its bytes are damaged, hostile or of another format
└── UnsupportedError                right, but not something this build can do
"""


class OnebitError(Exception):
    """The root: catch this to catch everything onebit raises on purpose."""


class InputError(OnebitError, ValueError):
    """The caller handed over something that cannot be used."""


class ShapeError(InputError):
    """A width, length or dimension does not fit."""


class OptionError(InputError):
    """A name, setting, recipe or scheme is not one we know."""


class NotTernaryError(InputError):
    """Weights are not on the grid that the operation asks for."""


class FileError(OnebitError):
    """A file or folder cannot be used."""


class MissingError(FileError):
    """A file, or a part that must be in it, is not there."""


class FormatError(FileError):
    """A file's bytes are damaged, hostile or of another format."""


class UnsupportedError(OnebitError):
    """The request is sound, and this build cannot carry it out."""
