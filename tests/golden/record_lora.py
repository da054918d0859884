"""Record what peft and llama.cpp say of two tiny models with a LoRA adapter: files, logits, greedy tokens.

    python record_lora.py [FOLDER]

Needs torch (CPU), transformers, peft, gguf and llama-cpp-python, which the tests never import; no minillm code runs here. The
adapter is random in both halves. peft writes its folder itself. The GGUF adapter is written by the gguf package by the rules of
llama.cpp's converter: Llama's rows of Q and K are permuted, and with them those of B. Both programs must choose the same tokens,
and others than without the adapter.

    FOLDER/lora/NAME/adapter_config.json, adapter_model.safetensors      as peft saved them
    FOLDER/lora/NAME.gguf                                                as llama.cpp read it
    FOLDER/lora.json                                                     ids, logits, greedy tokens, versions
"""

import importlib.metadata
import json
import pathlib
import sys
import tempfile
import zlib

import gguf
import llama_cpp
import numpy as np
import peft
import record_tiny
import tiny_models
import torch

CASES = {  # model: rank, alpha, modules, spread of B
    "llama": (2, 6.0, ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], 0.4),
    "qwen2": (3, 5.0, ["q_proj", "k_proj", "down_proj"], 0.9),
}
NEW_TOKENS = 12


def with_adapter(name):
    rank, alpha, modules, spread = CASES[name]
    settings = peft.LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=alpha, target_modules=modules, lora_dropout=0.0)
    model = peft.get_peft_model(record_tiny.build(name), settings).eval()
    stream = np.random.PCG64(zlib.crc32(name.encode()))
    for key, parameter in model.named_parameters():
        if "lora_" in key:
            raw = (stream.random_raw(parameter.numel()) >> np.uint64(40)).astype(np.float64) / 2**23 - 1
            within = (3 / parameter.shape[1]) ** 0.5 if "lora_A" in key else spread
            parameter.data = torch.from_numpy((within * raw).astype(np.float32).reshape(parameter.shape))
    return model


def greedy(model, ids):
    chosen, margins = [], []
    for _ in range(NEW_TOKENS):
        last = record_tiny.logits_of(model, ids + chosen)[-1]
        second, best = np.sort(last)[-2:]
        chosen.append(int(last.argmax()))
        margins.append(best - second)
    return chosen, min(margins)


def write_gguf(name, model, path):
    spec = tiny_models.SPECS[name]
    writer = gguf.GGUFWriter(str(path), spec.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, CASES[name][1])
    for key, array in peft.get_peft_model_state_dict(model).items():
        array, side = array.numpy(), "lora_a" if "lora_A" in key else "lora_b"
        if side == "lora_b" and spec.architecture == "llama" and ("q_proj" in key or "k_proj" in key):
            array = tiny_models.pairs_from_halves(array, spec.kv_heads if "k_proj" in key else spec.heads)
        base = key.removeprefix("base_model.model.").replace(".lora_A", "").replace(".lora_B", "")
        writer.add_tensor(f"{tiny_models._gguf_name(base)}.{side}", np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def of_llama_cpp(name, adapter, ids):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "tiny.gguf")
        tiny_models.write_tiny(name, path)
        settings = {"n_ctx": tiny_models.CONTEXT, "n_threads": 1, "verbose": False, "type_k": 0, "type_v": 0}  # float32
        model = llama_cpp.Llama(str(path), lora_path=str(adapter) if adapter else None, **settings)
        stream = model.generate(ids, temp=0.0, repeat_penalty=1.0)
        return [int(next(stream)) for _ in range(NEW_TOKENS)]


def record(name, folder):
    model, ids = with_adapter(name), record_tiny.inputs(name)[-1]
    model.save_pretrained(folder / name)
    (folder / name / "README.md").unlink(missing_ok=True)
    write_gguf(name, model, folder / f"{name}.gguf")
    chosen, margin = greedy(model, ids)
    plain, _ = greedy(record_tiny.build(name), ids)
    assert margin > 1e-3 and chosen[0] != plain[0], (name, margin, chosen, plain)
    assert of_llama_cpp(name, folder / f"{name}.gguf", ids) == chosen, name
    assert of_llama_cpp(name, None, ids) == plain, name
    logits = [float(f"{x:.6g}") for x in record_tiny.logits_of(model, ids)[-1]]
    return {"ids": ids, "logits": logits, "greedy": chosen, "without": plain}


def main(folder=None):
    folder = pathlib.Path(folder or pathlib.Path(__file__).parent)
    names = ("torch", "transformers", "peft", "gguf", "llama_cpp_python")
    versions = {name: importlib.metadata.version(name) for name in names}
    recorded = {name: record(name, folder / "lora") for name in CASES}
    lines = ",\n".join(f"{json.dumps(name)}:{json.dumps(r, separators=(',', ':'))}" for name, r in recorded.items())
    (folder / "lora.json").write_text(f'{{"versions":{json.dumps(versions)},"models":{{\n{lines}\n}}}}\n')


if __name__ == "__main__":
    main(*sys.argv[1:])
