#!/bin/bash
# Single-turn records in the other usual forms: read, or refused once (not twice a record) with the way to convert.
. "$(dirname "$0")/lib.sh"
"$PY" - <<'P' || exit 1
import json, sys
from gpt_course.records import load_records
q, a, bad = "Say hi.", "Hi.", 0
forms = {"messages": {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]},
         "sharegpt": {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]},
         "prompt/completion": {"prompt": q, "completion": a}, "instruction/response": {"instruction": q, "response": a},
         "dolly": {"instruction": q, "context": "", "response": a}, "capitals": {"Instruction": q, "Input": "", "Output": a}}
for name, record in forms.items():
    with open("d.jsonl", "w") as f: f.writelines(json.dumps(record) + "\n" for _ in range(30))
    try: ok = load_records("d.jsonl")[0]["output"] == a
    except ValueError as e:
        said = str(e); ok = said.count("\n") <= 3 and ("convert" in said or "rename" in said)
        if not ok: print(f"WRONG: {name}: {said.splitlines()[0].split(': ', 1)[1]}; first says: {said.splitlines()[1].strip()}")
    bad |= not ok
sys.exit(bad)
P
