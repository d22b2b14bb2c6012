"""The site as a reader's browser has it: every page, light and dark, on a laptop and
on a phone.

`GPT_COURSE_SITE=FOLDER` looks at a site that is built already, by whatever built it;
otherwise it is built here, into a temporary folder. Loading a page costs a second, so
each is loaded once for each theme and width; what was seen is kept, and the tests ask.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import pytest

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI"), reason="needs Chromium"
)
THEMES = ("light", "dark")
WIDTHS = (1280, 375)  # a laptop, a phone; pixels
SERIOUS = ("serious", "critical")
# an idea that a reader looks for, and the page that must come first
IDEAS = {
    "perplexity": "08_losses",
    "ignore_index": "02_batching",
    "temperature": "05_generation",
    "attention": "04_model",
    "length grouping": "03_loaders",
    "cross-entropy": "07_finetuning",
    "exact match": "10_evaluation",
    "early stopping": "08_losses",
    "LoRA rank": "lora",
    "chat template": "01_dataset",
}
LOOK = """() => ({
  wider: document.documentElement.scrollWidth - innerWidth,
  noAlt: [...document.images].filter(i => !i.hasAttribute('alt')).map(i => i.src),
  raw: [...document.querySelectorAll('pre')].map(p => p.textContent)
    .filter(t => /\\]\\([\\w./-]*\\.html/.test(t) || /^\\s*#\\|/m.test(t)),
})"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    "The folder of the built site."
    if given := os.environ.get("GPT_COURSE_SITE"):
        return Path(given).resolve()
    out = tmp_path_factory.mktemp("site") / "docs"
    build = [sys.executable, "tools/build_docs.py", "--smalldocs", "--out", out]
    ended = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return out


@pytest.fixture(scope="session")
def pages(site):
    return sorted(f.relative_to(site).as_posix() for f in site.rglob("*.html"))


@pytest.fixture(scope="session")
def address(site):
    "Of a plain file server."
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="session")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


def axe_source():
    module = pytest.importorskip("axe_playwright_python")
    return next(Path(module.__file__).parent.rglob("axe.min.js")).read_text("utf-8")


def visit(context, address, name, axe):
    "What a page does and shows: faults only, each as a line."
    page, seen = context.new_page(), {"console": [], "requests": []}
    page.on(
        "console",
        lambda m: m.type == "error" and seen["console"].append(m.text[:200]),
    )
    page.on("pageerror", lambda e: seen["console"].append(str(e)[:200]))
    page.on(
        "request",
        lambda r: (
            r.url.startswith((address, "data:", "blob:"))
            or seen["requests"].append(r.url[:120])
        ),
    )
    page.goto(address + name, wait_until="load")
    seen |= page.evaluate(LOOK)
    page.evaluate(axe)
    found = page.evaluate("axe.run({resultTypes: ['violations']})")
    seen["axe"] = [
        f"{v['id']}: {n['html'][:120]} {n.get('failureSummary', '')[:200]}"
        for v in found["violations"]
        if v["impact"] in SERIOUS
        for n in v["nodes"][:2]
    ]
    page.close()
    return seen


@pytest.fixture(scope="session")
def visits(browser, address, pages):
    "(page, theme, width) to what was seen there."
    axe, out = axe_source(), {}
    for theme in THEMES:
        for width in WIDTHS:
            context = browser.new_context(
                color_scheme=theme, viewport={"width": width, "height": 800}
            )
            for name in pages:
                out[name, theme, width] = visit(context, address, name, axe)
            context.close()
    return out


def faults(visits, key):
    "One line for each fault, the page first."
    return [
        f"{name} {theme} {width}: {fault}"
        for (name, theme, width), seen in visits.items()
        for fault in seen[key]
    ]


def test_every_page_was_looked_at_four_times(visits, pages):
    assert len(pages) >= 40
    assert len(visits) == 4 * len(pages)


def test_no_page_reports_an_error(visits):
    assert faults(visits, "console") == []


def test_no_page_asks_another_host(visits):
    assert faults(visits, "requests") == []


def test_no_serious_fault_of_accessibility(visits):
    assert faults(visits, "axe") == []


def test_no_page_is_wider_than_the_screen(visits):
    wide = {key: seen["wider"] for key, seen in visits.items() if seen["wider"] > 0}
    assert wide == {}


def test_every_picture_has_an_alternative_text(visits):
    assert faults(visits, "noAlt") == []


def test_no_markdown_and_no_directive_stands_in_code(visits):
    assert faults(visits, "raw") == []


def targets(html):
    "Of a page: where its links lead, and the names that a link can lead to."
    links = re.findall(r'<a\b[^>]*?\bhref="([^"]*)"', html)
    return links, set(re.findall(r'\b(?:id|name)="([^"]+)"', html))


def test_every_link_and_anchor_leads_somewhere(site, pages):
    texts = {name: targets((site / name).read_text("utf-8")) for name in pages}
    dead = []
    for name, (links, _) in texts.items():
        for link in links:
            if re.match(r"[a-z]+:|//", link) or link in ("", "#"):
                continue
            path, anchor = urldefrag(urljoin(name, link))
            path = unquote(path or name)
            if not (site / path).is_file():
                dead.append(f"{name}: {link}")
            elif anchor and path in texts and unquote(anchor) not in texts[path][1]:
                dead.append(f"{name}: {link}")
    assert dead == []


def test_search_finds_ideas_on_the_right_page_first(browser, address):
    page, found = browser.new_page(viewport={"width": 1280, "height": 800}), {}
    page.goto(address + "index.html", wait_until="load")
    for idea in IDEAS:
        box = page.locator("#quarto-search input").first
        box.fill("")
        box.press_sequentially(idea, delay=5)
        first = page.locator("#quarto-search a[href], .aa-Panel a[href]").first
        first.wait_for(timeout=5000)
        page.wait_for_timeout(400)
        found[idea] = first.get_attribute("href")
    wrong = {idea: href for idea, href in found.items() if IDEAS[idea] not in href}
    page.close()
    assert wrong == {}


def test_the_theme_is_kept_from_page_to_page(browser, address):
    context = browser.new_context(color_scheme="light")
    page = context.new_page()
    ground = "() => getComputedStyle(document.body).backgroundColor"
    page.goto(address + "index.html", wait_until="load")
    before = page.evaluate(ground)
    page.locator(".quarto-color-scheme-toggle").first.click()
    page.wait_for_timeout(300)
    dark = page.evaluate(ground)
    page.goto(address + "02_batching.html", wait_until="load")
    page.wait_for_timeout(300)
    after = page.evaluate(ground)
    context.close()
    assert before != dark and after == dark


def test_the_first_links_are_reached_by_keyboard(browser, address):
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(address + "index.html", wait_until="load")
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("() => document.activeElement.tagName"))
    page.close()
    assert reached.count("A") >= 5 and "INPUT" in reached


def test_pages_are_light(site, pages):
    heavy = {
        name: size
        for name in pages
        if (size := (site / name).stat().st_size) > 1_500_000
    }
    assert heavy == {}


def test_what_quarto_would_do_to_stored_outputs():
    """No stored output makes Quarto load a script from another host: it does so for
    widgets, and puts require.js and jQuery before any `text/html`.
    """
    found = []
    for notebook in sorted((ROOT / "nbs").rglob("*.ipynb")):
        for cell in json.loads(notebook.read_text("utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                for kind in output.get("data", {}):
                    if kind == "text/html" or "widget" in kind:
                        found.append(f"{notebook.name} {cell['id']}: {kind}")
    assert found == []
