"The copies of the lectures that `gpt-course lab` makes"

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gpt_course import lectures
from gpt_course.lectures import (
    copy_lectures,
    find_lectures,
    lectures_dir,
    open_lab,
    start_page,
)

NAMES = find_lectures(lectures_dir())


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab") / "course"
    copy_lectures(folder)
    return folder


def cells(path, kind="code"):
    notebook = json.loads(path.read_text("utf-8"))
    return [c for c in notebook["cells"] if c["cell_type"] == kind]


def test_the_tree_is_copied(copied):
    assert {path.parent.as_posix() for path in NAMES} == {
        ".",
        "beyond",
        "pages",
        "reference",
        "tiny",
    }
    assert find_lectures(copied) == NAMES
    assert [path.name for path in NAMES[:2]] == [
        "01_dataset.ipynb",
        "02_batching.ipynb",
    ]


@pytest.mark.parametrize("name", NAMES, ids=str)
def test_copies_have_no_scaffolding(name, copied):
    for cell in cells(copied / name):
        source = "".join(cell["source"])
        assert source.strip() and not re.match(r"\s*#\s*\|", source)
        assert "tags" not in cell["metadata"]
        compile(re.sub(r"(?m)^[%!].*$", "", source), str(name), "exec")
    assert cells(copied / name, "raw") == []


@pytest.mark.parametrize("name", NAMES, ids=str)
def test_copies_have_all_that_is_run(name, copied):
    "What a cell does is the same; what is not run by the tests is text."
    wanted, text = [], []
    for cell in cells(lectures_dir() / name):
        lines = "".join(cell["source"]).split("\n")
        directives = [line for line in lines if re.match(r"#\s*\|", line)]
        code = "\n".join(lines[len(directives) :]).strip("\n")
        if any("eval: false" in line for line in directives):
            text.append(code)
        elif code:
            wanted.append(code)
    assert [c["source"] for c in cells(copied / name)] == wanted
    shown = "".join("".join(c["source"]) for c in cells(copied / name, "markdown"))
    assert all(f"```python\n{code}\n```" in shown for code in text)


@pytest.mark.parametrize("name", NAMES, ids=str)
def test_copies_are_notebooks(name, copied):
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(copied / name, as_version=4)
    nbformat.validate(notebook)


def test_setup_cells_are_folded(copied):
    first = cells(copied / "01_dataset.ipynb")[0]
    assert first["source"].lstrip().startswith(("import", "from"))
    assert first["metadata"] == {"jupyter": {"source_hidden": True}}


def test_links_between_copies_lead_somewhere(copied):
    for name in NAMES:
        for cell in cells(copied / name, "markdown"):
            for link in re.findall(r"\]\(([^)#:]+\.ipynb)", "".join(cell["source"])):
                assert (copied / name.parent / link).exists(), (name, link)


def test_the_start_page_links_every_lecture_in_order(copied):
    page = (copied / "START.md").read_text("utf-8")
    links = re.findall(r"^- \[.+?\]\((.+?)\): .+$", page, re.M)
    assert sorted([*links, "index.ipynb"]) == [p.as_posix() for p in sorted(NAMES)]
    main = [link for link in links if "/" not in link]
    assert links[: len(main)] == sorted(main)
    assert page == start_page(lectures_dir())


def test_a_second_call_keeps_edits_and_adds_what_is_new(tmp_path):
    copy_lectures(tmp_path)
    mine = {"01_dataset.ipynb": b"not JSON", "START.md": b"caf\xe9\n"}
    for name, content in mine.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "notes.ipynb").write_text("mine")
    (tmp_path / "02_batching.ipynb").unlink()
    copied = copy_lectures(tmp_path)
    assert copied.added == [Path("02_batching.ipynb")]
    assert copied.kept == [name for name in NAMES if name not in copied.added]
    assert (tmp_path / "01_dataset.ipynb").read_bytes() == b"not JSON"
    start = (tmp_path / "START.md").read_bytes()
    assert start.startswith(b"caf\xe9\n") and b"](02_batching.ipynb)" in start
    assert copy_lectures(tmp_path).added == []
    assert (tmp_path / "START.md").read_bytes() == start


def test_jupyterlab_opens_on_the_index(copied, monkeypatch):
    called = []

    def run(command, cwd):
        called.append((command, cwd))
        return subprocess.CompletedProcess(command, 0)

    pytest.importorskip("jupyterlab")
    monkeypatch.setattr(lectures.subprocess, "run", run)
    assert open_lab(copied) == 0
    [(command, cwd)] = called
    assert command[:3] == [sys.executable, "-m", "jupyterlab"] and cwd == copied
    assert command[3].endswith("/lab/tree/index.ipynb")


def test_without_jupyterlab_it_says_what_to_install(copied, monkeypatch):
    monkeypatch.setitem(sys.modules, "jupyterlab", None)
    with pytest.raises(ValueError, match=r"pip install 'gpt_course\[lab\]'"):
        open_lab(copied)


def test_an_installed_package_has_them_inside(copied, tmp_path, monkeypatch):
    package = tmp_path / "gpt_course"
    (package / "lectures").mkdir(parents=True)
    monkeypatch.setattr(lectures.gpt_course, "__file__", str(package / "__init__.py"))
    with pytest.raises(ValueError, match="no lectures there"):
        lectures_dir()
    (package / "lectures" / "index.ipynb").write_text("{}")
    assert lectures_dir() == package / "lectures"
