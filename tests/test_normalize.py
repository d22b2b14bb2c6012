"Words: which texts are the same and which are not, in many scripts"

import json
import random
import unicodedata

import pytest
from rouge_score import rouge_scorer

from gpt_course.dataset import prompt_words
from gpt_course.evaluation import exact_match, rouge_l, token_f1
from gpt_course.files import ASSETS
from gpt_course.normalize import one_form, words

# script or kind: pairs that must be equal
SAME = {
    "Latin": [
        ("Copenhagen", "copenhagen."),
        ("“Yes”, he said", "'yes' he said!"),
        ("Straße", "STRASSE"),
        ("İstanbul", "istanbul"),
        ("ﬁne", "fine"),
        ("r\u00e9sum\u00e9", "re\u0301sume\u0301"),
        ("co\u00adoperate", "cooperate"),
        ("¿Qué?", "qué"),
        ("«Oui»", "oui"),
        ("l'été", "L’ÉTÉ"),
        ("ti\u1ebfng Vi\u1ec7t", "tie\u0302\u0301ng Vie\u0323\u0302t"),
        ("well-known", "well known"),
        ("COVID-19", "Covid 19"),
    ],
    "Greek": [("ΟΔΟΣ", "οδός".replace("ό", "ο")), ("τι;", "τι"), ("ά", "\u1f71")],
    "Cyrillic": [("й", "и\u0306"), ("м'ята", "мʼята"), ("«Да»", "да.")],
    "Armenian": [("ի՞նչ", "ինչ"), ("ԵՒ", "և"), ("Այո։", "այո")],
    "Hebrew": [("שלום!", "שלום"), ("צה״ל", 'צה"ל'), ("\ufb2a", "ש\u05c1")],
    "Arabic": [
        ("نعم؟", "نعم"),
        ("كتـــاب", "كتاب"),
        ("\ufefb", "لا"),
        ("می\u200cخواهم", "می خواهم"),
    ],
    "Devanagari": [("है।", "है"), ("\u0958", "\u0915\u093c"), ("“की”", "की")],
    "Bengali": [("\u09cb", "\u09c7\u09be"), ("হ্যাঁ।", "হ্যাঁ")],
    "Tamil": [("கொ", "\u0b95\u0bc6\u0bbe"), ("ஆம்!", "ஆம்")],
    "Malayalam": [("അവന്\u200d", "അവൻ")],
    "Georgian": [("\u1c90", "\u10d0"), ("„კი“", "კი")],
    "Ethiopic": [("አዎ፡ነው።", "አዎ ነው")],
    "Korean": [("한국", "\u1112\u1161\u11ab\u1100\u116e\u11a8"), ("네.", "네")],
    "Chinese": [
        ("你好，世界！", "你好 世界"),
        ("「是」。", "是"),
        ("５０％", "50%"),
        ("\uf9d8", "律"),
    ],
    "Japanese": [
        ("ｶﾞｷﾞ", "ガギ"),
        ("か\u3099", "が"),
        ("『はい』。", "はい"),
        ("５～１０", "5〜10"),
    ],
    "Thai": [("น้ำ ใจ", "น้ำใจ"), ("ใช่ๆ!", "ใช่ๆ")],
    "Lao": [("\u0eab\u0e99", "\u0edc"), ("“ແມ່ນ”", "ແມ່ນ")],
    "Khmer": [("បាទ។", "បាទ"), ("ខ្ញុំ\u200bទៅ", "ខ្ញុំទៅ")],
    "Burmese": [("ဟုတ်ကဲ့။", "ဟုတ်ကဲ့"), ("ကို ယ်", "ကိုယ်")],
    "numbers": [
        ("−5", "-5"),
        ("–5", "-5"),
        ("It is -5.", "it is −5"),
        ("7-3", "7 − 3"),
        ("1914–1918", "1914-1918"),
        ("50 %", "50%"),
        ("1.5!", "“1.5”"),
        ("1,2,3", "1, 2, 3"),
        ("- 5 cows\n- 3 pigs", "5 cows\n3 pigs"),
        ("１.５", "1.5"),
    ],
    "signs": [
        ("x<y", "x < y"),
        ("(C++)", "C++."),
        ("2*3", "2 * 3"),
        ("❤\ufe0f", "❤"),
        ("Well 🙂!", "well :-)"),
        ("**Yes**", "yes"),
        ("# Title", "title"),
        ("20 ℃", "20°C"),
        ("a\u200bb", "ab"),
        ("a\u200db", "ab"),
    ],
    "no word": [("", " \n"), ("?!", " ?! "), ("\u200b", "")],
}

