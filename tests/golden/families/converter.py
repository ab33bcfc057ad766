"""What llama.cpp's converter makes of a folder: the GGUF file, and a list that says how it follows from the folder."""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

# The metadata that say what the model is; the rest are names and the tokenizer.
ARCHITECTURE = "general.architecture"
LEFT_OUT = ("general.", "tokenizer.", "GGUF.")
# Control tokens of the tokenizer that is written for llama.cpp, which counts them only.
CONTROL_TOKENS = 3


class Converter:
    """The converter of a llama.cpp checkout."""

    def __init__(self, checkout):
        sys.path.insert(0, str(checkout / "gguf-py"))
        sys.path.insert(0, str(checkout))
        import conversion
        import gguf

        self.conversion, self.gguf = conversion, gguf

    def __call__(self, folder, out):
        """Converts, and gives the list of metadata and of tensors."""
        import torch

        base = self.conversion.ModelBase
        hparams = base.load_hparams(folder, False)
        architecture = self.conversion.get_model_architecture(hparams, self.conversion.ModelType.TEXT)
        model = self.conversion.get_model_class(architecture)
        # llama.cpp looks for tokens of its own where the name is Phi-3.
        with torch.inference_mode():
            instance = model(folder, self.gguf.LlamaFileType.ALL_F32, out, model_name="tiny")
            # The tests have a tokenizer of their own. llama.cpp wants one of some kind.
            vocab = len(load_tokens(folder))
            for one in [instance, getattr(instance, "impl", instance)]:
                one.set_vocab = lambda one=one: self.some_tokenizer(one.gguf_writer, vocab)
            instance.write()
        return self.list_of(folder, out)

    def some_tokenizer(self, writer, count):
        normal, control = self.gguf.TokenType.NORMAL, self.gguf.TokenType.CONTROL
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("default")
        writer.add_token_list([f"<{at}>" for at in range(count)])
        writer.add_token_types([control if at < CONTROL_TOKENS else normal for at in range(count)])
        writer.add_token_merges(["< 0"])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)

    def list_of(self, folder, path):
        from make import in_layers

        reader = self.gguf.GGUFReader(path)
        metadata = []
        for key, field in reader.fields.items():
            if key == ARCHITECTURE or not key.startswith(LEFT_OUT):
                metadata.append([key, *self.value_of(field)])
        sources = load_file(folder / "model.safetensors")
        tensors = []
        for tensor in reader.tensors:
            assert tensor.tensor_type == self.gguf.GGMLQuantizationType.F32, tensor.name
            dims = [int(n) for n in reversed(tensor.shape)]
            tensors.append({"name": tensor.name, **source_of(np.array(tensor.data).reshape(dims), sources)})
        return {"metadata": metadata, "tensors": in_layers(tensors)}

    def value_of(self, field):
        """(type, value), or ([type], values)."""
        kinds = [self.gguf.GGUFValueType(kind).name.lower() for kind in field.types]
        value = field.contents()
        return (kinds[0], value) if len(kinds) == 1 else ([kinds[-1]], value)


def load_tokens(folder):
    return json.loads((Path(folder) / "tokenizer.json").read_text())["model"]["vocab"]


def source_of(data, sources):
    """How a tensor follows from one of the checkpoint, bit for bit:

    from          the tensor's name
    rows          the rows that are taken, where not all are
    interleaved   heads whose rows are taken by turns from the first and the second half of the head
    plus          what is added
    values        the values themselves, of a tensor that no checkpoint has
    """
    flat = data.tobytes()
    for name, source in sources.items():
        if source.shape == data.shape:
            if source.tobytes() == flat:
                return {"from": name}
            if (source + np.float32(1)).tobytes() == flat:
                return {"from": name, "plus": 1.0}
            for heads in range(1, 65):
                if source.shape[0] % (2 * heads) == 0 and interleave(source, heads).tobytes() == flat:
                    return {"from": name, "interleaved": heads}
        if source.ndim == data.ndim and source.shape[1:] == data.shape[1:] and source.shape[0] == 2 * data.shape[0]:
            for start in (0, data.shape[0]):
                if source[start:start + data.shape[0]].tobytes() == flat:
                    return {"from": name, "rows": [start, start + data.shape[0]]}
    assert data.ndim == 1 and data.size <= 64, "a tensor that follows from no tensor of the checkpoint"
    return {"values": [float(x) for x in data]}


def interleave(source, heads):
    half = source.shape[0] // heads // 2
    return np.ascontiguousarray(source.reshape(heads, 2, half, -1).swapaxes(1, 2)).reshape(source.shape)
