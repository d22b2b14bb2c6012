"Near-duplicates: exactly those that comparing every pair finds, of texts of any kind"

import random
from collections import Counter
from itertools import accumulate

import pytest

from gpt_course import near_duplicates as module
from gpt_course.dataset import Splits, audit_splits, prompt_words
from gpt_course.near_duplicates import WordSets, near_duplicates
from gpt_course.records import Records, load_data


def every_pair(words, asked, known, threshold):
    found = []
    for a in asked:
        for b in known:
            share = len(words[a] & words[b]) / len(words[a] | words[b])
            if share >= threshold:
                found.append((a, b, share))
    return sorted(found)


def changed(text, vocabulary, rng):
    "A text with a word replaced, added or removed."
    text, place = list(text), rng.randrange(len(text))
    kind = rng.choice(("replace", "add", "remove"))
    if kind == "add":
        text.insert(place, str(rng.randrange(vocabulary)))
    elif kind == "replace":
        text[place] = str(rng.randrange(vocabulary))
    elif len(text) > 1:
        del text[place]
    return text


def some_texts(n, vocabulary, longest, rng):
    texts = []
    for _ in range(n):
        text = rng.choices(range(vocabulary), k=rng.randint(1, longest))
        text = [str(word) for word in text]
        if texts and rng.random() < 0.7:
            text = changed(rng.choice(texts[-30:]), vocabulary, rng)
        texts.append(text)
    return texts


def some_templates(n, rng):
    "Many common words and a few that change, as in generated instructions"
    frames = [[f"{f}{i}" for i in range(rng.randint(3, 40))] for f in "abc"]
    return [
        [*rng.choice(frames), str(rng.randrange(6)), f"x{rng.randrange(30)}"]
        for _ in range(n)
    ]


