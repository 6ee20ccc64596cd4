"""Texts of many scripts and shapes: long, odd and hostile."""

from hypothesis import strategies as st

ENGLISH = "The quick brown fox jumps over the lazy dog; it was not amused, and said so in 1,024 words. "
# Each too long for the tokenizer to see it whole.
LONG_TEXTS = {
    "english": ENGLISH * 2000,
    "chinese": "机器学习帮助计算机理解数据，而嵌入把文本变成向量。" * 6000,
    "japanese": "機械学習はコンピュータがデータを理解するのを助けます。テキストはベクトルになる。" * 4000,
    "arabic": "يساعد التعلم الآلي أجهزة الكمبيوتر على فهم البيانات. " * 3000,
    "thai": "การเรียนรู้ของเครื่องช่วยให้คอมพิวเตอร์เข้าใจข้อมูล" * 3000,
    "hindi": "मशीन लर्निंग कंप्यूटर को डेटा समझने में मदद करती है। " * 3000,
    "code": "def embed(texts: list[str]) -> list[float]:\n    return [model(text)[0] for text in texts]\n\n" * 2000,
    "html": "<table><tr><td> </td><td>1</td></tr></table> </p> <b> </b>" * 3000,
    "repeated letter": "a" * 200_000,
    "spaces": "x" + " " * 200_000,
    "newlines": "x" + "\n" * 200_000,
    "tabs and newlines": "x\t\t\n\n\n\t \n" * 30_000,
    "word-sized spaces": ("word" + " " * 31) * 6000,
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈🤖✨" * 15_000,
    "digits": "0123456789" * 20_000,
    "the model's own space sign": "▁a ▁>▁</ > </" * 15_000,
    "mixed": "".join(f"{ENGLISH}机器学习 {'=' * 40}\n\n\t🤖 naïve café\r\n" for _ in range(1500)),
}

# Added by the tokenizer for images, with an id that the model has no embedding for.
IMAGE_TOKEN = "<image_soft_token>"  # noqa: S105 - not a password
CONTROL_TOKENS = ["<bos>", "<eos>", "<pad>", "<unk>", "<mask>", "<start_of_turn>", "<unused3>", "<0x0A>"]
ODD_TEXTS = {
    "NUL": "a\0b",
    "byte order marks": "\ufeffabc\ufeff",
    "right to left": "\u202eשלום\u202c \u200fمرحبا\u200e",
    "invisible": "\u200b\u200d\u2060\u00ad",
    "deep accents": "e" + "\u0301" * 500,
    "stacked accents": "Z\u0334\u0335\u0336\u0327" * 50,
    "emoji sequences": "👩‍👩‍👧‍👦🏳️‍🌈👍🏽🇩🇪🇫🇷#️⃣",
    "tags": "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "not characters": "\uffff\ufffe\U0010ffff\ufdd0",
    "private": "\ue000\U000f0000",
    "line ends": "a\r\nb\rc\x0b\x0c\x1c\x85\u2028\u2029d",
    "white space around": " \t\n x\u3000\xa0 \n ",
    "escapes": "\x1b[31mred\x07\x7f",
    "decomposed": "각 각 Å Å ﬁ ½ İ ſ ｈａｌｆ",
    "the space sign": "▁a ▁ ▁▁b",
    **{f"control token {token}": f"a {token}{token} b" for token in CONTROL_TOKENS},
}

_PLANES = [
    st.characters(min_codepoint=plane << 16, max_codepoint=plane << 16 | 0xFFFF, exclude_categories=["Cs"])
    for plane in range(17)
]
HOSTILE = st.one_of(
    st.text(st.characters(categories=["Cc", "Cf", "Zs", "Zl", "Zp"])),  # NUL, controls, invisible and white space
    st.text(st.one_of(_PLANES)),
    st.text(st.sampled_from("אבגדابتث\u200e\u200f\u202a\u202b\u202d\u202e\u2066\u2067\u2069 1a")),  # right to left
    st.builds(
        lambda base, marks: base + marks, st.characters(), st.text(st.characters(categories=["Mn"]), max_size=300)
    ),
    st.lists(st.sampled_from([*CONTROL_TOKENS, IMAGE_TOKEN, *IMAGE_TOKEN, " ", "\n", "a", "▁"])).map("".join),
    st.text(),
)
