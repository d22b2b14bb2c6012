"Our tokenizer reads GPT-2's kind and no other, and others read what it saves"

import json
import random
import time

import pytest

from gpt_course.dataset import render_prompt
from gpt_course.model_files import (
    TOKENIZER_FILES,
    TOKENIZER_SETTINGS,
    TOKENIZER_TABLES,
)
from gpt_course.prompts import as_messages, chat_template
from gpt_course.protocols import Tokenizer
from gpt_course.records import load_data
from gpt_course.tokenizers import (
    EOS_TOKEN,
    BPETokenizer,
    OtherTokenizer,
    byte_characters,
    folder_tokenizer,
    load_tokenizer,
)
from gpt_course.transformers_model import load_transformers_tokenizer

RECORDS = load_data("builtin")
SIZES = [("gpt2", None), ("gpt2", 4096), ("gpt2", 257), ("tiny", None), ("tiny", 300)]


def texts(n, seed=0):
    "Prompts, prose, code, digits, spaces, and random characters of all planes."
    rng = random.Random(seed)
    ranges = [(32, 127), (32, 0x250), (0x250, 0xD800), (0x1F300, 0x1FAFF), (48, 58)]
    spaces = "\t\n\r   \xa0\u2003\u3000"
    found = [
        *("", " ", "\n\n\n", "   \n   ", "a  b   c    ", "I'll don't we've I'M"),
        f"Say {EOS_TOKEN}.",
        f"{EOS_TOKEN}{EOS_TOKEN}",
        f" {EOS_TOKEN}\n",
        "12 345 6.7e-8 ½ ² Ⅷ ١٢٣",
        "def f(x):\n    return x ** 2\t# ok\n\n\nclass A: pass  ",
        "e\u0301 \u200d \ufeff 👩‍👩‍👧",
        *(render_prompt(r) for r in RECORDS[:200]),
    ]
    while len(found) < n:
        kind = rng.choice([*ranges, None, None])
        length = rng.randrange(1, 40)
        if kind:
            text = "".join(chr(rng.randrange(*kind)) for _ in range(length))
        else:
            text = "".join(rng.choice(spaces + "ab,1") for _ in range(length))
        found.append(text)
    return found


def write(path, value):
    path.write_text(json.dumps(value), "utf-8")


def saved(folder, tokenizer=None):
    "A folder with a small tokenizer of our own, and the content of its tokenizer.json."
    (tokenizer or load_tokenizer("gpt2", 300)).save(folder, n_positions=64)
    return json.loads((folder / "tokenizer.json").read_text("utf-8"))


# --- what it gives ---


def test_it_is_what_the_course_asks_of_a_tokenizer():
    tokenizer: Tokenizer = load_tokenizer("tiny")
    assert isinstance(tokenizer, Tokenizer)
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (5632, 5631)


def test_the_merges_are_those_that_openai_published():
    "First and last lines of vocab.bpe of openai/gpt-2."
    merges = load_tokenizer("gpt2").merges()
    assert merges[:6] == ["Ġ t", "Ġ a", "h e", "i n", "r e", "o n"]
    assert merges[-3:] == ["ĠColl ider", "Ġinform ants", "Ġg azed"]
    assert len(merges) == 50000


@pytest.mark.parametrize("name", ["gpt2", "tiny"])
def test_each_merge_is_what_byte_pair_encoding_makes_of_its_token(name):
    "So tiktoken, which knows priorities only, and others, who know merges, agree."
    tokenizer = load_tokenizer(name)
    ids = {t: i for i, t in enumerate(tokenizer.tokens())}
    for i, merge in enumerate(tokenizer.merges(), 256):
        parts = [*tokenizer.tokens()[i]]
        while len(parts) > 2:
            pairs = zip(parts, parts[1:])
            _, at = min((ids.get(a + b, i), at) for at, (a, b) in enumerate(pairs))
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        assert parts == merge.split(" ")


@pytest.mark.parametrize("name, size", SIZES)
def test_any_text_survives_and_no_text_ends_the_turn(name, size):
    tokenizer = load_tokenizer(name, size)
    for text in texts(400, seed=1):
        ids = tokenizer.encode(text)
        assert tokenizer.eos_id not in ids and max(ids, default=0) < tokenizer.eos_id
        assert tokenizer.decode(ids) == text


