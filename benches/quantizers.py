"""Compares model folders with what llama.cpp's own quantizers make of the same source (pip: numpy gguf safetensors).

  quantizers.py f16 SOURCE.gguf OUT.gguf              the source's weights in F16
  quantizers.py permuted SOURCE.gguf OUT.gguf         the same model with its channels in another order, in F16
  quantizers.py quantize LIBRARIES SOURCE.gguf OUT KIND...    OUT.KIND.gguf, by libllama in the folder LIBRARIES
  quantizers.py kl REFERENCE OTHER...                 KL divergence of the logits in OTHER from those in REFERENCE

`kl` takes what `edge-run logits` writes, and reads the bits of OTHER.gguf too where that is beside OTHER.ref.

A model whose channels are in another order computes the same. But neighbouring weights come from many groups of the
file that it was read from, so that no group of them lies on that file's grid: to a quantizer it is like a model that was
never quantized.
"""

import ctypes
import os
import sys

import gguf
import numpy as np
from safetensors.numpy import load_file

KINDS = dict(Q4_0=2, Q4_1=3, Q8_0=7, Q5_0=8, Q2_K=10, Q3_K_M=12, Q4_K_S=14, Q4_K_M=15, Q5_K_M=17, Q6_K=18)
UNITS = 1024.0


def load(path):
    reader = gguf.GGUFReader(path)
    shape = lambda tensor: [int(size) for size in reversed(tensor.shape)]
    read = lambda tensor: gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
    return reader, {tensor.name: read(tensor).reshape(shape(tensor)) for tensor in reader.tensors}


def permuted(reader, tensors, seed=1):
    """The tensors of a llama or qwen2 model with residual, value and hidden channels in random orders."""
    architecture = reader.fields["general.architecture"].contents()
    assert architecture in ("llama", "qwen2"), architecture
    key = lambda name: reader.fields[f"{architecture}.{name}"].contents()
    random = np.random.default_rng(seed)
    heads, kv_heads, model_dim = key("attention.head_count"), key("attention.head_count_kv"), key("embedding_length")
    head_dim = model_dim // heads
    out, residual = dict(tensors), random.permutation(model_dim)

    def reorder(name, axis, order):
        if name in out:
            out[name] = np.take(out[name], order, axis)

    reorder("token_embd.weight", 1, residual)
    reorder("output.weight", 1, residual)
    reorder("output_norm.weight", 0, residual)
    for layer in range(key("block_count")):
        name = lambda part: f"blk.{layer}.{part}"
        hidden = random.permutation(key("feed_forward_length"))
        of_head = [random.permutation(head_dim) for _ in range(kv_heads)]
        values = np.concatenate([head * head_dim + of_head[head] for head in range(kv_heads)])
        attended = [head * head_dim + of_head[head // (heads // kv_heads)] for head in range(heads)]
        for part in ("attn_norm", "ffn_norm"):
            reorder(name(part + ".weight"), 0, residual)
        for part in ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"):
            reorder(name(part + ".weight"), 1, residual)
        for part in ("attn_output", "ffn_down"):
            reorder(name(part + ".weight"), 0, residual)
        reorder(name("attn_v.weight"), 0, values)
        reorder(name("attn_v.bias"), 0, values)
        reorder(name("attn_output.weight"), 1, np.concatenate(attended))
        reorder(name("ffn_gate.weight"), 0, hidden)
        reorder(name("ffn_up.weight"), 0, hidden)
        reorder(name("ffn_down.weight"), 1, hidden)
    return out


def write(reader, tensors, path):
    writer = gguf.GGUFWriter(path, reader.fields["general.architecture"].contents())
    left_out = ("general.architecture", "general.file_type", "general.quantization_version")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name not in left_out:
            inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], inner)
    writer.add_file_type(1)
    for name, weights in tensors.items():
        writer.add_tensor(name, weights.astype(np.float32 if weights.ndim == 1 else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(libraries, source, out, kinds):
    class Params(ctypes.Structure):
        _fields_ = [("threads", ctypes.c_int), ("kind", ctypes.c_int), ("rest", ctypes.c_ubyte * 136)]

    paths = {name.split(".")[0]: os.path.join(libraries, name) for name in sorted(os.listdir(libraries))}
    for name in ("libggml-base", "libggml", "libllama"):
        llama = ctypes.CDLL(paths[name], mode=ctypes.RTLD_GLOBAL)
    llama.llama_model_quantize_default_params.restype = Params
    llama.llama_backend_init()
    for kind in kinds:
        params = llama.llama_model_quantize_default_params()
        params.threads, params.kind = os.cpu_count(), KINDS[kind]
        fault = llama.llama_model_quantize(source.encode(), f"{out}.{kind}.gguf".encode(), ctypes.byref(params))
        assert fault == 0, (kind, fault)


def bits(path):
    """Bits of each weight of the layers' matrices, of the embedding and the head, and of all of these."""
    sizes = {"layers": [0, 0], "embedding and head": [0, 0], "all": [0, 0]}
    for tensor in gguf.GGUFReader(path).tensors:
        if len(tensor.shape) == 2:
            for part in ("layers" if tensor.name.startswith("blk.") else "embedding and head", "all"):
                sizes[part][0] += 8 * int(tensor.n_bytes)
                sizes[part][1] += int(tensor.n_elements)
    return ", ".join(f"{part} {of[0] / of[1]:.2f}" for part, of in sizes.items())


def log_probabilities(codes):
    logits = codes.astype(np.float64) / -UNITS
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def kl(reference, others):
    exact = load_file(reference)
    for other in others:
        read, divergences, same = load_file(other), [], []
        assert (read["tokens"] == exact["tokens"]).all(), other
        for p, q in zip(np.array_split(exact["codes"], 16), np.array_split(read["codes"], 16)):
            p, q = log_probabilities(p), log_probabilities(q)
            divergences.append((np.exp(p) * (p - q)).sum(-1))
            same.append(p.argmax(-1) == q.argmax(-1))
        file = other.removesuffix(".ref") + ".gguf"
        told = bits(file) if os.path.exists(file) else ""
        divergence, share = np.concatenate(divergences), 100 * np.concatenate(same).mean()
        thirds = " ".join(f"{part.mean():.5f}" for part in np.array_split(divergence, 3))
        print(f"{other}: KL {divergence.mean():.5f} ({thirds}), same top {share:.1f}%; bits: {told}", flush=True)


if __name__ == "__main__":
    command, *arguments = sys.argv[1:] or [""]
    if command in ("f16", "permuted"):
        source, out = arguments
        reader, tensors = load(source)
        write(reader, permuted(reader, tensors) if command == "permuted" else tensors, out)
    elif command == "quantize":
        libraries, source, out, *kinds = arguments
        quantize(libraries, source, out, kinds)
    elif command == "kl":
        kl(arguments[0], arguments[1:])
    else:
        sys.exit(__doc__)
