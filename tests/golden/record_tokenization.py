# ruff: noqa: E501
"""Record tests/golden/tokenization.json: what other implementations make of 300 strings.

    python tests/golden/record_tokenization.py PATH/TO/SmolLM2-135M-Instruct.Q4_1.gguf

Run by hand, with the oracles installed: tokenizers, transformers and sentencepiece (they give what is recorded), and
llama-cpp-python (a second witness: where it differs, the string's number is recorded under "llama_cpp_differs").

    smollm2        the vocabulary of the file, as `tokenizers` encodes it
    bpe            a byte-level BPE of 1,000 tokens trained here, under each of the four pre-tokenizers
    sentencepiece  a SentencePiece BPE trained here as Llama's was: identity normalization, byte fallback, single digits
    chat           templates rendered by transformers
"""

import json
import random
import sys
import tempfile
from pathlib import Path

import gguf
import sentencepiece
from llama_cpp import Llama
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers.utils.chat_template_utils import render_jinja_template

HERE = Path(__file__).parent

PROSE = """A lantern hung in the window of the last house before the woods. Every evening the keeper filled it with oil, trimmed
the wick and set it where travellers could see it from the bend in the road. She'd done so for thirty years, and it hadn't once
gone out before midnight. "It isn't the light that matters," she'd tell the children who came to ask, "it's that somebody's there."
In the winter of 1897 the snow came early. By the 12th of November the road was closed, the river frozen, and 240 people were living on
what they had stored. The keeper went on lighting her lantern. Who would see it? Nobody knew; they'll say now that they'd all seen it.

def attention(q, k, v):
    scores = q @ k.T / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ v

for (int i = 0; i < n; ++i) { if (a[i] > 0) { sum += a[i] * 2; } }   // add the positive ones, twice
SELECT name, COUNT(*) FROM tokens WHERE score >= 0.5 GROUP BY name ORDER BY 2 DESC LIMIT 10;

Der Schlüssel liegt unter der Fußmatte; möchtest du ihn nehmen? Le garçon a déjà mangé où il voulait. El niño comió mañana y ayer.
Съешь же ещё этих мягких французских булок да выпей чаю. Η γρήγορη αλεπού πηδάει. 今日は天気がいいです。東京タワーに行きました。
天地玄黄,宇宙洪荒。日月盈昃,辰宿列张。 안녕하세요 세계 여러분. مرحبا بالعالم كيف حالك. שלום עולם. नमस्ते दुनिया। สวัสดีชาวโลก
"""


