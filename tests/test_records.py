"Files of strangers: read by what they hold, or named; faults with the owner's places"

import csv
import gzip
import io
import json
import math
import os
import pickle
import re
import zipfile

import pytest

from gpt_course import files, rows
from gpt_course.batching import fit_examples
from gpt_course.cli import main
from gpt_course.loaders import make_loaders
from gpt_course.records import (
    RecordError,
    load_data,
    load_records,
    parse_fields,
    validate_records,
)
from gpt_course.tokenizers import load_tokenizer

posix = pytest.mark.skipif(os.name == "nt", reason="pipes and devices are POSIX's here")
ASKED = "Name a fruit, or two."
PLAIN = {"instruction": ASKED, "input": "", "output": "Übrigens: 猫\nand 'plum'."}


def said(call, *args, **options):
    with pytest.raises(ValueError) as e:
        call(*args, **options)
    return str(e.value)


# --- paths ---


@posix
@pytest.mark.parametrize(
    "path, kind",
    [("/dev/zero", "a device"), ("/dev/null", "a device"), ("/tmp", "a folder")],
)
def test_what_is_no_file_is_named(path, kind):
    assert f"{path}: 1 fault\n  is {kind}; need a file of records" in said(
        load_records, path
    )


@posix
def test_a_pipe_does_not_keep_us_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "is a pipe" in said(load_records, tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    assert "is a pipe" in said(files.read_json, tmp_path / "link")


@posix
def test_a_file_is_found_through_a_link_spaces_and_the_home_folder(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "my data – ночь"
    folder.mkdir()
    (folder / "a file.json").write_text(json.dumps([PLAIN]), "utf-8")
    (tmp_path / "link.json").symlink_to(folder / "a file.json")
    assert load_data("~/link.json") == load_data(folder / "a file.json") == [PLAIN]
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    assert "no such file" in said(load_data, "~/dangling")


def test_paths_that_are_none_are_refused():
    for path in (3, None, "", "a\0b", b"a.json", ["a.json"]):
        assert "need the name of a file" in said(load_data, path)
    assert "cannot be read" in said(load_data, "x" * 5000)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read all")
def test_a_file_without_rights_is_named(tmp_path):
    (tmp_path / "a.json").write_text("[]")
    (tmp_path / "a.json").chmod(0)
    assert "cannot be read (Permission denied)" in said(load_data, tmp_path / "a.json")


def test_a_file_beyond_the_limit_is_refused_also_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MOST_BYTES", 50_000)
    path = tmp_path / "a.json"
    path.write_bytes(b" " * 50_000)
    assert "is empty" in said(load_records, path)
    path.write_bytes(b" " * 50_001)
    assert "has more than 5e-05 GB" in said(load_records, path)
    path.write_bytes(gzip.compress(b" " * 50_001))
    assert "holds more than 5e-05 GB" in said(load_records, path)


@posix
def test_what_is_too_large_is_not_even_read(tmp_path):
    path = tmp_path / "huge.jsonl"
    path.touch()
    os.truncate(path, 2**40)  # a hole, which takes no room on the disk
    assert "has more than 2 GB" in said(load_records, path)


# --- files, by what they hold ---


def as_table(delimiter, encoding, end):
    text = io.StringIO(newline="")
    form = dict(delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer = csv.DictWriter(text, list(PLAIN), **form)
    writer.writeheader()
    writer.writerows([PLAIN, PLAIN | {"output": "nan"}])
    return text.getvalue().encode(encoding)


TWO = [PLAIN, PLAIN | {"output": "nan"}]
ROWS = [json.dumps(row, ensure_ascii=False) for row in TWO]
PRETTY = json.dumps(TWO, indent=2, ensure_ascii=False)
COLUMNS = {name: [row[name] for row in TWO] for name in PLAIN}
READABLE = {
    "a list": PRETTY.encode(),
    "lines": "\n\n".join(ROWS).encode(),
    "lines that end as on Windows": "\r\n".join(ROWS).encode("utf-8-sig"),
    "lines that end as on old Macs": "\r".join(ROWS).encode(),
    "UTF-16 with a mark": PRETTY.encode("utf-16"),
    "UTF-16 without": "\n".join(ROWS).encode("utf-16-le"),
    "UTF-16, the other way": PRETTY.encode("utf-16-be"),
    "UTF-32": PRETTY.encode("utf-32"),
    "gzip": gzip.compress("\n".join(ROWS).encode("utf-16")),
    "a wrapper": json.dumps({"version": "1", "rows": TWO}).encode(),
    "columns": json.dumps(COLUMNS).encode(),
    "pandas": json.dumps({k: dict(enumerate(v)) for k, v in COLUMNS.items()}).encode(),
    "CSV": as_table(",", "utf-8-sig", "\r\n"),
    "CSV in gzip": gzip.compress(as_table(",", "utf-8", "\n")),
    "CSV of Excel in Europe": as_table(";", "utf-16", "\r\n"),
    "CSV of old Macs": as_table(",", "utf-8", "\r"),
    "TSV": as_table("\t", "utf-16-le", "\n"),
}


@pytest.mark.parametrize("kind", READABLE)
@pytest.mark.parametrize("name", ["data.json", "data.jsonl", "data.csv", "data"])
def test_what_a_file_holds_counts_and_not_its_name(tmp_path, kind, name):
    path = tmp_path / name
    path.write_bytes(READABLE[kind])
    assert load_records(path) == TWO


def zipped(name):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, b"x" * 20)
    return file.getvalue()


TENSORS = (64).to_bytes(8, "little") + b'{"__metadata__":{}}' + b" " * 200
OTHERS = {
    "an Excel sheet": zipped("xl/workbook.xml"),
    "weights of PyTorch": zipped("archive/data.pkl"),
    "a ZIP archive": zipped("data.json"),
    "a PDF document": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3",
    "a pickle": pickle.dumps([PLAIN]),
    "a web page": b"\n<!DOCTYPE html><html><body>Not found</body></html>",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
    "a bzip2 file": b"BZh91AY&SY",
    "an xz file": b"\xfd7zXZ\0\0",
    "an SQLite database": b"SQLite format 3\0" + bytes(99),
    "weights (safetensors)": TENSORS,
    "a model (GGUF)": b"GGUF\3\0\0\0",
    "an old Excel": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    "an Arrow file": b"ARROW1\0\0" + bytes(99),
    "a picture": b"\x89PNG\r\n\x1a\n",
    "a rich-text document": b"{\\rtf1\\ansi",
    "all zeros": bytes(5000),
    "compressed twice": gzip.compress(gzip.compress(b"[]")),
    "a Parquet file": b"PAR1" + b"\1" * 50 + b"PAR1",
    "neither JSON nor CSV": b"instruction: Name a fruit.\noutput: A plum.\n",
    "a gzip file, but damaged": gzip.compress(b"[]" * 999)[:-12],
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_cannot_be_read_is_named_with_a_remedy(tmp_path, kind):
    path = tmp_path / "data.jsonl"
    path.write_bytes(OTHERS[kind])
    message = said(load_records, path)
    assert message.startswith(f"{path}: 1 fault\n  is {kind}")
    assert ";" in message
    assert "UTF-8" not in message


def test_parquet_is_read_through_an_extra(tmp_path, monkeypatch):
    pa, pq = (pytest.importorskip(m) for m in ("pyarrow", "pyarrow.parquet"))
    path = tmp_path / "0000.parquet"
    table = [{"question": f"{i}?", "answer": f"{i}."} for i in range(2500)]
    table[7]["context"] = "seven"  # null in all others
    pq.write_table(pa.Table.from_pylist([table[7], *table]), path)
    records = load_records(path)
    assert [r["output"] for r in records] == ["7."] + [f"{i}." for i in range(2500)]
    assert [r["input"] for r in records].count("") == 2499
    assert records[2000].place == "record 2001"
    path.write_bytes(path.read_bytes()[:-1])
    assert "is a Parquet file, but damaged" in said(load_records, path)
    monkeypatch.setattr(rows, "need", files.need)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    missing = said(load_records, path)
    assert "is a Parquet file; this needs the package pyarrow" in missing
    assert "pip install 'gpt_course[parquet]'" in missing


# --- faults have the place where the owner finds them ---


@pytest.mark.parametrize(
    "data, faults",
    [
        (b'{"output": "a"}\n{1}', ["line 1: field 'instruction'", "line 2: not JSON"]),
        (
            b'{"a": 1}\n\n\n{"a": 1, "a": 2}',
            ["line 1: ", "line 1: ", "line 4: the field 'a'"],
        ),
        (b'[{"instruction": "x",\n"output": }]', ["line 2: not JSON at column 11"]),
        (b"[" * 100_000, ["cannot be used as JSON"]),
        (b"{}\n" + b"[" * 100_000, ["line 1: ", "line 1: ", "line 2: cannot be used"]),
        (b'[{"instruction": "x", "output": %s}]' % (b"1" * 5000), ["cannot be used"]),
        (b'["a"]', ["record 1: is a text; need an object"]),
        (
            b'[{"instruction": "\\ud83d", "output": "x"}]',
            ["record 1: .*half a charact"],
        ),
        (b'[\n{"instruction": "\xe9t\xe9"}]', ["line 2: byte 0xe9 is not UTF-8"]),
        (
            b'{"x": 1}\n{"instruction": "\xe9t\xe9"}',
            ["line 1", "line 1", "line 2: byte"],
        ),
        (b'{"train": [{}], "test": [{}]}', [r"holds several lists \(train, test\)"]),
        (b'{"output": "a", "output": "b"}', ["the field 'output' occurs twice"]),
        (b"[]", ["holds no record"]),
        (b"instruction,output\n", ["holds no record"]),
        (b"a,b,a\n1,2,3", ["line 1: there are two columns 'a'"]),
        (
            b'prompt,answer\n"a\nb",c\nd\n"e"f',
            ["line 4: has 1 cells", "line 5: not CSV"],
        ),
        (b"prompt\tanswer\na\t\n", ["line 2: field 'answer' is empty"]),
    ],
)
def test_a_fault_is_found_by_its_line(tmp_path, data, faults):
    path = tmp_path / "data"
    path.write_bytes(data)
    with pytest.raises(RecordError, match=f"^{path}: {len(faults)} fault") as e:
        load_records(path)
    assert len(e.value.faults) == len(faults)
    for fault, wanted in zip(e.value.faults, faults):
        assert re.match(wanted, fault)


def test_a_fault_of_all_records_is_said_once():
    with pytest.raises(RecordError) as e:
        validate_records([{"frage": "a", "antwort": "b"}] * 1000)
    assert len(e.value.faults) == 2
    assert all(f.startswith("each of the 1,000 records: ") for f in e.value.faults)
    assert "--fields output=NAME" in str(e.value)
    with pytest.raises(RecordError) as e:
        validate_records([PLAIN, *[PLAIN | {"output": ""}] * 30])
    assert len(e.value.faults) == 30
    assert str(e.value).splitlines()[-1] == "  … and 10 more"


def test_a_fault_survives_the_way_between_processes():
    error = RecordError("f", ["a", "b"])
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.faults) == (str(error), error.faults)


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_long_records_of_all_parts_are_named_by_the_file(tmp_path, seed):
    path, long = tmp_path / "data.jsonl", {"output": "word " * 200}
    table = [PLAIN] * 30
    for i in (4, 11, 28):
        table[i] = PLAIN | long
    path.write_text("\n\n".join(map(json.dumps, table)), "utf-8")
    splits = load_records(path).split(seed)
    message = said(make_loaders, splits, load_tokenizer("gpt2"), max_length=90)
    for line in (9, 23, 57):
        assert f"line {line} (" in message
    assert "record " not in message.replace("prompt and response", "")


def test_rows_without_a_file_are_counted():
    assert "record 2 (3 + 9 tokens)" in said(
        fit_examples, [([1], [2]), ([1] * 3, [2] * 9)], 8
    )
    assert "third (" in said(
        fit_examples, [([1], [2] * n) for n in (1, 1, 9)], 8, places=["a", "b", "third"]
    )


# --- forms of records ---

TALK = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Hello?"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": [{"type": "text", "text": "Name "}, {"text": "one."}]},
    {"role": "assistant", "content": "A plum."},
]
ONE = {"instruction": "Name one.", "input": "", "output": "A plum."}
FORMS = {
    "Alpaca": ONE | {"text": "Below is …"},
    "no input": {"instruction": "Name one.", "output": "A plum."},
    "prompt and completion": {"prompt": "Name one.", "completion": "A plum."},
    "prompt and response": {"prompt": "Name one.", "response": "A plum."},
    "question and answer": {"id": 1, "question": "Name one.", "answer": "A plum."},
    "Dolly": {"instruction": "Name one.", "context": None, "response": "A plum."},
    "capitals and spaces": {
        "INSTRUCTION": "Name one.",
        "Input ": "",
        " output": "A plum.",
    },
    "messages": {"messages": TALK[3:]},
    "ShareGPT": {
        "conversations": [
            {"from": "human", "value": "Name one."},
            {"from": "gpt", "value": "A plum.", "weight": 1},
        ]
    },
    "messages in two fields": {"prompt": TALK[3:4], "completion": TALK[4:]},
}


