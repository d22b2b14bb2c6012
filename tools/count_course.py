"""Count the course: words, minutes, drawings, plots, lines in exported cells.

    python tools/count_course.py           a table; fails where a lecture breaks a rule
    python tools/count_course.py --json    the same as JSON

A lecture, also beyond the ten, has the components of head and end, at least two
pictures, and no exported cell of more than 30 lines of code. A drawing is one of
`whiteboard`, a plot a PNG; the map in head and end does not count. `stated` is what the
head promises; `reading` is 150 words and 10 lines of visible code a minute."""

import argparse
import ast
import json
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from course_text import NBS, cells_of, pages, part_of, prose, source_of

LONGEST_CELL = 30  # lines of code
FEWEST_PICTURES = 2
WORDS_A_MINUTE, LINES_A_MINUTE = 150, 10
MAP = re.compile(r"\b(lesson_head|lesson_end|course_map)\(")
LECTURE = re.compile(r"\d\d_")
EXPORT = re.compile(r"#\| ?export(s|i)?\b")
HIDDEN = re.compile(r"#\| ?(hide|include: false|echo: false)")


@dataclass
class Counts:
    page: str  # its path below nbs/
    part: str  # of the course
    words: int  # of prose, no code
    lines: int  # of visible code, empty lines and comments apart
    exported: int  # of them, in exported cells
    longest: int  # exported cell, in lines of code
    drawings: int
    plots: int
    stated: int | None  # minutes, by the head
    has_head: bool
    has_end: bool

    @property
    def reading(self):
        "Minutes, by words and lines."
        return round(self.words / WORDS_A_MINUTE + self.lines / LINES_A_MINUTE)

    @property
    def is_lecture(self):
        "One of the ten."
        return self.part == "main path" and self.is_numbered

    @property
    def is_numbered(self):
        "A lecture, or one beyond them."
        taught = self.part in ("main path", "beyond")
        return taught and bool(LECTURE.match(Path(self.page).name))


def code_lines(source):
    "Lines of code: no docstring, signature, comment or empty line."
    source = re.sub(r"(?m)^\s*[%!].*$", "", source)
    tree, lines = ast.parse(source), source.splitlines()
    skip = {n for n, line in enumerate(lines, 1) if re.match(r"\s*(#|$)", line)}
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            start = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            skip |= set(range(start, node.body[0].lineno))
            doc = node.body[0]
            if isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant):
                skip |= set(range(doc.lineno, doc.end_lineno + 1))
    return len(lines) - len(skip)


def stated_minutes(source):
    "The argument `minutes` of `lesson_head`."
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and "lesson_head" in ast.unparse(node.func):
            named = {k.arg: k.value for k in node.keywords}
            value = named.get("minutes", (node.args + [None] * 3)[2])
            return value.value if isinstance(value, ast.Constant) else None
    return None


def drawings_of(cell):
    "Drawings of `whiteboard` among the outputs; tables are text."
    shown = [output.get("data", {}) for output in cell["outputs"]]
    drawn = [
        d for d in shown if "".join(d.get("text/plain", "")).startswith("Drawing:")
    ]
    markups = [d.get("text/markdown", d.get("text/html", "")) for d in drawn]
    return sum("<table" not in "".join(markup) for markup in markups)


def count(page):
    cells = cells_of(page)
    texts = [prose(source_of(c)) for c in cells if c["cell_type"] == "markdown"]
    code = [(source_of(c), c) for c in cells if c["cell_type"] == "code"]
    sizes = [(code_lines(s), s) for s, _ in code if s.strip()]
    exported = [n for n, s in sizes if EXPORT.match(s)]
    shown = [c for s, c in code if not MAP.search(s)]
    heads = [s for s, _ in code if "lesson_head(" in s]
    kinds = [k for c in shown for o in c["outputs"] for k in o.get("data", {})]
    return Counts(
        page=page.relative_to(NBS).as_posix(),
        part=part_of(page),
        words=sum(len(re.findall(r"[\w’'-]*[A-Za-z][\w’'-]*", t)) for t in texts),
        lines=sum(n for n, s in sizes if not HIDDEN.match(s)),
        exported=sum(exported),
        longest=max(exported, default=0),
        drawings=sum(map(drawings_of, shown)),
        plots=sum(kind == "image/png" for kind in kinds),
        stated=stated_minutes(heads[0]) if heads else None,
        has_head=bool(heads),
        has_end=any("lesson_end(" in s for s, _ in code),
    )


def faults(counts):
    "What a lecture lacks."
    found = []
    for c in counts:
        if not c.is_numbered:
            continue
        if not c.has_head:
            found.append(f"{c.page}: no lesson_head")
        if not c.has_end:
            found.append(f"{c.page}: no lesson_end")
        if (pictures := c.drawings + c.plots) < FEWEST_PICTURES:
            found.append(f"{c.page}: {pictures} pictures, need {FEWEST_PICTURES}")
        if c.longest > LONGEST_CELL:
            found.append(
                f"{c.page}: an exported cell of {c.longest} lines, at most "
                f"{LONGEST_CELL}"
            )
    return found


def shares(counts, of="words"):
    "Of main path, Beyond and making of tiny, in percent of the three together."
    parts = ("main path", "beyond", "making of tiny")
    sums = {p: sum(getattr(c, of) for c in counts if c.part == p) for p in parts}
    whole = sum(sums.values())
    return {part: round(100 * n / whole) for part, n in sums.items()}


def print_table(counts):
    head = ("page", "words", "stated", "reading", "drawn", "plots", "export", "cell")
    print(("{:32}" + "{:>8}" * 7).format(*head))
    for c in counts:
        if c.part == "reference":
            continue
        numbers = (c.words, c.stated or "", c.reading, c.drawings, c.plots)
        print(("{:32}" + "{:>8}" * 7).format(c.page, *numbers, c.exported, c.longest))
    main = [c for c in counts if c.is_lecture]
    print(
        f"\n{len(main)} lectures: {sum(c.words for c in main):,} words, "
        f"{sum(c.stated or 0 for c in main) / 60:.1f} hours stated, "
        f"{sum(c.drawings for c in main)} drawings, {sum(c.plots for c in main)} plots"
    )
    for of in ("words", "lines"):
        said = ", ".join(f"{part} {n}%" for part, n in shares(counts, of).items())
        print(f"shares by {of}: {said}")


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--json", action="store_true", help="print JSON")
    args = p.parse_args()
    counts = [count(page) for page in pages()]
    if args.json:
        rows = [asdict(c) | {"reading": c.reading} for c in counts]
        print(json.dumps({"pages": rows, "shares": shares(counts)}, indent=1))
    else:
        print_table(counts)
    if found := faults(counts):
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
