"""Hit rates of a prefix cache: one word, three numbers, of the same requests.

    tokens   of all prompt tokens, the share that was found         the prefill that is saved: plan capacity with it
    mean     the mean over requests of each one's own share         what a typical user feels
    any      of all requests, the share that found anything         what many dashboards show; one block counts as much as all

One prompt of 9,900 tokens that finds nothing, and one of 100 that finds 90: 0.9%, 45% and 50%.
"""

from collections.abc import Sequence

from minillm.errors import MiniLLMError


def hit_rates(found: Sequence[int], prompts: Sequence[int]) -> tuple[float, float, float]:  # -> tokens, mean, any; each 0 … 1
    """Compute the hit rate by each of its three definitions: of tokens, mean over requests, requests with any hit.

    found, prompts: tokens found in the cache, and tokens of the prompt (1 or more), for each request in the same order. The top
    of this file says what each definition is for. Errors: MiniLLMError where there is no request, as there is no rate then.
    """
    if not prompts or len(found) != len(prompts):
        raise MiniLLMError(f"a hit rate needs requests, each with what it found; found {len(found):,} for {len(prompts):,}.")
    # BEGIN SOLUTION ex=05.6
    shares = [hit / n for hit, n in zip(found, prompts, strict=True)]
    tokens = sum(found) / sum(prompts)
    mean = sum(shares) / len(shares)
    any_hit = sum(hit > 0 for hit in found) / len(found)
    return tokens, mean, any_hit
    # END SOLUTION
