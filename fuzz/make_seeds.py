"""Writes the seeds of the fuzz targets: fuzz/make_seeds.py. Needs Python 3.8 and nothing else; writes the same each time.

Names begin with what the readers must say of a seed: `sound-` or `refused-`.
"""

import hashlib
import json
import struct
from pathlib import Path

SEEDS = Path(__file__).parent / "seeds"
SEPARATOR = b"\x1c"

# D = F = 64, one layer of 8 heads of 8 that share one key.
DIM, HEADS, KV, HEAD_DIM = 64, 8, 1, 8
SPECIAL = ["<s>", "</s>", "<|im_end|>"]
WORDS = ["t", "h", "e", "Ġ", "A", "x", "1", "2", "3", ",", ".", "th", "the", "Ġthe"]
BYTES = SPECIAL + WORDS
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the")]
PIECES = [("<unk>", 2, 0.0), ("<s>", 3, 0.0), ("</s>", 3, 0.0), ("<0x41>", 6, 0.0), ("▁", 1, -3.0), ("a", 1, -4.0),
          ("b", 1, -5.0), ("▁a", 1, -1.0), ("ab", 1, -2.0), ("[tool]", 4, 0.0)]
TEMPLATE = ("{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] | trim + eos_token }}{% endfor %}"
            "{% if add_generation_prompt %}{{ bos_token }}{% endif %}")


def seed(target, name, *parts):
    """Writes a seed of one or more files."""
    folder = SEEDS / target
    folder.mkdir(parents=True, exist_ok=True)
    parts = [part if isinstance(part, bytes) else part.encode() for part in parts]
    (folder / name).write_bytes(SEPARATOR.join(parts).rstrip(SEPARATOR))


def dumps(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# GGUF


def text(value):
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def u32(value):
    return struct.pack("<II", 4, value)


def f32(value):
    return struct.pack("<If", 6, value)


def flag(value):
    return struct.pack("<IB", 7, value)


def string(value):
    return struct.pack("<I", 8) + text(value)


def array(kind, items):
    return struct.pack("<IIQ", 9, kind, len(items)) + b"".join(items)


def strings(values):
    return array(8, [text(value) for value in values])


def gguf_keys(vocab):
    return {
        "general.architecture": string("llama"),
        "general.name": string("Seed"),
        "llama.block_count": u32(1),
        "llama.context_length": u32(64),
        "llama.embedding_length": u32(DIM),
        "llama.feed_forward_length": u32(DIM),
        "llama.attention.head_count": u32(HEADS),
        "llama.attention.head_count_kv": u32(KV),
        "llama.attention.layer_norm_rms_epsilon": f32(1e-5),
        "llama.rope.freq_base": f32(10000.0),
        "llama.rope.dimension_count": u32(HEAD_DIM),
        "llama.vocab_size": u32(vocab),
    }


def byte_level_keys():
    return {
        "tokenizer.ggml.model": string("gpt2"),
        "tokenizer.ggml.pre": string("llama-bpe"),
        "tokenizer.ggml.tokens": strings(BYTES),
        "tokenizer.ggml.token_type": array(5, [struct.pack("<i", 3 if t in SPECIAL else 1) for t in BYTES]),
        "tokenizer.ggml.merges": strings([" ".join(pair) for pair in MERGES]),
        "tokenizer.ggml.bos_token_id": u32(0),
        "tokenizer.ggml.eos_token_id": u32(1),
        "tokenizer.ggml.eot_token_id": u32(2),
        "tokenizer.ggml.padding_token_id": u32(1),
        "tokenizer.ggml.add_bos_token": flag(True),
        "tokenizer.chat_template": string(TEMPLATE),
    }


def sentence_piece_keys():
    return {
        "tokenizer.ggml.model": string("llama"),
        "tokenizer.ggml.tokens": strings([piece for piece, _, _ in PIECES]),
        "tokenizer.ggml.scores": array(6, [struct.pack("<f", score) for _, _, score in PIECES]),
        "tokenizer.ggml.token_type": array(5, [struct.pack("<i", kind) for _, kind, _ in PIECES]),
        "tokenizer.ggml.unknown_token_id": u32(0),
        "tokenizer.ggml.bos_token_id": u32(1),
        "tokenizer.ggml.eos_token_id": u32(2),
        "tokenizer.ggml.add_space_prefix": flag(True),
        "llama.rope.scaling.type": string("linear"),
        "llama.rope.scaling.factor": f32(2.0),
    }


def gguf_tensors(vocab):
    """Names and rows; a norm has no rows."""
    block = {"attn_q": DIM, "attn_k": KV * HEAD_DIM, "attn_v": KV * HEAD_DIM, "attn_output": DIM, "ffn_gate": DIM,
             "ffn_up": DIM, "ffn_down": DIM, "attn_norm": 0, "ffn_norm": 0}
    names = {"token_embd.weight": vocab, "output_norm.weight": 0}
    names.update({f"blk.0.{part}.weight": rows for part, rows in block.items()})
    return names


# Weights of a block of a type, and the bytes that it takes.
BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 8: (32, 34), 30: (1, 2)}


