"""A report as one HTML page: totals, four plots, and a table of all layers. Nothing is fetched.

Names of layers and files come from strangers; they are escaped, here and in the drawings.
"""

from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING

from onebit.ptq.layer_name import place
from onebit.scheme import ROLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from onebit.ptq.report import Report, Row

_INK, _MUTED = "#1f2328", "#8b949e"
_COLORS = ("#4c78a8", "#d1495b", "#2e8b57", "#e1a100", "#7b5ea7", "#3aa6a6", "#a0632b", "#666")
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1f2328}
body{max-width:64rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;font-size:13px;margin:1rem 0}
td,th{padding:.15rem .7rem;text-align:right;border-bottom:1px solid #e3e6ea;white-space:nowrap}
td:first-child,th:first-child{text-align:left}
img{max-width:100%}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}
"""


def page(report: "Report") -> str:
    """Return the whole page; it holds its plots itself."""
    r = report
    title = f"{r.model}, {r.method}, {r.scheme}"
    body = [
        f"<h1>{escape(title)}</h1>",
        "".join(f"<p>{escape(note)}</p>" for note in r.notes),
        _table(("", ""), _totals(r)),
        "<h2>Perplexity</h2>" + _table(*_perplexity(r)) if r.texts else "",
        "<h2>Where the bytes are</h2>" + _table(*_parts(r)) if r.parts else "",
        _plots(r.rows),
        "<h2>Layers</h2>" + _table(*_layers(r.rows)) if r.rows else "",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body></html>\n"
    )


def _totals(r: "Report") -> Iterable[Sequence[str]]:
    yield "written to", r.out
    yield "size", f"{r.size_bytes:,} bytes"
    yield "bits per weight, of everything", f"{r.bits_per_weight:.3f}"
    if r.rows:
        yield "bits per weight, of these layers", f"{r.linear_bits_per_weight:.3f}"
    yield "time", f"{r.time_s:.1f} s"
    yield "most memory", f"{r.peak_memory_bytes / 2**30:.2f} GiB"
    for word, table in (("calibration", r.calibration), ("options", r.options)):
        if table:
            yield word, ", ".join(f"{key} {value}" for key, value in table.items())


def _perplexity(r: "Report") -> tuple[Sequence[str], list[Sequence[str]]]:
    head = ("text", "before", "after", "ratio", "bits per byte before", "after")
    lines = [
        (
            text.name,
            f"{text.before:.3f}",
            f"{text.after:.3f}",
            f"{text.after / text.before:.4f}",
            _or_dash(text.bits_per_byte_before, ".4f"),
            _or_dash(text.bits_per_byte_after, ".4f"),
        )
        for text in r.texts
    ]
    return head, list(lines)


def _parts(r: "Report") -> tuple[Sequence[str], list[Sequence[str]]]:
    total = r.size_bytes or 1
    lines = [(part, f"{size:,}", f"{size / total:.1%}") for part, size in r.parts.items()]
    return ("part", "bytes", "share"), list(lines)


def _layers(rows: Sequence["Row"]) -> tuple[Sequence[str], list[Sequence[str]]]:
    head = ("layer", "method", "held as", "bits", "weight error", "output error", "s", "note")
    lines = [
        (
            row.layer,
            row.method,
            row.scheme,
            f"{row.bits:.3f}",
            f"{row.weight_error:.4f}",
            _or_dash(row.output_error, ".4f"),
            f"{row.time_s:.2f}",
            row.note,
        )
        for row in rows
    ]
    return head, list(lines)


def _or_dash(value: float | None, format: str) -> str:
    return "-" if value is None else f"{value:{format}}"


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    top = line(head, "th") if any(head) else ""
    return "<table>" + top + "\n".join(line(cells, "td") for cells in lines) + "</table>"


def _plots(rows: Sequence["Row"]) -> str:
    """Return an image of bits, errors and time over the depth of the model, a line for each role.

    Layers that stand outside the numbered ones (a head) are in the table only.
    """
    placed = [(place(row.layer), row) for row in rows]
    by_role: dict[str, list[tuple[int, Row]]] = {}
    for (depth, role), row in placed:
        if depth is not None:
            by_role.setdefault(role or "other", []).append((depth, row))
    if not by_role:
        return ""
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display

    figure = Figure(figsize=(11, 7.5), dpi=110, layout="constrained")
    plots: list[tuple[str, Callable[[Row], float | None]]] = [
        ("bits per weight", lambda row: row.bits),
        ("output error, share", lambda row: row.output_error),
        ("weight error, share", lambda row: row.weight_error),
        ("time, s", lambda row: row.time_s),
    ]
    roles = sorted(by_role, key=lambda role: (*ROLES, "other").index(role))
    for axes, (what, value) in zip(figure.subplots(2, 2).flat, plots, strict=True):
        _draw(axes, what, [(role, by_role[role]) for role in roles], value)
    figure.axes[0].legend(fontsize=8, ncols=2, frameon=False)
    raw = BytesIO()
    figure.savefig(raw, format="png")
    data = b64encode(raw.getvalue()).decode()
    return f'<img alt="bits, errors and time of each layer" src="data:image/png;base64,{data}">'


def _draw(
    axes: "Axes",
    what: str,
    roles: Sequence[tuple[str, list[tuple[int, "Row"]]]],
    value: "Callable[[Row], float | None]",
) -> None:
    for (role, rows), color in zip(roles, _COLORS * 2, strict=False):
        found = [(depth, value(row)) for depth, row in rows]
        points = sorted((depth, y) for depth, y in found if y is not None)
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=color, label=role, marker="o", markersize=3, linewidth=1)
    axes.set_title(what, color=_INK, loc="left", fontsize=10)
    axes.set_xlabel("layer", color=_INK)
    axes.set_ylim(bottom=0)
    axes.grid(color=_MUTED, alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