def test_ids_without_a_token_are_left_out():
    tokenizer = load_tokenizer("gpt2", 300)
    ids = tokenizer.encode("a word")
    assert tokenizer.decode([300, *ids, 12345, -1]) == "a word"
    assert tokenizer.decode([*ids, 299]) == "a word" + EOS_TOKEN
    with pytest.raises(ValueError, match="id is 300; need 0 to 299"):
        tokenizer.token_bytes(300)


def test_a_cut_vocabulary_has_the_first_tokens():
    whole, cut = load_tokenizer("gpt2"), load_tokenizer("gpt2", 1000)
    assert cut.tokens() == [*whole.tokens()[:999], EOS_TOKEN]
    assert cut.merges() == whole.merges()[:743]
    assert (cut.vocab_size, cut.eos_id) == (1000, 999)
    for size in (256, 50258, -1):
        with pytest.raises(ValueError, match=f"vocab_size is {size}; need 257"):
            load_tokenizer("gpt2", size)


def test_loading_is_fast():
    start = time.process_time()
    load_tokenizer("gpt2", 50000)
    assert time.process_time() - start < 0.5


# --- saved, and read again ---


@pytest.mark.parametrize("name, size", SIZES)
def test_saved_and_loaded_it_is_the_same(tmp_path, name, size):
    tokenizer = load_tokenizer(name, size)
    tokenizer.save(tmp_path, n_positions=128)
    for again in (
        load_tokenizer(tmp_path),
        load_tokenizer(tmp_path / "tokenizer.json"),
        folder_tokenizer(tmp_path, tokenizer.vocab_size),
        folder_tokenizer(tmp_path, tokenizer.vocab_size + 48),  # rows without a token
    ):
        assert again.tokens() == tokenizer.tokens()
        assert again.merges() == tokenizer.merges()


def test_a_folder_that_is_written_again_is_read_again(tmp_path):
    for size in (300, 400, 300, 301):
        load_tokenizer("gpt2", size).save(tmp_path, 64)
        assert load_tokenizer(tmp_path).vocab_size == size


