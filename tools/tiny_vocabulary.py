"""Make the tokenizer of `tiny`: byte-pair encoding, trained on the encyclopedia's text.

    python tools/tiny_vocabulary.py            # is assets/tiny what the text gives?
    python tools/tiny_vocabulary.py --write    # write it

Counted are 16,000 documents as `tiny` reads them, the prose twice, and single
sentences. The library `tokenizers` does the training.
"""

import argparse
import json
import sys
from itertools import islice

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from gpt_course.files import ASSETS
from gpt_course.tiny.encyclopedia import documents, limit_rows, read_encyclopedia
from gpt_course.tiny.pretraining import TINY
from gpt_course.tokenizers import (
    EOS_TOKEN,
    BPETokenizer,
    byte_characters,
    load_tokenizer,
)


def make_tokenizer():
    "The tokenizer that the text gives."
    enc = read_encyclopedia()
    texts = [
        *islice(documents(limit_rows(enc), seed=99), 16_000),
        *enc.prose * 2,
        *enc.sentences,
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=TINY.vocab_size - 1,
        initial_alphabet=byte_characters(),
        show_progress=False,
    )
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.train_from_iterator(texts, trainer)
    ids = bpe.get_vocab()
    merges = json.loads(bpe.to_str())["model"]["merges"]
    return BPETokenizer(
        [*sorted(ids, key=ids.get), EOS_TOKEN], [" ".join(pair) for pair in merges]
    )


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--write", action="store_true", help="write the tokenizer")
    args, made = p.parse_args(), make_tokenizer()
    if args.write:
        made.save(ASSETS / "tiny", TINY.n_positions)
    found = load_tokenizer("tiny")
    same = (found.tokens(), found.merges()) == (made.tokens(), made.merges())
    state = "up to date" if same else "not what the text gives; run with --write"
    print(f"assets/tiny: {made.vocab_size:,} ids, {state}")
    sys.exit(not same)


if __name__ == "__main__":
    main()
