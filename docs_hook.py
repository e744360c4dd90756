"""mkdocs: the README as start page, and a page for each file outside docs/ that is linked to, so that links work on the site as
they do in the repository."""

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parent
LINK = re.compile(r"(\]\()(?!https?://)([^)\s#]+)")


def on_files(files: Any, config: Any) -> None:
    """Adds the start page, and what the pages link to."""
    readme = (ROOT / "README.md").read_text()
    pages = {"../README.md": readme} | {file.src_uri: file.content_string for file in files.documentation_pages()}
    linked = {in_repository(page, link) for page, text in pages.items() for _, link in LINK.findall(text)}
    for path in sorted(linked):
        if not path.startswith("docs/") and (ROOT / path).is_file():
            files.append(File.generated(config, f"source/{path}.md", content=as_page(ROOT / path)))
    files.append(File.generated(config, "index.md", content=readme))


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Points links at the pages that `on_files` made."""
    source = page.file.src_uri

    def moved(match: re.Match[str]) -> str:
        path = in_repository("../README.md" if source == "index.md" else source, match[2])
        place = path.removeprefix("docs/") if path.startswith("docs/") else f"source/{path}.md"
        known = files.get_file_from_path(place) is not None  # else mkdocs reports it
        return match[1] + (posixpath.relpath(place, posixpath.dirname(source) or ".") if known else match[2])

    return markdown if source.startswith("source/") else LINK.sub(moved, markdown)


def in_repository(page: str, link: str) -> str:
    """What a link on a page of docs/ leads to, from the repository's root."""
    return posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))


def as_page(file: Path) -> str:
    parts = notebook(file) if file.suffix == ".ipynb" else [f'````{file.suffix[1:]} linenums="1"\n{file.read_text()}\n````']
    return "\n\n".join([f"# {file.relative_to(ROOT)}", *parts])


def notebook(file: Path) -> Iterator[str]:
    """Its texts, code and outputs: figures and Markdown as they are, other outputs as text."""
    for cell in json.loads(file.read_text())["cells"]:
        text = "".join(cell["source"])
        yield text.replace("# ", "## ", 1) if cell["cell_type"] == "markdown" else f"````python\n{text}\n````"
        for output in cell.get("outputs", []):
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "image/png" in data:
                yield f"![figure](data:image/png;base64,{data['image/png'].strip()})"
            elif "text/markdown" in data:
                yield "".join(data["text/markdown"])
            else:
                yield f"````text\n{''.join(data['text/plain'])}\n````"
