"""Makes the record of the families' tiny models, or compares it with the one that is here.

    make.py                          writes one JSON file for each family beside this file
    make.py --check                  compares with them and writes nothing
    make.py ... --converter FOLDER   asks the converter of a llama.cpp checkout what the model's GGUF file has
    make.py ... --keep FOLDER        leaves the models there: FOLDER/FAMILY-STYLE and FOLDER/FAMILY.gguf
    make.py ... FAMILY ...           these families alone

Needs torch, numpy, safetensors and transformers (pip install torch numpy safetensors transformers==5.24.*), and with
--converter sentencepiece. check_llama_cpp.mjs runs the GGUF files that --keep leaves in llama.cpp.

transformers runs the models in f32, with the attention that it calls eager. The weights are made by a formula from the
names of the tensors, and the tests make the same ones from the same names: see `uniform`. What a GGUF file has is what
llama.cpp's converter wrote for the model; without --converter it is taken over from the record that is here. No code of
edge-run takes part.
"""

import json
import logging
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file

from families import CONTEXT, FAMILIES, GGUF_LONGEST, REFUSED, SHORT_CONTEXT, VOCAB

HERE = Path(__file__).parent
# Tokens of the prompts, and the places whose logits are recorded.
PROMPTS = [(5, [4]), (23, [22]), (70, [9, 40, 69])]
# Control tokens of the tests' tokenizer, which no prompt has.
CONTROL_TOKENS = 3
# Digits after the point of a recorded logit.
DIGITS = 5
# Two runs of transformers, sums in another order: measured 0.00001.
LOGITS_DIFFER = 1e-4
# Names of layers' tensors are recorded once, with this in the layer's place.
LAYER = re.compile(r"(?<=\blayers\.)\d+|(?<=^blk\.)\d+")


def uniform(name, count):
    """`count` numbers from -1 to 1, without it, in f32: splitmix64 of the name's FNV-1a hash and the place."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        x = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return ((x >> np.uint64(40)).astype(np.int64) - 2**23).astype(np.float32) * np.float32(2**-23)


def weights_of(name, dims, offset, scale):
    """The weights of a tensor: two roundings to f32, in this order."""
    values = np.float32(scale) * uniform(name, int(np.prod(dims)))
    return (np.float32(offset) + values).reshape(dims)


def amplitude(family, name, dims):
    """(offset, scale) of a tensor's weights, so that activations keep their size from layer to layer."""
    root = lambda variance: float(np.float32(np.sqrt(variance)))
    gemma, granite = family.startswith("gemma"), family.startswith("granite")
    if name.endswith("norm.weight") or "layernorm" in name or len(dims) == 1 and name.endswith(".weight"):
        return (0.0 if gemma else 1.0), float(np.float32(0.3))
    if name.endswith(".bias"):
        return 0.0, float(np.float32(0.3))
    if "embed_tokens" in name:
        # Logits spread by about three where the embedding is the head. Granite multiplies both.
        by = 0.005 if granite else (2.5 if family.startswith("gemma3") else 9.0) / dims[1]
        return 0.0, root(3 * by)
    if "lm_head" in name:
        return 0.0, root(3 * (1.0 if granite else 6.0) / dims[1])
    # Scores spread by more than one, so that attention looks somewhere.
    sharp = 2.0 if "q_proj" in name or "k_proj" in name or "qkv_proj" in name else 1.0
    return 0.0, root(3 * sharp / int(np.prod(dims[1:])))


def prompts():
    """The ids of all prompts."""
    draw = lambda at, length: (uniform(f"prompt {at}", length) + 1) / 2 * (VOCAB - CONTROL_TOKENS)
    return [[CONTROL_TOKENS + int(x) for x in draw(at, length)] for at, (length, _) in enumerate(PROMPTS)]


def model_class(config):
    return getattr(transformers, config["architectures"][0])


