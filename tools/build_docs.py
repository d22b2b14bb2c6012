"""Build the site into _docs/: with Quarto where it is installed, otherwise with
smalldocs.

Both read _quarto.yml and the notebooks as nbdev processes them. smalldocs needs neither
Quarto nor network; its pages take KaTeX from a CDN when read, or from --katex, KaTeX's
folder `dist`."""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent  # not resolved: the folder of the environment
OUTPUT_FILE = re.compile(r"output-file: ([\w.-]+\.html)\\n")
KATEX = re.compile(r"https://cdn\.jsdelivr\.net/npm/katex@[\d.]+/dist/")


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


def with_quarto():
    refuse_traceback(run([BIN / "nbdev_docs"], cwd=ROOT))


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


def local_katex(site, katex):
    shutil.copytree(katex, site / "site_libs" / "katex", dirs_exist_ok=True)
    for f in site.rglob("*.html"):
        up = "../" * (len(f.relative_to(site).parts) - 1)
        f.write_text(
            KATEX.sub(f"{up}site_libs/katex/", f.read_text(encoding="utf-8")),
            encoding="utf-8",
        )


def with_smalldocs(katex=None):
    from nbdev.config import get_config

    cfg = get_config()
    refuse_traceback(
        run(
            [
                sys.executable,
                "-c",
                "from nbdev.serve import proc_nbs; proc_nbs(force=True)",
            ],
            cwd=ROOT,
        )
    )
    with tempfile.TemporaryDirectory() as tmp:
        src = Path(tmp) / "site"
        shutil.copytree(
            ROOT / "_proc", src, ignore=shutil.ignore_patterns("_docs", "_site")
        )
        local_links(src, f"{cfg.doc_host}{cfg.doc_baseurl}/")
        run([BIN / "smalldocs", "render", "--quiet", src])
        if katex:
            local_katex(src / "_docs", katex)
        shutil.rmtree(ROOT / "_docs", ignore_errors=True)
        shutil.copytree(src / "_docs", ROOT / "_docs")
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
        "--katex",
        type=Path,
        help="KaTeX's folder `dist`, to be copied into the site (smalldocs only)",
    )
    args = p.parse_args()
    if args.katex and not (args.katex / "katex.min.css").is_file():
        p.error(
            f"--katex {args.katex}: no katex.min.css there; name KaTeX's folder dist"
        )
    katex = args.katex and args.katex.resolve()
    os.chdir(ROOT)
    if shutil.which("quarto") and not args.smalldocs:
        with_quarto()
    else:
        with_smalldocs(katex)
    print("open _docs/index.html")


if __name__ == "__main__":
    main()
