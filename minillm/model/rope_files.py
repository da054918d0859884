"""How RoPE is scaled, as the two kinds of files say it: GGUF's metadata, and config.json of a hub's folder.

              GGUF, under the architecture's name                config.json, rope_scaling or rope_parameters
    linear    rope.scaling.type, .factor                         rope_type, factor
    llama3    a tensor of divisors, rope_freqs.weight            low_freq_factor, high_freq_factor, original_max_position_…
    yarn      .original_context_length, .attn_factor, .yarn_…    original_max_position_…, beta_fast, beta_slow, attention_factor

GGUF has no key for the numbers that Llama 3's divisors come from, and other programs need none; a folder does. So files that we
write keep them as rope.llama3.*, and of another's file the numbers of the published models are tried. YaRN's magnitude is one
number to transformers, attention_factor; to GGUF it is what comes on top of 0.1 ln factor + 1, attn_factor. A key that would
scale RoPE in another way than we do is refused by name. Sources: llama.cpp's llama-model.cpp and llama-context.cpp, which for
Llama and Qwen take beta_fast 32 and beta_slow 1 whatever a file says; transformers' modeling_rope_utils.py.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from minillm.errors import ModelError
from minillm.formats.expect import Fields, shown
from minillm.layers import rope_frequencies
from minillm.model.config import ModelConfig, RopeScaling
from minillm.model.presets import LLAMA31
from minillm.model.rope_scaling import rope_divisors, rope_magnitude, yarn_magnitude

SCALES = 1e-30, 1e30  # what a base of RoPE, or a factor that divides its frequencies, can be
TURNS = 1e-3, 1e6  # of beta_fast and beta_slow, and of Llama 3's factors
ROPE_FREQS, LLAMA3 = "rope_freqs.weight", "rope.llama3."
LLAMA3_FIELDS = ("factor", "low_freq_factor", "high_freq_factor", "original_context")


def scaling_from_gguf(keys: Fields, context: int) -> RopeScaling | None:
    """Read the scaling; keys come without the architecture's name. As in llama.cpp, a factor alone is linear's.

    context: the model's, which is YaRN's original one where no key says another.
    """
    factor = keys.number("rope.scaling.factor", None, *SCALES) or keys.number("rope.scale_linear", None, *SCALES)
    kind = keys.one_of("rope.scaling.type", ("none", "linear", "yarn"), "linear" if factor else "none")
    extra = keys.number("rope.scaling.attn_factor", 1.0, *SCALES)
    if kind == "yarn":
        return yarn_from_gguf(keys, factor or 1.0, context, extra)
    if extra != 1.0:
        keys.fail("rope.scaling.attn_factor", f"1, with RoPE scaling {shown(kind)}", f"{extra:g}")
    return RopeScaling("linear", factor) if factor and kind == "linear" else None


def yarn_from_gguf(keys: Fields, factor: float, context: int, extra: float) -> RopeScaling:
    """Read YaRN's own keys. extra: attn_factor."""
    prefix = "rope.scaling.yarn_"
    usual = yarn_magnitude(factor)
    weight = keys.number(prefix + "log_multiplier", 0.0, 0.0, TURNS[1])  # transformers' mscale_all_dim, where mscale is 1
    magnitude = extra * (usual / yarn_magnitude(factor, weight) if weight else usual)
    keys.one_of(prefix + "ext_factor", (1.0, -1.0), None)  # how much of the ramp holds; -1: all of it
    said = keys.number(prefix + "attn_factor", magnitude)
    if not math.isclose(said, magnitude, rel_tol=1e-4):  # llama.cpp's converter writes attention_factor here, and nobody reads it
        keys.fail(prefix + "attn_factor", f"{magnitude:g}, which the other keys give", f"{said:g}")
    fast, slow = betas(keys, prefix)
    original = keys.whole("rope.scaling.original_context_length", context, low=1)
    total = shortest(magnitude, lambda total: np.float32(total / usual)) if extra != 1.0 or weight else None
    return RopeScaling("yarn", factor, original_context=original, beta_fast=fast, beta_slow=slow, attention_factor=total)


def betas(keys: Fields, prefix: str = "") -> tuple[float, float]:  # -> beta_fast, beta_slow
    """Read the turns between which YaRN's ramp falls."""
    fast, slow = (keys.number(f"{prefix}beta_{end}", usual, *TURNS) for end, usual in (("fast", 32.0), ("slow", 1.0)))
    if fast <= slow:
        keys.fail(f"{prefix}beta_fast", f"more than beta_slow, {slow:g}", f"{fast:g}")
    return fast, slow


def scaling_to_gguf(scaling: RopeScaling | None) -> dict[str, Any]:
    """Say the scaling in GGUF's keys, without the architecture's name. Of Llama 3's what counts is a tensor: see rope_freqs."""
    if scaling is None:
        return {}
    if scaling.kind == "llama3":
        return {LLAMA3 + name: getattr(scaling, name) for name in LLAMA3_FIELDS}
    keys: dict[str, Any] = {"type": scaling.kind, "factor": float(scaling.factor)}  # llama.cpp wants floats
    if scaling.kind == "yarn":
        keys["original_context_length"] = scaling.original_context
        if scaling.attention_factor is not None:
            keys["attn_factor"] = rope_magnitude(scaling) / yarn_magnitude(scaling.factor)
        if (scaling.beta_fast, scaling.beta_slow) != (32.0, 1.0):
            keys |= {"yarn_beta_fast": float(scaling.beta_fast), "yarn_beta_slow": float(scaling.beta_slow)}
    return {f"rope.scaling.{key}": value for key, value in keys.items()}


