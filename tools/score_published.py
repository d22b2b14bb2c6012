"""Score the published answers of GPT-2 355M on the test set of the lecture.

    python tools/score_published.py DATA

DATA is a folder that holds `instruction-data-with-response.json` of LLMs-from-scratch
(rasbt/LLMs-from-scratch, ch07/01_main-chapter-code): the 110 test records with the
answers of a GPT-2 of 355 million parameters, fine-tuned for two epochs, as
`model_response`. Only scores, source and date are written, to
gpt_course/assets/published_scores.json; no record and no answer. For comparison the
same records are scored with their own input, copied, as the answer.
"""

import argparse
import hashlib
import time
from pathlib import Path

from gpt_course.evaluation import score_groups
from gpt_course.files import ASSETS, write_json
from gpt_course.records import load_records
from gpt_course.responses import Response

NAME = "instruction-data-with-response.json"
SOURCE = (
    "https://github.com/rasbt/LLMs-from-scratch/tree/main/ch07/01_main-chapter-code"
)
# whether an answer ended by itself was not published
SHOWN = ("exact_match", "token_f1", "rouge_l", "repetition")


def scores_of(records, answers):
    responses = [Response(answer.strip(), "stop") for answer in answers]
    [group] = score_groups(records, responses)
    return {name: group["scores"][name] for name in SHOWN}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help=f"folder with {NAME}")
    out = ASSETS / "published_scores.json"
    parser.add_argument("--out", type=Path, default=out, help=f"default: {out.name}")
    options = parser.parse_args()
    path = options.data / NAME
    records = load_records(path)
    found = {
        "model": "GPT-2, 355 million parameters, fine-tuned for two epochs",
        "source": f"{SOURCE}/{NAME}",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "date": time.strftime("%Y-%m-%d"),
        "n": len(records),
        "scores": scores_of(records, [r["model_response"] for r in records]),
        "copied_input": scores_of(records, [r["input"] for r in records]),
    }
    write_json(options.out, found)
    for name, score in found["scores"].items():
        ends = f"{score['low']:.3f} to {score['high']:.3f}"
        print(f"{name:12} {score['mean']:.3f} ({ends})")


if __name__ == "__main__":
    main()
