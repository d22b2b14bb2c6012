"Does every file of the package lie in the wheel and in the source archive of dist/, and the command in the wheel?"

import sys, tarfile, zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HIDDEN = ("__pycache__", ".ipynb_checkpoints", ".DS_Store")


def only(pattern):
    fs = sorted((ROOT / "dist").glob(pattern))
    if len(fs) != 1:
        sys.exit(
            f"need one dist/{pattern}, found {len(fs)}; empty dist/ and run python -m build"
        )
    return fs[0]


def main():
    wanted = {
        f.relative_to(ROOT).as_posix()
        for f in (ROOT / "gpt_course").rglob("*")
        if f.is_file() and not any(p in HIDDEN for p in f.parts)
    }
    wheel, sdist = only("*.whl"), only("*.tar.gz")
    with zipfile.ZipFile(wheel) as z:
        in_wheel = set(z.namelist())
        points = "".join(
            z.read(n).decode() for n in in_wheel if n.endswith("/entry_points.txt")
        )
    with tarfile.open(sdist) as t:
        in_sdist = {n.partition("/")[2] for n in t.getnames()}
    faults = [f"{wheel.name} lacks {n}" for n in sorted(wanted - in_wheel)]
    faults += [
        f"{sdist.name} lacks {n}"
        for n in sorted((wanted | {"settings.ini", "LICENSE", "README.md"}) - in_sdist)
    ]
    if "gpt_course.cli:main" not in points:
        faults.append(f"{wheel.name} lacks the command gpt-course")
    if faults:
        sys.exit("\n".join(faults))
    print(
        f"{wheel.name} ({wheel.stat().st_size / 1e6:.1f} MB) and {sdist.name} hold all {len(wanted)} files of the package"
    )


if __name__ == "__main__":
    main()
