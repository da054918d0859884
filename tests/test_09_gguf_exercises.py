"""Exercises of lesson 09: the bytes of a file, of a block, of its scales; where tensors lie; a scale that is searched; merges."""

import mistakes_gguf as mistakes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.course.checks import answers, check_close, exercise, run_seed, seeds
from minillm.errors import GGUFError, TokenizerError
from minillm.formats.gguf_read import read_header
from minillm.formats.gguf_write import offsets
from minillm.formats.legacy_quants import q4_0, signed
from minillm.formats.packing import six_bit_scales
from minillm.formats.scale_search import best_scale, search_scale
from minillm.model.tokenizer.bpe import merge_table
from minillm.model.tokenizer.vocabulary import CONTROL, NORMAL, Vocabulary


def chance(*numbers):
    return np.random.default_rng([run_seed(), *numbers])


# --- 09.1 ---------------------------------------------------------------------------------------------------------------

TENSOR, KEY = 32, 13  # bytes that each takes at least


def header(version, tensors, keys, room):
    """A file of a header and so many bytes more."""
    return b"GGUF" + version.to_bytes(4, "little") + tensors.to_bytes(8, "little") + keys.to_bytes(8, "little") + bytes(room)


def begins(data):
    return f"a file of {len(data):,} bytes that begins {data[:8].hex(' ')} | {data[8:16].hex(' ')} | {data[16:24].hex(' ')}"


