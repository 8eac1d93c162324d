"""MkDocs hooks: the README as landing page, pages for linked source files, the API reference, formulas as MathML.

On GitHub the pages link to files outside `docs/`. The site has a page for each such file, and the links lead there.
"""

from __future__ import annotations

import posixpath
import re
from html import unescape
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

README = "README.md"
SOURCE = "source"
# A relative target of a Markdown link, without its anchor.
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)\s#]+)")
#: Package -> modules in its reference, or None for all.
REFERENCE: dict[str, tuple[str, ...] | None] = {
    "samplers": None,
    "methods": None,
    "rewards": None,
    "benchmarks": ("settings", "presets", "resolve", "budget", "ledger", "records", "evaluation", "task"),
    "analysis": None,
}
_MATH = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the landing page, the reference, and a page for each file outside `docs/` that a page links to."""
    docs = Path(config.docs_dir)
    root = docs.parent
    pages = {name: (root / name).read_text(encoding="utf-8") for name in [README] if (root / name).exists()}
    for file in files.documentation_pages():
        pages[f"{docs.name}/{file.src_uri}"] = file.content_string
    if README in pages:
        files.append(File.generated(config, "index.md", content=pages[README]))
        for package, modules in REFERENCE.items():
            text = _reference(root, package, modules)
            files.append(File.generated(config, f"reference/{package}.md", content=text))
    targets = {_target(page, link) for page, text in pages.items() for link in _LINK.findall(text)}
    for target in sorted(targets):
        path = root / target
        if not target.startswith((f"{docs.name}/", "..")) and path.is_file():
            text = path.read_text(encoding="utf-8")
            if path.suffix != ".md":
                text = f"# {target}\n\n````{path.suffix[1:]}\n{text}\n````\n"
            files.append(File.generated(config, _address(target, docs.name), content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point relative links, which are right in the repository, at the pages of the site."""
    docs = Path(config.docs_dir).name
    uri = page.file.src_uri
    where = README if uri == "index.md" else f"{docs}/{uri}"
    if uri.startswith(f"{SOURCE}/"):
        where = uri.removeprefix(f"{SOURCE}/")

    def moved(match: re.Match[str]) -> str:
        address = _address(_target(where, match[1]), docs)
        known = files.get_file_from_path(address)
        return posixpath.relpath(address, posixpath.dirname(uri)) if known else match[1]

    return _LINK.sub(moved, markdown)


def on_page_content(content: str, **_: object) -> str:
    """Formulas as MathML, which browsers draw without a script."""
    return _MATH.sub(_formula, content)


def _reference(root: Path, package: str, modules: tuple[str, ...] | None) -> str:
    """Directives for mkdocstrings: the package's own docstring, then one section a module."""
    if modules is None:
        paths = sorted((root / package).rglob("*.py"))
        names = [".".join(path.relative_to(root).with_suffix("").parts) for path in paths]
        modules_found = [name.removesuffix(".__init__") for name in names if not name.endswith(".__main__")]
        found = sorted(name for name in modules_found if name != package)
    else:
        found = [f"{package}.{name}" for name in modules]
    head = f"::: {package}\n    options: {{heading_level: 1, members: false}}\n"
    return "\n".join([head, *(f"::: {name}" for name in found)]) + "\n"


def _formula(match: re.Match[str]) -> str:
    display = "block" if match[1] == "div" else "inline"
    formula = convert(unescape(match[2]).strip(), display=display)
    return formula.replace("<mi>log</mi>", '<mi>log</mi><mspace width="0.17em"/>')


def _target(page: str, link: str) -> str:
    """Path in the repository that a link on a page leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link))


def _address(target: str, docs: str) -> str:
    """Where the site has a file of the repository."""
    if target == README:
        return "index.md"
    if target.startswith(f"{docs}/"):
        return target.removeprefix(f"{docs}/")
    return f"{SOURCE}/{target}" if target.endswith(".md") else f"{SOURCE}/{target}.md"