def test_stale_files_are_removed(tmp_path):
    for name in TOKENIZER_SETTINGS:
        write(tmp_path / name, {})
    mine = {*TOKENIZER_TABLES, "notes.txt"}
    for name in mine:
        (tmp_path / name).write_text("mine")
    saved(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {*TOKENIZER_FILES, *mine}
    assert all((tmp_path / name).read_text() == "mine" for name in mine)
    assert folder_tokenizer(tmp_path, 300).vocab_size == 300


@pytest.mark.parametrize("name, size", [("gpt2", None), ("tiny", None), ("gpt2", 300)])
def test_transformers_gives_the_same_ids(tmp_path, name, size):
    transformers = pytest.importorskip("transformers")
    tokenizer = load_tokenizer(name, size)
    tokenizer.save(tmp_path / "ours", n_positions=128)
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    many = texts(1000)
    ids = [tokenizer.encode(text) for text in many]
    assert auto(many, split_special_tokens=True)["input_ids"] == ids
    assert auto.batch_decode(ids) == many
    assert auto("a" + EOS_TOKEN)["input_ids"][-1] == tokenizer.eos_id
    assert (len(auto), auto.model_max_length) == (tokenizer.vocab_size, 128)
    assert auto.eos_token_id == auto.pad_token_id == tokenizer.eos_id
    assert auto.padding_side == "left"
    assert auto.chat_template == chat_template()
    # and what Transformers saves is still ours
    auto.save_pretrained(tmp_path / "theirs")
    assert load_tokenizer(tmp_path / "theirs").tokens() == tokenizer.tokens()


def test_the_shipped_folder_is_one_that_transformers_reads():
    transformers = pytest.importorskip("transformers")
    from gpt_course.files import ASSETS

    auto = transformers.AutoTokenizer.from_pretrained(ASSETS / "tiny")
    tokenizer = load_tokenizer("tiny")
    for record in RECORDS[:100]:
        ids = auto.apply_chat_template(
            as_messages(record), add_generation_prompt=True, return_dict=False
        )
        assert ids == tokenizer.encode(render_prompt(record))


# --- whose tokenizer is it? ---


def with_config(**settings):
    def change(folder, raw):
        path = folder / "tokenizer_config.json"
        write(path, json.loads(path.read_text()) | settings)

    return change


def with_file(name, content):
    return lambda folder, raw: write(folder / name, content)


def with_part(name, part):
    return lambda folder, raw: raw.update({name: part})


def with_model(**settings):
    return lambda folder, raw: raw["model"].update(settings)


def swap_merges(folder, raw):
    merges = raw["model"]["merges"]
    merges[3:5] = merges[4], merges[3]


def end_first(folder, raw):
    tokens = [*raw["model"]["vocab"]]
    tokens = tokens[-1:] + tokens[:-1]
    raw["model"]["vocab"] = {t: i for i, t in enumerate(tokens)}
    raw["added_tokens"][0]["id"] = 0


def bytes_by_number(folder, raw):
    tokens = byte_characters() + [*raw["model"]["vocab"]][256:]
    raw["model"]["vocab"] = {t: i for i, t in enumerate(tokens)}


def leave_a_hole(folder, raw):
    raw["model"]["vocab"][EOS_TOKEN] = raw["added_tokens"][0]["id"] = 300


def add_a_token(folder, raw):
    end = raw["added_tokens"][0]
    raw["added_tokens"].append(end | {"id": 300, "content": "<pad>"})


def only_sentencepiece(folder, raw):
    raw.clear()
    for path in folder.iterdir():
        path.unlink()
    (folder / "spiece.model").write_bytes(b"x")


SPACED = {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}
START = [{"SpecialToken": {"id": EOS_TOKEN, "type_id": 0}}]
TEXT = [{"Sequence": {"id": "A", "type_id": 0}}]
TEMPLATE = {"type": "TemplateProcessing", "single": START + TEXT, "pair": []}
OTHERS = {
    "an added token": add_a_token,
    "no end token": with_part("added_tokens", []),
    "a normalizer": with_part("normalizer", {"type": "Lowercase"}),
    "a space first": with_part("pre_tokenizer", SPACED),
    "no regex": with_part(
        "pre_tokenizer", SPACED | {"add_prefix_space": False, "use_regex": False}
    ),
    "words": with_part("pre_tokenizer", {"type": "Whitespace"}),
    "no words": with_part("pre_tokenizer", None),
    "a start token": with_part("post_processor", TEMPLATE),
    "no decoder": with_part("decoder", None),
    "a truncation": with_part("truncation", {"max_length": 8}),
    "a sentencepiece model": with_model(type="Unigram", vocab=[["a", 0.0]]),
    "word pieces": with_model(type="WordPiece"),
    "dropout": with_model(dropout=0.1),
    "whole words first": with_model(ignore_merges=True),
    "byte fallback": with_model(byte_fallback=True),
    "ends of words": with_model(end_of_word_suffix="</w>"),
    "merges in another order": swap_merges,
    "the end token first": end_first,
    "bytes in another order": bytes_by_number,
    "a hole": leave_a_hole,
    "a setting for a space": with_config(add_prefix_space=True),
    "a setting for a start token": with_config(add_bos_token=True),
    "another end token": with_config(eos_token={"content": "</s>"}),
    "another padding token": with_file("special_tokens_map.json", {"pad_token": "#"}),
    "added tokens": with_file("added_tokens.json", {"<pad>": 300}),
    "added tokens in the settings": with_config(
        added_tokens_decoder={"300": {"content": "<pad>"}}
    ),
    "more special tokens": with_config(extra_special_tokens={"image": "<image>"}),
    "another class": with_config(tokenizer_class="WhisperTokenizer"),
    "only sentencepiece": only_sentencepiece,
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_a_tokenizer_of_another_kind_is_left_to_transformers(tmp_path, change):
    raw = saved(tmp_path)
    assert folder_tokenizer(tmp_path, 400)
    change(tmp_path, raw)
    if raw:
        write(tmp_path / "tokenizer.json", raw)
        with pytest.raises(OtherTokenizer, match="not of GPT-2's kind"):
            load_tokenizer(tmp_path)
    assert folder_tokenizer(tmp_path, 400) is None


def pairs(folder, raw):
    raw["model"]["merges"] = [m.split(" ") for m in raw["model"]["merges"]]


def end_as_added_only(folder, raw):
    del raw["model"]["vocab"][EOS_TOKEN]


def older_file(folder, raw):
    "As on the Hub: openai-community/gpt2."
    for key in ("type", "byte_fallback", "ignore_merges"):
        raw["model"].pop(key)
    for key in ("pre_tokenizer", "post_processor", "decoder"):
        raw[key].pop("use_regex")
    raw["added_tokens"][0]["normalized"] = True
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 1024}')


def old_form(folder, raw):
    (folder / "vocab.json").write_text(json.dumps(raw["model"]["vocab"]), "utf-8")
    merges = "\n".join(["#version: 0.2", *raw["model"]["merges"], ""])
    (folder / "merges.txt").write_text(merges, "utf-8")
    (folder / "tokenizer.json").unlink()
    raw.clear()


OURS = {
    "merges as pairs": pairs,
    "the end token only added": end_as_added_only,
    "a file as on the Hub": older_file,
    "vocab.json and merges.txt": old_form,
    "no post-processor": with_part("post_processor", None),
    "a template of text only": with_part(
        "post_processor", TEMPLATE | {"single": TEXT, "special_tokens": {}}
    ),
    "an end token described in full": with_config(
        eos_token={"__type": "AddedToken", "content": EOS_TOKEN}
    ),
    "no padding token": with_config(pad_token=None),
    "the general class": with_config(tokenizer_class="PreTrainedTokenizerFast"),
}


@pytest.mark.parametrize("change", OURS.values(), ids=OURS)
def test_what_changes_no_id_is_still_ours(tmp_path, change):
    transformers = pytest.importorskip("transformers")
    raw = saved(tmp_path)
    change(tmp_path, raw)
    if raw:
        write(tmp_path / "tokenizer.json", raw)
    write(tmp_path / "config.json", {"model_type": "gpt2"})
    tokenizer = folder_tokenizer(tmp_path, 300)
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    many = texts(60, seed=2)
    ids = [tokenizer.encode(text) for text in many]
    assert auto(many, split_special_tokens=True)["input_ids"] == ids


def test_without_a_tokenizer_the_model_size_decides(tmp_path):
    assert (
        folder_tokenizer(tmp_path, 300).tokens() == load_tokenizer("gpt2", 300).tokens()
    )
    assert folder_tokenizer(tmp_path, 50257) is load_tokenizer("gpt2")
    for size in (256, 50304):
        with pytest.raises(ValueError, match="(?s)add the model's tokenizer.json"):
            folder_tokenizer(tmp_path, size)


SETTINGS = [{}, {"model_max_length": 1024}, {"tokenizer_class": "GPT2Tokenizer"}]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_settings_that_are_those_of_gpt2_are_no_tokenizer(tmp_path, settings):
    write(tmp_path / "tokenizer_config.json", settings)
    write(tmp_path / "special_tokens_map.json", {"eos_token": EOS_TOKEN})
    assert folder_tokenizer(tmp_path, 50257) is load_tokenizer("gpt2")


@pytest.mark.parametrize(
    "name, settings",
    [
        ("tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer"}),
        ("tokenizer_config.json", {"pad_token": "<pad>"}),
        ("added_tokens.json", {"<pad>": 50257}),
    ],
)
def test_settings_of_another_tokenizer_need_its_tokens(tmp_path, name, settings):
    "Transformers would make a tokenizer without words of them."
    write(tmp_path / name, settings)
    with pytest.raises(ValueError, match="but not its tokens.*add .*tokenizer.json"):
        folder_tokenizer(tmp_path, 50257)


