"""Make the tables that come from WordNet 3.0: clauses, example sentences, definitions,
synonyms and antonyms.

    pip install lemminflect wordfreq                           # and Debian's package wordnet-base, or WordNet 3.0 itself
    python tools/wordnet_tables.py --wordnet /usr/share/wordnet

Writes gpt_course/assets/encyclopedia/wordnet_*.txt. Same versions, same files. Nothing
is taken but what common words make up (see `common`), and nothing that a reader would
rather not meet (see `UNFIT`)."""

import argparse
import re
from pathlib import Path

from lemminflect import getInflection
from wordfreq import zipf_frequency

OUT = Path(__file__).resolve().parent.parent / "gpt_course" / "assets" / "encyclopedia"
UNFIT = re.compile(
    r"""(?i)\b(rap(e|ed|ist)|sex\w*|porn\w*|nud\w+|naked|nazi\w*|hitler|jew\w*|muslim\w*|islam\w*|christ\w*|god\w*|allah|pope|catholic\w*|baptist\w*|negro\w*|black(s)?|white(s)?|race|racial|racist
|slav(e|es|ery)|whore|prostitut\w*|bitch|bastard|damn\w*|hell|shit\w*|fuck\w*|piss\w*|crap|ass|drunk\w*|drug\w*|heroin|cocaine|opium|marijuana|dope|kill\w*|murder\w*|suicid\w*|tortur\w*|behead\w*|hang(ed|ing)|execut\w*
|corpse\w*|cadaver\w*|blood\w*|gore|massacre\w*|genocid\w*|holocaust|terror\w*|bomb\w*|gun(s|men|man)?|shot|shoot\w*|stab\w*|strangl\w*|dead|death|die|dies|died|dying|abort\w*|castrat\w*|genital\w*|penis|vagina|breast\w*
|urin\w*|feces|excrement|vomit\w*|masturbat\w*|incest|adulter\w*|lust\w*|seduc\w*|mistress|virgin\w*|homosexual\w*|gay|lesbian\w*|fat|ugly|stupid|idiot\w*|moron|cripple\w*|retard\w*|insane|crazy|lunatic|communis\w*|fascis\w*|bush|clinton|reagan|nixon
|beat(s|ing)?|abus\w*|war|wars|troops|enemy|army|soldier\w*|prison\w*|jail\w*|criminal\w*|crime\w*|thie\w+|wife|girl|girls|woman|women|lady|ladies|maid|man|men)\b""".replace(
        "\n", ""
    )
)
PRONOUNS = {"I": 1, "you": 1, "he": 0, "she": 0, "it": 0, "we": 1, "they": 1}
TENSED = re.compile(
    r"(?i)[,;:?!\"]|\b(and|but|or|when|that|because|if|while|who|which|whose|what|where|how|than|as|until|since|though|so|is|was|are|were|be|been|has|had|have|will|would|can|could|should|must|may|might|did|does|do|not|n't"
    r"|yesterday|today|tomorrow|now|last|next|ago|never|always|already|just|once|every|too|here)\b|n't|\b(after|before|let's|it's) (he|she|it|they|I|we|you)\b|'s time|let's"
)
DETERMINER = "the|a|an|his|her|their|my|our|your|its|this|that|these|those|some|all|two|three|many|several"
PREPOSITION = "in|on|at|to|for|with|from|by|into|over|under|through|about|after|before|during|against|across|around|near|behind|onto|out|up|down|off|away|back|towards?|beyond|among|between|without|again|carefully|quickly|well|slowly|thoroughly|easily"


def senses(folder):
    "Every sense of WordNet: part of speech, its words, how often each was counted, its number among the word's senses, gloss, examples, antonyms"
    counts = {}
    for line in (folder / "cntlist.rev").read_text().splitlines():
        key, number, count = line.split()
        counts[key if "%5:" not in key else key.rsplit(":", 2)[0] + ":"] = (
            int(number),
            int(count),
        )
    out, at = [], {}
    for pos, digit in (("noun", 1), ("verb", 2), ("adj", 3), ("adv", 4)):
        for line in (folder / f"data.{pos}").read_text("latin-1").splitlines():
            if line.startswith(" "):
                continue
            data, gloss = line.split(" | ", 1)
            f = data.split(" ")
            n = int(f[3], 16)
            words = [
                re.sub(r"\(.*\)", "", w).replace("_", " ") for w in f[4 : 4 + 2 * n : 2]
            ]
            ids = [int(i, 16) for i in f[5 : 5 + 2 * n : 2]]
            stem = lambda w, i: (
                f"{w.lower().replace(' ', '_')}%{5 if f[2] == 's' else digit}:{f[1]}:{i:02d}:"
                + ("" if f[2] == "s" else ":")
            )
            p = 4 + 2 * n
            pointers = [f[p + 1 + 4 * i : p + 5 + 4 * i] for i in range(int(f[p]))]
            at[pos, f[0]] = dict(
                pos=pos,
                words=words,
                counts=[counts.get(stem(w, i), (9, 0)) for w, i in zip(words, ids)],
                pointers=pointers,
                gloss=re.sub(
                    r"\s*\([^)]*\)\s*", " ", re.split(r';? *"', gloss)[0].split(";")[0]
                ).strip(),
                examples=re.findall(r'"([^"]+)"', gloss),
            )
            out.append(at[pos, f[0]])
    return out, at


