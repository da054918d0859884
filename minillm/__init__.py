"""minillm: a small LLM inference engine that you can read.

    from minillm import LLM, SamplingParams
    llm = LLM("smollm2-135m")
    for piece in llm.stream("Once upon a time"):
        print(piece, end="")
"""

__version__ = "0.1.0"
