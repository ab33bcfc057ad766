"""Makes the record that tests compare the default model with, or compares it with the one that is here.

    make.py MODEL.gguf            writes golden.json and logits.safetensors beside this file
    make.py MODEL.gguf --check    compares with them and writes nothing

MODEL.gguf is SmolLM2-135M-Instruct.Q4_1.gguf, which scripts/fetch-default-model puts into the user's cache folder.
Needs numpy, gguf and transformers (pip install numpy gguf jinja2 transformers==4.57.*), but no PyTorch.

The forward pass is plain numpy in f32 over the dequantized weights. Texts are split by the tokenizer that transformers
makes of the file, and chats rendered by transformers. No code of edge-run takes part.
"""

import json
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from transformers import AddedToken, PreTrainedTokenizerFast
from transformers.integrations.ggml import convert_gguf_tokenizer

HERE = Path(__file__).parent
PROMPTS = ["The capital of France is", "Once upon a time, there was a little", "def fibonacci(n):\n    "]
CHATS = ["What is the capital of France?", "Write a short poem about the sea."]
NEW_TOKENS = 64
# What GGUF files call tokens that no text becomes by itself.
CONTROL = 3
# Sums in another order: measured 0.00004 between this and PyTorch.
LOGITS_DIFFER = 2e-3


class Model:
    """A LLaMA with a cache of one conversation."""

    def __init__(self, reader):
        field = lambda key: reader.fields[key].contents()
        self.weights = {
            t.name: dequantize(t.data, t.tensor_type).astype(np.float32).reshape([int(n) for n in reversed(t.shape)])
            for t in reader.tensors
        }
        self.layers = field("llama.block_count")
        self.heads, self.kv_heads = field("llama.attention.head_count"), field("llama.attention.head_count_kv")
        self.head_dim = field("llama.embedding_length") // self.heads
        self.eps = np.float32(field("llama.attention.layer_norm_rms_epsilon"))
        self.theta = field("llama.rope.freq_base")
        self.reset()

    def reset(self):
        """Begins a new text."""
        self.cache = [(None, None)] * self.layers
        self.position = 0

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps) * self.weights[name]

    def rope(self, x):
        """Rotates neighbours, [T, heads, A]: llama.cpp's converter permutes queries and keys for that."""
        frequencies = self.theta ** (-np.arange(0, self.head_dim, 2) / self.head_dim)
        angles = (self.position + np.arange(x.shape[0]))[:, None] * frequencies[None]
        cos, sin = np.cos(angles)[:, None].astype(np.float32), np.sin(angles)[:, None].astype(np.float32)
        out = np.empty_like(x)
        out[..., 0::2] = x[..., 0::2] * cos - x[..., 1::2] * sin
        out[..., 1::2] = x[..., 0::2] * sin + x[..., 1::2] * cos
        return out

    def attention(self, layer, h):
        weight = lambda part: self.weights[f"blk.{layer}.attn_{part}.weight"].T
        count = h.shape[0]
        q = self.rope((h @ weight("q")).reshape(count, self.heads, self.head_dim))
        k = self.rope((h @ weight("k")).reshape(count, self.kv_heads, self.head_dim))
        v = (h @ weight("v")).reshape(count, self.kv_heads, self.head_dim)
        keys, values = self.cache[layer]
        k = k if keys is None else np.concatenate([keys, k])
        v = v if values is None else np.concatenate([values, v])
        self.cache[layer] = k, v
        # A token sees itself and those before it.
        mask = np.where(np.arange(len(k))[None] > self.position + np.arange(count)[:, None], -np.inf, 0)
        out = np.empty((count, self.heads, self.head_dim), np.float32)
        for head in range(self.heads):
            shared = head // (self.heads // self.kv_heads)
            scores = q[:, head] @ k[:, shared].T / np.sqrt(np.float32(self.head_dim)) + mask.astype(np.float32)
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            out[:, head] = scores / scores.sum(-1, keepdims=True) @ v[:, shared]
        return out.reshape(count, -1) @ weight("output")

    def logits(self, ids):
        """Appends tokens; the logits after the last one."""
        x = self.weights["token_embd.weight"][ids]
        for layer in range(self.layers):
            block = f"blk.{layer}."
            x = x + self.attention(layer, self.norm(x, block + "attn_norm.weight"))
            h = self.norm(x, block + "ffn_norm.weight")
            gate, up = (h @ self.weights[f"{block}ffn_{part}.weight"].T for part in ("gate", "up"))
            x = x + gate / (1 + np.exp(-gate)) * up @ self.weights[block + "ffn_down.weight"].T
        self.position += len(ids)
        head = self.weights.get("output.weight", self.weights["token_embd.weight"])
        return self.norm(x[-1], "output_norm.weight") @ head.T

    def greedy(self, ids, most, end):
        """The likeliest tokens after `ids`, up to and with the one that ends a text."""
        self.reset()
        new = [int(self.logits(ids).argmax())]
        while len(new) < most and new[-1] != end:
            new.append(int(self.logits(new[-1:]).argmax()))
        return new