def test_a_tokenizer_of_bytes_needs_no_table(tmp_path):
    transformers = pytest.importorskip("transformers")
    transformers.ByT5Tokenizer().save_pretrained(tmp_path)
    write(tmp_path / "config.json", {"model_type": "gpt2"})
    assert folder_tokenizer(tmp_path, 384) is None
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert auto.encode("a", add_special_tokens=False) == [100]


def test_the_form_before_tokenizer_json_is_refused_by_name(tmp_path):
    "It would be read as GPT-2's, whose ids mean something else."
    table = tmp_path / "vocabulary.tiktoken"
    table.write_text("IQ== 0\n")
    with pytest.raises(ValueError, match="vocabulary.tiktoken: an earlier version"):
        folder_tokenizer(tmp_path, 5632)
    load_tokenizer("tiny").save(tmp_path, 256)  # as the message says
    assert not table.exists()
    assert folder_tokenizer(tmp_path, 5632).tokens() == load_tokenizer("tiny").tokens()


def test_merges_alone_are_half_a_tokenizer(tmp_path):
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(ValueError, match="tokenizer.json: no such file"):
        folder_tokenizer(tmp_path, 300)


# --- damaged files ---


@pytest.mark.parametrize(
    "text, fault",
    [
        ("", "not JSON"),
        ("[]", "object"),
        ("null", "object"),
        ("{}", "has no `model`"),
        ('{"model": null}', "has no `model`"),
        ('{"model": {"type": "BPE", "merges": []}}', "vocab must give a number"),
        ('{"model": {"vocab": {"a": "1"}, "merges": []}}', "vocab must give"),
        ('{"model": {"vocab": {"a": 0}}}', "merges must be a list"),
        ('{"model": {"vocab": {"a": 0}, "merges": [1]}}', "merges must be"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, text, fault):
    raw = saved(tmp_path)
    if text.startswith('{"model": {"'):
        text = json.dumps(raw | json.loads(text))
    (tmp_path / "tokenizer.json").write_text(text)
    for load in (load_tokenizer, lambda folder: folder_tokenizer(folder, 300)):
        with pytest.raises(ValueError, match=f"(?s)tokenizer.json.*{fault}") as error:
            load(tmp_path)
        assert not isinstance(error.value, OtherTokenizer)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "added_tokens.json"])