def common(text, least):
    "Are all words of the text common ones (Zipf frequency: the logarithm, to base 10, of occurrences in a thousand million words)?"
    return all(zipf_frequency(w, "en") >= least for w in re.findall(r"[A-Za-z]+", text))


def forms(base):
    "Third person, past, participle and -ing form of a verb; nothing if one is unknown"
    found = [getInflection(base, tag) for tag in ("VBZ", "VBD", "VBN", "VBG")]
    return (
        [base] + [max(f, key=lambda w: zipf_frequency(w, "en")) for f in found]
        if all(found)
        and not base.startswith(("be ", "have "))
        and base not in ("be", "have", "do")
        else []
    )


def subject_of(words, verbs):
    "How many words the subject has, its text, 1 for plural, its pronoun; nothing if it is none of the simple ones"
    first = words[0] if words[0] == "I" else words[0].lower()
    if first in PRONOUNS:
        return 1, first, PRONOUNS[first], first
    if first in ("the", "this", "my", "our", "his", "her", "their") and len(words) > 3:
        n = 2 if words[2].lower() in verbs else 3
        if len(words) <= n or words[n].lower() not in verbs:
            return None
        noun = words[n - 1]
        if (
            not all(re.fullmatch("[a-z]+", w) for w in words[1:n])
            or TENSED.search(" ".join(words[1:n]))
            or re.search("(ly|ing|ed)$", noun)
        ):
            return None
        plural = (
            noun.endswith("s")
            and not noun.endswith(("ss", "us", "is"))
            or noun in ("people", "children")
        )
        return (
            n,
            " ".join([first] + words[1:n]),
            int(plural),
            "they" if plural else "it",
        )
    return None


def clause(example, lemmas):
    "Subject, plural, pronoun, five forms of the verb, object, the rest; nothing if the example is not so simple"
    words = example.rstrip(".").split()
    for base in lemmas:
        made = forms(base) if " " not in base else []
        if not made:
            continue
        here = subject_of(words, {made[0], made[1], made[2]})
        if not here or len(words) <= here[0]:
            continue
        n, text, plural, pronoun = here
        if words[n].lower() not in (
            (made[0], made[2]) if plural else (made[1], made[2])
        ):
            continue
        rest = " ".join(words[n + 1 :])
        if not rest or TENSED.search(rest):
            continue
        m = re.fullmatch(
            rf"((?:{DETERMINER}) (?:[a-z]+ )?[a-z]+?)((?: (?:{PREPOSITION})\b.*)?)",
            rest,
        )
        thing, end = (m[1], m[2].strip()) if m else ("", rest)
        if thing and re.search(r"(ly|ing)$", thing):
            thing, end = "", rest
        return [text, str(plural), pronoun, *made, thing or "-", end or "-"]


def write(name, text):
    (OUT / f"wordnet_{name}.txt").write_text(text, "utf-8")


HEAD = "source: WordNet 3.0, copyright 2006 by Princeton University; licence in WORDNET.LICENSE; made by tools/wordnet_tables.py\n"


