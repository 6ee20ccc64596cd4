"""Texts of many scripts and shapes, each too long for the tokenizer to see it whole."""

ENGLISH = "The quick brown fox jumps over the lazy dog; it was not amused, and said so in 1,024 words. "
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
