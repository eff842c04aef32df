"""The native extension's operations, for layers that can, or cannot, do without them."""

from types import ModuleType

from onebit.errors import UnsupportedError


def find() -> ModuleType | None:
    """Return `kernels.ops`, or None where the extension is not built."""
    try:
        from onebit.kernels import ops
    except ImportError:
        return None
    return ops


def need(who: str) -> ModuleType:
    """Return `kernels.ops`.

    Raises:
        UnsupportedError: the extension is not built; `who` cannot do without it.
    """
    try:
        from onebit.kernels import ops
    except ImportError as error:
        raise UnsupportedError(
            f"{who} needs the native extension, which is not built ({error}). "
            "Install onebit with `pip install .`, or run the BitLinear."
        ) from error
    return ops
