"""Make the vocabulary of `tiny`: byte-pair encoding, as GPT-2 has it, trained on the text of the encyclopedia.

    python tools/tiny_vocabulary.py            # says whether gpt_course/assets/tiny/vocabulary.tiktoken is what the text gives
    python tools/tiny_vocabulary.py --write    # writes it

Counted are 16,000 documents as `tiny` reads them, the prose twice, and single sentences. Training is done by the
library `tokenizers`; the table has tiktoken's form: one token a line in base 64, and its number.
"""

import argparse, base64, sys
from itertools import islice

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from gpt_course.dataset import ASSETS, write_atomic
from gpt_course.tiny.encyclopedia import documents, limit_rows, read_encyclopedia
from gpt_course.pretrained import byte_characters
from gpt_course.tiny.pretraining import TINY

TABLE = ASSETS / "tiny" / "vocabulary.tiktoken"


def make_table():
    "The lines of the table: 256 bytes, in the order of GPT-2's own table, then what the merges make"
    enc = read_encyclopedia()
    texts = [
        *islice(documents(limit_rows(enc), seed=99), 16_000),
        *enc.prose * 2,
        *enc.sentences,
    ]
    chars = byte_characters()
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=TINY.vocab_size - 1, initial_alphabet=chars, show_progress=False
        ),
    )
    ids, byte = bpe.get_vocab(), {c: b for b, c in enumerate(chars)}
    words = sorted(chars) + sorted((w for w in ids if len(w) > 1), key=ids.get)
    return "".join(
        f"{base64.b64encode(bytes(map(byte.get, w))).decode()} {i}\n"
        for i, w in enumerate(words)
    )


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--write", action="store_true", help="write the table")
    a, table = p.parse_args(), make_table()
    if a.write:
        write_atomic(TABLE, table)
    same = TABLE.exists() and TABLE.read_text() == table
    print(
        f"{TABLE.name}: {table.count(chr(10)):,} tokens, {'up to date' if same else 'not what the text gives; run with --write'}"
    )
    if not same:
        sys.exit(1)


if __name__ == "__main__":
    main()
