"""The page of evidence as HTML: one file that refers to nothing outside itself, and prints on paper."""

from __future__ import annotations

from html import escape

from ringfence.client.evidence_page import Page, Section

_STYLE = """
body{font:14px/1.45 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}
h1{font-size:1.5rem;margin:0 0 .5rem}h2{font-size:1.05rem;margin:1.2rem 0 .3rem;border-bottom:1px solid #ccc}
p{margin:.4rem 0}table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:.2rem .6rem .2rem 0;border-bottom:1px solid #eee;overflow-wrap:anywhere}
th{font-weight:600}ul{margin:.3rem 0;padding-left:1.2rem}.warning{border:2px solid #a00;padding:.5rem .8rem}
footer{margin-top:1.5rem;color:#555;font-size:12px}
@media print{body{margin:0;font-size:11px;max-width:none}h2{margin:.7rem 0 .2rem}section{break-inside:avoid}}
"""


def render_html(page: Page, *, source: str) -> str:
    """Return the page as a whole HTML document.

    Args:
        page: what to show.
        source: what the page was made from, for the foot; such as the file's hash.
    """
    warning = f'<p class="warning" role="alert">{escape(page.warning)}</p>' if page.warning else ""
    sections = "\n".join(_section(section) for section in page.sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{escape(page.title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{escape(page.title)}</h1>
{warning}
{sections}
</main>
<footer>Made from {escape(source)}. Check every number of it with: ringfence evidence verify</footer>
</body>
</html>
"""


def _section(section: Section) -> str:
    parts = [f"<section><h2>{escape(section.heading)}</h2>"]
    parts += [f"<p>{escape(paragraph)}</p>" for paragraph in section.paragraphs]
    if section.rows:
        parts.append(_table(section.rows))
    if section.items:
        parts.append("<ul>" + "".join(f"<li>{escape(item)}</li>" for item in section.items) + "</ul>")
    return "\n".join([*parts, "</section>"])


def _table(rows: tuple[tuple[str, ...], ...]) -> str:
    if len(rows[0]) == 2:  # a name and a value: the name is the row's head
        lines = [
            f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in rows
        ]
        return "<table>" + "".join(lines) + "</table>"
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:])
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