def tensors_of(folder, family, config):
    """What a checkpoint of the model has, (name, dims, offset, scale) each: transformers writes one of its own."""
    auto = transformers.AutoConfig.from_pretrained(folder)
    with tempfile.TemporaryDirectory() as saved:
        model_class(config)(auto).save_pretrained(saved)
        shapes = {name: list(t.shape) for name, t in load_file(Path(saved) / "model.safetensors").items()}
    return [(name, dims, *amplitude(family, name, dims)) for name, dims in sorted(shapes.items())]


def run(folder, config):
    """Logits at the recorded places of each prompt; fails if the checkpoint lacks a tensor or has one too many."""
    model, info = model_class(config).from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    left = {key: value for key, value in info.items() if value and key != "error_msgs"}
    assert not left and not info.get("error_msgs"), (folder, left)
    model.eval()
    rows = []
    with torch.no_grad():
        for ids, (_, places) in zip(prompts(), PROMPTS, strict=True):
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
            rows.append({place: logits[place].numpy() for place in places})
    return rows


def write_folder(folder, config, tensors):
    """A Hugging Face folder, with as much of a tokenizer as the converter counts."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    vocab = {f"<{at}>": at for at in range(VOCAB)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}, "added_tokens": []}))
    save_file({name: weights_of(name, dims, *how) for name, dims, *how in tensors}, folder / "model.safetensors",
              metadata={"format": "pt"})


def in_layers(entries):
    """The list with the entries of all layers as one, if they are alike: with their numbers in "layers"."""
    merged = {}
    for entry in entries:
        layer = LAYER.search(entry["name"])
        general = {key: LAYER.sub("{}", value) if isinstance(value, str) else value for key, value in entry.items()}
        layers = merged.setdefault(json.dumps(general), [])
        layers.append(int(layer.group()) if layer else None)
    whole = []
    for general, layers in merged.items():
        entry = json.loads(general)
        if layers != [None]:
            entry["layers"] = layers
        whole.append(entry)
    return whole


def margins(row):
    """How far the best logit is above the second."""
    best = np.sort(row)[-2:]
    return float(best[1] - best[0])


def record(family, configs, folders, converter):
    """A family's record, with its models left in `folders`."""
    style, config = next(iter(configs.items()))
    first = folders / f"{family}-{style}"
    first.mkdir(parents=True, exist_ok=True)
    (first / "config.json").write_text(json.dumps(config))
    tensors = tensors_of(first, family, config)
    rows = {}
    for style, config in configs.items():
        folder = folders / f"{family}-{style}"
        write_folder(folder, config, tensors)
        rows[style] = run(folder, config)
    base = rows[next(iter(rows))]
    for other in rows.values():
        assert farthest(base, other) == 0.0, f"{family}: the two styles differ"
    there = HERE / f"{family}.json"
    gguf = converter(first, folders / f"{family}.gguf") if converter else json.loads(there.read_text())["gguf"]
    if family in GGUF_LONGEST:
        gguf = {"longest": GGUF_LONGEST[family], **gguf}
    entries = [{"name": name, "dims": dims, "offset": o, "scale": s} for name, dims, o, s in tensors]
    short = SHORT_CONTEXT.get(family, 0)
    texts = [
        {"ids": ids, "context": short if len(ids) <= short else CONTEXT,
         "logits": {str(place): [round(float(x), DIGITS) for x in row] for place, row in found.items()}}
        for ids, found in zip(prompts(), base, strict=True)
    ]
    return {"family": family, "configs": configs, "tensors": in_layers(entries), "gguf": gguf, "prompts": texts}


def farthest(a, b):
    return max(float(np.abs(a[at][place] - b[at][place]).max()) for at in range(len(a)) for place in a[at])


