#!/usr/bin/env python3
"""Writes tests/golden/tokenizer/forms/: one byte-level BPE model whose merges cross every boundary,
the normalizers and pre-tokenizers of published models around it, and the ids of Hugging Face.

For maintainers: pip install tokenizers==0.23.3, then run from the repository's root.
"""
import json

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

TEXTS = [
    "Hello, world! It's 1,234.50 o'clock -- they'll've \"done\" it; (see §4.2) e-mail: a_b@c.org\n",
    "HTTPServer getURLParams iPhone12 naïve café cafe\u0301 Å Å A\u030a ﬁne ①② x² ½ Ⅳ ￥１２３",
    "  indented\n\tdef f(x):\n\t\treturn x**2  # squares\r\n\r\nend   \n\n\n  trailing   ",
    "Привет, мир! Это №5, ёлка и й\u0306 \u0438\u0306 — «кавычки»… 2024-й год",
    "Καλημέρα κόσμε· τί; ά \u03b1\u0301 ΰ 42%",
    "你好，世界！中文分词：2023年１０月，价格￥99.5元。“引号”《书》㈱㌔",
    "こんにちは、世界！カタカナ ｶﾞｷﾞ は\u3099 ば 123個 東京都港区",
    "안녕하세요, 세계! \u1112\u1161\u11ab\u1100\u1173\u11af 각\u11a8 2024년 5월",
    "مرحبا بالعالم! الرقم ١٢٣٤، سؤال؟ \u0644\u0627 \ufefb أ \u0627\u0654 مُحَمَّد",
    "שלום עולם! מספר 12, \u05e9\u05bc\u05c1 \u05e9\u05c1\u05bc \ufb2c",
    "नमस्ते दुनिया! संख्या १२३, क़ \u0915\u093c पढ़ना।",
    "ওহে বিশ্ব! ১২৩ টাকা, য় \u09af\u09bc কো \u0995\u09c7\u09be।",
    "வணக்கம் உலகம்! ௧௨௩ கொ \u0b95\u0bc6\u0bbe",
    "హలో ప్రపంచం! ౧౨౩ కై", "ಹಲೋ ಪ್ರಪಂಚ! ೧೨೩ ಕೊ", "ഹലോ ലോകം! ൧൨൩ കൊ",
    "สวัสดีชาวโลก! ๑๒๓ น้ำ ก\u0e33", "ສະບາຍດີ! ໑໒໓ ຳ",
    "გამარჯობა მსოფლიო! ᲗᲑᲘᲚᲘᲡᲘ 1918", "Բարեւ աշխարհ! և 301 թ.։",
    "ሰላም ዓለም! ፩፪፫ ሀገር።", "བཀྲ་ཤིས། ༡༢༣ \u0f43 \u0f42\u0fb7", "မင်္ဂလာပါ ၁၂၃ \u1025\u102e ဦ",
    "សួស្តី ១២៣ ៘", "Xin chào thế giới! Tiếng Việt: ệ e\u0323\u0302 e\u0302\u0323 ở",
    "😀👩‍👩‍👧 🇩🇪 ✔️ 𝔘𝔫𝔦 𝟙𝟚 \U0001d15e ℵ ∑ ≠ =\u0338 → €5 ª º µ Ω Ω",
    "\u1c7e\u2e43x\u2e4f ՛ ⸮ ‽ ¿¡ · • \u00a0\u2003\u200b\u3000\ufeff\u0085x\u180e",
    "a\u0301\u0316\u0300 a\u0316\u0301 q\u0307\u0323 q\u0323\u0307 \u0344 \u1e9b\u0323 \ufdfa",
    "<|tok|>Ａ<|tok|> Å<x> ﬁ<x>fi<x> 12345678901 x1y22z333 3.14e-10 007",
]
GPT4 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+")
KIMI = "|".join([
    r"[\p{Han}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])


def split(regex, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


def digits(individual):
    return {"type": "Digits", "individual_digits": individual}


def punctuation(behavior):
    return {"type": "Punctuation", "behavior": behavior}


def sequence(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts)}


def byte_level(regex=False, prefix=False):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True,
            "use_regex": regex}


def normal(*forms):
    if len(forms) == 1:
        return {"type": forms[0]}
    return {"type": "Sequence", "normalizers": [normal(f) for f in forms]}


DEEPSEEK_LLM = sequence(
    split("[\r\n]"),
    split("\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿΑ-ωА-яͰ-ͳ]+"),
    split("\\s?[!-/:-~！-／：-～‘-‟　-。]+"), split("\\s+$"),
    split("[一-龥ࠀ-一가-퟿]+"), digits(True), byte_level())
FORMS = {  # name: normalizer, pre_tokenizer
    "GPT-2": (None, byte_level(regex=True)),
    "GPT-NeoX and OLMo": (normal("NFC"), byte_level(regex=True)),
    "prefix space": (None, byte_level(regex=True, prefix=True)),
    "DeepSeek LLM": (None, DEEPSEEK_LLM),
    "StarCoder": (None, sequence(digits(True), byte_level(regex=True))),
    "runs of digits": (None, sequence(digits(False), byte_level())),
    "Falcon": (None, sequence(punctuation("Contiguous"), byte_level(regex=True), digits(False),
                              split("[0-9][0-9][0-9]"))),
    "behind bytes": (None, sequence(byte_level(prefix=True), digits(True),
                                    punctuation("MergedWithNext"))),
    "punctuation": (None, sequence(punctuation("Isolated"), byte_level())),
    "punctuation, merged": (None, sequence(punctuation("MergedWithPrevious"), byte_level())),
    "punctuation, removed": (None, sequence(punctuation("Removed"), byte_level())),
    "Qwen": (normal("NFC"), sequence(split(GPT4.replace("{1,3}", "")), byte_level())),
    "nested": (normal("NFC", "NFKC"),
               sequence(sequence(split(GPT4), sequence(digits(True))), byte_level())),
    "NFKC": (normal("NFKC"), byte_level(regex=True)),
    "NFD": (normal("NFD"), byte_level()),
    "NFKD": (normal("NFKD"), byte_level()),
    "Kimi": (None, sequence(split(KIMI), byte_level())),
    "classes": (None, sequence(split(r"[^a-z&&[^\d\s]]+|[[aeiou][0-4]&&\w]|[\W&&[^\s]]x?"),
                               byte_level())),
}

tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(
    vocab_size=1400, min_frequency=1, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False))