@pytest.mark.parametrize("text", ["[]", "{", "\x00"])
def test_damaged_settings_are_named(tmp_path, name, text):
    saved(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=name):
        folder_tokenizer(tmp_path, 300)


def test_odd_content_is_never_a_crash(tmp_path):
    "Whatever stands where something else belongs: ours, another, or a `ValueError`."
    raw = saved(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config |= {"added_tokens_decoder": {}, "extra_special_tokens": []}
    holders = [
        ("tokenizer_config.json", config, config),
        ("tokenizer.json", raw, raw),
        ("tokenizer.json", raw, raw["model"]),
    ]
    for name, whole, part in holders:
        for key, kept in [*part.items()]:
            for odd in (None, [], {}, "x", 5, [5], {"a": 5}, True):
                part[key] = odd
                write(tmp_path / name, whole)
                try:
                    found = folder_tokenizer(tmp_path, 300)
                    assert found is None or isinstance(found, BPETokenizer)
                except ValueError as e:
                    assert name in str(e)
            part[key] = kept
        write(tmp_path / name, whole)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere.*no such file.*'gpt2', 'tiny'"):
        load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="tokenizer.json: no such file"):
        load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="name is 5632; need 'gpt2'"):
        load_tokenizer(5632)
    old_form(tmp_path, saved(tmp_path))
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(ValueError, match="merges.txt: cannot be read"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path):
    saved(tmp_path)
    with pytest.raises(ValueError, match="300 ids, and the model 299 rows"):
        folder_tokenizer(tmp_path, 299)


@pytest.mark.parametrize("space", [" ", "\n", "\u3000"])
def test_a_million_spaces_are_refused_and_not_left_to_a_panic(space):
    tokenizer = load_tokenizer("tiny")
    with pytest.raises(ValueError, match="in a row, from character 3 on; no tokenizer"):
        tokenizer.encode("ab" + 1_100_000 * space)
    text = "ab" + 800_000 * space + "c"
    assert tokenizer.decode(tokenizer.encode(text)) == text


# --- the same ids as Transformers, whatever was altered ---


