"""Record which type llama.cpp's quantizer gives each tensor, for every mix, on models that meet every rule (mix_models.py).

    python record_mixes.py [OUT.json]

Needs llama-cpp-python and gguf; no code of minillm runs here. MXFP4 is recorded with --pure: without it, llama.cpp gives that
type to experts alone. Kept: the types of each matrix over the layers, such as "2 Q4_K, 1 Q6_K".
"""

import importlib.metadata
import json
import pathlib
import sys
import tempfile

import mix_models
from llama_cpp_quantizer import quantize, types

if __name__ == "__main__":
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "mixes.json"
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        source, target = pathlib.Path(folder) / "source.gguf", pathlib.Path(folder) / "target.gguf"
        for name, spec in mix_models.SPECS.items():
            mix_models.write(spec, source)
            imatrix = {"none": [1.0]} if spec.imatrix else None
            for mix, number in mix_models.MIXES.items():
                quantize(source, target, number, imatrix, pure=mix == "mxfp4")
                found = mix_models.by_role(types(target))
                lines.append(f"{json.dumps(f'{name}: {mix}')}: {json.dumps(found)}")
            print(name, file=sys.stderr)
    version = json.dumps(importlib.metadata.version("llama-cpp-python"))
    out.write_text(f'{{"llama-cpp-python": {version}, "types": {{\n' + ",\n".join(lines) + "\n}}\n")
