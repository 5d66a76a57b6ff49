"""The demo's page: one HTML file with everything inside it, for a desktop, a phone, light and dark."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #5c646d; --line: #d9dee3; --back: #fff;
        --card: #f6f7f9;
        --accent: #0b6b58; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --soft: #9aa4ae; --line: #343b42; --back: #14171a; --card: #1c2024;
          --accent: #5fcdb2; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 980px; padding: 1.2rem 16px 3rem; background: var(--back);
       color: var(--ink);
       font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: .6rem 0; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; padding-top: 1.1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p { margin: .6rem 0; max-width: 46rem; }
.soft, figcaption, footer { color: var(--soft); font-size: .875rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 10px;
         margin: 1.2rem 0; }
.facts div { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
             padding: .6rem .8rem; }
.facts b { display: block; font-size: 1.25rem; line-height: 1.4; color: var(--accent); white-space: nowrap; }
.facts span { color: var(--soft); font-size: .8125rem; }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9375rem; }
th, td { padding: .34rem .7rem; text-align: right; white-space: nowrap;
         border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--soft); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
@media (max-width: 480px) { th, td { padding: .34rem .4rem; font-size: .875rem; } }
.grid { display: grid; gap: 16px; margin: 1rem 0; }
.wide { grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); }
.small { grid-template-columns: repeat(auto-fill, minmax(min(30%, 130px), 1fr)); gap: 12px; }
.medium { grid-template-columns: repeat(auto-fill, minmax(min(46%, 230px), 1fr)); gap: 12px; }
.tiny { grid-template-columns: repeat(auto-fill, minmax(62px, 1fr)); gap: 8px; max-width: 46rem; }
figure { margin: 0; min-width: 0; }
figure img { display: block; width: 100%; height: auto; border-radius: 6px; }
.tiny img, .small img, .medium img { image-rendering: pixelated; }
figcaption { margin-top: .3rem; line-height: 1.4; }
pre { font-size: .8125rem; line-height: 1.45; white-space: pre-wrap; }
code { font-size: .9em; background: var(--card); border: 1px solid var(--line); border-radius: 4px;
       padding: 0 .25em; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: .8rem; }
"""


def page(title: str, lead: str, sections: Sequence[tuple[str, str]], footer: str) -> str:
    """The document. ``title`` is text; ``lead``, the sections' bodies and ``footer`` are HTML."""
    body = "".join(f"<section><h2>{escape(head)}</h2>{html}</section>\n" for head, html in sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>\n{lead}\n{body}<footer>{footer}</footer></body></html>\n"
    )


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Boxes with a figure and what it is."""
    boxes = "".join(
        f"<div><b>{escape(value)}</b><span>{escape(label)}</span></div>" for value, label in pairs
    )
    return f'<div class="facts">{boxes}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table that scrolls sideways on a narrow screen; the first column is text, the others figures."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{escape(str(c))}</td>" for c in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


def figure(path: Path, alt: str, caption: str = "") -> str:
    """A picture, inline; when ``NAME.dark.png`` lies beside ``NAME.png`` it is shown to readers on dark "
    "screens."""
    dark = path.with_suffix(".dark.png")
    source = ""
    if dark.exists():
        source = f'<source srcset="{data_uri(dark)}" media="(prefers-color-scheme: dark)">'
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    image = f'<img src="{data_uri(path)}" alt="{escape(alt, quote=True)}">'
    return f"<figure><picture>{source}{image}</picture>{below}</figure>"


def grid(figures: Sequence[str], size: str) -> str:
    """Figures side by side as the screen allows; ``size`` is wide, medium, small or tiny."""
    return f'<div class="grid {size}">{"".join(figures)}</div>'


def data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
