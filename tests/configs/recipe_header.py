"""The comment at the top of a packaged recipe."""

from importlib import resources


def header(domain: str, name: str) -> list[str]:
    """One line for each of its lines that begins a sentence."""
    lines = []
    file = resources.files("linzoo.configs").joinpath(domain, f"{name}.toml")
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if line.startswith("#   "):
            lines[-1] += " " + line[1:].strip()
        else:
            lines.append(line[1:].strip())
    return lines


def line(domain: str, name: str, begin: str) -> str:
    """What follows ``begin: ``, which one line begins with."""
    (found,) = [text for text in header(domain, name) if text.startswith(f"{begin}: ")]
    return found.removeprefix(f"{begin}: ")