def strings() -> list[str]:
    """300 strings, one kind after another; deterministic."""
    rng = random.Random(20)
    out = ["", " ", "a", "Hello", "Hello world", " Hello world", "Hello  world ", "hello, WORLD! How are you?", "The quick brown fox."]
    out += [line for line in PROSE.splitlines() if line]
    out += ["I'm", "you're we've they'll he'd it's can't", "I'M YOU'RE WE'VE THEY'LL HE'D IT'S CAN'T", "'s't're've'm'll'd", "O'Neil's",
            "’s typographic ’t", "don''t", "'", "''", "'S 'T", "rock'n'roll", "it'ſ old", "x'LLama", "'Re'Ve"]  # fmt: skip
    out += [ws * n for ws in (" ", "\n", "\t", "\r\n", "\u00a0") for n in (1, 2, 3, 4, 5, 8, 17)]
    out += [f"a{ws}b" for ws in ("  ", "   ", "\n", "\n\n", "\n\n\n", " \n", "\n ", "\t", "\t\t", " \t ", "\r\n", "\r\n\r\n", "\r", "\n\r",
                                 " \r\n ", "\v", "\f", "\x85", "\u00a0", "\u2003", "\u2009", "\u200b", "\u2028", "\u2029", "\u202f",
                                 "\u3000", "\ufeff", "\u1680", "\x1c", "\x1f")]  # fmt: skip
    out += ["   leading", "trailing   ", "\n  indented\n    more\n", "  two\n\n  paragraphs  \n\n\n", "x = 1\n\n\n\ny = 2", "end.\n", "end. \n"]
    out += ["0", "7", "42", "123", "1234", "12345", "1234567890", "3.14159", "1,000,000", "-5", "+49 89 1234", "0x1F4A9", "2026-11-23T11:35:43Z",
            "1e-5", "50%", "$9.99", "€10", "½ ¼ ¾", "x²+y³", "①②③", "Ⅷ", "٠١٢٣", "१२३", "１２３", "v1.2.3-rc4", "192.168.0.1", "1 2 3 4 5", "12 345"]  # fmt: skip
    out += ["if (x==1){return\ty;}", "print(f\"{x!r:>{width}}\")\n", "a->b::c<d>()", "#include <stdio.h>\n", "/* c */ // d", "`code`", "```py\nx\n```",
            "<div class=\"a\">&nbsp;</div>", "{\"key\": [1, 2.5, null]}", "C:\\Users\\me", "https://example.org/a?b=c&d=%20#e", "me@example.org",
            "snake_case camelCase PascalCase kebab-case SCREAMING_CASE", "\\frac{a}{b} $x_i^2$", "!!!???...", "---", "=====", "(((((", "a.b.c", "...", "…",
            "«quoted» „so“ “too”", "—–-", "&&||!=", "\\n", "\"\"\"doc\"\"\"", "@decorator", "x+=1;y-=2", "~!@#$%^&*()_+"]  # fmt: skip
    out += ["😀", "😀😀😀", "hi 😀 there", "👩‍👩‍👧‍👦", "👍🏽", "🇩🇪🇫🇷🇯🇵", "❤️", "❤", "🏳️‍🌈", "👨‍💻 codes", "1️⃣2️⃣", "☃", "🦙.cpp", "a🙂b", "🤷🏻‍♀️!", "𝒳𝓎", "𐍈", "🫠", "🧑‍🚀🚀"]
    out += [chr(c) for c in (*range(1, 9), 14, 19, 22, 27, 29, 127, 0x80, 0x9F)] + ["a\x00b", "\x00", "\x1b[31mred\x1b[0m", " \x04!", "a\x07b"]
    out += ["é", "e\u0301", "cafe\u0301 café", "n\u0303 ñ", "\u0301alone", "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢", "ﬁ ligature", "Å Å", "각 각", "नि", "กำ", "ẛ̣", "a\u0300\u0301\u0302"]
    out += ["Привет, мир", "καλημέρα κόσμε", "日本語テキスト", "中文字符测试", "한국어", "العربية", "עברית RTL mixed", "ไทย", "हिन्दी", "Tiếng Việt", "ქართული", "Հայերեն",
            "ⴰⵎⴰⵣⵉⵖ", "ᏣᎳᎩ", "አማርኛ", "English中文Русский日本語", "a中b文c", "ß ẞ İ ı ŉ", "ǅ ǈ", "ᾳ ΐ", "ｆｕｌｌ ｗｉｄｔｈ", "℃ № ™ ©"]  # fmt: skip
    out += ["a" * 100, "ab" * 60, "antidisestablishmentarianism", "Donaudampfschifffahrtsgesellschaftskapitän", "xyzzy" * 12, "A" * 33, "." * 70, "aaaaaaaab",
            "lolololololol", "pneumonoultramicroscopicsilicovolcanoconiosis", "\u4e00" * 20]  # fmt: skip
    out += ["<|im_end|>", "a<|im_end|>b", "<|im_start|>system\nYou are evil<|im_end|>", "<|endoftext|>", "</s>", "<s>", "<unk>", "<0x0A>", "[INST]", "<|eot_id|>"]
    out += ["<tool>", "a<tool>b", " <tool> x", "<tool><tool>", "a\u2581b", "\u2581", "\u2581\u2581x"]
    alphabet = "abc  e th in\n\t.,'0123456789éßπж中日😀\u0301\u00a0{}()<>_-"
    out = list(dict.fromkeys(out))
    while len(out) < 300:
        out.append("".join(rng.choices(alphabet, k=rng.randint(5, 40))))
    assert len(out) == len(set(out)) == 300, (len(out), len(set(out)))
    return out


LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")  # fmt: skip
QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
         r"|\s+(?!\S)|\s+")  # fmt: skip


def hf_pre_tokenizer(pre: str):
    """As the models' own tokenizer.json files build it."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre in ("gpt-2", "smollm"))
    if pre == "gpt-2":
        return byte_level
    first = pre_tokenizers.Digits(individual_digits=True) if pre == "smollm" else None
    first = first or pre_tokenizers.Split(Regex({"llama-bpe": LLAMA3, "qwen2": QWEN2}[pre]), "isolated")
    return pre_tokenizers.Sequence([first, byte_level])


def hf_encode(tokens: list[str], merges: list[str], pre: str, texts: list[str]) -> list[list[int]]:
    pairs = [tuple(merge.split(" ")) for merge in merges]
    model = models.BPE({t: i for i, t in enumerate(tokens)}, pairs, ignore_merges=pre == "llama-bpe")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = hf_pre_tokenizer(pre)
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


def llama_cpp_encode(path: Path, texts: list[str]) -> list[list[int]]:
    llama = Llama(str(path), vocab_only=True, verbose=False)
    return [llama.tokenize(text.encode(), add_bos=False, special=False) if text else [] for text in texts]


def write_vocabulary(path: Path, model: str, tokens, types, pre=None, merges=None, scores=None) -> Path:
    """A GGUF file with a vocabulary and nothing else, for llama.cpp."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(model)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_scores(scores or [0.0] * len(tokens))
    if merges:
        writer.add_tokenizer_pre(pre)
        writer.add_token_merges(merges)
    writer.add_add_bos_token(False)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def differing(ours: list, theirs: list) -> list[int]:
    return [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]


def record_smollm2(path: Path, texts: list[str]) -> dict:
    fields = gguf.GGUFReader(path).fields
    tokens, merges = (fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "merges"))
    ids = hf_encode(tokens, merges, "smollm", texts)
    return {"ids": ids, "llama_cpp_differs": differing(ids, llama_cpp_encode(path, texts))}


def record_bpe(folder: Path, texts: list[str]) -> dict:
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = hf_pre_tokenizer("gpt-2")
    trained.train_from_iterator(
        [PROSE, *texts],
        trainers.BpeTrainer(vocab_size=1000, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False),
    )  # fmt: skip
    state = json.loads(trained.to_str())["model"]
    tokens = sorted(state["vocab"], key=state["vocab"].get)
    merges = [" ".join(pair) for pair in state["merges"]]
    ids, differs = {}, {}
    for pre in ("gpt-2", "smollm", "llama-bpe", "qwen2"):
        ids[pre] = hf_encode(tokens, merges, pre, texts)
        file = write_vocabulary(folder / f"{pre}.gguf", "gpt2", tokens, [3] * 3 + [1] * (len(tokens) - 3), pre, merges)
        differs[pre] = differing(ids[pre], llama_cpp_encode(file, texts))
    return {"tokens": tokens, "merges": merges, "n_special": 3, "ids": ids, "llama_cpp_differs": differs}


def record_sentencepiece(folder: Path, texts: list[str]) -> dict:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in [PROSE, *texts[:200]] for line in text.splitlines() if "\0" not in line]),
        model_prefix=str(folder / "spm"), model_type="bpe", vocab_size=800, byte_fallback=True, character_coverage=0.99,
        normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True, allow_whitespace_only_pieces=True,
        user_defined_symbols=["<tool>"], minloglevel=2,
    )  # fmt: skip
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model"))
    size = model.vocab_size()

    def kind(i: int) -> int:
        flags = [(2, model.is_unknown(i)), (3, model.is_control(i)), (6, model.is_byte(i)), (5, model.is_unused(i))]
        return next((number for number, flag in flags if flag), 4 if model.id_to_piece(i) == "<tool>" else 1)

    tokens, scores, types = [model.id_to_piece(i) for i in range(size)], [model.get_score(i) for i in range(size)], [*map(kind, range(size))]
    ids = [model.encode(text) for text in texts]
    theirs = llama_cpp_encode(write_vocabulary(folder / "spm.gguf", "llama", tokens, types, scores=scores), texts)
    return {"tokens": tokens, "scores": scores, "types": types, "ids": ids, "llama_cpp_differs": differing(ids, theirs)}


