"""List the numbers in the prose of a page that no cell of that page shows.

    python tools/check_numbers.py             all pages of the course
    python tools/check_numbers.py NOTEBOOK ...

A number is covered if an output of the page contains it, rounded where the prose rounds
and as a share where the prose has percent, or if code of the page sets it. Not looked
at: whole numbers up to 12, which count things in the text; years; names such as GPT-2;
sources and headings. `tools/numbers.txt` holds the exceptions, each with its reason."""

import re
import sys
from decimal import Decimal
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from course_text import (
    NBS,
    cells_of,
    outputs_of,
    pages,
    part_of,
    prose,
    source_of,
)

EXCEPTIONS = Path(__file__).with_name("numbers.txt")
SMALL = 12  # whole numbers up to here are counting words
NUMBER = re.compile(
    r"(?<![\w.,/=\-^_])[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e-?\d+)?"
    r"(?![\w/]|[.,-]\d|-bit)(?:\s?%| million\b| billion\b)?"
)
SCALE = {"%": Decimal("0.01"), "million": Decimal(10**6), "billion": Decimal(10**9)}
SHOWN = re.compile(
    r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:_\d{3})+|\d+(?:\.\d+)?(?:e-?\d+)?"
)
YEAR = re.compile(r"\b(?:19|20)\d\d(?:-\d\d-\d\d)?\b")
VERSION = re.compile(r"\b(?:WordNet|PyTorch|Python|torch|Transformers) \d+(?:\.\d+)*")
IMAGE = re.compile(r"data:image/[^\"']+")


def read_exceptions(path=EXCEPTIONS):
    """`page cell number reason`: by page and cell, the numbers that need no output.

    `*` as a number stands for all of a cell.
    """
    found = {}
    for line in path.read_text("utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            page, cell, number, reason = line.split(maxsplit=3)
            found.setdefault((page, cell), {})[number] = reason
    return found


def value_of(text):
    "Of a number as it is written."
    return Decimal(re.sub(r"[,_%\s]", "", text).replace("−", "-"))


def shown_numbers(page):
    "What outputs and code of a page contain, pictures by their alternative text."
    text = []
    for cell in cells_of(page):
        if cell["cell_type"] == "code":
            text += [source_of(cell), IMAGE.sub("", outputs_of(cell))]
    found = (value_of(m[0]) for m in SHOWN.finditer("\n".join(text)))
    return {value for value in found if value < 10**12}


def is_shown(number, shown):
    "Is this one of the numbers, or one of them rounded?"
    digits, _, unit = re.sub(r"(%|[mb]illion)$", r" \1", number).partition(" ")
    value, scale = abs(value_of(digits)), SCALE.get(unit.strip(), Decimal(1))
    exponent = value.as_tuple().exponent
    place = Decimal(1).scaleb(exponent if isinstance(exponent, int) else 0)
    return any(
        abs(s - factor * value) * 2 <= factor * place * (s != value)
        for s in shown
        for factor in {Decimal(1), scale}
    )


def numbers_in(markdown):
    "The numbers of a markdown cell that a cell should show."
    text = re.split(r"(?m)^#+ Sources", markdown)[0]
    text = re.sub(r"(?m)^\s*(#+ .*|\d+\. |\*\*\d+\.\*\*)", " ", text)
    text = re.sub(r"\[[^\]]*\]\([^)]*\)", " ", text)
    text = VERSION.sub(" ", YEAR.sub(" ", prose(text)))
    for m in NUMBER.finditer(text):
        number = m[0].strip()
        value = value_of(re.sub(r"\s?(%|[mb]illion)$", "", number))
        counts = value == value.to_integral_value() and abs(value) <= SMALL
        if not (counts and re.fullmatch(r"[-−\d]+", number)):
            yield number


def unshown(page, exceptions):
    "Cell and number, of what no cell shows and no exception excuses."
    name = page.relative_to(NBS).as_posix()
    shown = shown_numbers(page)
    for cell in cells_of(page):
        if cell["cell_type"] != "markdown":
            continue
        excused = exceptions.get((name, cell["id"]), {})
        for number in numbers_in(source_of(cell)):
            if "*" not in excused and number not in excused:
                if not is_shown(number, shown):
                    yield cell["id"], number


def checked_pages():
    "All but the reference, whose pages explain code."
    return [page for page in pages() if part_of(page) != "reference"]


def faults(paths):
    exceptions = read_exceptions()
    return [
        f"{page.relative_to(NBS).as_posix()} {cell} {number}"
        for page in paths
        for cell, number in unshown(page, exceptions)
    ]


def main():
    paths = [Path(a).resolve() for a in sys.argv[1:]] or checked_pages()
    found = faults(paths)
    print(*found, sep="\n")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
