#!/usr/bin/env python3
"""Writes tokenizers.json: what odd texts become by tiny vocabularies, for each way of a GGUF file to say how.

    pip install tokenizers==0.23.* transformers==5.24.* sentencepiece==0.2.* protobuf tiktoken
    python3 tests/golden/tokenizers/make.py

The vocabularies are trained here. A byte-level one is trained on whole lines, so that every way of splitting text gives
other tokens. Its ids come from the pipelines of transformers' own tokenizer classes and from the split expressions
that transformers has for GGUF files. tiktoken, which has another regex engine and another BPE, must agree wherever a
file is split by one expression. Ids of SentencePiece vocabularies come from the pipelines of the tokenizer.json of
Gemma, LLaMA 2 and Phi-3, and SentencePiece itself must agree on every text without control tokens.

Folders bring a tokenizer.json. The steps in it that GGUF files are not read as, though ids may be the same, are listed
with the vocabulary that they go with.
"""

import io
import json
import unicodedata
from pathlib import Path

import sentencepiece
import tiktoken
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import GemmaTokenizer, GPT2Tokenizer, GPTNeoXTokenizer, LlamaTokenizer, Qwen2Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
from transformers.tokenization_utils_base import generate_merges

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

CORPUS = """The river runs from the hills to the sea, and the road runs beside the river.
We've seen it; they'll see it too, and she's sure that I'd go: it's 10 km, or 12,345 m.
HTTPServer and camelCase names, THE END. Don't shout: WE'VE SEEN IT, SHE'S SURE!!!
def total(values):
    for value in values:
        if value > 0:
            yield value ** 2  # squares
for (int i = 0; i < n; ++i) { a[i] += b[i]; }
Über Straßen und Brücken, café au lait, naïve coöperation, señor, Ångström.
日本の川と山、東京と京都。中文文本:山和水。한국어 텍스트
Река течёт к морю. Ο ποταμός. مرحبا بالعالم שלום עולם हिन्दी में
1234567890 2024 1999 100 200 300 ... --- === <<< >>> ((( )))
a  b   c    d     e
x\ty\t\tz
one\n\ntwo\n\n\nthree\r\nfour\r\n\r\nfive
https://example.org/a/b?c=d&e=f#g
""".replace("\\t", "\t").replace("\\n", "\n").replace("\\r", "\r")

TEXTS = [
    "",
    " ",
    "   ",
    "\t",
    "\n",
    "\r\n",
    "The river",
    " The  river   runs ",
    "tabs\tand\t\ttwo\t \t x",
    "one\ntwo\n\nthree\n\n\n\nend\n",
    "crlf\r\nline\r\n\r\nend\r",
    "\n \n  \n",
    "   \n   x",
    "日本語の川、東京と京都。",
    "中文文本:山和水!",
    "한국어 텍스트입니다",
    "👩‍👩‍👧‍👦 family 👍🏽 flag 🇨🇭",
    "cafe\u0301 vs café, A\u030angstro\u0308m, n\u0303o",
    "Å \u212b ﬁ ½ ²",
    "1234567890 12 345 6,789.01 0x1F 1e-9",
    "٣٤٥ १२३ Ⅷ 四",
    "don't I'LL we've SHE'S 'tis rock'n'roll o’clock IT'SOK",
    "def f(x):\n    if x > 0:\n\t\treturn x**2  # sq\n    else:\n        pass\n",
    "for(int i=0;i<n;++i){\n  a[i]+=b[i]&0xff;\n}\n//---//\n",
    "مرحبا بالعالم، كيف الحال؟",
    "שלום עולם! אֱלֹהִים",
    "हिन्दी में বাংলা ไทย",
    "\x00\x01\x07\x1b[0m\x7f\x85",
    "a\u00a0b\u2003c\u3000d\u200be\ufeff\u2028f",
    "\ue000\uf8ff private \U000f0000",
    "\ufffd broken \ufffd\ufffd",
    "x" * 40,
    " " * 20 + "x",
    "\n" * 12,
    "=-" * 12 + "/\n/\n",
    "ab" * 60,
    "ÀÉÎ straße İstanbul ǅungla ŉ",
    "https://example.org/a_b?c=d&e=%20#f",
    "“quoted” ‘text’ – dash — em… «»",
    "<table><td>1</td></table>\n<code>y</code>",
    "camelCaseHTTPServer snake_case SCREAMING_CASE PascalCase",
    "word\u0301\u0302 z\u0335a\u0337lgo",
    " \n\t\r\x0b\x0c ",
    "'S 'ſ 'K \u212a'K",
    "Zürich",
    "<|im_start|>user\nThe river<|im_end|>\n<tool_call>{}</tool_call> <|im_start|",
    "<start_of_turn>user\nThe river<end_of_turn>\n<bos> <0x0A> <unk>",
    "<|user|>\n  The river <|end|> \n<|assistant|>\n",
    "\u2581\u2581under\u2581score",
]


