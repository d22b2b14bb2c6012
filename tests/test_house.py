"""The house rules: which room may use which, how long things are, what is said.

The floors are those of CONTRIBUTING; the modules are read as text, nothing is imported.
"""

import ast
import io
import json
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gpt_course"
FLOORS = [
    ["files", "downloads", "settings", "protocols", "whiteboard"],
    ["dataset", "tokenizers"],
    ["batching", "loaders", "model", "generation"],
    ["checkpoints", "hub", "transformers_model", "pretrained", "lora"],
    ["finetuning", "history"],
    ["responses", "evaluation", "scores"],
    ["memory", "run_folder", "report", "runs", "model_card", "gguf", "sharing"],
    ["console", "lectures", "api", "chat", "cli"],
    ["tiny.sentences", "tiny.encyclopedia", "tiny.sheets", "tiny.pretraining"],
]
ROOMS = [room for floor in FLOORS for room in floor]
CORE = [room for room in ROOMS if not room.startswith("tiny.")]
WIDTH = 88


def path_of(room):
    return PACKAGE / (room.replace(".", "/") + ".py")


def tree_of(room):
    return ast.parse(path_of(room).read_text("utf-8"))


def notebooks():
    found = (ROOT / "nbs").rglob("*.ipynb")
    return sorted(f for f in found if ".ipynb_checkpoints" not in f.parts)


def code_cells(path):
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return [("".join(c["source"]), c) for c in cells if c["cell_type"] == "code"]


def imports(room):
    "The rooms that a room imports, anywhere in it."
    package = ["gpt_course", *room.split(".")[:-1]]
    found = set()
    for node in ast.walk(tree_of(room)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        else:
            continue
        found |= {name.removeprefix("gpt_course.") for name in names}
    return found & set(ROOMS)


def test_every_module_has_its_place():
    files = {
        f.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
        for f in PACKAGE.rglob("*.py")
        if f.name not in ("__init__.py", "_modidx.py")
    }
    assert files == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_down(room):
    below = set(ROOMS[: ROOMS.index(room)])
    assert imports(room) - below == set()


def test_no_lecture_imports_a_later_one():
    "On the main path the numbers of the notebooks say the order."
    number = {}
    for path in (ROOT / "nbs").glob("[0-9]*.ipynb"):
        name = re.search(r"default_exp ([\w.]+)", path.read_text("utf-8"))
        number[name[1]] = int(path.name[:2])
    later = [
        f"{room} imports {other}"
        for room in number
        for other in imports(room)
        if number.get(other, 0) > number[room]
    ]
    assert later == []


def code_lines(node, lines):
    "Lines of a function's body that are code: no docstring, comment or empty line."
    body = node.body
    first = body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        body = body[1:]
    if not body:
        return 0
    text = lines[body[0].lineno - 1 : node.end_lineno]
    return sum(bool(t.strip()) and not t.strip().startswith("#") for t in text)


def functions(tree):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


@pytest.mark.parametrize("room", CORE)
def test_modules_and_functions_are_short(room):
    text = path_of(room).read_text("utf-8")
    lines = text.splitlines()
    assert len(lines) <= 450
    long = {f.name: code_lines(f, lines) for f in functions(ast.parse(text))}
    assert {name: n for name, n in long.items() if n > 40} == {}


def exported(source):
    return bool(re.match(r"#\| exports?i?\b|#\| exporti\b", source))


def cell_size(source):
    "Lines of code of an exported cell; signatures, docstrings and comments apart."
    tree, lines = ast.parse(source), source.splitlines()
    skip = {n for n, line in enumerate(lines, 1) if re.match(r"\s*(#|$)", line)}
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            start = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            skip |= set(range(start, node.body[0].lineno))
            doc = node.body[0]
            if isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant):
                skip |= set(range(doc.lineno, doc.end_lineno + 1))
    return len(lines) - len(skip)


CORE_NOTEBOOKS = [f for f in notebooks() if "tiny" not in f.parts]


