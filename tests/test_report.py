"The report: what it says, in which order, and that it can be read by everybody"

import re

import pytest

from gpt_course.evaluation import score_groups, score_responses
from gpt_course.files import ASSETS
from gpt_course.report import render_report
from gpt_course.responses import Response, compare_responses

SETTINGS = {"model": "tiny", "data": "builtin", "epochs": 3, "lr": 1e-3, "seed": 5}
SUMMARY = "before: validation 3.00\nafter: validation 0.50"


def record(output, ring, task="capitals"):
    asked = {"instruction": f"Say <i>{output}</i>.", "input": "", "output": output}
    return asked | {"task": task, "ring": ring}


RECORDS = [
    record("Right one.", "subject"),
    record("Wrong one.", "wording"),
    record("Open one.", "kind", "open_talk"),
    record("Right two.", "kind"),
]
AFTER = ["right one", "Something else.", "Open one.", "Right two"]


@pytest.fixture(scope="module")
def page():
    metrics = {}
    for when, texts in (("before", ["so on"] * 4), ("after", AFTER)):
        given = [Response(text, "stop") for text in texts]
        scores = score_responses(RECORDS, given) | {"loss": 0.5}
        scores["groups"] = score_groups(RECORDS, given)
        scores["seconds"] = {"answer": 1.0, "finetune": 252.2}
        metrics[when] = scores
    compared = compare_responses(RECORDS, ["so on " * 200] * 4, AFTER)
    return render_report(SETTINGS, metrics, compared, SUMMARY, b"\x89PNG", [30, 5, 4])


def records_of(page):
    "Mark and instruction of each record, in the order of the page."
    part = page[page.index('<section class="records">') :]
    pattern = r'class="record (\w+) ring-(\d)">\s*<h3>Say &lt;i&gt;([^&]*)'
    return re.findall(pattern, part)


def test_it_begins_with_what_was_done_and_what_came_of_it(page):
    told = " ".join(re.findall(r'<p class="lead">(.*)</p>', page))
    for part in (
        "tiny was fine-tuned",
        "30 records of the data builtin, each seen 3 times",
        "took 4 minutes 12 seconds",
        "3 test records",
        "2 of the answers (67%, with a 95% interval from 0% to 100%)",
        "Before the training it was 0%",
        "Open questions were 1 of the test records",
    ):
        assert part in told, part
    assert page.index('class="lead"') < page.index("<table")


def test_wrong_answers_come_first_and_open_ones_are_neither(page):
    assert records_of(page) == [
        ("wrong", "2", "Wrong one."),
        ("open", "3", "Open one."),
        ("right", "1", "Right one."),
        ("right", "3", "Right two."),
    ]


def test_right_and_wrong_are_said_in_words_and_signs(page):
    says = {"wrong": "✗ other words", "open": "○ open", "right": "✓ the wanted words"}
    for mark, sign in says.items():
        for found in page.split(f'class="record {mark}')[1:]:
            assert sign in found.split("</article>")[0]


def test_the_filter_needs_no_script_and_knows_every_mark_and_ring(page):
    assert "<script" not in page
    for mark, n in (("wrong", 1), ("open", 1), ("right", 2)):
        assert f".records:has(#only-{mark}:checked) .record:not(.{mark})" in page
        assert re.search(rf'id="only-{mark}"> . [^(]*\({n}\)', page)
    for i, ring in enumerate(("new subject", "new wording", "new kind"), 1):
        assert f".records:has(#ring-{i}:checked) .record:not(.ring-{i})" in page
        assert f'id="ring-{i}"> {ring}</label>' in page


def test_scores_have_rings_kinds_and_intervals(page):
    for ring in ("new subject", "new wording", "new kind", "all"):
        assert f'<th scope="row">{ring}</th><td>before</td>' in page
    assert re.search(r"<td>66.7 \(0–100\)</td>", page)
    row = r">open talk</th><td>1</td><td>ROUGE-L</td><td>0.0 .*</td><td>100.0 "
    assert re.search(row, page)


def test_open_answers_have_no_exact_match(page):
    head = page[page.index("open, %") :].split("</thead>")[0]
    assert "exact match" not in head and "overlap" in head


def test_the_command_repeats_the_run(page):
    command = re.search(r"<pre>(.*)</pre>", page)[1]
    assert command.startswith("gpt-course finetune --model tiny --epochs 3 --lr 0.001")
    assert "--seed 5" in command and "--batch-size" not in command


def test_nothing_is_loaded_and_nothing_is_taken_for_html(page):
    assert "http" not in page and "<i>" not in page
    assert re.findall(r'src="([^"]{10})', page) == ["data:image"]


def test_long_answers_before_do_not_bury_the_others(page):
    assert "so on " * 60 not in page and " …</dd>" in page


def luminance(colour):
    digits = colour if len(colour) == 6 else "".join(c * 2 for c in colour)
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [
        p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
    ]
    return sum(weight * p for weight, p in zip((0.2126, 0.7152, 0.0722), linear))


def palettes():
    text = (ASSETS / "report.html.jinja").read_text("utf-8")
    blocks = re.findall(r":root \{([^}]*)\}", text)
    return [dict(re.findall(r"--(\w+): #(\w+)", block)) for block in blocks]


def test_there_are_colours_for_light_dark_and_print():
    assert len(palettes()) == 3


@pytest.mark.parametrize("palette", palettes(), ids=("light", "dark", "print"))
def test_every_text_has_the_contrast_of_wcag_aa(palette):
    for ground in ("page", "card"):
        for ink in ("ink", "muted", "right", "wrong", "open"):
            pair = sorted(luminance(palette[name]) for name in (ground, ink))
            assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (ground, ink)
