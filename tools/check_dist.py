"""Look at what was built as a stranger would: is everything in it, and does it say what
it needs?

    python tools/check_dist.py            # the wheel and the source archive in dist/
    python tools/check_dist.py FOLDER     # those in another folder

Every file of the package lies in the wheel and in the source archive, and the command
in the wheel. What a shipped notebook imports at its top comes with the package or with
its extra `lab`. No link of the description is relative, since PyPI has no repository.
"""

import ast
import json
import re
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HIDDEN = ("__pycache__", ".ipynb_checkpoints", ".DS_Store")
# names under which a distribution is imported, where they differ
IMPORTED_AS = {
    "huggingface-hub": "huggingface_hub",
    "ipython": "IPython",
    "rouge-score": "rouge_score",
}


def only(folder, pattern):
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        sys.exit(
            f"need one {folder}/{pattern}, found {len(found)}; "
            "empty the folder and run python -m build"
        )
    return found[0]


def package_files():
    return {
        f.relative_to(ROOT).as_posix()
        for f in (ROOT / "gpt_course").rglob("*")
        if f.is_file() and not any(p in HIDDEN for p in f.parts)
    }


def top_imports(notebook):
    "Modules that the cells import at their top level; not what a cell merely tries"
    names = set()
    for cell in json.loads(notebook)["cells"]:
        if cell["cell_type"] != "code":
            continue
        source = "".join(cell["source"])
        lines = [
            line for line in source.splitlines() if not line.startswith(("%", "!"))
        ]
        for node in ast.parse("\n".join(lines)).body:
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"gpt_course"}


def provided(metadata):
    "What can be imported after `pip install gpt_course[lab]`, as the metadata says"
    names = set()
    for line in metadata.get_all("Requires-Dist", []):
        if "extra ==" in line and not re.search(r"extra == .lab.", line):
            continue
        name = re.match(r"[\w.-]+", line)[0].lower()
        names.add(IMPORTED_AS.get(name, name.replace("-", "_")))
    return names


def wheel_faults(wheel, wanted):
    with zipfile.ZipFile(wheel) as z:
        names = set(z.namelist())
        points = "".join(
            z.read(n).decode() for n in names if n.endswith("entry_points.txt")
        )
        metadata = message_from_bytes(
            next(z.read(n) for n in names if n.endswith(".dist-info/METADATA"))
        )
        needed = {n: top_imports(z.read(n)) for n in names if n.endswith(".ipynb")}
    faults = [f"{wheel.name}: {n} is missing" for n in sorted(wanted - names)]
    if "gpt_course.cli:main" not in points:
        faults.append(f"{wheel.name}: the command gpt-course is missing")
    have = provided(metadata)
    faults += [
        f"{name}: imports {', '.join(sorted(lost))}, which is neither a requirement "
        "nor in the extra lab"
        for name, imports in sorted(needed.items())
        if (lost := imports - have)
    ]
    relative = re.findall(r"\]\((?!https?:|#)[^)]*\)", metadata.get_payload())
    faults += [f"{wheel.name}: the description links to {link}" for link in relative]
    return faults, len(needed)


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "dist"
    wanted = package_files()
    wheel, sdist = only(folder, "*.whl"), only(folder, "*.tar.gz")
    faults, lectures = wheel_faults(wheel, wanted)
    with tarfile.open(sdist) as t:
        in_sdist = {n.partition("/")[2] for n in t.getnames()}
    wanted_there = wanted | {"settings.ini", "LICENSE", "README.md"}
    faults += [f"{sdist.name}: {n} is missing" for n in sorted(wanted_there - in_sdist)]
    if faults:
        sys.exit("\n".join(faults))
    size = wheel.stat().st_size / 1e6
    print(
        f"{wheel.name} ({size:.1f} MB) and {sdist.name} hold all {len(wanted)} files "
        f"of the package, and {lectures} notebooks that find what they import"
    )


if __name__ == "__main__":
    main()