def gguf(keys, tensors, dtype, version=3):
    """The header alone, with the places of the tensors: the fuzz target adds zeros for their data."""
    offset = 0
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys))
    out += b"".join(text(key) + value for key, value in keys.items())
    for name, rows in tensors.items():
        dims = [DIM, rows] if rows else [DIM]
        out += text(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
        kind = dtype if rows else 0
        out += struct.pack("<IQ", kind, offset)
        weights, size = BLOCKS[kind]
        offset += align(DIM * max(rows, 1) // weights * size)
    return out


def align(bytes_):
    """The next multiple of what tensors are aligned to."""
    return (bytes_ + 31) // 32 * 32


def gguf_seeds():
    number = {"q4_0": 2, "q4_1": 3, "q5_0": 6, "q8_0": 8, "f16": 1, "f32": 0, "bf16": 30}
    bpe = {**gguf_keys(len(BYTES)), **byte_level_keys()}
    pieces = {**gguf_keys(len(PIECES)), **sentence_piece_keys()}
    for name in ["q4_0", "f16"]:
        seed("gguf", f"sound-byte-level-{name}", gguf(bpe, gguf_tensors(len(BYTES)), number[name]))
    for name in ["q8_0", "bf16"]:
        seed("gguf", f"sound-sentence-piece-{name}", gguf(pieces, gguf_tensors(len(PIECES)), number[name], 2))
    untied = {**gguf_tensors(len(BYTES)), "output.weight": len(BYTES)}
    seed("gguf", "sound-untied", gguf(bpe, untied, number["q5_0"]))
    seed("gguf", "refused-no-tensors", gguf(bpe, {}, 0))
    seed("gguf", "refused-architecture", gguf({**bpe, "general.architecture": string("qwen2")}, {}, 0))
    seed("gguf", "refused-nested", gguf({**bpe, "x": array(9, [array(9, [array(0, [b"\0"])[4:]])[4:]])}, {}, 0))


# Hugging Face


def config(**changes):
    fields = {
        "architectures": ["LlamaForCausalLM"], "hidden_size": DIM, "intermediate_size": DIM, "num_hidden_layers": 1,
        "num_attention_heads": HEADS, "num_key_value_heads": KV, "head_dim": HEAD_DIM, "vocab_size": len(BYTES) + 1,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
        "hidden_act": "silu", "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "float16",
    }
    return dumps({**fields, **changes})


def header(tensors, dtype, offset=0, metadata=None):
    """A safetensors header of (name, dims); the fuzz target adds the data."""
    size = {"F16": 2, "BF16": 2, "F32": 4, "U16": 2, "U32": 4}
    fields = {"__metadata__": metadata} if metadata else {}
    for name, dims, *own in tensors:
        kind = own[0] if own else dtype
        length = size[kind]
        for dim in dims:
            length *= dim
        fields[name] = {"dtype": kind, "shape": dims, "data_offsets": [offset, offset + length]}
        offset += length
    out = dumps(fields)
    return out + " " * (-len(out.encode()) % 8)


def whole(head, data):
    """A safetensors file."""
    return struct.pack("<Q", len(head)) + head.encode() + data


def hf_tensors(vocab):
    layer = "model.layers.0."
    return [
        ("model.embed_tokens.weight", [vocab, DIM]),
        (layer + "self_attn.q_proj.weight", [DIM, DIM]),
        (layer + "self_attn.k_proj.weight", [KV * HEAD_DIM, DIM]),
        (layer + "self_attn.v_proj.weight", [KV * HEAD_DIM, DIM]),
        (layer + "self_attn.o_proj.weight", [DIM, DIM]),
        (layer + "mlp.gate_proj.weight", [DIM, DIM]),
        (layer + "mlp.up_proj.weight", [DIM, DIM]),
        (layer + "mlp.down_proj.weight", [DIM, DIM]),
        (layer + "input_layernorm.weight", [DIM]),
        (layer + "post_attention_layernorm.weight", [DIM]),
        ("model.norm.weight", [DIM]),
    ]


def added(content, id, special=True):
    return {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
            "special": special}


def byte_level_tokenizer():
    split = {"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}|\\s+(?!\\S)|\\s+|."}, "behavior": "Isolated",
             "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    vocab = {token: id for id, token in enumerate(BYTES)}
    return dumps({
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [added(token, id) for id, token in enumerate(SPECIAL)], "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": {"type": "TemplateProcessing", "single": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [
            {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocab,
                  "merges": [list(pair) for pair in MERGES]},
    })


def sentence_piece_tokenizer():
    return dumps({
        "version": "1.0", "added_tokens": [added("<unk>", 0), added("<s>", 1), added("</s>", 2)],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                       {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": None, "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True,
                  "vocab": {piece: id for id, (piece, _, _) in enumerate(PIECES)}, "merges": ["▁ a", "a b"]},
    })


def other_tokenizers():
    """Kinds of models that few LLaMAs have."""
    unigram = {"type": "Unigram", "unk_id": 0, "byte_fallback": False,
               "vocab": [["<unk>", 0.0], ["▁", -1.0], ["a", -2.0], ["b", -2.5], ["ab", -3.0]]}
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    wordpiece = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                 "max_input_chars_per_word": 100, "vocab": {"[UNK]": 0, "a": 1, "##b": 2}}
    wordlevel = {"type": "WordLevel", "unk_token": "[UNK]", "vocab": {"[UNK]": 0, "text": 1}}
    bert = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
            "lowercase": True}
    return {
        "unigram": {"version": "1.0", "added_tokens": [], "pre_tokenizer": metaspace, "decoder": metaspace,
                    "model": unigram},
        "wordpiece": {"version": "1.0", "added_tokens": [], "normalizer": bert,
                      "pre_tokenizer": {"type": "BertPreTokenizer"},
                      "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}, "model": wordpiece},
        "wordlevel": {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"},
                      "model": wordlevel},
    }


GENERATION = dumps({"bos_token_id": 0, "eos_token_id": [1, 2], "pad_token_id": 1, "temperature": 0.7, "top_k": 40,
                    "top_p": 0.9, "do_sample": True, "repetition_penalty": 1.1})
TOKENIZER_CONFIG = dumps({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": TEMPLATE})


def huggingface_seeds():
    tokenizer, tensors = byte_level_tokenizer(), hf_tensors(len(BYTES) + 1)
    one = header(tensors, "F16", metadata={"format": "pt"})
    seed("huggingface", "sound-one-file", config(), one, "", "", tokenizer, TOKENIZER_CONFIG, GENERATION, TEMPLATE,
         "---\nlicense: mit\n---\n# Seed\n")
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = {"metadata": {"total_size": 1}, "weight_map": {
        name: shards[at >= 5] for at, (name, *_) in enumerate(tensors)}}
    seed("huggingface", "sound-two-shards", config(), header(tensors[:5], "BF16"), header(tensors[5:], "BF16"),
         dumps(index), tokenizer, TOKENIZER_CONFIG, GENERATION)
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
              "original_max_position_embeddings": 8192}
    seed("huggingface", "sound-llama3-rope", config(rope_scaling=llama3), header(tensors, "F32"), "", "", tokenizer)
    untied = tensors + [("lm_head.weight", [len(BYTES) + 1, DIM])]
    seed("huggingface", "sound-untied", config(tie_word_embeddings=False), header(untied, "F16"), "", "", tokenizer)
    seed("huggingface", "refused-no-weights", config(), "", "", "", tokenizer)
    seed("huggingface", "refused-config", '{"architectures":["LlamaForCausalLM"],"hidden_size":-1}')


# Model folders


def sliced():
    return [("embed", len(BYTES) + 1), ("layers.0.qkv", DIM + 2 * KV * HEAD_DIM), ("layers.0.o", DIM),
            ("layers.0.gate_up", 2 * DIM), ("layers.0.down", DIM)]


def slice_header(slice, routed=False):
    tensors = []
    if slice == 0:
        for name, rows in sliced():
            tensors += [(f"{name}.slice0", [rows, DIM // 16], "U32"), (f"{name}.scales", [rows, 1, 2], "F16")]
        tensors += [(name, [DIM], "F32") for name in ["layers.0.input_norm", "layers.0.ffn_norm", "final_norm"]]
        if routed:
            tensors += [("routers.w1", [4, 32, DIM], "F16"), ("routers.rest", [4, 132], "F32")]
    else:
        tensors = [(f"{name}.slice{slice}", [rows, DIM // 16], "U32") for name, rows in sliced()]
    return header(tensors, "U32")


def shape():
    return {"layers": 1, "model_dim": DIM, "ffn_dim": DIM, "heads": HEADS, "kv_heads": KV, "head_dim": HEAD_DIM,
            "vocab": len(BYTES) + 1, "max_context": 64, "norm_eps": 1e-5, "tied_head": True,
            "rope": {"theta": 10000.0, "scaling": {"kind": "none"}}}


THRESHOLDS = [{"bits": 2.0, "threshold": 5.0}, {"bits": 4.0, "threshold": 1.0}, {"bits": 8.0, "threshold": -5.0}]


def manifest(version=1, **changes):
    """Empty hashes, which the fuzz target fills in."""
    entry, header_entry = {"bytes": 0, "sha256": ""}, {"bytes": 0, "sha256": "", "header_sha256": ""}
    files = {name: entry for name in ["chat_template.jinja", "generation_config.json", "tokenizer.json"]}
    files.update({name: header_entry for name in ["base.safetensors"] + [f"slice-{e}.safetensors" for e in (1, 2, 3)]})
    return dumps({"format_version": version,
                  "source": {"name": "Seed", "format": "gguf", "dtypes": ["F16"], "licence": "mit"},
                  "architecture": "llama", "shape": shape(),
                  "quantization": {"slices": 4, "slice_bits": 2, "group_size": 64}, **changes, "files": files})


def folder_seeds():
    text_side = [byte_level_tokenizer(), GENERATION, TEMPLATE]
    slices = [slice_header(slice) for slice in (1, 2, 3)]
    seed("folder", "sound-plain", manifest(), slice_header(0), *slices, *text_side)
    seed("folder", "sound-routed", manifest(3, routing=THRESHOLDS), slice_header(0, True), *slices, *text_side)
    seed("folder", "refused-version", manifest(9), slice_header(0), *slices, *text_side)
    seed("folder", "refused-no-slices", manifest(), slice_header(0), "", "", "", *text_side)


def pack_seeds():
    routers = [("routers.w1", [4, 32, DIM], "F16"), ("routers.rest", [4, 132], "F32")]
    rest = bytes(4 * 32 * DIM * 2 + 4 * 132 * 4)

    def pack(version, group_size, tensors):
        info = {"pack_version": version, "source_sha256": "0" * 64, "source_name": "Seed", "group_size": group_size,
                "shape": shape(), "thresholds": THRESHOLDS, "recipe": {"seed": 1}}
        return header(tensors, "F16", metadata={"edge_run_calibration": dumps(info)})

    head = pack(2, 64, [(f"{name}.scales", [rows, 1, 2], "F16") for name, rows in sliced()[1:]] + routers)
    # Steps of zero are refused, so that this one has its data.
    steps = b"\x00\x3c\x00\x3c" * sum(rows for _, rows in sliced()[1:])
    seed("pack", "sound-whole", whole(head, steps + rest))
    seed("pack", "refused-steps-of-zero", head)
    seed("pack", "refused-version", head.replace('\\"pack_version\\":2', '\\"pack_version\\":1'))

    # Two groups of 32 in a row, whose ranges are words.
    words = [(f"{name}.ranges{slice}", [rows, DIM // 32], "U16") for name, rows in sliced()[1:] for slice in (0, 1, 3)]
    ranges = b"\x80\x80" * sum(rows * DIM // 32 for _, rows in sliced()[1:] for _ in range(3))
    seed("pack", "sound-words", whole(pack(3, 32, words + routers), ranges + rest))
    # All but the matrix behind attention have scales of columns, which are to be about one.
    columns = [(f"{name}.columns", [DIM], "F32") for name, _ in sliced()[1:] if not name.endswith(".o")]
    scaled = pack(4, 32, words + routers + columns)
    seed("pack", "sound-columns", whole(scaled, ranges + rest + struct.pack("<f", 1.5) * (DIM * len(columns))))
    seed("pack", "refused-columns-of-zero", whole(scaled, ranges + rest + bytes(4 * DIM * len(columns))))


def session_seeds():
    facts = {"session_version": 1, "model_sha256": "0" * 64, "model_name": "Seed", "tokens": 3, "sampled": 7,
             "answers": [[1, 4]], "draws": {"seed": 1, "position": 9},
             "messages": [{"role": "user", "content": "Hi \"<s>\""}],
             "cells": {"cache_type": "f16", "ring": [64, 8], "end": 3, "tensors": [[1, 3, 4], [1, 64, 4]]}}
    seed("session", "sound-facts", dumps(facts))
    seed("session", "sound-tokens", dumps({**facts, "cells": None, "messages": []}))
    tokens = struct.pack("<3I", 5, 6, 7)
    plain = dumps({**facts, "cells": None})
    head = dumps({"__metadata__": {"edge_run_session": plain},
                  "tokens": {"dtype": "U32", "shape": [3], "data_offsets": [0, 12]},
                  "sha256": {"dtype": "U8", "shape": [32], "data_offsets": [12, 44]}})
    head += " " * (-len(head) % 8)
    seed("session", "sound-whole", whole(head, tokens + hashlib.sha256(plain.encode() + tokens).digest()))
    seed("session", "refused-hash", whole(head, tokens + bytes(32)))
    seed("session", "refused-version", dumps({**facts, "session_version": 2}))
    seed("session", "refused-answers", dumps({**facts, "answers": [[1, 5]]}))


# The text side and power


def tokenizer_seeds():
    words = "Hello the <s>text</s> 123,\n\té\U0001f600 ab"
    seed("tokenizer", "sound-byte-level", byte_level_tokenizer(), GENERATION, words)
    seed("tokenizer", "sound-sentence-piece", sentence_piece_tokenizer(), GENERATION, words)
    for name, tokenizer in other_tokenizers().items():
        seed("tokenizer", f"sound-{name}", dumps(tokenizer), GENERATION, words)
    seed("tokenizer", "refused-empty-object", "{}", GENERATION, words)


def template_seeds():
    chat = ["Be brief.", "What is 1 + 1?", "2", "Why?"]
    chatml = ("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>' }}"
              "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
              "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
    mistral = ("{%- set ns = namespace(n=0) %}{{ bos_token }}{% for m in messages[1:] %}{% if m.role == 'user' %}"
               "{% set ns.n = ns.n + 1 %}{{ '[INST] ' ~ m.content.strip() ~ ' [/INST]' }}{% elif m.role == 'assistant' %}"
               "{{ m.content | upper + eos_token }}{% else %}{% continue %}{% endif %}{% endfor %}")
    tools = ("{% macro show(x, n=2) %}{{ x | tojson(indent=n) }}{% endmacro %}{{ show(messages[0]) }}"
             "{% if tools is not none and tools %}{{ tools | length }}{% endif %}{{ strftime_now('%Y') | length }}"
             "{{ messages | map(attribute='role') | join(', ') | replace('user', 'human') }}{{ '%s' | format('a') }}"
             "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ range(3) | list }}{{ 7 // 2 }}")
    seed("template", "sound-chatml", chatml, *chat)
    seed("template", "sound-mistral", mistral, *chat)
    seed("template", "sound-tools", tools, *chat)
    seed("template", "refused-raises", "{{ raise_exception('no ' ~ messages[0].role) }}", *chat)
    seed("template", "refused-syntax", "{% if %}", *chat)


def power_seeds():
    policy = """[power]
mode = "auto"
min_bits = 2.5
max_bits = 7
dwell_s = 5
battery_margin = 3
memory_from = 10
memory_margin = 5
[power.bits]
ac = 8
saver = 3
thermal_serious = 4
thermal_critical = 3
memory_pressure = 4
[[power.battery]]
from = 50
bits = 6
[[power.battery]]
from = 0
bits = 3
"""
    tokens = ('{"token": 0, "source": "battery", "percent": 55.5}\n{"token": 3, "source": "battery", "percent": 5, '
              '"saver": true}\n\n{"token": 9, "thermal": "critical", "memory_pressure": 20}\n{"token": 9, "source": "ac"}\n')
    times = '{"time_s": 0.5, "thermal": "serious"}\n{"time_s": 1e3, "source": "battery"}\n'
    seed("power", "sound-tokens", policy, tokens)
    seed("power", "sound-times", "", times)
    seed("power", "refused-mixed", policy, tokens + times)
    seed("power", "refused-policy", "[power]\nmode = ")


if __name__ == "__main__":
    gguf_seeds()
    huggingface_seeds()
    folder_seeds()
    pack_seeds()
    session_seeds()
    tokenizer_seeds()
    template_seeds()
    power_seeds()
