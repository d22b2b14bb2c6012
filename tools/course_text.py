"What the checks of the course's text share: pages, their prose, their outputs."

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
PARTS = {  # the parts of the course, by folder below nbs/
    "": "main path",
    "beyond": "beyond",
    "pages": "pages",
    "reference": "reference",
    "tiny": "making of tiny",
}


def part_of(page):
    "Which part of the course a notebook belongs to."
    folder = page.relative_to(NBS).parent.as_posix()
    return PARTS["" if folder == "." else folder]


def pages(folder=None):
    "The notebooks of one folder below nbs/, or of all, in the order of the site."
    below = NBS if folder is None else NBS / folder
    found = below.rglob("*.ipynb") if folder is None else below.glob("*.ipynb")
    kept = (f for f in found if ".ipynb_checkpoints" not in f.parts)
    return sorted(kept, key=lambda f: (len(f.parts), f))


def cells_of(page):
    return json.loads(page.read_text("utf-8"))["cells"]


def source_of(cell):
    return "".join(cell["source"])


def outputs_of(cell):
    "Everything that a code cell shows, as one text."
    found = []
    for output in cell.get("outputs", []):
        found.append("".join(output.get("text", [])))
        for kind, data in output.get("data", {}).items():
            if kind.startswith("text/") or kind == "image/svg+xml":
                found.append("".join(data))
        found += output.get("traceback", [])
    return "\n".join(found)


def prose(markdown):
    """Words that a reader reads: no code, no addresses, no example in italics."""
    text = re.sub(r"(?ms)^```.*?^```", " ", markdown)
    text = re.sub(r"`[^`\n]*`", " ", text)
    text = re.sub(r"<!--.*?-->|<[^>\n]+>", " ", text)
    text = re.sub(r"\]\([^)\s]*\)", "] ", text)
    text = re.sub(r"https?://\S+", " ", text)
    return re.sub(r"(?<![*\w])\*[^*\n]+\*(?!\*)", " ", text)