@pytest.mark.parametrize("form", FORMS)
def test_usual_forms_are_read(tmp_path, form, capsys):
    (tmp_path / "a.jsonl").write_text(json.dumps(FORMS[form]) + "\n", "utf-8")
    [record] = load_records(tmp_path / "a.jsonl")
    assert {name: record[name] for name in ONE} == ONE
    assert validate_records([FORMS[form]] * 2) == [record, record]
    assert capsys.readouterr() == ("", "")  # nothing was left out


def test_other_fields_are_kept():
    [record] = validate_records([FORMS["question and answer"] | {"part": "val"}])
    assert record == ONE | {"id": 1, "part": "val"}


def test_of_a_longer_conversation_the_last_turn_is_taken_and_it_is_said(capsys):
    short = {"messages": [TALK[0], *TALK[3:]]}
    records = validate_records(
        [{"messages": TALK}, short, {"messages": TALK}], "x.json"
    )
    assert records == [ONE | {"input": "Be short."}] * 3
    told = capsys.readouterr().err
    assert "x.json: 2 of 3 conversations have several turns" in told
    assert "their other 4 messages are left out" in told


@pytest.mark.parametrize(
    "messages, fault",
    [
        (None, "is null; need a list"),
        ([], "has no message of the assistant"),
        (TALK[:2], "has no message of the assistant"),
        ([TALK[2]], "message 1 is an answer, but no question"),
        ([TALK[1], TALK[2], TALK[2]], "message 3 is an answer, but no question"),
        (["Hi."], "message 1 has no role and text"),
        ([TALK[3], {"role": "assistant", "content": None}], "its output is null"),
        (
            [{"role": "user", "content": [{"type": "image"}]}, TALK[4]],
            "its instruction",
        ),
    ],
)
def test_a_conversation_that_teaches_nothing_is_named(messages, fault):
    message = said(validate_records, [{"messages": messages}])
    assert "record 1: field 'messages'" in message
    assert fault in message


