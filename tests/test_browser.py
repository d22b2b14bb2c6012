"The report, opened in a real browser"

import json, os, re, shutil, subprocess
import pytest
from gpt_course.cli import main

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)


@pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI"), reason="needs Chromium"
)
def test_the_report_shows_scores_plot_and_every_record(
    small_model, small_data, tmp_path
):
    out = tmp_path / "run"
    assert (
        main(
            [
                "finetune",
                "--model",
                str(small_model),
                "--data",
                str(small_data),
                "--out",
                str(out),
                "--max-new-tokens",
                "8",
            ]
        )
        == 0
    )
    responses = json.loads((out / "responses.json").read_text())
    page = out / "report.html"
    check = (
        "<script>addEventListener('load',()=>{document.title=[document.images[0].naturalWidth,document.images[0].alt.length,"
        "document.querySelectorAll('table')[1].rows.length,document.documentElement.scrollWidth<=innerWidth].join()})</script>"
    )
    probe = tmp_path / "probe.html"
    probe.write_text(
        page.read_text("utf-8").replace("</html>", check + "</html>"), "utf-8"
    )
    dom = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--no-first-run",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=390,800",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            probe.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    width, alt, rows, fits = re.search(r"<title>([^<]*)</title>", dom)[1].split(",")
    assert (
        int(width) > 500
        and int(alt) > 40
        and int(rows) == len(responses) + 1
        and fits == "true"
    )
    assert "<script" not in page.read_text("utf-8") and "http" not in page.read_text(
        "utf-8"
    )
