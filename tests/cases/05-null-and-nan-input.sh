#!/bin/bash
# "input": null (what `datasets` and pandas write for "no input") means no input, as a missing one does. NaN from a DataFrame likewise, or at least "is NaN", not "is a number; write it as a text in quotes".
. "$(dirname "$0")/lib.sh"
"$PY" - <<'P' || fail "null or NaN input is refused, with a remedy that would write 'null' or 'nan' into the prompt"
from gpt_course.records import validate_records
import sys
bad = 0
for v in (None, float("nan")):
    try: assert validate_records([{"instruction": "a", "input": v, "output": "b"}])[0]["input"] == ""
    except ValueError as e: print(e); bad = 1
sys.exit(bad)
P