def by_transformers(change):
    "A folder that Transformers loaded, changed and saved, as people do."

    def alter(folder, raw):
        transformers = pytest.importorskip("transformers")
        auto = transformers.AutoTokenizer.from_pretrained(folder)
        change(auto)
        for path in folder.iterdir():
            path.unlink()
        auto.save_pretrained(folder)
        raw.clear()

    return alter


def added(**flags):
    "An added token that is part of words of the texts, with these flags."
    from transformers import AddedToken

    return lambda auto: auto.add_tokens([AddedToken("er", **flags), "zymurgite"])


def sequence(*parts):
    return {"type": "Sequence", "pretokenizers": [*parts]}


PLAIN_LEVEL = SPACED | {"add_prefix_space": False, "trim_offsets": True}
ALTERED = {
    "plain added tokens": by_transformers(lambda auto: added()(auto)),
    "an added word": by_transformers(lambda auto: added(single_word=True)(auto)),
    "one that eats spaces": by_transformers(
        lambda auto: added(lstrip=True, rstrip=True)(auto)
    ),
    "special added tokens": by_transformers(
        lambda auto: auto.add_special_tokens({"pad_token": "<pad>"})
    ),
    "saved again by Transformers": by_transformers(lambda auto: None),
    "small letters": OTHERS["a normalizer"],
    "composed letters": with_part("normalizer", {"type": "NFKC"}),
    "a space first": with_part(
        "pre_tokenizer", PLAIN_LEVEL | {"add_prefix_space": True}
    ),
    "no regex": with_part("pre_tokenizer", PLAIN_LEVEL | {"use_regex": False}),
    "digits alone": with_part(
        "pre_tokenizer",
        sequence({"type": "Digits", "individual_digits": True}, PLAIN_LEVEL),
    ),
    "a start token": with_part(
        "post_processor",
        TEMPLATE
        | {
            "pair": TEXT,
            "special_tokens": {
                EOS_TOKEN: {"id": EOS_TOKEN, "ids": [299], "tokens": [EOS_TOKEN]}
            },
        },
    ),
    "merges in another order": swap_merges,
    "whole words first": OTHERS["whole words first"],
    "a setting for a space": OTHERS["a setting for a space"],
    "a setting for a start token": OTHERS["a setting for a start token"],
    "an end token that is plain": lambda folder, raw: raw["added_tokens"][0].update(
        special=False
    ),
    "an end token that eats spaces": lambda folder, raw: raw["added_tokens"][0].update(
        lstrip=True
    ),
    "added tokens in the settings": with_config(
        added_tokens_decoder={"300": {"content": "er", "special": False}}
    ),
    "an unknown setting": with_config(do_lower_case=True),
    "the old form": old_form,
    "the old form and added tokens": lambda folder, raw: (
        old_form(folder, raw),
        write(folder / "added_tokens.json", {"er": 300}),
    ),
    "files of somebody's own": lambda folder, raw: [
        (folder / name).write_text("mine") for name in TOKENIZER_TABLES
    ],
}


@pytest.mark.parametrize("change", ALTERED.values(), ids=ALTERED)
def test_an_altered_tokenizer_gives_the_ids_of_transformers(tmp_path, change):
    transformers = pytest.importorskip("transformers")
    raw = saved(tmp_path)
    change(tmp_path, raw)
    if raw:
        write(tmp_path / "tokenizer.json", raw)
    write(tmp_path / "config.json", {"model_type": "gpt2"})
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = folder_tokenizer(tmp_path, 400) or load_transformers_tokenizer(tmp_path)
    many = [*texts(900, seed=3), *(f"{a} zymurgite{a}" for a in texts(100, seed=4))]
    options = {"split_special_tokens": True, "add_special_tokens": False}
    assert [ours.encode(text) for text in many] == auto(many, **options)["input_ids"]
    assert ours.eos_id == auto.eos_token_id
    # and the folder that is saved again gives them too
    if isinstance(ours, BPETokenizer):
        ours.save(tmp_path / "again", n_positions=64)
    else:
        ours.save(tmp_path / "again", 64)
    write(tmp_path / "again" / "config.json", {"model_type": "gpt2"})
    again = folder_tokenizer(tmp_path / "again", 400)
    again = again or load_transformers_tokenizer(tmp_path / "again")
    for text in many[::20]:
        assert again.encode(text) == ours.encode(text)
