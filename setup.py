"The package as settings.ini describes it"

import re
import shlex
import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
ini = ConfigParser(delimiters=["="], interpolation=None)
ini.read(here / "settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]
lib = cfg["lib_name"]
status = {
    "1": "Planning",
    "2": "Pre-Alpha",
    "3": "Alpha",
    "4": "Beta",
    "5": "Production/Stable",
}


def listed(key):
    "The requirements of a setting, separated by spaces; quoted where they hold some"
    return shlex.split(cfg.get(key, ""))


def extras():
    "Each extra by name, `all` of them together, and what developers need besides"
    named = {name: listed(f"{name}_requirements") for name in listed("extras")}
    together = sorted({r for found in named.values() for r in found})
    return named | {"all": together, "dev": together + listed("dev_requirements")}


def description():
    "The README for PyPI, where a link relative to the repository would lead nowhere"
    text = (here / "README.md").read_text(encoding="utf-8")
    base = f"{cfg['git_url']}/blob/{cfg['branch']}/"
    return re.sub(r"\]\((?!https?:|#)", f"]({base}", text)


class WithLectures(build_py):
    "The wheel carries the notebooks too: `gpt_course/lectures`, for `gpt-course lab`"

    def run(self):
        super().run()
        if getattr(self, "editable_mode", False):
            return  # a checkout has them in nbs/
        target = Path(self.build_lib) / lib / "lectures"
        source = here / cfg["nbs_path"]
        for f in sorted(source.rglob("*.ipynb")):
            if ".ipynb_checkpoints" in f.parts:
                continue
            copy = target / f.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(f, copy)


setup(
    cmdclass={"build_py": WithLectures},
    name=lib,
    version=cfg["version"],
    description=cfg["description"],
    long_description=description(),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    project_urls={"Documentation": cfg["doc_host"] + cfg["doc_baseurl"] + "/"},
    license="MIT",
    keywords=cfg["keywords"],
    classifiers=[
        f"Development Status :: {cfg['status']} - {status[cfg['status']]}",
        "Intended Audience :: Education",
        "Natural Language :: English",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    packages=find_packages(include=[lib, f"{lib}.*"], exclude=[f"{lib}.assets*"]),
    package_data={lib: ["assets/**", "py.typed"]},
    python_requires=f">={cfg['min_python']}",
    install_requires=listed("requirements"),
    extras_require=extras(),
    entry_points={
        "console_scripts": listed("console_scripts"),
        "nbdev": [f"{lib}={lib}._modidx:d"],
    },
    zip_safe=False,
)