# and pairs that must not
DIFFERENT = {
    "Latin": [("résumé", "resume"), ("ñ", "n"), ("its", "it's"), ("dry", "wet")],
    "Greek": [("ή", "η"), ("α", "a")],
    "Cyrillic": [("мир", "мор"), ("й", "и")],
    "Hebrew": [("שׁ", "שׂ"), ("כן", "לא")],
    "Arabic": [
        ("٣", "٤"),
        ("نامه\u200cای", "نام\u200cهای"),
        ("كَتَبَ", "كُتِبَ"),
        ("نعم", "لا"),
    ],
    "Devanagari": [("की", "कि"), ("दिन", "दान"), ("क", "क्"), ("हाँ", "हा")],
    "Bengali": [("দিন", "দান"), ("র‍্যাব", "র্যাব")],
    "Tamil": [("கா", "கி"), ("க", "க்")],
    "Malayalam": [("അവൻ", "അവന്")],
    "Sinhala": [("කා", "කි")],
    "Georgian": [("კი", "არა")],
    "Korean": [("네", "너"), ("한 국", "한국")],
    "Chinese": [
        ("是", "不是"),
        ("温度是-5度", "温度是5度"),
        ("二", "三"),
        ("1.5元", "15元"),
    ],
    "Japanese": [("が", "か"), ("はい", "いいえ"), ("ビル", "ビール"), ("ア", "あ")],
    "Thai": [("ใกล้", "ไกล"), ("ขาว", "ข้าว"), ("มา", "ม้า")],
    "Lao": [("ມາ", "ມ້າ"), ("ໃຊ່", "ໄຊ")],
    "Khmer": [("កា", "កី"), ("ស", "ស្ស")],
    "Burmese": [("ကာ", "ကား"), ("မ", "မှ")],
    "numbers": [
        ("-5", "5"),
        ("−5", "5"),
        ("+5", "-5"),
        ("1.5", "15"),
        ("1.5", "1 5"),
        ("1,5", "1 5"),
        ("1,5", "1.5"),
        (".5", "5"),
        ("-.5", ".5"),
        ("10:30", "10 30"),
        ("7-3", "7 3"),
        ("7 - 3", "7 3"),
        ("(-5)", "(5)"),
        ("x=-5", "x=5"),
        ("-$5", "$5"),
        ("$5", "€5"),
        ("$5", "5"),
        ("50%", "50"),
        ("50%", "50‰"),
        ("x²", "x2"),
        ("½", "12"),
        ("6′", "6″"),
        ("#1", "1"),
        ("~5", "5"),
        ("20°", "20"),
        ("-∞", "∞"),
    ],
    "signs": [
        ("x < y", "x > y"),
        ("x <= y", "x < y"),
        ("x != y", "x = y"),
        ("x ≠ y", "x = y"),
        ("a -> b", "a > b"),
        ("a <- b", "a < b"),
        ("-x", "x"),
        ("x - y", "x y"),
        ("x + y", "x - y"),
        ("2*3", "2/3"),
        ("2 * (3 + 4)", "2 * 3 + 4"),
        ("x^2", "x 2"),
        ("C++", "C"),
        ("C#", "C"),
        ("C++", "C#"),
        ("A+", "A-"),
        ("A+", "A"),
        (".NET", "net"),
        ("R&D", "R D"),
        ("km/h", "km h"),
        ("a_b", "a b"),
        ("me@home", "me home"),
        ("\\n", "n"),
        ("p ∧ q", "p ∨ q"),
    ],
    "emoji": [
        ("🙂", "☹"),
        ("👍", "👎"),
        ("Fine 🙂", "Fine"),
        ("👍🏽", "👍🏿"),
        ("👩\u200d💻", "👩💻"),
        ("🇩🇪", "🇫🇷"),
        ("🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "🏴"),
        ("1\ufe0f\u20e3", "1"),
        ("\U0001fae8", "\U0001fae9"),
        ("Fine :)", "Fine :("),
    ],
    "no word": [("", "?!"), ("!", "?"), (":)", ":("), ("...", ""), ("?", "yes")],
}


def pairs(table):
    return [
        pytest.param(a, b, id=f"{kind}-{n}")
        for kind, found in table.items()
        for n, (a, b) in enumerate(found)
    ]


def forms(text):
    return [unicodedata.normalize(form, text) for form in ("NFC", "NFD")]


@pytest.mark.parametrize("a, b", pairs(SAME))
def test_the_same_words(a, b):
    for x, y in [(x, y) for x in forms(a) for y in forms(b)]:
        assert words(x) == words(y)
        assert exact_match(x, y) == token_f1(x, y) == rouge_l(x, y) == 1


@pytest.mark.parametrize("a, b", pairs(DIFFERENT))
def test_other_words(a, b):
    for x, y in [(x, y) for x in forms(a) for y in forms(b)]:
        assert words(x) != words(y)
        assert exact_match(x, y) == exact_match(y, x) == 0


@pytest.mark.parametrize("a, b", pairs(DIFFERENT))
def test_the_audit_reads_the_same_words(a, b):
    "One way to read for both: what is no exact match is no repeated prompt."
    if a.strip() and b.strip():
        first, second = (prompt_words({"instruction": t, "input": ""}) for t in (a, b))
        assert first == tuple(words(a)) and second == tuple(words(b))
        assert first != second


@pytest.mark.parametrize(
    "text, found",
    [
        ("It's 3.5 km!", "it s 3.5 km"),
        ("C++/C#", "c++ c#"),
        ("温度是-5.5度。", "温 度 是 -5.5 度"),
        ("カタカナ語", "カ タ カ ナ 語"),
        ("กินข้าว", "กิ น ข้ า ว"),
        ("ຂ້ອຍ", "ຂ້ ອ ຍ"),
        ("ខ្ញុំ", "ខ្ ញុំ"),
        ("ကျွန်တော်", "ကျွ န် တော်"),
        ("iPhone手机", "iphone 手 机"),
        ("한국 사람", "한국 사람"),
        ("e.g. this…", "e g this"),
        ("(y2 - y1)/(x2 - x1)", "y2 - y1 ) / ( x2 - x1"),
        ("1,234,567.50 €", "1,234,567.50 €"),
        ("5-year-old B-52", "5 year old b 52"),
        ("and...so", "and so"),
        ("’tis", "tis"),
    ],
)
def test_what_is_a_word(text, found):
    assert words(text) == found.split()


def test_composed_or_not_makes_no_difference_to_any_text():
    rng = random.Random(1)
    ranges = [(0x20, 0x250), (0x300, 0x2000), (0x2000, 0x3100), (0xA000, 0xD7FF)]
    ranges += [(0xF900, 0xFFFF), (0x10000, 0x1FFFF)]
    signs = "ab1 5-+.,:'\"#*/()=<>%\n\u200d\u200c_!~^"
    for _ in range(20_000):
        text = "".join(
            chr(rng.randrange(*rng.choice(ranges)))
            if rng.random() < 0.5
            else rng.choice(signs)
            for _ in range(rng.randrange(1, 8))
        )
        found = words(text)
        assert all(word.strip() for word in found), ascii(text)
        for form in forms(text):
            assert words(form) == found, ascii(text)


def test_case_makes_no_difference():
    for start, end in [(0x41, 0x180), (0x370, 0x530), (0x10A0, 0x1100)]:
        for code in range(start, end):
            letter = chr(code)
            if letter.isalpha() and letter.upper().lower() == letter.lower():
                assert one_form(letter.upper()) == one_form(letter.lower()), letter


# --- plain English is scored as it was, and as others do ---


def builtin_answers():
    records = json.loads((ASSETS / "builtin.json").read_text("utf-8"))
    return [record["output"] for record in records]


def english(text):
    return text.isascii() and not set(text) & set("*/^+()")


def changed(text, rng, others):
    "What a model makes of an answer: a word lost, replaced or repeated, other signs."
    found = text.split()
    place = rng.randrange(len(found))
    return rng.choice(
        [
            text,
            text.rstrip("."),
            text.upper(),
            text.replace("'", '"'),
            " ".join(found[:place] + found[place + 1 :]),
            " ".join([*found[:place], rng.choice(others), *found[place:]]),
            rng.choice(others),
            f"{text} {text}",
        ]
    )


def test_plain_english_is_read_as_rouge_score_reads_it():
    answers = [text for text in builtin_answers() if english(text)]
    assert len(answers) > 1200
    scorer, rng = rouge_scorer.RougeScorer(["rougeL"]), random.Random(2)
    for wanted in answers[::2]:
        answer = changed(wanted, rng, answers)
        theirs = scorer.score(wanted, answer)["rougeL"].fmeasure
        assert abs(rouge_l(answer, wanted) - theirs) < 1e-9, (answer, wanted)
