#!/bin/bash
# A GPT-2 folder whose tokenizer has added (plain) tokens must be tokenised as it was trained. Right: the same ids as Transformers gives.
. "$(dirname "$0")/lib.sh"
"$PY" - <<'P' 2>/dev/null || fail "added tokens are ignored: other ids than the model was trained with, and no warning"
import sys
from transformers import AutoTokenizer, GPT2LMHeadModel
from gpt_course.tokenizers import load_tokenizer
from gpt_course.model import GPT, GPTConfig, init_weights
from gpt_course.model_folders import load_pretrained
from gpt_course.sharing import export_hf
V = 50257
export_hf(init_weights(GPT(GPTConfig(vocab_size=V, n_positions=128, n_embd=16, n_layer=1, n_head=2)), seed=1), load_tokenizer("gpt2", V), "base")
model, tok = GPT2LMHeadModel.from_pretrained("base"), AutoTokenizer.from_pretrained("base")
tok.add_tokens(["zymurgite"]); model.resize_token_embeddings(len(tok))
model.save_pretrained("added"); tok.save_pretrained("added")
text = "Say zymurgite now."
try: _, ours = load_pretrained("added")
except ValueError as e: sys.exit("token" not in str(e))  # a refusal that names the tokens is right too
want, found = tok.encode(text), ours.encode(text)
print("transformers", want, "gpt_course", found, file=sys.stdout)
sys.exit(want != found)
P