def test_a_form_that_is_not_clear_is_not_guessed():
    two = {"prompt": "a", "question": "b", "output": "c"}
    assert "could take 'prompt' and 'question' as instruction" in said(
        validate_records, [two]
    )
    assert (
        validate_records([two], fields="instruction=question")[0]["instruction"] == "b"
    )
    assert validate_records([two | {"instruction": "d"}])[0]["instruction"] == "d"
    pairs = {"prompt": "a", "chosen": "b", "rejected": "c"}
    assert "field 'output' is missing" in said(validate_records, [pairs])


@pytest.mark.parametrize("nothing", [None, math.nan, ""])
def test_no_input_is_written_in_many_ways(nothing):
    assert validate_records([ONE | {"input": nothing}]) == [ONE]
    for name in ("instruction", "output"):
        assert f"field '{name}' is " in said(validate_records, [ONE | {name: nothing}])
    remedy = said(validate_records, [ONE | {"output": nothing}])
    assert "remove the record" in remedy and "quotes" not in remedy


def test_a_text_that_reads_nan_is_a_text():
    for text in ("nan", "NaN", "null", "None", "NA"):
        [record] = validate_records([ONE | {"input": text, "output": text}])
        assert (record["input"], record["output"]) == (text, text)


def test_tables_of_other_packages_are_lists_of_records():
    class DataFrame:
        def to_dict(self, kind):
            assert kind == "records"
            return [ONE | {"input": math.nan}] * 3

    class Dataset:
        def __iter__(self):
            return iter([ONE] * 3)

    for table in (DataFrame(), Dataset(), (ONE,) * 3):
        assert validate_records(table) == [ONE] * 3
    for other in ({"train": [ONE]}, "a.json", 3, None, {1, 2}):
        assert "need a list of records" in said(validate_records, other)


