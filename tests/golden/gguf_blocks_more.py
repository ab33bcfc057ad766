#!/usr/bin/env python3
"""Writes gguf_blocks_more.safetensors: 512 weights of block types as bytes, and as the Python package gguf reads them.

Needs gguf, numpy and safetensors. `--check` computes the file again and compares.
"""

import sys
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import quants
from safetensors.numpy import load_file, save_file

FILE = Path(__file__).with_suffix(".safetensors")
WEIGHTS = 512
# (type, weights of a block, bytes of a block, where its f16 scale is)
TYPES = [(Type.IQ4_NL, 32, 18, 0), (Type.IQ4_XS, 256, 136, 0), (Type.MXFP4, 32, 17, None)]


def blocks_of(random, weights, size, scale):
    blocks = random.integers(0, 256, (WEIGHTS // weights, size), dtype=np.uint8)
    if scale is None:
        # Exponents of usual sizes, and the two whose halves are subnormal.
        blocks[:, 0] = random.integers(110, 130, len(blocks))
        blocks[:2, 0] = [0, 1]
    else:
        scales = (0.001 + random.random(len(blocks)) * 0.02).astype(np.float16)
        blocks[:, scale:scale + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks


def main():
    random = np.random.default_rng(20)
    tensors = {}
    for kind, weights, size, scale in TYPES:
        blocks = blocks_of(random, weights, size, scale)
        tensors[f"{kind.name}.blocks"] = blocks.reshape(-1)
        tensors[f"{kind.name}.weights"] = quants.dequantize(blocks, kind).reshape(-1).astype(np.float32)
    if "--check" in sys.argv:
        stored = load_file(FILE)
        assert stored.keys() == tensors.keys()
        assert all(stored[name].tobytes() == tensor.tobytes() for name, tensor in tensors.items())
    else:
        save_file(tensors, FILE)


main()
