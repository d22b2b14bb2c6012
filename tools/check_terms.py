"""Find home-made words that have a name in the field, and words that are misspelt.

    python tools/check_terms.py            notebooks, modules, README and the rest
    python tools/check_terms.py FILE ...

`tools/terms.txt` holds the words, `tools/spelling.txt` what codespell shall not touch.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from course_text import ROOT, cells_of, pages, prose, source_of

TERMS = ROOT / "tools" / "terms.txt"
IGNORED = ROOT / "tools" / "spelling.txt"
# sentences about coats and blanks are what these are made of
SENTENCES = ("encyclopedia", "sentences", "sheets", "plain")


def read_terms(path=TERMS):
    "Pattern and the word of the field, for each line."
    found = []
    for line in path.read_text("utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            ours, _, theirs = line.rpartition(" | ")
            pattern = re.compile(rf"(?i)(?<!\w){ours.strip()}(?!\w)")
            found.append((pattern, theirs.strip()))
    return found


def comments(source):
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    try:
        return [t.string for t in tokens if t.type == tokenize.COMMENT]
    except (tokenize.TokenError, IndentationError):
        return []


def strings(source):
    "Docstrings and messages: constants of more than one word, as they are said."
    source = re.sub(r"(?m)^\s*[%!].*$", "", source)
    values = (
        n.value for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Constant)
    )
    return [v for v in values if isinstance(v, str) and " " in v.strip()]


def code_words(source, name):
    "What a person reads in code."
    said = comments(source)
    if not any(part in name for part in SENTENCES):
        said += strings(source)
    return [prose(text) for text in said]


def words_of(path):
    "Pairs of place and text."
    if path.suffix == ".ipynb":
        for cell in cells_of(path):
            source = source_of(cell)
            if cell["cell_type"] == "markdown":
                yield cell["id"], prose(source)
            elif cell["cell_type"] == "code":
                for text in code_words(source, path.stem):
                    yield cell["id"], text
    elif path.suffix == ".py":
        for text in code_words(path.read_text("utf-8"), path.stem):
            yield "", text
    else:
        yield "", prose(path.read_text("utf-8"))


def faults(paths):
    "A line for each word of the list that a file uses."
    terms = read_terms()
    return [
        f"{path.relative_to(ROOT)} {place}: {m[0]!r}, say {theirs}"
        for path in paths
        for place, text in words_of(path)
        for pattern, theirs in terms
        for m in pattern.finditer(text)
    ]


def misspelt(paths):
    "What codespell finds in prose and in what code says."
    found = []
    text, places = [], []
    for path in paths:
        for place, words in words_of(path):
            for line in words.splitlines():
                text.append(line)
                places.append(f"{path.relative_to(ROOT)} {place}")
    command = [sys.executable, "-m", "codespell_lib", "-I", str(IGNORED), "-"]
    said = subprocess.run(
        command, input="\n".join(text), text=True, capture_output=True
    )
    for m in re.finditer(r"(?m)^(\d+): .*\n\t(.*)$", said.stdout):
        found.append(f"{places[int(m[1]) - 1]}: {m[2]}")
    if said.stderr.strip():
        raise RuntimeError(f"codespell: {said.stderr.strip()}")
    return found


def texts():
    "Every file of words that readers or users see."
    notebooks = pages()
    package = [f for f in (ROOT / "gpt_course").rglob("*.py") if f.name != "_modidx.py"]
    tools = [f for f in (ROOT / "tools").glob("*.py") if f != Path(__file__).resolve()]
    cards = (ROOT / "gpt_course" / "assets").glob("*.md")
    return sorted([*notebooks, *package, *tools, *cards, *ROOT.glob("*.md")])


def main():
    paths = [Path(a).resolve() for a in sys.argv[1:]] or texts()
    found = faults(paths) + misspelt(paths)
    print(*found, sep="\n")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