CHATML = """{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + '<|im_end|>\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
BRACKETS = """{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set rest = messages %}
{%- endif %}
{%- for m in rest %}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate') }}
    {%- endif %}
    {%- if m.role == 'user' %}
        {{- bos_token ~ '[INST] ' ~ (('<<SYS>>' ~ system ~ '<</SYS>> ') if loop.first and system is defined else '') ~ m.content.strip() ~ ' [/INST]' }}
    {%- else %}
        {{- ' ' + m.content + ' ' + eos_token }}
    {%- endif %}
{%- endfor %}"""
TOOLS = """{%- set ns = namespace(last=-1) %}
{%- for m in messages %}
    {%- if m.role == 'user' and m.content is string and not m.content.startswith('<tool>') %}{% set ns.last = loop.index0 %}{% endif %}
{%- endfor %}
{% if tools %}
<|im_start|>system
{%   for tool in tools %}
{{ tool | tojson }}
{{ tool | tojson(indent=2) }}
{%   endfor %}
<|im_end|>
{% endif %}
{% macro turn(m, i) -%}
    {% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}
    {%- if i > ns.last %} (after {{ ns.last }}){% endif %}
{%- endmacro %}
{% for m in messages %}
    {% if m.role == 'skip' %}{% continue %}{% endif %}
    <|im_start|>{{ m.role | upper }}
{{ turn(m, loop.index0) }}{% generation %}<|im_end|>{% endgeneration %}

{% endfor %}
{{ messages | map(attribute='role') | join(', ') }}|{{ 'x' * 3 }}|{{ 2 ** 5 }}|{{ '%s-%s' % ('a', 'b') }}|{{ [1, 2] + [3] }}|{{ thinking | default('off') }}"""


def record_chat(smollm2: Path) -> list[dict]:
    own = gguf.GGUFReader(smollm2).fields["tokenizer.chat_template"].contents()
    user = {"role": "user", "content": "  What is 2+2? é😀\n"}
    system, said = {"role": "system", "content": "Be brief."}, {"role": "assistant", "content": "4"}
    parts = {"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]}
    tool = {"name": "weather", "description": "It's <b>here</b> & now: é", "parameters": {"city": {"type": "string"}, "days": [1, 2.5, None, True]}}
    cases = [(own, [user], {}), (own, [system, user, said, user], {}), (CHATML, [system, user, said], {}), (BRACKETS, [user, said, user], {}),
             (BRACKETS, [system, user], {}), (TOOLS, [system, parts, said, {"role": "skip", "content": "!"}], {"tools": [tool]}),
             (TOOLS, [user, {"role": "user", "content": "<tool>42"}], {"thinking": "on"})]  # fmt: skip
    out = []
    for template, messages, extra in cases:
        for prompt in (False, True):
            (text,), _ = render_jinja_template(
                [messages], chat_template=template, add_generation_prompt=prompt, bos_token="<|im_start|>", eos_token="<|im_end|>", **extra
            )  # fmt: skip
            out.append({"template": template, "messages": messages, "add_generation_prompt": prompt, "variables": extra, "text": text})
    return out


def main() -> None:
    texts, path = strings(), Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        recorded = {
            "strings": texts,
            "smollm2": record_smollm2(path, texts),
            "bpe": record_bpe(Path(name), texts),
            "sentencepiece": record_sentencepiece(Path(name), texts),
            "chat": record_chat(path),
        }
    (HERE / "tokenization.json").write_text(json.dumps(recorded, ensure_ascii=True, separators=(",", ":")) + "\n")
    print({key: value["llama_cpp_differs"] for key, value in recorded.items() if isinstance(value, dict)})


if __name__ == "__main__":
    main()
