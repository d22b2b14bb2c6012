"""Build the site into _docs/: with Quarto where it is installed, otherwise with
smalldocs.

Both read _quarto.yml and the notebooks as nbdev processes them, and give pages the same
names. The site of record is built by one version of Quarto, `QUARTO`; another one is
refused, since what it would change has not been looked at. smalldocs needs neither
Quarto nor network. No page asks another host: fonts are the system's, and formulas
are MathML.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from html import unescape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent  # not resolved: the folder of the environment
QUARTO = "1.9.38"
OUTPUT_FILE = re.compile(r"output-file: ([\w.-]+\.html)\\n")
WEB_FONTS = re.compile(r"@import\s*(?:url\()?[\"']?https?://[^;]*;")
KATEX = re.compile(
    r"<(?:link|script)[^>]*cdn\.jsdelivr\.net/npm/katex[^>]*>(?:</script>)?"
)
FORMULA = re.compile(
    r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', re.S
)


def run(cmd, **kw):
    "Run `cmd` and show what it says; return that too"
    p = subprocess.Popen(
        list(map(str, cmd)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **kw,
    )
    log = []
    for line in p.stdout:
        print(line, end="", flush=True)
        log.append(line)
    if p.wait():
        sys.exit(f"{Path(cmd[0]).name} failed with exit code {p.returncode}")
    return "".join(log)


def refuse_traceback(log):
    "nbdev goes on when a cell fails while the docs are processed, so look for it"
    if "Traceback (most recent call last)" in log:
        sys.exit("a cell failed while the notebooks were processed: see above")


def local_links(src, base):
    """Make nbdev's links to symbols lead to the pages that smalldocs writes, seen from
    the page they stand on: `../01_dataset.html`, not `dataset.html`
    """
    texts = {f: f.read_text(encoding="utf-8") for f in src.rglob("*.ipynb")}
    pages = {}  # nbdev's name of a page, with its folder, to the one that is written
    for f, text in texts.items():
        if m := OUTPUT_FILE.search(text):
            here = f.relative_to(src)
            pages[here.with_name(m[1]).as_posix()] = here.with_suffix(".html")

    for f, text in texts.items():
        folder = f.relative_to(src).parent

        def to_local(m, folder=folder):
            page = pages.get(m[1])
            return os.path.relpath(page, folder) if page else m[1]

        text = re.sub(
            re.escape(base) + r"([\w./-]+\.html)", to_local, OUTPUT_FILE.sub("", text)
        )
        f.write_text(text, encoding="utf-8")


def process(src):
    "The notebooks as nbdev prepares them for either builder, in the folder `src`"
    from nbdev.config import get_config

    code = "from nbdev.serve import proc_nbs; proc_nbs(force=True)"
    refuse_traceback(run([sys.executable, "-c", code], cwd=ROOT))
    ignored = shutil.ignore_patterns("_docs", "_site")
    shutil.copytree(ROOT / "_proc", src, ignore=ignored)
    config = get_config()
    local_links(src, f"{config.doc_host}{config.doc_baseurl}/")


def to_mathml(match):
    "A formula in TeX, as browsers draw it themselves"
    from latex2mathml.converter import convert

    return convert(
        unescape(match[2]), display="inline" if match[1] == "inline" else "block"
    )


def keep_at_home(site):
    "smalldocs takes fonts and KaTeX from other hosts: fonts go, formulas become MathML"
    for f in site.rglob("*.css"):
        text = f.read_text(encoding="utf-8")
        if WEB_FONTS.search(text):
            f.write_text(WEB_FONTS.sub("", text), encoding="utf-8")
    for f in site.rglob("*.html"):
        text = f.read_text(encoding="utf-8")
        if KATEX.search(text):
            text = FORMULA.sub(to_mathml, KATEX.sub("", text))
            f.write_text(text, encoding="utf-8")


def with_quarto(src):
    found = subprocess.run(
        ["quarto", "--version"], capture_output=True, text=True
    ).stdout.strip()
    if found != QUARTO:
        sys.exit(
            f"Quarto {found} is installed; this site is made for {QUARTO}. Install it "
            "from https://quarto.org/docs/download/, or build without Quarto: "
            "python tools/build_docs.py --smalldocs"
        )
    run(["quarto", "render", src])


def with_smalldocs(src):
    run([BIN / "smalldocs", "render", "--quiet", src])
    keep_at_home(src / "_docs")
    run([BIN / "smalldocs", "check", src])  # fails on a broken link


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "--smalldocs",
        action="store_true",
        help="do not use Quarto even where it is installed",
    )
    p.add_argument(
        "--out", type=Path, default=ROOT / "_docs", help="where to; default: _docs"
    )
    args = p.parse_args()
    out = args.out.resolve()
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as tmp:
        src = Path(tmp) / "site"
        process(src)
        if shutil.which("quarto") and not args.smalldocs:
            with_quarto(src)
        else:
            with_smalldocs(src)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(src / "_docs", out)
    print(f"open {out / 'index.html'}")


if __name__ == "__main__":
    main()