@exercise("09.1", points=2, hint=(
    "Which byte of a number comes first in the file, the lowest or the highest? And where does the third field begin?",
    "struct.unpack_from(format, data, offset) reads several numbers at once. '<' says little-endian, and no gaps between them.",
    'version, tensors, keys = struct.unpack_from("<IQQ", data, 4): 4 bytes, 8 and 8, behind the magic.',
))  # fmt: skip
@given(seed=seeds)
def test_the_version_and_both_counts_are_read(seed):
    rng = chance(seed, 1)
    room = int(rng.integers(20_000, 40_000))
    tensors, keys = int(rng.integers(1, room // TENSOR)), int(rng.integers(1, room // KEY))
    data = header(int(rng.integers(2, 4)), tensors, keys, room)
    expected, wrong = (data[4], tensors, keys), mistakes.header_mistakes(data)
    with answers(begins(data), "Is each number read from its own bytes, the lowest first? '<' says so, and allows no gaps."):
        found = tuple(read_header(data))
    words = next((f" This comes out when {said}." for said, value in wrong.items() if value == found != expected), "")
    assert found == expected, f"version, tensors and keys of {begins(data)}: expected {expected}, found {found}.{words}"


@exercise("09.1", points=1, hint=(
    "A header says that 2^60 tensors follow. How many can there be at most, in a file of 1,000 bytes?",
    "The header itself is no room for tensors. And a key is smaller than a tensor: each kind has a limit of its own.",
    "left = len(data) - HEADER_BYTES; most_tensors = left // LEAST_TENSOR_BYTES; most_keys = left // LEAST_KEY_BYTES.",
))  # fmt: skip
@given(seed=seeds)
def test_a_count_is_a_claim(seed):
    room = int(chance(seed, 2).integers(1, 60)) * TENSOR + 20  # so that 24 bytes more were room for another of each kind
    for kind, least in (("tensors", TENSOR), ("keys", KEY)):
        fit = room // least
        for count in (fit, fit + 1, 2**40, 2**64 - 1):
            data = header(3, *((count, 0) if kind == "tensors" else (0, count)), room)
            told = f"{count:,} {kind} of at least {least} bytes; {room:,} bytes behind the header have room for {fit:,}"
            try:
                read_header(data)
            except GGUFError as error:
                assert count > fit, f"{told}. They were refused: {error} Is the limit the room over the least size?"
            except Exception as error:
                pytest.fail(f"{told}. Expected an answer or GGUFError, found {type(error).__name__}: {error}")
            else:
                assert count <= fit, f"{told}. They were accepted: a count is a claim; compare it with the bytes that are left"


# --- 09.2 ---------------------------------------------------------------------------------------------------------------


def blocks_of(seed, n):  # -> (n, 18) uint8, with scales that are numbers
    rng = chance(seed, 3)
    raw = rng.integers(0, 256, (n, 18), np.uint8)
    scale = rng.standard_normal((n, 1)) * 10.0 ** rng.integers(-3, 2, (n, 1))
    raw[:, :2] = scale.astype("<f2").view(np.uint8)
    return raw


@exercise("09.2", points=2, hint=(
    "A byte holds two codes. Which two weights are they, and which one is in the low four bits?",
    "`planes` takes the sixteen bytes apart: all low halves first, then all high ones. Then 8 comes off, but not off unsigned "
    "bytes: 3 - 8 would be 251 there.",
    "q = planes(blocks[:, 2:], 16, NIBBLES, 15); integers = q.view(np.int8) - np.int8(8).",
))  # fmt: skip
@given(n=st.integers(1, 4), seed=seeds)
def test_sixteen_bytes_are_thirty_two_signed_integers(n, seed):
    raw = blocks_of(seed, n)
    expected, wrong = mistakes.nibbles(raw) - 8, mistakes.nibble_mistakes(raw)
    found = q4_0(raw.copy())[0]
    what = f"the integers of a block that holds {' '.join(f'{byte:02x}' for byte in raw[0])}"
    found = found.astype(int) if isinstance(found, np.ndarray) and found.dtype.kind in "iu" else found
    check_close(found, expected, rtol=0, atol=0, what=what, mistakes=lambda: wrong)


@exercise("09.2", points=1, hint="The first two bytes of a block are a float16. `half` makes a column of them, a number a block.")
@given(n=st.integers(2, 4), seed=seeds)
def test_the_first_two_bytes_are_the_scale(n, seed):
    raw = blocks_of(seed, n)
    expected, wrong = mistakes.halves(raw[:, :2]), mistakes.scale_mistakes(raw)
    with np.errstate(all="ignore"):
        found = q4_0(raw.copy())[1]
    what = f"the scales of blocks that begin {' and '.join(f'{a:02x} {b:02x}' for a, b in raw[:, :2])}"
    check_close(found, expected, rtol=1e-6, atol=0, what=what, mistakes=lambda: wrong)


# --- 09.3 ---------------------------------------------------------------------------------------------------------------


def rows_of(seed, blocks, levels, columns=32):  # -> (…, columns) float32, no weight near the middle between two levels
    rng = chance(seed, 4)
    x = rng.integers(1 - levels, levels, (blocks, 32)) + rng.uniform(-0.35, 0.35, (blocks, 32))
    x[:, 7] = levels - 0.2  # the side with one level less
    for block in x:
        block[rng.integers(8, 32)] = -levels
    steps = rng.choice([-1.0, 1.0], (blocks, 1)) * 10 ** rng.uniform(-3, 2, (blocks, 1))
    return (x * steps).astype(np.float32).reshape(-1, columns)


def check_signed(rows, levels):
    codes, scales = mistakes.signed(rows.astype(np.float64), levels)
    wrong_codes, wrong_scales = mistakes.signed_mistakes(rows, levels)
    with np.errstate(all="ignore"):
        found = signed(rows.copy(), levels, None)
    what = f"the row of codes (blocks: {codes.size // 32}, levels: {2 * levels})"
    check_close(found[0].astype(int), codes, rtol=0, atol=0, what=what, mistakes=lambda: wrong_codes)
    scale = np.abs(scales)
    what = "the scale of each block, over its right size,"
    wrong_scales = {said: d / scale for said, d in wrong_scales.items()}
    check_close(found[1] / scale, scales / scale, what=what, mistakes=lambda: wrong_scales)


@exercise("09.3", points=2, hint=(
    "Sixteen levels from -8 to 7: which side of zero has one more, and which weight should have it?",
    "The largest magnitude, with its sign (`largest`), becomes -levels: the scale is that weight over -levels, perhaps negative. "
    "The others are divided by it and rounded.",
    "scale = largest(blocks) / -levels; q = floor(blocks / scale + levels + 1/2), at most 2 · levels - 1.",
))  # fmt: skip
@given(blocks=st.integers(1, 4), levels=st.sampled_from([8, 16]), seed=seeds)
def test_the_largest_weight_becomes_the_lowest_level(blocks, levels, seed):
    check_signed(rows_of(seed, blocks, levels), levels)


@exercise("09.3", points=1, hint="Rows are cut into blocks of 32, each with a scale of its own, whatever the next one needs.")
@pytest.mark.parametrize("levels", [8, 16])
def test_a_row_of_several_blocks_has_several_scales(levels):
    check_signed(rows_of(5, 6, levels, columns=96), levels)


@exercise("09.3", points=1, hint="What is 1 / 0? `reciprocal` gives 0 there, and 0 times 0 plus levels is the code of zero.")
@pytest.mark.parametrize("levels", [8, 16])
def test_a_block_of_zeros_stays_zeros(levels):
    rows = rows_of(6, 3, levels)
    rows[1] = 0
    with np.errstate(all="ignore"):
        codes, scales = signed(rows.copy(), levels, None)
    back = (codes[1].astype(int) - levels) * np.float64(scales[1, 0])
    told = f"the scales are {scales.reshape(-1).tolist()}, and the second block is zeros: was 1 / 0 used?"
    assert np.isfinite(scales).all(), told
    check_close(back, np.zeros(32), what=f"a block of zeros, coded as {codes[1, 0]} with scale {scales[1, 0]:g} and decoded,")
    none = {"0 / 0 is no number, and became code 0": np.zeros(32, int)}
    right, what = np.full(32, levels), "the row of codes of a block of zeros"
    check_close(codes[1].astype(int), right, rtol=0, atol=0, what=what, mistakes=lambda: none)


# --- 09.4 ---------------------------------------------------------------------------------------------------------------


def check_six_bits(packed):
    expected, wrong = mistakes.six_bits(packed), [mistakes.six_bit_mistakes(packed, which) for which in (0, 1)]
    found = six_bit_scales(packed.copy())
    for which, name in enumerate(("scales", "minima")):
        got = found[which].astype(int)
        check_close(got, expected[which], rtol=0, atol=0, what=f"the eight {name}", mistakes=lambda which=which: wrong[which])


@exercise("09.4", points=2, hint=(
    "Twelve bytes are 96 bits, and sixteen numbers of 6 bits are 96 bits. Eight of them are easy: which? (& 63)",
    "The other eight are in two places each: four low bits in bytes 8 to 11, two upper bits on top of bytes 0 to 3 or 4 to 7.",
    "scale = np.concatenate([a & 63, (c & 15) | (a >> 6) << 4], axis=1), with a the bytes 0 to 3 and c the bytes 8 to 11.",
))  # fmt: skip
@given(n=st.integers(1, 3), seed=seeds)
def test_twelve_bytes_are_eight_scales_and_eight_minima(n, seed):
    check_six_bits(chance(seed, 7).integers(0, 256, (n, 12), np.uint8))


@exercise("09.4", points=1, hint="All six bits of 63 are set. Which bits of which bytes are set where a late scale is 63?")
@pytest.mark.parametrize("byte", range(12))
def test_each_bit_has_one_owner(byte):
    packed = np.zeros((8, 12), np.uint8)
    packed[:, byte] = 1 << np.random.default_rng([run_seed(), byte]).permutation(8)
    check_six_bits(packed)


# --- 09.5 ---------------------------------------------------------------------------------------------------------------


def check_offsets(sizes, alignment):
    expected, wrong = mistakes.laid_out(sizes, alignment), mistakes.offset_mistakes(sizes, alignment)
    with answers(f"offsets({sizes}, {alignment})", "A list of numbers is wanted, one for each tensor."):
        found = [int(at) for at in offsets(list(sizes), alignment)]
    words = next((f" This comes out when {said}." for said, value in wrong.items() if value == found != expected), "")
    assert found == expected, f"tensors of {sizes} bytes, alignment {alignment}: expected {expected}, found {found}.{words}"


@exercise("09.5", points=1, hint=(
    "Where does the first tensor begin? And the second, if the first has 100 bytes and the alignment is 32?",
    "Go through the sizes, and remember where the one before ends. `padded` rounds up to a multiple.",
    "found.append(end), then end += padded(nbytes, alignment).",
))  # fmt: skip
@given(count=st.sampled_from([3, 2, 4, 5, 1, 0]), power=st.integers(3, 7), seed=seeds)
def test_each_tensor_begins_at_the_next_multiple(count, power, seed):
    sizes = chance(seed, 8).integers(1, 400, count)
    check_offsets(sizes.tolist(), 2**power)


@exercise("09.5", points=1, hint="96 bytes end on a multiple of 32 already: how many zeros follow?")
@given(count=st.integers(2, 5), alignment=st.sampled_from([8, 32, 4096]), seed=seeds)
def test_nothing_is_padded_where_a_tensor_ends_on_a_multiple(count, alignment, seed):
    check_offsets((alignment * chance(seed, 9).integers(1, 9, count)).tolist(), alignment)


# --- 09.6 ---------------------------------------------------------------------------------------------------------------


def groups_of(seed, weights, groups):
    """x, q and weight, each (weights, groups) float32: q are the nearest integers to x over some scale, and a few are wrong."""
    rng = chance(seed, 12)
    x = rng.standard_normal((weights, groups))
    q = np.clip(np.rint(x * rng.uniform(2, 4, groups)) + rng.integers(-1, 2, x.shape), -8, 7)
    q[0] = rng.choice([-5, 3], groups)
    return (a.astype(np.float32) for a in (x, q, np.exp(rng.standard_normal(x.shape))))


@exercise("09.6", points=2, hint=(
    "Σ w (x - s q)² is a parabola in s. Where is it lowest?",
    "Its derivative is 0 where Σ w x q = s Σ w q², for each group by itself (`dot` sums along axis 0).",
    "wq = weight * q; scale = ratio(dot(wq, x), dot(wq, q)).",
))  # fmt: skip
@given(weights=st.integers(2, 6), groups=st.sampled_from([2, 3, 1]), seed=seeds)
def test_the_scale_is_a_least_squares_fit(weights, groups, seed):
    x, q, weight = groups_of(seed, weights, groups)
    scales, wrong = mistakes.fit(x, q, weight), mistakes.fit_mistakes(x, q, weight)
    with np.errstate(all="ignore"):
        found = best_scale(x.copy(), q.copy(), weight.copy())[1]
    what = f"the scale of each group (weights: {weights}, groups: {groups})"
    check_close(found, scales, atol=1e-4, what=what, mistakes=lambda: wrong)


@exercise("09.6", points=1, hint="0 / 0 again: `ratio` answers 0 where it divides by 0.")
@pytest.mark.parametrize("nothing", ["q", "weight", "x"])
def test_a_group_of_nothing_has_scale_zero(nothing):
    x, q, weight = groups_of(13, 4, 3)
    {"q": q, "weight": weight, "x": x}[nothing][:, 1] = 0
    scales, wrong = mistakes.fit(x, q, weight), mistakes.fit_mistakes(x, q, weight)
    with np.errstate(all="ignore"):
        found = best_scale(x.copy(), q.copy(), weight.copy())[1]
    told = f"with all {nothing} of the middle group 0, its scale is {found[1]:g}, expected 0: was something divided by 0?"
    assert abs(found[1]) < 1e-6, told
    check_close(found, scales, atol=1e-4, what="the scale of each group, one of them of zeros,", mistakes=lambda: wrong)


@exercise("09.6", points=2, hint=(
    "The search rounds with several scales, fits one to the codes of each, and keeps the best. Does the fit lower the error?",
))  # fmt: skip
@pytest.mark.parametrize("important", [False, True], ids=["all alike", "importance"])
def test_the_search_takes_its_share_off_the_squared_error(important):
    """800 groups of normal weights: 11% less than rounding plainly, 22% where importance is known; some percent for chance."""
    x = chance(14).standard_normal((32, 800)).astype(np.float32)
    counts = np.exp(1.5 * chance(15).standard_normal(x.shape)).astype(np.float32)
    alike, plain = np.ones_like(x), np.take_along_axis(x, np.abs(x).argmax(0)[None], 0)[0] / -8
    with np.errstate(all="ignore"):
        before = search_scale(x.copy(), alike, -8, 7) if important else plain
        after = search_scale(x.copy(), counts if important else alike, -8, 7)
    measure = counts if important else alike
    codes = [np.clip(np.rint(x / np.where(s == 0, 1, s)), -8, 7) for s in (before, after)]
    errors = [float((measure * np.square(x - s * q)).sum()) for s, q in zip((before, after), codes, strict=True)]
    share, most = errors[1] / errors[0], 0.88 if important else 0.93
    told = "searched with importance, against without" if important else "searched, against the plain scale"
    assert share <= most, (
        f"the squared error of 800 groups, {told}: {share:.0%} are left, expected at most {most:.0%}. The search "
        "fits a scale to the codes of each that it tries: is it the one with the least weighted error, group by group?"
    )


# --- 09.7 ---------------------------------------------------------------------------------------------------------------


def vocabulary_of(seed, merges):
    """Letters, and what merging two of the texts so far makes; ids in an order of their own; some of the merged are control."""
    rng = chance(seed, 10)
    texts, lines = list("abcdeĠ"), []
    while len(lines) < merges:
        a, b = rng.choice(texts, 2)
        if a + b not in texts and len(a + b) < 12:
            texts.append(str(a + b))
            lines.append(f"{a} {b}")
    tokens = [texts[i] for i in rng.permutation(len(texts))]
    banned = {line.replace(" ", "") for line in rng.choice(lines, merges // 4, replace=False)}
    return lines, tokens, [CONTROL if text in banned else NORMAL for text in tokens]


def check_merges(lines, tokens, types):
    control = {i for i, kind in enumerate(types) if kind == CONTROL}
    expected, wrong = mistakes.merged(lines, tokens, control), mistakes.merge_mistakes(lines, tokens, control)
    with answers(f"the table of {lines[:3]}", "A dictionary is wanted: (left id, right id) -> (rank, merged id)."):
        found = dict(merge_table(list(lines), Vocabulary(list(tokens), list(types))))
    if found == expected:
        return
    words = next((f" This comes out when {said}." for said, table in wrong.items() if table == found), "")
    here = {line: tuple(tokens.index(part) for part in line.split(" ")) for line in lines}
    line = next((line for line, pair in here.items() if found.get(pair) != expected.get(pair)), lines[0])
    pytest.fail(
        f"merge {lines.index(line)}, {line!r}, ids {here[line]}: expected {expected.get(here[line], 'no entry')}, found "
        f"{found.get(here[line], 'no entry')}; {len(found)} entries, expected {len(expected)}.{words}"
    )


@exercise("09.7", points=2, hint=(
    "A merge is a text, 'Ġt he'. What of it does the table know by number?",
    "The ids of both parts are the key. The value is the place in the list, and the id of both texts joined.",
    "for rank, line in enumerate(merges): left, right = line.split(' '); merged = ids(left + right); … = rank, merged.",
))  # fmt: skip
@given(merges=st.integers(1, 3), seed=seeds)
def test_a_merge_is_known_by_its_ids_and_ranked_by_its_place(merges, seed):
    check_merges(*vocabulary_of(seed, merges))


@exercise("09.7", points=1, hint=(
    "A file says that '<|im' and '_end|>' merge. What could a user then write, and be taken for the system?",
    "A merge whose result is among vocabulary.control_ids gets no entry. The ranks of the others stay as they are.",
))  # fmt: skip
@given(merges=st.integers(4, 12), seed=seeds)
def test_plain_text_never_becomes_a_control_token(merges, seed):
    check_merges(*vocabulary_of(seed, merges))


@exercise("09.7", points=1, hint="left, right = line.split(' ') raises ValueError unless there are two parts. Who catches it?")
@pytest.mark.parametrize("bad", ["ab", "a  b", "a b a", " ab", "a x", "x b", "b a"])
def test_what_is_no_merge_is_refused(bad):
    texts = ["a", "b", "ab", "b a", "ab a"]  # a token may have a space in it: "a b a" still is no two tokens
    order = np.random.default_rng([run_seed(), 11]).permutation(5)
    vocabulary = Vocabulary([texts[i] for i in order], [NORMAL] * 5)
    try:
        found = merge_table(["a b", bad], vocabulary)
    except TokenizerError:
        return
    except Exception as error:
        pytest.fail(f"merge {bad!r}, tokens {', '.join(texts)!r}: expected TokenizerError, found {type(error).__name__}: {error}")
    pytest.fail(
        f"merge {bad!r} with the tokens {', '.join(texts)!r} was accepted, and the table is {found}. Two tokens with one space "
        "between, and their joined text, must be there; where one is not, leave its None in the table: that is found afterwards"
    )
