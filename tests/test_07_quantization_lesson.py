"""Lesson 07 rounds four weights by hand: what stands there is what the code computes."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from minillm.costs.memory import affordable_bits, grid_bits
from minillm.model.presets import preset
from minillm.quantization.affine import Grid, round_to_nearest
from minillm.quantization.bits import pack_bits
from minillm.quantization.nf4 import nearest, nf4_levels

LESSON = (Path(__file__).parents[1] / "lessons" / "07_quantization.md").read_text(encoding="utf-8")
DRAWING = re.findall(r"```\n(.*?)```", LESSON, re.S)[0]
WEIGHTS = np.float32([-0.50, 0.14, 0.12, 0.70])
H = np.eye(4)
H[1, 2] = H[2, 1] = 0.8


def output_error(codes):
    delta = WEIGHTS - (0.4 * np.array(codes) - 0.5)
    return float(delta @ H @ delta)


def drawn(name):
    """Codes and byte of a row of the drawing."""
    codes, byte = re.search(rf"{name} +((?:\d ){{4}}) +(\w\w)\n", DRAWING).groups()
    return [int(code) for code in codes.split()], byte


def test_the_nearest_codes_and_their_byte():
    found = round_to_nearest(WEIGHTS[None], Grid(2, 4))
    assert found.scales[0, 0] == pytest.approx(0.4, rel=1e-3) and found.minima[0, 0] == -0.5
    codes, byte = drawn("nearest")
    assert found.codes[0].tolist() == codes and pack_bits(found.codes, 2).tobytes().hex() == byte
    assert f"$0 + 2 \\cdot 4 + 2 \\cdot 16 + 3 \\cdot 64 = {int(byte, 16)}$" in LESSON


def test_gptq_by_hand_and_none_of_256_is_better():
    weights, codes = WEIGHTS.astype(np.float64), []
    for j in range(4):
        inverse = np.linalg.inv(H[j:, j:])
        codes.append(int(np.clip(np.rint((weights[j] + 0.5) / 0.4), 0, 3)))
        lost = weights[j] - (0.4 * codes[j] - 0.5)
        if j == 1:
            assert lost == pytest.approx(-0.16) and inverse[0, 1] / inverse[0, 0] == pytest.approx(-0.8)
        weights[j:] -= lost / inverse[0, 0] * inverse[0]
        if j == 1:
            assert f"$0.12 - 0.16 \\cdot 0.8 = {weights[2]:.3f}$" in LESSON
    assert drawn("GPTQ") == (codes, pack_bits(np.uint8([codes]), 2).tobytes().hex())
    near, far = output_error(drawn("nearest")[0]), output_error(codes)
    assert f"= {near:.3f}$" in LESSON and f"= {far:.4f}$, a sixth" in LESSON and 5.5 < near / far < 6.5
    assert far == pytest.approx(min(output_error(all_) for all_ in itertools.product(range(4), repeat=4)))


def test_awq_and_nf4_by_hand():
    scaled = 2 * WEIGHTS[2]
    level = 0.4 * np.rint((scaled + 0.5) / 0.4) - 0.5
    assert f"becomes {scaled:.2f}. It gets the level {level:.1f}, which stands for {level / 2:.2f}" in LESSON
    assert f"falls from {0.3 - WEIGHTS[2]:.2f} to {level / 2 - WEIGHTS[2]:.2f}" in LESSON
    levels = nf4_levels()[nearest(WEIGHTS / np.float32(0.7))]
    told = f"is nearest to the level ${levels[0]:.3f}$, and comes back as ${0.7 * levels[0]:.3f}$"
    assert told in LESSON and f"both take {levels[1]:.3f}, and become {0.7 * levels[1]:.3f}" in LESSON
    assert levels[1] == levels[2] and levels[3] == 1


def test_the_sums_of_memory():
    config = preset("llama-3-70b")
    assert f"has {config.parameters() / 1e9:.1f} billion weights" in LESSON
    assert f"they take {config.weight_bytes(4.5) / 1e9:.1f} GB" in LESSON
    assert f"{affordable_bits(config, 24e9, 8192):.1f} bits are left for a weight" in LESSON
    assert f"{affordable_bits(config, 24e9, 8192):.1f} bits a weight are left; with 32 GB, " in LESSON
    assert f"with 32 GB, {affordable_bits(config, 32e9, 8192):.1f}." in LESSON
    token = config.kv_bytes_per_token(2)
    assert f"takes {token // 1024} KiB a token, {8192 * token / 1e9:.1f} GB" in LESSON
    assert f"at 128K tokens the cache is {131072 * token / 1e9:.0f} GB" in LESSON
    assert f"bits: {grid_bits(4, 64)} at $b = 4$ and $g = 64$" in LESSON and f"raise it {16 / 4.5:.1f} times" in LESSON
    assert f"$3 + 32/32 = {grid_bits(3, 32):.0f}$ bits, and $4 + 16/128 = {grid_bits(4, 128, minimum_bits=0)}$" in LESSON