def rope_freqs(config: ModelConfig) -> dict[str, np.ndarray]:  # -> {} or {its name: (d_head/2,) float32}
    """Make the tensor that GGUF keeps Llama 3's divisors in."""
    if config.rope_scaling is None or config.rope_scaling.kind != "llama3":
        return {}
    frequencies = rope_frequencies(config.d_head, config.rope_base)
    return {ROPE_FREQS: rope_divisors(frequencies, config.rope_scaling, config.rope_base).astype(np.float32)}


def llama3_from_gguf(keys: Fields, divisors: np.ndarray, config: ModelConfig) -> ModelConfig:
    """Find the numbers that the divisors of a file come from. ModelError where no scaling of Llama 3's gives these."""
    if config.rope_scaling is not None:
        both = f"{ROPE_FREQS} beside RoPE scaling {config.rope_scaling.kind!r}"
        raise ModelError(f"{config.name}: {both} has no form in config.json.")
    ends = {name: getattr(LLAMA31, name) for name in ("low_freq_factor", "high_freq_factor")}
    low, high = (keys.number(LLAMA3 + name, usual, *TURNS) for name, usual in ends.items())
    original = keys.whole(f"{LLAMA3}original_context", LLAMA31.original_context, low=1)
    factor = keys.number(f"{LLAMA3}factor", float(f"{divisors.max():.6g}"), *SCALES)
    found = replace(config, rope_scaling=RopeScaling("llama3", factor, low, high, original))
    if low >= high or not np.allclose(rope_freqs(found)[ROPE_FREQS], divisors, rtol=1e-5):
        raise ModelError(f"{config.name}: the divisors in {ROPE_FREQS} are not those of Llama 3, which config.json could say.")
    return found


def scaling_from_config(rope: Fields, context: int) -> RopeScaling | None:
    """Read the scaling from rope_scaling or rope_parameters. context: the model's. An unknown key is refused."""
    kinds = [rope.text(key, None) for key in ("rope_type", "type")]  # some files have both
    kind = next(filter(None, kinds), "default")
    original = "original_max_position_embeddings"
    if kind == "default":
        scaling = None
    elif kind == "linear":
        scaling = RopeScaling("linear", rope.number("factor", low=SCALES[0], high=SCALES[1]))
    elif kind == "llama3":
        low, high = (rope.number(f"{end}_freq_factor", low=TURNS[0], high=TURNS[1]) for end in ("low", "high"))
        if low >= high:
            rope.fail("low_freq_factor", f"less than high_freq_factor, {high:g}", f"{low:g}")
        factor = rope.number("factor", low=SCALES[0], high=SCALES[1])
        scaling = RopeScaling("llama3", factor, low, high, rope.whole(original, low=1))
    elif kind == "yarn":
        factor = rope.number("factor", low=SCALES[0], high=SCALES[1])
        fast, slow = betas(rope)
        rope.one_of("truncate", (True,), None)  # the ramp begins and ends at whole pairs
        scaling = RopeScaling(
            "yarn", factor, original_context=rope.whole(original, context, low=1), beta_fast=fast, beta_slow=slow,
            attention_factor=attention_factor(rope, factor)
        )  # fmt: skip
    else:
        rope.fail("rope_type", "RoPE scaling that is supported, linear, llama3 or yarn", shown(kind))
    rope.one_of("partial_rotary_factor", (1.0,), None)
    for key, value in rope.unread().items():
        rope.fail(key, f"no such key, where RoPE's scaling is {shown(kind)}", shown(value))
    return scaling


def attention_factor(rope: Fields, factor: float) -> float | None:
    """Read YaRN's magnitude: given whole, or as the ratio of two weights (DeepSeek's), or None, which follows from the factor."""
    whole = rope.number("attention_factor", None, *SCALES)
    weight, other = (rope.number(key, 0.0, 0.0, TURNS[1]) for key in ("mscale", "mscale_all_dim"))
    if whole is None and weight and other:
        return yarn_magnitude(factor, weight) / yarn_magnitude(factor, other)
    return whole


def scaling_to_config(scaling: RopeScaling | None) -> dict[str, Any] | None:
    """Say the scaling in transformers' keys. What GGUF held in 32 bits becomes the decimal that it was."""
    if scaling is None:
        return None
    keys: dict[str, Any] = {"rope_type": scaling.kind, "factor": shortest(scaling.factor)}
    if scaling.kind == "llama3":
        keys |= {name: shortest(getattr(scaling, name)) for name in ("low_freq_factor", "high_freq_factor")}
    if scaling.kind in ("llama3", "yarn"):
        keys["original_max_position_embeddings"] = scaling.original_context
    if scaling.kind == "yarn":
        keys |= {"beta_fast": shortest(scaling.beta_fast), "beta_slow": shortest(scaling.beta_slow)}
        if scaling.attention_factor is not None:
            keys["attention_factor"] = scaling.attention_factor
    return keys


def shortest(value: float, stored: Any = np.float32) -> float:
    """Find the shortest decimal that is stored as `value` is: 1e-05 for the float32 9.999999747378752e-06."""
    wanted = stored(value)
    return next((short for digits in range(1, 17) if stored(short := float(f"{value:.{digits}g}")) == wanted), value)
