# sourced by every case; PY: a python with gpt_course installed; nothing outside a temporary folder is touched
PY=${PY:-python}; export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
T=$(mktemp -d); trap 'rm -rf "$T"' EXIT; cd "$T"
gc() { "$PY" -m gpt_course.cli "$@"; }
small() { "$PY" - "$T/small" <<'P'
import sys
from gpt_course.model import GPT, GPTConfig, init_weights
from gpt_course.model_folders import save_pretrained
save_pretrained(init_weights(GPT(GPTConfig(vocab_size=400, n_positions=512, n_embd=32, n_layer=2, n_head=4)), seed=3), None, sys.argv[1])
P
}
data() { "$PY" -c "import json; print(json.dumps([{'instruction': f'Say the number {i}.', 'output': f'It is {i}.'} for i in range(24)]))" > "$T/ok.json"; }
FT="--model small --epochs 1 --batch-size 4 --max-new-tokens 4"
fail() { echo "WRONG: $*"; exit 1; }