base = json.loads(tokenizer.to_str())
base["decoder"] = byte_level()
size = len(base["model"]["vocab"])
base["added_tokens"] = [
    {"id": size + i, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
     "normalized": normalized, "special": not normalized}
    for i, (content, normalized) in enumerate([("<|tok|>", False), ("ﬁ<x>", True), ("Å<x>", True)])]
base["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
base["padding"] = {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None,
                   "pad_id": 0, "pad_type_id": 0, "pad_token": "!"}
FOLDER = "tests/golden/tokenizer/forms/"
with open(FOLDER + "base.json", "w") as out:
    json.dump(base, out, ensure_ascii=False, separators=(",", ":"))
with open(FOLDER + "texts.jsonl", "w") as out:
    for text in TEXTS:
        out.write(json.dumps({"text": text}) + "\n")
with open(FOLDER + "forms.jsonl", "w") as out:
    for name, (normalizer, pre_tokenizer) in FORMS.items():
        form = {"normalizer": normalizer, "pre_tokenizer": pre_tokenizer}
        whole = Tokenizer.from_str(json.dumps({**base, **form}))
        whole.no_truncation()
        whole.no_padding()
        ids = [whole.encode(text, add_special_tokens=False).ids for text in TEXTS]
        out.write(json.dumps({"name": name, **form, "ids": ids}, separators=(",", ":")) + "\n")
