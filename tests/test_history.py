"A history is read as it was written, refused by file and line, and shows itself"

import subprocess
import sys

import pytest

from gpt_course.history import History
from gpt_course.losses import smooth
from gpt_course.protocols import COLUMNS


def row(step, val_loss=None, **changes):
    made = dict(
        step=step,
        epoch=step / 4,
        examples_seen=8 * step,
        tokens_seen=100 * step,
        train_loss=3.0 / step if step else None,
        val_loss=val_loss,
        lr=1e-3 / (step + 1),
    )
    return made | changes


ROWS = [row(0, 4.0), row(1), row(2, 2.0), row(3), row(4, 2.5)]


@pytest.fixture
def file(tmp_path):
    return History(ROWS).to_csv(tmp_path / "h.csv")


def test_written_and_read_to_the_bit(file):
    again = History.from_csv(file)
    assert again == History(ROWS)
    assert [type(v) for v in again.rows[2].values()] == [
        type(v) for v in ROWS[2].values()
    ]
    assert file.read_text().splitlines()[:2] == [
        ",".join(COLUMNS),
        "0,0.0,0,0,,4.0,0.001",
    ]
    # from a spreadsheet
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert History.from_csv(file) == History(ROWS)


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("step,epoch", "step,epochs", "line 1: not a history; need the columns step, "),
        ("\n0,", "\ninf,", "line 2: step is 'inf', not a whole number; fix or remove"),
        ("\n1,0.25", "\n1.5,0.25", "line 3: step is '1.5', not a whole number"),
        ("\n1,0.25", "\n1,nan", "line 3: epoch is nan, not a finite number"),
        ("\n1,0.25", "\n1,", "line 3: epoch is empty"),
        ("3.0,", "three,", "line 3: train_loss is 'three', not a number"),
        ("\n1,0.25", "\n1,0.25,7", "line 3: 8 cells, need 7"),
        ("\n1,0.25", "\n\n1,0.25", "line 3: 0 cells, need 7"),
        ("\n1,0.25", '\n"1"x,0.25', "line 3: "),
        ("\n1,0.25", '\n"1,0.25', "line 6: "),
        ("\n1,0.25", "\n" + "9" * 5000 + ",0.25", "line 3: step is '999"),
    ],
)
def test_what_is_wrong_is_named_by_its_line(file, old, new, said):
    text = file.read_text()
    assert text.count(old) == 1 or old == "3.0,"
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError) as e:
        History.from_csv(file)
    assert str(e.value).startswith(f"{file}, {said}")


def test_what_is_no_text_is_named_too(file, tmp_path):
    file.write_bytes(file.read_bytes().replace(b"2.0", b"2\xff0"))
    with pytest.raises(ValueError, match="h.csv, line 4: not UTF-8"):
        History.from_csv(file)
    file.write_bytes(b"")
    with pytest.raises(ValueError, match="h.csv, line 1: not a history"):
        History.from_csv(file)
    with pytest.raises(ValueError, match="none.csv: cannot be read"):
        History.from_csv(tmp_path / "none.csv")


def test_it_shows_itself_in_a_few_lines(tmp_path):
    shown = History(ROWS)._repr_mimebundle_()
    assert shown.keys() == {"text/plain", "text/markdown", "image/svg+xml"}
    assert shown["text/plain"] == repr(History(ROWS)) == str(History(ROWS))
    assert shown["text/plain"] == "History of 4 steps with 3 validation losses"
    assert shown["image/svg+xml"].startswith("<?xml")
    table, picture = shown["text/markdown"].strip().split("\n\n")
    assert [line.split("|")[1].strip() for line in table.splitlines()] == [
        "epochs",
        "--:",
        "before",
        "0.5",
        "1.0",
    ]
    assert picture.startswith("![](data:image/svg+xml;base64,")
    assert shown == History(ROWS)._repr_mimebundle_()  # the same each time
    long = History([row(step, 1.0) for step in range(500)])
    lines = long._repr_mimebundle_()["text/markdown"].split("\n\n")[0].splitlines()
    assert len(lines) == 2 + 10
    assert lines[2].startswith("| before") and lines[-1].startswith("| 124.8 | 49,900 ")


def test_without_a_training_loss_there_is_a_table_only():
    for rows in ([], ROWS[:1]):
        shown = History(rows)._repr_mimebundle_()
        assert shown.keys() == {"text/plain", "text/markdown"}
        for ask in (History(rows).plot, History(rows).summary):
            with pytest.raises(ValueError, match="the history has no "):
                ask()


def test_the_best_row_and_the_summary():
    history = History(ROWS)
    assert history.best()["step"] == 2
    assert History([*ROWS, row(5, float("nan"))]).best()["step"] == 2
    assert history.summary().splitlines()[0] == "before: validation 4.00"
    assert history.summary().splitlines()[2] == (
        "lowest validation loss 2.00 at epoch 0.5"
    )
    with pytest.raises(ValueError, match="no validation loss; set eval_steps"):
        History([row(1)]).best()
    assert history.column("val_loss") == [(0, 4.0), (2, 2.0), (4, 2.5)]
    with pytest.raises(ValueError, match="name is 'loss'; need one of step, epoch"):
        history.column("loss")


@pytest.mark.parametrize(
    "name, start", [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a", b"\x89PNG")]
)
def test_the_picture_is_written_in_the_kind_its_name_says(tmp_path, name, start):
    History(ROWS).plot(tmp_path / name, title="A run")
    assert (tmp_path / name).read_bytes().startswith(start)
    with pytest.raises(ValueError, match="a.doc: no picture ends so; need"):
        History(ROWS).plot(tmp_path / "a.doc")
    assert [f.name for f in tmp_path.iterdir()] == [name]


def test_matplotlib_is_imported_by_the_first_plot_only():
    code = (
        "import sys; from gpt_course.history import History; "
        "assert not {'torch', 'matplotlib'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_smoothing_needs_a_weight_below_1():
    assert smooth([]) == []
    for weight in (1, -0.1, float("nan")):
        with pytest.raises(ValueError, match="need 0 to below 1"):
            smooth([1.0], weight)
