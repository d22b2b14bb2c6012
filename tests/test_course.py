"The course as a text: its parts, its numbers, its words."

import json
import re

import check_numbers
import check_terms
import count_course
import course_text
import pytest


def page(tmp_path, *cells):
    "A notebook of markdown texts, and of code with what it prints."
    made = []
    for i, cell in enumerate(cells):
        if isinstance(cell, str):
            made.append(dict(cell_type="markdown", id=f"c{i}", source=[cell]))
            continue
        source, printed = cell
        output = dict(output_type="stream", name="stdout", text=[printed])
        made.append(
            dict(cell_type="code", id=f"c{i}", source=[source], outputs=[output])
        )
    path = tmp_path / "page.ipynb"
    path.write_text(json.dumps({"cells": made}), "utf-8")
    return path


def unshown(tmp_path, monkeypatch, *cells, exceptions=None):
    monkeypatch.setattr(check_numbers, "NBS", tmp_path)
    found = check_numbers.unshown(page(tmp_path, *cells), exceptions or {})
    return [number for _, number in found]


LECTURES = [p for p in course_text.pages("") if count_course.LECTURE.match(p.name)]


def test_the_main_path_has_ten_lectures():
    assert [p.name[:2] for p in LECTURES] == [f"{n:02}" for n in range(1, 11)]


BEYOND = [p for p in course_text.pages("beyond") if count_course.LECTURE.match(p.name)]


@pytest.mark.parametrize("path", [*LECTURES, *BEYOND], ids=lambda p: p.stem)
def test_a_lecture_has_head_end_pictures_and_short_cells(path):
    assert count_course.faults([count_course.count(path)]) == []


def test_the_minutes_of_a_lecture_are_those_of_the_course():
    minutes = {p.stem: count_course.count(p).stated for p in LECTURES}
    assert {n: m for n, m in minutes.items() if m is None or not 20 <= m <= 60} == {}


def test_fine_tuning_is_most_of_the_course():
    shares = count_course.shares([count_course.count(p) for p in course_text.pages()])
    assert shares["main path"] > 50
    assert shares["making of tiny"] < 25


def drawing(html):
    data = {"text/plain": ["Drawing: a box"], "text/markdown": [html]}
    return dict(output_type="execute_result", data=data)


def test_counts_are_what_stands_there(tmp_path, monkeypatch):
    for module in (count_course, course_text):
        monkeypatch.setattr(module, "NBS", tmp_path)
    code = "#| export\ndef f(\n    a,  # one\n):\n    'Doc.'\n    # why\n    return 1"
    path = page(
        tmp_path,
        "Three plain words. `code` and [a link](https://example.org/a/b)",
        (code, ""),
        ("x = 1\ny = 2", ""),
        ("lesson_head(1, 'nothing', 30, [])", ""),
        ("table_view()", ""),
    )
    made = json.loads(path.read_text("utf-8"))
    plot = dict(output_type="display_data", data={"image/png": "AA"})
    made["cells"][2]["outputs"] = [drawing("<img>"), plot]
    made["cells"][3]["outputs"] = [drawing("<div>")]  # the map does not count
    made["cells"][4]["outputs"] = [drawing("<table>")]
    path.write_text(json.dumps(made), "utf-8")
    counts = count_course.count(path)
    assert (counts.words, counts.lines, counts.exported) == (6, 5, 1)
    assert (counts.drawings, counts.plots, counts.stated) == (1, 1, 30)
    assert counts.has_head and not counts.has_end


@pytest.mark.parametrize(
    "text, printed",
    [
        ("The loss is 1.18.", "1.1834"),
        ("That is 83% of them.", "0.8305"),
        ("That is 83% of them.", "83%"),
        ("It has 7.8 million weights.", "7,834,112 parameters"),
        ("Some 1,300 records.", "1300"),
        ("It took 3 steps in 2019, with GPT-2 and `x = 99`.", ""),
    ],
)
def test_a_number_that_a_cell_shows_is_fine(tmp_path, monkeypatch, text, printed):
    assert unshown(tmp_path, monkeypatch, text, ("", printed)) == []