def tokenizer_of(reader):
    """The file's tokenizer, as transformers makes it of one."""
    keys = {key.rsplit(".", 1)[1]: field for key, field in reader.fields.items() if key.startswith("tokenizer.")}
    parts = {"tokenizer_type": keys["model"].contents(), "tokens": keys["tokens"].contents(),
             "token_type": keys["token_type"].contents(), "merges": keys["merges"].contents()}
    for name in ("bos", "eos", "unk"):
        if f"{name}_token_id" in keys:
            parts[f"{name}_token_id"] = keys[f"{name}_token_id"].contents()
    fast, extra = convert_gguf_tokenizer("gpt2", parts)
    control = [token for token, kind in zip(parts["tokens"], parts["token_type"], strict=True) if kind == CONTROL]
    fast.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, **extra)
    tokenizer.chat_template = keys["chat_template"].contents()
    return tokenizer


def record(reader):
    """golden.json's contents and the logits of its first prompts."""
    model, tokenizer = Model(reader), tokenizer_of(reader)
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
    end = reader.fields["tokenizer.ggml.eos_token_id"].contents()
    golden, logits = {"logit_prompts": [], "plain": [], "chat": []}, []
    for prompt in PROMPTS:
        ids = encode(prompt)
        model.reset()
        logits.append(model.logits(ids))
        best = np.argsort(-logits[-1])[:5]
        top = [[int(id), tokenizer.decode([int(id)]), float(logits[-1][id])] for id in best]
        golden["logit_prompts"].append({"prompt": prompt, "ids": ids, "top5": top})
    for prompt in PROMPTS:
        ids = encode(prompt)
        new = model.greedy(ids, NEW_TOKENS, end)
        golden["plain"].append({"prompt": prompt, "prompt_ids": ids, "new_ids": new, "text": tokenizer.decode(new)})
    for user in CHATS:
        messages = [{"role": "user", "content": user}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = encode(text)
        new = model.greedy(ids, NEW_TOKENS, end)
        golden["chat"].append(
            {"user": user, "prompt_text": text, "prompt_ids": ids, "new_ids": new, "text": tokenizer.decode(new)}
        )
    return golden, logits


def check(golden, logits):
    """Prints what differs from the files that are here; whether nothing does."""
    from safetensors.numpy import load_file

    there, same = json.loads((HERE / "golden.json").read_text()), True
    for name, entries in golden.items():
        for at, (ours, theirs) in enumerate(zip(entries, there[name], strict=True)):
            for field in ours:
                a, b = ours[field], theirs[field]
                if field == "top5":
                    a, b = [row[:2] for row in a], [row[:2] for row in b]
                if a != b:
                    same = False
                    print(f"{name} {at}, {field}:\n  here  {b}\n  again {a}")
    tensors = load_file(HERE / "logits.safetensors")
    for at, again in enumerate(logits):
        far = float(np.abs(tensors[f"logits_{at}"] - again).max())
        same &= far < LOGITS_DIFFER
        print(f"logits {at}: {far:.6f} at most apart, of {LOGITS_DIFFER} allowed")
    return same


def write(golden, logits):
    """Writes the two files."""
    from safetensors.numpy import save_file

    (HERE / "golden.json").write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")
    tensors = {f"logits_{at}": one.astype(np.float32) for at, one in enumerate(logits)}
    save_file(tensors, HERE / "logits.safetensors")


def main():
    arguments = sys.argv[1:]
    only_check = "--check" in arguments
    paths = [argument for argument in arguments if argument != "--check"]
    if len(paths) != 1:
        sys.exit(__doc__)
    golden, logits = record(GGUFReader(paths[0]))
    if only_check:
        sys.exit(0 if check(golden, logits) else "the record differs")
    write(golden, logits)


if __name__ == "__main__":
    main()
