"The report, opened in a real browser"

import json
import os
import re
import shutil
import subprocess

import pytest

from gpt_course.cli import main

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=390,800",
    "--dump-dom",
]
# what the browser has made of the page, written into its title
PROBE = """<script>addEventListener('load', () => {
  document.title = [
    document.images[0].naturalWidth,
    document.images[0].alt.length,
    document.querySelectorAll('.records .record').length,
    document.documentElement.scrollWidth <= innerWidth,
  ].join()
})</script>"""


@pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI"), reason="needs Chromium"
)
def test_the_report_shows_scores_plot_and_every_record(
    small_model, small_data, tmp_path
):
    out = tmp_path / "run"
    args = ["--model", small_model, "--data", small_data, "--out", out]
    assert main(["finetune", *map(str, args), "--max-new-tokens", "8"]) == 0
    responses = json.loads((out / "responses.json").read_text())
    page = (out / "report.html").read_text("utf-8")
    assert "<script" not in page and "http" not in page
    probe = tmp_path / "probe.html"
    probe.write_text(page.replace("</html>", PROBE + "</html>"), "utf-8")
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    dom = subprocess.run(
        [CHROMIUM, *OPTIONS, profile, probe.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    width, alt, rows, fits = re.search(r"<title>([^<]*)</title>", dom)[1].split(",")
    assert int(width) > 500 and int(alt) > 40
    assert int(rows) == len(responses) and fits == "true"