@pytest.mark.parametrize(
    "text, printed, found",
    [
        ("The loss is 1.18.", "1.19", ["1.18"]),
        ("That is 83% of them.", "0.84", ["83%"]),
        ("It has 7.8 million weights.", "124,000,000", ["7.8 million"]),
        ("Some 1,300 records.", "130", ["1,300"]),
        ("From 20 to 40.", "20", ["40"]),
    ],
)
def test_a_number_that_no_cell_shows_is_found(
    tmp_path, monkeypatch, text, printed, found
):
    assert unshown(tmp_path, monkeypatch, text, ("", printed)) == found
    excused = {("page.ipynb", "c0"): {found[0]: "a reason"}}
    cells = (text, ("", printed))
    assert unshown(tmp_path, monkeypatch, *cells, exceptions=excused) == []


def test_every_number_in_prose_is_shown_by_a_cell():
    assert check_numbers.faults(check_numbers.checked_pages()) == []


def test_every_exception_is_needed():
    "A page, a cell and a number that are there."
    gone = []
    for (name, cell), numbers in check_numbers.read_exceptions().items():
        cells = course_text.cells_of(course_text.NBS / name)
        found = {c["id"]: course_text.source_of(c) for c in cells}
        have = list(check_numbers.numbers_in(found.get(cell, "")))
        gone += [
            f"{name} {cell} {number}"
            for number in numbers
            if number not in ("*", *have) or not have
        ]
    assert gone == []


def test_the_words_are_the_fields():
    assert check_terms.faults(check_terms.texts()) == []


def test_nothing_is_misspelt():
    pytest.importorskip("codespell_lib")
    assert check_terms.misspelt(check_terms.texts()) == []


@pytest.mark.parametrize(
    "source, found",
    [
        ("# mend it there\nx = 1", ["mend"]),
        ("raise ValueError('the step size is too large')", ["step size"]),
        ("step_size = 'mend'", []),
    ],
)
def test_a_home_made_word_is_found_where_a_person_reads_it(
    tmp_path, monkeypatch, source, found
):
    monkeypatch.setattr(check_terms, "ROOT", tmp_path)
    path = tmp_path / "module.py"
    path.write_text(source)
    said = check_terms.faults([path])
    assert [line.split("'")[1] for line in said] == found


def test_codespell_is_asked(tmp_path, monkeypatch):
    pytest.importorskip("codespell_lib")
    path = tmp_path / "module.py"
    path.write_text("x = 1  # a comment with recieve in it")
    monkeypatch.setattr(check_terms, "ROOT", tmp_path)
    assert check_terms.misspelt([path]) == ["module.py : recieve ==> receive"]


def glossary():
    "Term and the page that explains it."
    page = course_text.NBS / "pages" / "glossary.ipynb"
    text = "\n".join(map(course_text.source_of, course_text.cells_of(page)))
    rows = re.findall(r"\| \*\*(.+?)\*\* \| .* \| \[.*?\]\((.+?)\) \|", text)
    return [(term, (page.parent / path).resolve()) for term, path in rows]


def test_a_term_of_the_glossary_is_explained_where_it_says():
    missing = []
    for term, path in glossary():
        cells = course_text.cells_of(path)
        texts = [c for c in cells if c["cell_type"] == "markdown"]
        # line breaks and capitals apart; of a name and its short form, either
        text = " ".join("\n".join(map(course_text.source_of, texts)).lower().split())
        names = re.split(r" \(|\)|, | and ", term.lower())
        if not any(name and name in text for name in names):
            missing.append(f"{term}: {path.name}")
    assert len(glossary()) > 60
    assert missing == []


def stored_kinds(notebook):
    "The kinds of output that it holds, each with its cell."
    return [
        (cell["id"], kind)
        for cell in notebook["cells"]
        for output in cell.get("outputs", [])
        for kind in output.get("data", {})
    ]


def asks_another_host(kind):
    """Quarto puts scripts of other hosts before such an output: the manager of widgets,
    and require.js and jQuery before HTML (src/core/jupyter/widgets.ts, 1.9).
    """
    return kind == "text/html" or kind.startswith("application/vnd.jupyter.widget")


@pytest.mark.parametrize(
    "path", sorted(course_text.NBS.rglob("*.ipynb")), ids=lambda p: p.stem
)
def test_no_stored_output_asks_another_host(path):
    notebook = json.loads(path.read_text("utf-8"))
    found = [found for found in stored_kinds(notebook) if asks_another_host(found[1])]
    assert found == []
    assert "widgets" not in notebook["metadata"]
