"Tables, word lists and labels of tiny's text that cannot be read are named"

import random

import pytest

from gpt_course.files import ASSETS
from gpt_course.tiny.encyclopedia import limit_rows, read_encyclopedia, read_relation
from gpt_course.tiny.sentences import read_sections
from gpt_course.tiny.sheets import (
    practice_cases,
    practised,
    read_labels,
    sentence_sheet,
)

GOOD = (ASSETS / "encyclopedia" / "young_animals.txt").read_text("utf-8")


@pytest.mark.parametrize(
    "change, said",
    [
        (
            lambda t: t.replace("title:", "focus: -3\ntitle:", 1),
            "need a number of rows",
        ),
        (lambda t: t.replace("title:", "often: nan\ntitle:", 1), "a factor"),
        (lambda t: t.replace("title:", "rows: nosuch\ntitle:", 1), "no generator"),
        (
            lambda t: t.split("[table]")[0] + "[table]\nanimal\tyoung\n",
            "no \\[table\\] with rows",
        ),
        (lambda t: t.rstrip("\n") + "\nyak\t \n", "empty cell"),
    ],
)
def test_a_table_that_cannot_be_read_is_named(tmp_path, change, said):
    text = "\n".join(
        line for line in GOOD.split("\n") if not line.startswith(("focus:", "often:"))
    )
    (tmp_path / "t.txt").write_text(change(text), "utf-8")
    with pytest.raises(ValueError, match=f"(?s)t.txt.*{said}"):
        read_relation(tmp_path / "t.txt")
    (tmp_path / "t.txt").write_bytes(text.encode("utf-8-sig"))
    assert read_relation(tmp_path / "t.txt").rows


def test_words_before_the_first_section_are_named(tmp_path):
    (tmp_path / "l.txt").write_text("# words\ncat\tcats\n[animals]\n", "utf-8")
    with pytest.raises(ValueError, match="l.txt, line 2"):
        read_sections(tmp_path / "l.txt")


# --- practice sheets ---


@pytest.mark.parametrize(
    "text, contains",
    [
        ("base: Sentence\n\nno colon\n", "line 3: 'no colon' is not"),
        ("base: A\nbase: B\n", "line 2: .* names a form again"),
    ],
)
def test_a_file_of_labels(tmp_path, text, contains):
    (tmp_path / "labels.txt").write_text(text)
    with pytest.raises(ValueError, match=contains):
        read_labels(tmp_path / "labels.txt")


def test_cases_that_cannot_be_made():
    enc = limit_rows(read_encyclopedia())
    with pytest.raises(ValueError, match="n is 0"):
        practice_cases(random.Random(1), enc, n=0)
    with pytest.raises(ValueError, match=r"base to passive: \d of 9 cases in 9 draws"):
        practice_cases(random.Random(1), enc, n=9, tries=9)
    with pytest.raises(ValueError, match="1 texts for 0 cases"):
        practised([], ["a"])
    enc.sentences = ["Rain falls.", "Snow melts."]
    with pytest.raises(ValueError, match="add some prose"):
        sentence_sheet(random.Random(1), enc)
