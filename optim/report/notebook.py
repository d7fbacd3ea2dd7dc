"""The HTML view of a result in a notebook: the lines of its report, and the first rows of its tables."""

from __future__ import annotations

from html import escape

from optim.result import SHORT_ID, Result

MOST_ROWS = 10  # of a table


def html_of(result: Result) -> str:
    """HTML of a result for a notebook: title and id, the lines of its view, and the first rows of each table."""
    view = result.view
    parts = [f"<h4>{escape(view.title)} <small>({type(result).__name__} {result.id[:SHORT_ID]})</small></h4>"]
    parts += [f"<p><b>Warning: {escape(doubt)}</b></p>" for doubt in view.doubts]
    if view.lines:
        parts.append(f"<pre>{escape(chr(10).join(view.lines))}</pre>")
    for name, table in view.tables.items():
        more = f", {MOST_ROWS} of {len(table)} rows" if len(table) > MOST_ROWS else ""
        parts.append(f"<details><summary>table {escape(name)}{more}</summary>")
        parts.append(f"{table.head(MOST_ROWS).to_html(index=False, border=0)}</details>")
    parts.append(f"<p>figures: {escape(', '.join(view.figures) or 'none')}</p>")
    return "\n".join(parts)
