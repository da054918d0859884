"""How far a peer's greedy tokens are ours: speed that was bought with rounding shows here.

Each engine continues the same few sentences, one at a time, always with its most likely token. Up to the first difference both
have read the same text; what comes after it says nothing, since the texts differ. So of M tokens those before it count:

    agree = Σ over prompts (tokens before the first difference)        of prompts × M

Rounding changes a token where two are almost equally likely. An engine that computes as we do differs in a few of those.
"""

from minillm import terminal
from minillm.terminal import say

STEPS = 32
PROMPTS = (
    "Once upon a time, in a village by the sea,",
    "The capital of France is",
    "To sort a list of numbers in Python, one can",
    "Photosynthesis is the process by which plants",
    "In 1969, two astronauts walked on",
    "A recipe for bread needs flour, water,",
    "The difference between a virus and a bacterium is",
    "She opened the letter, read it twice, and then",
)


def read_prompts(path, most):  # a model's file or folder, int -> [[token]]
    """Encode the prompts with the model's tokenizer, each to at most so many tokens."""
    from minillm.formats.gguf import open_gguf
    from minillm.model.tokenizer import Tokenizer

    if path.is_dir():
        from minillm.model.hf_tokenizer import tokenizer_metadata

        metadata = tokenizer_metadata(path)
    else:
        with open_gguf(path) as gguf:
            metadata = gguf.metadata
    tokenizer = Tokenizer.from_gguf(metadata)
    return [tokenizer.encode(text)[:most] for text in PROMPTS]


def agreements(asked, path, context):  # {engine: Worker}, ours first, path, int -> {peer: its agreement}
    """Ask every engine for its greedy tokens; nothing where there is no peer."""
    ours, *peers = asked
    if not peers:
        return {}
    steps = min(STEPS, context // 2)
    prompts, tokens = read_prompts(path, context - steps), {}
    for name, worker in asked.items():
        say(f"greedy tokens: {name}")
        tokens[name] = [worker.ask(prompts=[prompt], steps=steps - 1)["tokens"][0] for prompt in prompts]
    return {peer: agreement(tokens[ours], tokens[peer]) for peer in peers}


def agreement(ours, theirs):  # [[token]], [[token]] -> {"agree", "tokens", "prompts_alike", "prompts", "first"}
    """Count tokens before the first difference of each prompt. first: the earliest, as its prompt and place from 1, or None."""
    pairs = [list(zip(x, y, strict=True)) for x, y in zip(ours, theirs, strict=True)]
    same = [next((i for i, (a, b) in enumerate(pair) if a != b), len(pair)) for pair in pairs]
    apart = [(count, number) for number, count in enumerate(same, 1) if count < len(ours[number - 1])]
    place, prompt = min(apart, default=(None, None))
    return {
        "agree": sum(same),
        "tokens": sum(map(len, ours)),
        "prompts_alike": len(same) - len(apart),
        "prompts": len(same),
        "first": None if prompt is None else {"prompt": prompt, "token": place + 1},
    }


def lines(result):  # {"engines": {name: {"load_s", "precision", …}}, "agreement"} -> [text], none where there is no peer
    """Format how each engine computes, how long it took to start, and which of its tokens are ours."""
    if not result["agreement"]:
        return []
    rows, each = [], next(iter(result["agreement"].values()))
    for name, figures in result["engines"].items():
        said, where = "", ""
        if same := result["agreement"].get(name):
            said, first = f"{same['agree']} of {same['tokens']}", same["first"]
            where = f"token {first['token']} of prompt {first['prompt']}" if first else "none"
        rows.append([name, said, where, f"{figures['load_s']:.1f}", figures["precision"]])
    about = f"Greedy tokens of {each['prompts']} prompts, counted up to the first that is not ours:"
    return ["", about, terminal.table(["", "like ours", "first difference", "start s", "computes in"], rows, "<>>><")]
