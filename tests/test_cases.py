"""Small inputs of strangers, each a script that exits with 0 only if all is right.

By hand: `PY=.venv/bin/python bash tests/cases/02-….sh`.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CASES = sorted((Path(__file__).parent / "cases").glob("[0-9]*.sh"))
BASH = shutil.which("bash")


@pytest.mark.skipif(BASH is None, reason="needs bash")
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_case(path):
    result = subprocess.run(
        [BASH, str(path)],
        env=os.environ | {"PY": sys.executable, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout + result.stderr