def table(name, columns, rows):
    "The rows, put under what stands in the file above them"
    head = (OUT / f"wordnet_{name}.txt").read_text("utf-8").split("[table]")[0]
    write(
        name,
        head
        + "[table]\n"
        + "\t".join(columns)
        + "\n"
        + "\n".join("\t".join(r) for r in rows)
        + "\n",
    )
    print(name, len(rows), "rows")


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"))
    a = p.parse_args()
    all_senses, at = senses(a.wordnet)
    clauses, examples, seen = [], [], set()
    for s in all_senses:
        for example in s["examples"]:
            text = re.sub(r"\s+", " ", example).strip()
            if (
                not 4 <= len(text.split()) <= 11
                or not re.fullmatch(r"[A-Za-z' ,]+[.?!]?", text)
                or UNFIT.search(text)
            ):
                continue
            if (
                s["pos"] == "verb"
                and common(text, 2.6)
                and (made := clause(text, s["words"]))
            ):
                clauses.append(made)
            whole = re.match(
                r"(I|[Hh]e|[Ss]he|[Ww]e|[Tt]hey|[Yy]ou|[Ii]t|[Tt]here)\b|[A-Z]?[a-z]+( [a-z]+){1,2} (is|was|are|were|has|had|will|would|can|could|should|must|did)\b",
                text,
            )
            if (
                (whole or s["pos"] == "verb" and text[0].isupper())
                and common(text, 3.1)
                and text.lower() not in seen
            ):
                seen.add(text.lower())
                examples.append(
                    text[0].upper()
                    + text[1:].rstrip(".")
                    + ("" if text[-1] in "?!" else ".")
                )
    write(
        "sentences",
        "# "
        + HEAD
        + "[clauses]\n# subject, plural, pronoun, base, third, past, participle, ing, object, the rest\n"
        + "\n".join(sorted({"\t".join(c) for c in clauses}))
        + "\n[examples]\n"
        + "\n".join(sorted(examples))
        + "\n",
    )
    print("clauses", len({tuple(c) for c in clauses}), "examples", len(examples))
    ours = {
        line.split("\t")[0]
        for f in OUT.glob("*.txt")
        if re.match("synonyms|opposites|antonyms|definitions", f.name)
        # their rows would tell something else of the same word
        for line in f.read_text("utf-8").split("[table]")[1].strip().split("\n")
    }
    known = {}
    for s in all_senses:
        word, (number, count) = s["words"][0], s["counts"][0]
        if (
            number != 1
            or count < 2
            or word in ours
            or word in known.get(s["pos"], {})
            or not word.isalpha()
            or not word.islower()
            or UNFIT.search(word + " " + s["gloss"])
        ):
            continue
        if (
            zipf_frequency(word, "en") < 3.7
            or not 2 <= len(s["gloss"].split()) <= 11
            or not common(s["gloss"], 3.2)
            or not re.fullmatch(r"[a-z' ,-]+", s["gloss"])
        ):
            continue
        if re.search(rf"\b{word[: max(4, len(word) - 3)]}", s["gloss"]):
            continue
        known.setdefault(s["pos"], {})[word] = count, word, s["gloss"]
    pairs, opposed = {}, {}
    for s in all_senses:
        if s["pos"] == "adv":
            continue
        plain = [
            (w, c)
            for w, c in zip(s["words"], s["counts"])
            if w.isalpha()
            and w.islower()
            and c[0] == 1
            and zipf_frequency(w, "en") > 3.3
            and not UNFIT.search(w)
        ]
        if len(plain) > 1:
            (x, c), (y, _) = sorted(plain, key=lambda wc: -wc[1][1])[:2]
            if x[:4] != y[:4] and x not in ours:
                pairs.setdefault(x, (c[1], y))
        for kind, offset, pos, which in s["pointers"]:
            if kind != "!":
                continue
            other = at[
                {"n": "noun", "v": "verb", "a": "adj", "s": "adj", "r": "adv"}[pos],
                offset,
            ]
            x, y, c = (
                s["words"][int(which[:2], 16) - 1],
                other["words"][int(which[2:], 16) - 1],
                s["counts"][int(which[:2], 16) - 1],
            )
            if (
                all(
                    w.isalpha()
                    and w.islower()
                    and zipf_frequency(w, "en") > 3.0
                    and not UNFIT.search(w)
                    for w in (x, y)
                )
                and c[0] <= 2
                and x != y
                and x not in ours
            ):
                if x not in opposed or opposed[x][0] < c[1]:
                    opposed[x] = c[1], y
    for name, kind, n in (
        ("nouns", "noun", 700),
        ("verbs", "verb", 350),
        ("adjectives", "adj", 350),
    ):
        rows = sorted(known[kind].values(), reverse=True)[:n]
        table(name, ("word", "meaning"), sorted([w, g] for _, w, g in rows))
    best = lambda d, n: sorted(
        [x, y]
        for _, x, y in sorted(((c, x, y) for x, (c, y) in d.items()), reverse=True)[:n]
    )
    table("synonyms", ("word", "synonym"), best(pairs, 600))
    table("antonyms", ("word", "opposite"), best(opposed, 500))


if __name__ == "__main__":
    main()