def as_text(record):
    """JSON with a line for each entry of the lists, and one for each row of logits."""
    line = lambda value: json.dumps(value, separators=(",", ":"))
    many = lambda values, indent: ",\n".join(indent + line(value) for value in values)
    configs = ",\n".join(f"  {line(style)}: {line(config)}" for style, config in record["configs"].items())
    prompts = []
    for prompt in record["prompts"]:
        rows = ",\n".join(f"    {line(place)}: {line(row)}" for place, row in prompt["logits"].items())
        head = f"\"ids\": {line(prompt['ids'])}, \"context\": {prompt['context']}"
        prompts.append(f"  {{{head}, \"logits\": {{\n{rows}\n  }}}}")
    gguf = record["gguf"]
    longest = f" \"longest\": {line(gguf['longest'])},\n" if "longest" in gguf else ""
    return (
        f"{{\n\"family\": {line(record['family'])},\n\"configs\": {{\n{configs}\n}},\n"
        f"\"tensors\": [\n{many(record['tensors'], '  ')}\n],\n"
        f"\"gguf\": {{\n{longest} \"metadata\": [\n{many(gguf['metadata'], '  ')}\n ],\n"
        f" \"tensors\": [\n{many(gguf['tensors'], '  ')}\n ]\n}},\n"
        f"\"prompts\": [\n" + ",\n".join(prompts) + "\n]\n}\n"
    )


def same_as_there(family, again):
    """Prints what differs from the record that is here; whether nothing does."""
    there = json.loads((HERE / f"{family}.json").read_text())
    again = json.loads(as_text(again))
    same = True
    for field in ["family", "configs", "tensors", "gguf"]:
        if again[field] != there[field]:
            same = False
            print(f"{family}: {field} differs")
    rows = lambda record: [
        {place: np.array(row) for place, row in prompt["logits"].items()} for prompt in record["prompts"]
    ]
    texts = lambda record: [(prompt["ids"], prompt["context"]) for prompt in record["prompts"]]
    same &= texts(there) == texts(again)
    far = farthest(rows(there), rows(again))
    print(f"{family}: logits {far:.6f} at most apart, of {LOGITS_DIFFER} allowed")
    return same and far < LOGITS_DIFFER


def refused():
    """The configurations that are refused by name."""
    entries = []
    for architecture, model_type, gguf, more in REFUSED:
        assert hasattr(transformers, architecture), architecture
        assert model_type in transformers.CONFIG_MAPPING, model_type
        common = {"architectures": [architecture], "model_type": model_type, "vocab_size": VOCAB, "hidden_size": 64,
                  "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
                  "rms_norm_eps": 1e-6, "max_position_embeddings": 128}
        entries.append({"gguf": gguf, "config": {**common, **more}})
    return "[\n" + ",\n".join("  " + json.dumps(entry, separators=(",", ":")) for entry in entries) + "\n]\n"


def value_after(arguments, flag):
    """Takes the flag and its value out of the arguments."""
    if flag not in arguments:
        return None
    at = arguments.index(flag)
    value = arguments[at + 1]
    del arguments[at:at + 2]
    return value


def main():
    arguments = sys.argv[1:]
    checkout, keep = value_after(arguments, "--converter"), value_after(arguments, "--keep")
    only_check = "--check" in arguments
    names = [argument for argument in arguments if argument != "--check"]
    known = {family.__name__: family for family in FAMILIES}
    if any(name not in known for name in names):
        sys.exit(__doc__)
    torch.manual_seed(0)
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    converter = None
    if checkout:
        from converter import Converter

        converter = Converter(Path(checkout))
    same = True
    with tempfile.TemporaryDirectory() as temporary:
        for name in names or known:
            again = record(name, known[name](), Path(keep or temporary), converter)
            if only_check:
                same &= same_as_there(name, again)
                continue
            (HERE / f"{name}.json").write_text(as_text(again))
            rows = [np.array(row) for prompt in again["prompts"] for row in prompt["logits"].values()]
            spread = ", ".join(f"{row.std():.2f}/{margins(row):.2f}" for row in rows)
            print(f"{name}: spread of logits and margin of the first: {spread}")
    if not names:
        there = HERE / "refused.json"
        if only_check:
            same &= there.read_text() == refused()
        else:
            there.write_text(refused())
    sys.exit(0 if same else "the record differs")


if __name__ == "__main__":
    main()