@pytest.mark.parametrize("path", CORE_NOTEBOOKS, ids=lambda f: f.stem)
def test_exported_cells_are_short(path):
    sizes = {c["id"]: cell_size(s) for s, c in code_cells(path) if exported(s)}
    assert {name: n for name, n in sizes.items() if n > 30} == {}


def only_imports(source):
    kinds = (ast.Import, ast.ImportFrom)
    return all(isinstance(node, kinds) for node in ast.parse(source).body)


@pytest.mark.parametrize("path", CORE_NOTEBOOKS, ids=lambda f: f.stem)
def test_every_export_is_followed_by_an_example_or_a_check(path):
    pending, bare = None, []
    for source, cell in code_cells(path):
        if not exported(source):
            if not source.startswith("#| default_exp"):
                pending = None
            continue
        if pending:
            bare.append(pending)
        pending = None if only_imports(source) else cell["id"]
    bare += [pending] if pending else []
    assert bare == []


def comment_lines(text):
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {t.start[0] for t in tokens if t.type == tokenize.COMMENT}


def undocumented(node, comments):
    "Parameters without a comment on their line or on the line above them."
    args = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    args += [a for a in (node.args.vararg, node.args.kwarg) if a]
    named = [a for a in args if a.arg not in ("self", "cls")]
    return [
        f"{node.name}({a.arg})"
        for a in named
        if not {a.lineno, a.end_lineno, a.lineno - 1} & comments
    ]


def public_functions(tree):
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for part in node.body:
                if not isinstance(part, ast.FunctionDef):
                    continue
                if part.name == "__init__" or not part.name.startswith("_"):
                    yield part


def overloaded(node):
    return any(
        isinstance(d, ast.Name) and d.id == "overload" for d in node.decorator_list
    )


@pytest.mark.parametrize("room", CORE)
def test_every_public_parameter_is_documented(room):
    text = path_of(room).read_text("utf-8")
    comments = comment_lines(text)
    bare = []
    for node in public_functions(ast.parse(text)):
        if not overloaded(node):
            bare += undocumented(node, comments)
    assert bare == []


@pytest.mark.parametrize("room", CORE)
def test_every_public_thing_says_what_it_is(room):
    tree = tree_of(room)
    assert ast.get_docstring(tree)
    kinds = (ast.FunctionDef, ast.ClassDef)
    bare = [
        node.name
        for node in tree.body
        if isinstance(node, kinds)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert bare == []


@pytest.mark.parametrize("path", notebooks(), ids=lambda f: f.stem)
def test_code_is_88_columns_wide(path):
    wide = {
        c["id"]: max(map(len, s.splitlines()))
        for s, c in code_cells(path)
        if s.strip() and max(map(len, s.splitlines())) > WIDTH
    }
    assert wide == {}


def test_the_package_is_88_columns_wide():
    wide = []
    for path in PACKAGE.rglob("*.py"):
        if path.name == "_modidx.py":
            continue
        for n, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            # nbdev writes the head, `__all__` and where a cell comes from
            generated = re.match(r"# (%%|AUTOGENERATED)|\s*'|__all__", line)
            if len(line) > WIDTH and not generated:
                wide.append(f"{path.name}:{n}")
    assert wide == []


def test_nothing_asks_a_model_or_tokenizer_what_it_can_do():
    asks = re.compile(r"(getattr|hasattr)\((model|network|tokenizer|net)\b")
    found = [
        f"{room}: {m[0]}"
        for room in CORE
        for m in asks.finditer(path_of(room).read_text("utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize("path", notebooks(), ids=lambda f: f.stem)
def test_imports_stand_in_cells_of_their_own(path):
    "Building the site runs every cell with an import, and none of the others."
    mixed = []
    for source, cell in code_cells(path):
        if exported(source) or re.search(r"#\| eval: false", source):
            continue
        nodes = list(ast.walk(ast.parse(source)))
        if any(isinstance(n, (ast.Import, ast.ImportFrom)) for n in nodes) and any(
            isinstance(n, (ast.Expr, ast.Assign)) for n in nodes
        ):
            mixed.append(cell["id"])
    assert mixed == []
