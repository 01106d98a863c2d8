"""Writes corpus.json: texts that tokenizers get wrong. Run: python3 make_corpus.py

Each entry is a JSON string; lone surrogates are written as \\ud800-style escapes. The random part
is seeded, so the file is the same every time.
"""
import json
import random
from pathlib import Path

CODE_PY = '''\
def fib(n: int) -> list[int]:
    """Return the first n numbers."""
    a, b = 0, 1
    out = []
    while len(out) < n:
        out.append(a)
\ta, b = b, a + b  # a tab among spaces
    return out


if __name__ == "__main__":
    print(fib(10), 0x1F, 1_000_000, 3.14159e-10, f"{'x':>10}")
'''
CODE_C = '''\
#include <stdio.h>\r
int main(int argc, char **argv) {\r
\tfor (size_t i = 0; i < (size_t)argc; ++i) { printf("%s\\n", argv[i]); }\r
\treturn argc>=2?-1:0x7fffffff&~0; /* C-style */\r
}\r
'''
ENGLISH = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age "
    "of foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the season "
    "of Light, it was the season of Darkness, it was the spring of hope, it was the winter of despair."
)
# Universal Declaration of Human Rights, article 1 (public domain), and plain greetings.
SCRIPTS = [
    "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Straßenbahnfahrkartenautomat.",
    "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心,并应以兄弟关系的精神相对待。",
    "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。カタカナ",
    "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.",
    "כל בני אדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi.",
    "የሰው ልጅ ሁሉ ሲወለድ ነጻና በክብርና በመብትም እኩልነት ያለው ነው።",
    "ყველა ადამიანი იბადება თავისუფალი და თანასწორი თავისი ღირსებითა და უფლებებით.",
    "𐍅𐌿𐌻𐍆𐌹𐌻𐌰 𝒜𝓃𝒸𝒾𝑒𝓃𝓉 𝟙𝟚𝟛 𓀀𓁐",
]
EMOJI = [
    "😀", "👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈 🏴󠁧󠁢󠁥󠁮󠁧󠁿", "❤️‍🔥❤❤️", "1️⃣2️⃣#️⃣", "🇩🇪🇯🇵🇺🇸",
    "I ❤️ unicode 🎉🎉🎉!!! 🤷‍♀️", "a😀b 😀 c", "☃☄★☎⌚️",
]
DIGITS = [
    "0", "1234567890", "1 12 123 1234 12345", "3.14159", "2024-11-24T10:43:59Z", "1,000,000.00",
    "x1y22z333", "٣٤٥ ४५६ ²³½Ⅷ①", "0x7FFF 1e-9 50%", " 7", "  7", "7  ", "a 1 b  2 c   3",
]
SPACES = [
    "", " ", "  ", "   ", " " * 7, " " * 31, " " * 32, " " * 33, " " * 100, " a", "  a", "a  ",
    "a   b", "\t", "\t\t", "\t \t", "\n", "\n\n", "\n" * 3, "\n" * 40, "a\nb", "a\n\nb", "a \n b",
    "a\r\nb\r\n\r\nc", "\r", "\r\r\n", " \n", "\n ", " \n \n  x", "if x:\n    y\n\tz\n", "x\u00a0y",
    "\u00a0\u00a0", "a\u2003b\u3000c\u2028d\u2029e", "\u200b\u200c\ufeff", "\u0085a\u0085", "\v\f",
    "trailing \t\n", "  \n\n  \n", "!  \n\n ?", "end.  \r\n\r\n  Next",
]
CONTRACTIONS = [
    "I'm you're he's we'll they've I'd can't", "I'M YOU'RE HE'S WE'LL THEY'VE I'D CAN'T",
    "'s 't 're 've 'm 'll 'd", "'S 'T 'RE 'VE 'M 'LL 'D", "'Re 'vE 'lL 'rx 'lx", "''s '''ll", "'",
    "o'clock rock'n'roll d'accord l'été", "it’s ‘quoted’", "'\u017f x'\u017f", "a's1 1's 's's", "x'r",
]
SYMBOLS = [
    "!@#$%^&*()_+-=[]{}|;:,.<>/?`~", "...!!!???", "a/b\\c", "https://example.com/a?b=c&d=%20#e",
    "user@example.com", "C++ C# F#", "<div class=\"a\"><b>x</b></div>", "<h1>Title</h1><table><tr><td>",
    "$\\frac{a}{b}$", "—–-‐", "“double” „low“ «guillemets»", "a_b__c___d", "//comment\n/*x*/", "/\n/",
    "?/\n\n/x", "HelloWorld camelCase SCREAMING_CASE XMLHttpRequest", "ÉCOLE École école", "ǅungla ǅ",
    "e\u0301 e\u0301\u0301 \u0301x \u0301", "ﬁ ﬀ ŉ ß ẞ İ ı", "\u0e33\u0e4d\u0e32", "ʰʲA ªºB",
]
CONTROL = [
    "\x00", "a\x00b", "\x01\x02\x1b[31mred\x1b[0m\x7f", "\ufffd", "\ufffe\uffff", "\U0010ffff",
    "\ud800", "a\udc00b", "\ud83d", "x\udc00\ud800y", "\u0600\u070f\u2066x\u2069",
]
SPECIAL = [
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>", " <|im_end|> ",
    "<|im_start", "<|<|im_end|>|>", "<|im_end|><|im_end|>", "a<|endoftext|>b",
    "<bos><start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n", "<eos>", "<eos", "a <eos> b",
    "<unused0><unused99> <mask> <pad> <unk>", "<0x41> <0x0A>", "[multimodal]", "<s></s>", "[INST] x [/INST]",
    "▁▁x▁y ▁", "<repo_name><file_sep>x<jupyter_code>", "<unused1234567>",
]
LONG = ["a" * 300, "ab" * 200, "abcdefgh" * 40, "=" * 129, "-" * 64 + "\n", "あ" * 90, "é" * 77, "?!" * 60]

ALPHABETS = [
    "ab 'sS\n", "aB1 .\t\n\r", "éàü ßẞ Ωω", "日本語カナひら、。", "😀👍🏽\u200d\ufe0f❤", "0123456789 .,",
    " \t\n\r\u00a0\u3000", "<|>im_stardeno\n ", "'lvredtmLVREDTM s", "e\u0301\u0300a\u0308 x", "/\\-=+*&^%$#@! \n",
    "\u0915\u094d\u0937\u093f \u0e33\u0e4d", "Aaªʰǅ\u0301 1/", "▁ ab", "\x00\x01\x7f\u0080\u00ff",
]


def random_texts(count):
    rng = random.Random(20241)
    texts = []
    for _ in range(count):
        pool = "".join(rng.sample(ALPHABETS, rng.randint(1, 4)))
        texts.append("".join(rng.choice(pool) for _ in range(rng.randint(1, 48))))
    return texts


def main():
    fixed = [CODE_PY, CODE_C, ENGLISH, *SCRIPTS, *EMOJI, *DIGITS, *SPACES, *CONTRACTIONS, *SYMBOLS]
    fixed += [*CONTROL, *SPECIAL, *LONG]
    texts = list(dict.fromkeys(fixed + random_texts(300)))
    path = Path(__file__).with_name("corpus.json")
    path.write_text("[\n" + ",\n".join(json.dumps(t) for t in texts) + "\n]\n")
    print(len(texts), "texts")


if __name__ == "__main__":
    main()