@pytest.mark.parametrize(
    "fields", ["", "a", "output", "output=", "=a", "outputs=a", "output=a,output=b", 3]
)
def test_fields_that_are_not_clear_are_refused(fields):
    assert "fields is" in said(parse_fields, fields)


def test_a_person_says_which_field_is_which(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("Title,Text, body \nName one.,about fruit,A plum.\n", "utf-8")
    told = {"instruction": "Title", "input": "Text", "output": " body "}
    assert load_data(path, told) == [ONE | {"input": "about fruit"}]
    del told["input"]
    assert load_data(path, told) == [ONE | {"Text": "about fruit"}]
    wrong = said(load_data, path, "instruction=title,output=Text")
    assert "field 'title' is missing (found 'Title', 'Text', ' body ')" in wrong
    turns = [{"turns": TALK[3:]}]
    assert validate_records(turns, fields="messages=turns") == [ONE]


# --- on the command line ---


def run(*words):
    return main([str(word) for word in words])


def test_fields_are_told_once_and_kept_with_the_run(small_model, tmp_path, capsys):
    data, out = tmp_path / "mine.csv", tmp_path / "run"
    lines = [f'Say {i}.,"{"loudly" * (i % 2)}",It is {i}.\n' for i in range(24)]
    data.write_text("Title,How,Body\n" + "".join(lines), "utf-8")
    short = ("--max-new-tokens", 3)
    train = ("finetune", "--model", small_model, "--data", data, "--out", out, *short)
    told = ("--fields", "instruction=Title,input=How,output=Body")
    assert run(*train, "--epochs", 1) == 2
    assert "each of the 24 records: field 'instruction'" in capsys.readouterr().err
    assert not out.exists()
    assert run(*train, "--epochs", 1, *told) == 0
    asked = json.loads((out / "responses.json").read_text("utf-8"))
    assert {row["input"] for row in asked} == {"", "loudly"}
    assert run("evaluate", out, "--json", *short) == 0  # the test part of its own data
    assert run("evaluate", out, "--data", data, *short) == 2
    assert run("evaluate", out, "--data", data, "--part", "val", *told, *short) == 0


def test_what_was_left_out_of_conversations_is_said(small_model, tmp_path, capsys):
    data = tmp_path / "talks.jsonl"
    data.write_text("\n".join([json.dumps({"messages": TALK})] * 4), "utf-8")
    assert run("evaluate", small_model, "--data", data, "--max-new-tokens", 2) == 0
    assert "4 of 4 conversations have several turns" in capsys.readouterr().err