def check(texts, threshold, rng):
    sets, words = WordSets(), {}
    for text in texts:
        words[sets.add(text)] = frozenset(text)
    asked = rng.sample(range(len(sets)), len(sets) // 3)
    known = rng.sample(range(len(sets)), len(sets) // 2)
    expected = every_pair(words, asked, known, threshold)
    assert near_duplicates(sets, asked, known, threshold) == expected
    return len(expected)


@pytest.mark.parametrize("threshold", [5e-324, 0.1, 2 / 3, 0.9, 1.0])
@pytest.mark.parametrize(
    "vocabulary, longest", [(5, 4), (30, 12), (60, 40), (5000, 60), (300, 200)]
)
def test_random_texts_have_the_same_pairs(vocabulary, longest, threshold):
    rng = random.Random(f"{vocabulary} {longest} {threshold}")
    for n in (3, 150):
        check(some_texts(n, vocabulary, longest, rng), threshold, rng)


@pytest.mark.parametrize("threshold", [0.5, 0.9])
@pytest.mark.parametrize("together", [1, 2, 3, 4])
def test_however_many_words_make_a_key(threshold, together, monkeypatch):
    "The choice costs time, never pairs: each is forced in turn."

    def forced(ranked, asked, known):
        smallest = min(ranked.sizes(asked).min(), ranked.sizes(known).min())
        most = int(-(-threshold * smallest // 1))
        return module._Asked(ranked, asked, max(1, min(together, most)))

    monkeypatch.setattr(module, "_choose", forced)
    rng = random.Random(together)
    assert check(some_texts(300, 40, 25, rng), threshold, rng) > 0
    assert check(some_templates(300, rng), threshold, rng) > 0


def test_small_pieces_of_work_give_the_same(monkeypatch):
    monkeypatch.setattr(module, "_AT_ONCE", 50)
    monkeypatch.setattr(module, "_PIECE", 7)
    rng = random.Random(3)
    assert check(some_templates(200, rng), 0.8, rng) > 100
    assert check(some_texts(200, 30, 25, rng), 0.8, rng) > 0


@pytest.mark.parametrize("threshold", [0.6, 0.75, 0.9])
def test_real_prompts_have_the_same_pairs(threshold):
    splits = load_data("builtin").split()
    sets = WordSets()
    parts = [[prompt_words(r) for r in part] for part in splits]
    numbers = [[sets.add(words) for words in part] for part in parts]
    words = {
        n: frozenset(w) for own, part in zip(numbers, parts) for n, w in zip(own, part)
    }
    asked, known = {*numbers[1], *numbers[2]}, {*numbers[0]}
    expected = every_pair(words, asked, known, threshold)
    assert near_duplicates(sets, asked, known, threshold) == expected
    assert expected or threshold == 0.9


def test_equal_sets_have_one_number_and_equal_texts_one_spelling():
    sets = WordSets()
    assert [sets.add(t.split()) for t in ("a b", "b a b", "c", "a b")] == [0, 0, 1, 0]
    assert len(sets) == 2
    spelt = [sets.spell(t.split()) for t in ("a b", "b a", "a b b", "a b")]
    assert spelt[0] == spelt[3] and len({*spelt}) == 3


# --- the audit ---


def plain_audit(splits, threshold):
    "As it is told: everything compared with everything."
    first, duplicates, leaks, near = {}, [], [], []
    train = [frozenset(prompt_words(r)) for r in splits.train]
    for part, records in splits._asdict().items():
        for i, record in enumerate(records):
            words, place = prompt_words(record), f"{part}[{i}]"
            earlier = first.setdefault(words, place)
            if earlier.split("[")[0] == part and earlier != place:
                duplicates.append((place, earlier))
            elif earlier != place:
                leaks.append((place, earlier))
            elif part != "train":
                for n, other in enumerate(train):
                    share = len(other & {*words}) / len(other | {*words})
                    if share >= threshold:
                        near.append((place, f"train[{n}]", round(share, 3)))
    return duplicates, leaks, near


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9, 1.0])
def test_the_audit_finds_what_comparing_everything_finds(threshold):
    rng = random.Random(5)
    texts = [" ".join(t) for t in some_texts(250, 25, 18, rng)]
    texts += [" ".join(t) for t in some_templates(250, rng)]
    rng.shuffle(texts)
    records = Records(dict(instruction=t, input="", output="x") for t in texts)
    splits = records.split(train=0.6, test=0.25)
    found = audit_splits(splits, threshold)
    assert (found.duplicates, found.leaks, found.near) == plain_audit(splits, threshold)
    assert min(map(len, (found.duplicates, found.leaks, found.near))) > 0


def test_another_order_of_the_words_is_near_and_no_leak():
    def ask(text):
        return dict(instruction=text, input="", output="x")

    splits = Splits(
        Records([ask("one two three"), ask("Three, two, one!")]),
        Records(),
        Records([ask("two one three"), ask("one two three")]),
    )
    audit = audit_splits(splits)
    assert audit.duplicates == []
    assert audit.leaks == [("test[1]", "train[0]")]
    assert audit.near == [("test[0]", f"train[{i}]", 1.0) for i in (0, 1)]


# --- work, counted, not timed ---


def words_as_written(n, rng):
    "Zipf's law, as in a language: most texts have a few rare words"
    vocabulary = range(1, 50_000)
    weights = list(accumulate(1 / rank for rank in vocabulary))
    return [
        [
            str(w)
            for w in rng.choices(vocabulary, cum_weights=weights, k=rng.randint(10, 40))
        ]
        for _ in range(n)
    ]


def few_words(n, rng):
    return [[str(rng.randrange(500)) for _ in range(20)] for _ in range(n)]


@pytest.mark.parametrize("texts", [words_as_written, few_words])
def test_few_candidates_are_compared(texts, monkeypatch):
    compared = Counter()
    shares = module._shares

    def counted(ranked, a, b):
        compared["pairs"] += len(a)
        return shares(ranked, a, b)

    monkeypatch.setattr(module, "_shares", counted)
    sets = WordSets()
    numbers = [sets.add(text) for text in texts(6000, random.Random(1))]
    near_duplicates(sets, numbers[5000:], numbers[:5000], 0.9)
    assert compared["pairs"] < 3 * len(numbers)