def byte_level_vocabulary():
    """Tokens and merges; ids of bytes first, and then in the order of the merges."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"[^\n]*\n+"), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=256 + 260, initial_alphabet=alphabet, max_token_length=8, show_progress=False)
    trained.train_from_iterator([CORPUS] * 3, trainer)
    model = json.loads(trained.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merges = [tuple(merge) for merge in model["merges"]]
    assert tokens[256:] == ["".join(merge) for merge in merges]
    return tokens, merges


def byte_level():
    tokens, merges = byte_level_vocabulary()
    spelling = bytes_to_unicode()
    # No merges make this one, so it tells whether a piece that is a token is taken as it is.
    tokens.append("".join(spelling[byte] for byte in "Zürich".encode()))
    types = [NORMAL] * len(tokens)
    for token, kind in [
        ("<|endoftext|>", CONTROL),
        ("<|im_start|>", CONTROL),
        ("<|im_end|>", CONTROL),
        ("<tool_call>", USER_DEFINED),
        ("</tool_call>", USER_DEFINED),
        ("[PAD1]", UNUSED),
    ]:
        tokens.append(token)
        types.append(kind)
    vocab = {token: i for i, token in enumerate(tokens)}
    cases = [
        byte_level_case(name, vocab, types, merges)
        for name in (
            "gpt-2 granite-docling olmo llama-bpe smaug-bpe dbrx gpt-4o qwen2 deepseek-r1-qwen tekken smollm refact"
        ).split()
    ]
    return {"tokens": tokens, "token_type": types, "merges": [" ".join(merge) for merge in merges], "cases": cases}


def byte_level_case(name, vocab, types, merges):
    ignore_merges = name in ("llama-bpe", "tekken")
    by_class = {
        "gpt-2": GPT2Tokenizer,
        "granite-docling": GPT2Tokenizer,
        "olmo": GPTNeoXTokenizer,
        "qwen2": Qwen2Tokenizer,
        "deepseek-r1-qwen": Qwen2Tokenizer,
    }
    made = Tokenizer(models.BPE(vocab, merges, ignore_merges=ignore_merges))
    made.decoder = decoders.ByteLevel()
    expression = GGUF_PRE_TOKENIZER_SPLITS.get(name)
    if name in by_class:
        theirs = by_class[name](vocab=dict(vocab), merges=merges)._tokenizer
        made.normalizer, made.pre_tokenizer = theirs.normalizer, theirs.pre_tokenizer
    elif expression:
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(expression), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
        )
    else:
        # The tokenizer.json of SmolLM2 and of Granite 3.
        made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)])
    for token, i in vocab.items():
        if types[i] in (CONTROL, USER_DEFINED):
            add(made, token, types[i] == CONTROL)
    ids = [made.encode(text).ids for text in TEXTS]
    if expression:
        agrees_with_tiktoken(name, expression, made.normalizer is not None, ignore_merges, vocab, types, ids)
    return {"pre": name, "bos": ignore_merges, "ids": ids, "texts": texts_back(made, ids)}


def agrees_with_tiktoken(name, expression, composed, ignore_merges, vocab, types, ids):
    """tiktoken always takes a piece that is a token as it is."""
    byte = {character: byte for byte, character in bytes_to_unicode().items()}
    ranks = {bytes(byte[c] for c in token): i for token, i in vocab.items() if types[i] == NORMAL}
    if not ignore_merges:
        del ranks["Zürich".encode()]
        ranks[b"\xfe\xff\xfe"] = vocab["".join(bytes_to_unicode()[byte] for byte in "Zürich".encode())]
    special = {token: i for token, i in vocab.items() if types[i] in (CONTROL, USER_DEFINED)}
    encoding = tiktoken.Encoding(name, pat_str=expression, mergeable_ranks=ranks, special_tokens=special)
    for text, expected in zip(TEXTS, ids):
        text = unicodedata.normalize("NFC", text) if composed else text
        assert encoding.encode(text, allowed_special="all") == expected, (name, text)


def sentence_piece(prefix, control, user_defined):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS.replace("\r", "").split("\n") * 4),
        model_writer=model,
        model_type="bpe",
        vocab_size=256 + 3 + len(control) + len(user_defined) + 300,
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=prefix,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        control_symbols=control,
        user_defined_symbols=user_defined,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    return proto, sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def sentence_piece_case(name, prefix, proto, processor, made, appended=()):
    pieces = [(piece.piece, piece.type, piece.score) for piece in proto.pieces] + list(appended)
    # Converters write user-defined tokens as they stand in texts.
    spelled = [text.replace("\u2581", " ") if kind == USER_DEFINED else text for text, kind, _ in pieces]
    ids = [made.encode(text).ids for text in TEXTS]
    compared = 0
    for text, expected in zip(TEXTS, ids):
        if not any(token in text for token, kind, _ in pieces if kind in (CONTROL, UNKNOWN)):
            assert processor.encode(text) == expected, (name, text, processor.encode(text), expected)
            compared += 1
    assert compared > 40, compared
    return {
        "name": name,
        "add_space_prefix": prefix,
        "tokens": spelled,
        "token_type": [kind for _, kind, _ in pieces],
        "scores": [score for _, _, score in pieces],
        "ids": ids,
        "texts": texts_back(made, ids),
    }


def merges_of(proto):
    normal = {piece.piece: piece.score for piece in proto.pieces if piece.type == NORMAL}
    return generate_merges({piece.piece: i for i, piece in enumerate(proto.pieces)}, normal)


def gemma():
    runs = ["\n" * i for i in range(1, 6)] + ["\u2581" * i for i in range(2, 8)] + ["<table>", "</table>"]
    proto, processor = sentence_piece(False, ["<start_of_turn>", "<end_of_turn>"], runs)
    vocab = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>", "mask_token": "<unk>"}
    made = GemmaTokenizer(vocab=vocab, merges=merges_of(proto), **names)._tokenizer
    for piece in proto.pieces:
        if piece.type in (CONTROL, UNKNOWN):
            add(made, piece.piece, True)
        elif piece.type == USER_DEFINED:
            # Runs of spaces stand in the tokenizer.json as the normalized text has them.
            add(made, piece.piece, False, normalized="\u2581" in piece.piece)
    return sentence_piece_case("gemma", False, proto, processor, made), folder_case("gemma", "Gemma", made)


def legacy(proto):
    """The pipeline in the tokenizer.json of LLaMA 2, Mistral 7B and Phi-3."""
    vocab = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    made = Tokenizer(models.BPE(vocab, merges_of(proto), unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    for piece in proto.pieces:
        if piece.type in (CONTROL, UNKNOWN):
            add(made, piece.piece, True)
    return made


def llama2():
    proto, processor = sentence_piece(True, [], [])
    vocab = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    # As Mistral 7B v0.3 and the LLaMA 2 that transformers 5 writes: only a text's beginning gets a space.
    made = LlamaTokenizer(vocab=vocab, merges=merges_of(proto))._tokenizer
    for piece in proto.pieces:
        if piece.type in (CONTROL, UNKNOWN):
            add(made, piece.piece, True)
    made.model.unk_token = "<unk>"
    gguf = sentence_piece_case("llama", True, proto, processor, legacy(proto))
    return gguf, folder_case("llama", "Mistral", made)


def phi3():
    proto, processor = sentence_piece(True, [], [])
    made = legacy(proto)
    made.add_special_tokens([AddedToken("</s>", rstrip=True, normalized=False)])
    appended = []
    for token in ("<|endoftext|>", "<|assistant|>", "<|placeholder1|>", "<|end|>", "<|user|>"):
        appended.append((token, CONTROL, -1000.0))
        add(made, token, True, rstrip=token != "<|endoftext|>")
    return sentence_piece_case("phi-3", True, proto, processor, made, appended)


def folder_case(of, name, made):
    steps = json.loads(made.to_str())
    ids = [made.encode(text, add_special_tokens=False).ids for text in TEXTS]
    changes = {step: steps[step] for step in ("normalizer", "pre_tokenizer", "decoder")}
    return {"of": of, "name": name, "steps": changes, "ids": ids, "texts": texts_back(made, ids)}


def add(made, token, special, **settings):
    token = AddedToken(token, special=special, **{"normalized": False, **settings})
    (made.add_special_tokens if special else made.add_tokens)([token])


def texts_back(made, ids):
    """The texts of the ids, null where they are what was encoded."""
    back = [made.decode(some, skip_special_tokens=True) for some in ids]
    return [None if text == before else text for text, before in zip(back, TEXTS)]


def main():
    (gemma_file, gemma_folder), (llama_file, llama_folder) = gemma(), llama2()
    golden = {
        "texts": TEXTS,
        "byte_level": byte_level(),
        "sentence_piece": [gemma_file, llama_file, phi3()],
        "folders": [gemma_folder, llama_folder],
    }
    text = json.dumps(golden, ensure_ascii=True, separators=(",", ":"))
    (Path(__file__).parent / "tokenizers.json").write_text(text.replace('],"', '],\n"') + "\n")


if __name__ == "__main__":
    main()
