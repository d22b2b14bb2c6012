#!/bin/bash
# CSV, Parquet, gzip, UTF-16: read, or named for what they are. "save the file as UTF-8" is wrong advice for a Parquet or gzip file, "name the file .jsonl" for a CSV.
. "$(dirname "$0")/lib.sh"
"$PY" - <<'P' || exit 1
import gzip, json, sys
from pathlib import Path
from gpt_course.records import load_records
R = [{"instruction": "Say hi.", "input": "", "output": "Hi."}] * 4
files = {"a.csv": (b"instruction,input,output\r\nSay hi.,,Hi.\r\n", "csv"), "a.parquet": (b"PAR1" + bytes(range(256)) + b"PAR1", "parquet"),
         "a.json.gz": (gzip.compress(json.dumps(R).encode()), "gz"), "b.json": (json.dumps(R).encode("utf-16"), "utf-16"), "c.ndjson": (b"\n".join(json.dumps(r).encode() for r in R), "jsonl")}
bad = 0
for name, (data, word) in files.items():
    Path(name).write_bytes(data)
    try: load_records(name)
    except ValueError as e:
        said = str(e).split("\n")[-1].strip()
        if word not in said.lower() or (name.endswith("csv") and ".jsonl" in said): print(f"WRONG: {name}: {said}"); bad = 1
sys.exit(bad)
P
