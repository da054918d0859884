"""Record what transformers says, in float32, about SmolLM2 in its GGUF file: the golden output that minillm must match.

    python record_smollm2.py SmolLM2-135M-Instruct.Q4_1.gguf [OUT.json]

Needs torch (CPU), transformers, gguf and tokenizers, which the tests themselves never import; no minillm code runs here.
For 20 prompts it keeps the token ids, at every prompt position the five likeliest next tokens with their log-probabilities,
and 48 greedy tokens with, for each step, by how much the best logit led the second: where that lead is tiny, two correct
implementations may part.

transformers' own conversion of a GGUF tokenizer knows nothing of the `smollm` pre-tokenizer (digits one by one), so the
reference tokenization is built here from the file's vocabulary and merges with the `tokenizers` library.
"""

import hashlib
import importlib.metadata
import json
import pathlib
import sys

import gguf
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers

HERE = pathlib.Path(__file__).parent
NEW_TOKENS = 48
STOP = [2, 0]  # <|im_end|>, <|endoftext|>
CONTROL = 3  # token type of a special token in GGUF metadata

CHAT = {
    "fox": "Tell me a short story about a brave little fox who finds a lantern in the woods.",
    "question": "What is the capital of France?",
    "code": "Write a Python function that returns the n-th Fibonacci number.",
    "arithmetic": "What is 127 + 485? Answer with the number only.",
    "chinese": "用中文介绍一下你自己。",
    "german": "Übersetze ins Deutsche: “The weather is nice today, isn’t it?”",
    "emoji": "Which is the odd one out: 🍎 🍌 🥕 🍇? 🤔",
    "summary": "Summarize in one sentence:\n\nThe KV cache keeps the keys and values of every earlier token, so that each decode "
    "step computes attention for one new token only. It trades memory for time:\nwithout it, every step would process the whole "
    "prompt again.\n\n- memory grows with length\n- time per token does not\n",
    "system": [
        {"role": "system", "content": "You answer like a pirate."},
        {"role": "user", "content": "How do I boil an egg?"},
    ],
    "turns": [
        {"role": "user", "content": "My name is Zoë and I have 3 cats."},
        {"role": "assistant", "content": "Nice to meet you, Zoë! What are your cats called?"},
        {"role": "user", "content": "Ada, Grace and Edsger. How many cats do I have?"},
    ],
}

PARAGRAPH = (
    "In the year {year} the keeper of lighthouse number {n} wrote in her log that the wind had turned to the {wind}, that the "
    "lamp had burned {oil} measures of oil, and that {ships} ships had passed before dawn. She counted them twice, as she always "
    "did, and then she wrote their names below, one to a line, in a careful hand.\n\n"
)
LONG = "".join(
    PARAGRAPH.format(year=1871 + 3 * i, n=i + 1, wind=wind, oil=7 * i + 2, ships=(5 * i) % 11)
    for i, wind in enumerate(["north", "south-west", "east", "north-east", "south", "west", "north-west"])
)

PLAIN = {
    "one_token": "The",
    "story": "Once upon a time, in a village by the sea,",
    "whitespace": "  \n\n\t \n    indented\n\n\n",
    "numbers": "1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987; 3.14159265 2.71828 1e-05 2024-02-29 0x1F",
    "python": 'def quicksort(items):\n    """Sort a list."""\n'
    '    if len(items) <= 1:\n        return items\n    pivot = items[0]\n',
    "json": '{"name": "minillm", "layers": [{"type": "attention", "heads": 9, "kv_heads": 3}, '
    '{"type": "mlp", "hidden": 1536}], "',
    "languages": "Der Himmel ist blau. Le ciel est bleu. Небо голубое. 空は青い。 السماء زرقاء. आकाश नीला है। Ουρανός",
    "unicode": "naïve café — “quotes” … ½ ≠ ∑ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 é 👩‍👩‍👧 🇫🇷\u200b\u00a0\u0007 end",
    "repetition": "la la la la la la la la la la la la la la la la la la la la la",
    "long": LONG + "In the year",
}


def reference_tokenizer(metadata):
    """The byte-level BPE of the file, with each digit a word of its own and the control tokens as added special tokens."""
    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    types = metadata["tokenizer.ggml.token_type"]
    tokenizer.add_special_tokens([token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL])
    return tokenizer


def record(model, ids):
    """Top-5 log-probabilities at every position of `ids`, then greedy tokens (the one that ended it included) and their leads."""
    prompt = torch.tensor([ids])
    with torch.inference_mode():
        top = model(prompt).logits[0].float().log_softmax(-1).topk(5)
        out = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=STOP,
            pad_token_id=STOP[-1],
            output_logits=True,
            return_dict_in_generate=True,
        )
    best = torch.stack(out.logits).squeeze(1).topk(2).values
    greedy = out.sequences[0, len(ids) :].tolist()
    return {
        "top_ids": top.indices.tolist(),
        "top_logprobs": [[round(x, 5) for x in row] for row in top.values.tolist()],
        "greedy": greedy,
        "margins": [round(x, 5) for x in (best[:, 0] - best[:, 1]).tolist()],
        "ended": greedy[-1] in STOP,
    }


def main(file, out=None):
    file, out = pathlib.Path(file), pathlib.Path(out or HERE / "smollm2.json")
    torch.manual_seed(0)
    metadata = {key: field.contents() for key, field in gguf.GGUFReader(file).fields.items()}
    model = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    assert model.config.rope_parameters["rope_theta"] == metadata["llama.rope.freq_base"], "frequency base lost in conversion"
    tokenizer = reference_tokenizer(metadata)
    template = metadata["tokenizer.chat_template"]
    chat = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template)
    prompts = []
    for name, content in CHAT.items():
        messages = content if isinstance(content, list) else [{"role": "user", "content": content}]
        text = chat.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        prompts.append({"name": f"chat_{name}", "messages": messages, "text": text})
    prompts += [{"name": f"plain_{name}", "text": text} for name, text in PLAIN.items()]
    for prompt in prompts:
        prompt["ids"] = tokenizer.encode(prompt["text"]).ids
        assert tokenizer.decode(prompt["ids"], skip_special_tokens=False) == prompt["text"]
        prompt.update(record(model, prompt["ids"]))
        prompt["greedy_text"] = tokenizer.decode(prompt["greedy"], skip_special_tokens=False)
        print(prompt["name"], len(prompt["ids"]), min(prompt["margins"]), repr(prompt["greedy_text"][:70]), file=sys.stderr)
    packages = ["torch", "transformers", "tokenizers", "gguf"]
    header = {
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "versions": {name: importlib.metadata.version(name) for name in packages} | {"python": sys.version.split()[0]},
        "dtype": "float32",
        "attention": model.config._attn_implementation,
        "stop": STOP,
    }
    lines = ",\n".join(json.dumps(prompt, ensure_ascii=False, separators=(",", ":")) for prompt in prompts)
    head = json.dumps(header, separators=(",", ":"))[1:-1]
    out.write_text(f'{{{head},\n"prompts":[\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
