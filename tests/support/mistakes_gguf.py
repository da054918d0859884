"""What comes out of a header, a block, a layout, a search or a list of merges after a typical mistake: see mistakes.py."""

import numpy as np

# --- 09.1 ---------------------------------------------------------------------------------------------------------------


def header_mistakes(data):  # the bytes of a file -> {words: (version, tensors, keys)}
    def at(start, size, order="little"):
        return int.from_bytes(data[start : start + size], order)

    return {
        "the two counts are swapped: tensors come first": (at(4, 4), at(16, 8), at(8, 8)),
        "a count was read from 4 bytes: since version 2 it has 8": (at(4, 4), at(8, 4), at(12, 4)),
        "counts were read from the low 4 of their 8 bytes": (at(4, 4), at(8, 4), at(16, 4)),
        "the counts were read big-endian: the lowest byte comes first": (at(4, 4), at(8, 8, "big"), at(16, 8, "big")),
    }


# --- 09.2 and 09.3 ------------------------------------------------------------------------------------------------------


def nibbles(raw):  # (n, 18) uint8 -> (n, 32) int, in plain loops
    found = np.zeros((len(raw), 32), int)
    for block, data in zip(found, raw.tolist(), strict=True):
        for j, byte in enumerate(data[2:]):
            block[j], block[j + 16] = byte % 16, byte // 16
    return found


def nibble_mistakes(raw):  # (n, 18) -> {words: (n, 32)}
    right = nibbles(raw)
    low, high = right[:, :16], right[:, 16:]
    first = nibbles(np.concatenate([raw[:, :2], raw[:, :16]], axis=1))
    return {
        "8 was not taken off: codes from 0 to 15 stand for -8 to 7": right,
        "8 was taken off unsigned bytes, which wrap around: 3 - 8 becomes 251": (right - 8) % 256,
        "a code's uppermost bit was taken for a sign: it is the code less 8": right - 16 * (right > 7),
        "7 was taken off: it is 8": right - 7,
        "a byte's two halves are neighbours: it holds weights j and j + 16": np.stack([low, high], axis=2).reshape(-1, 32) - 8,
        "the high halves come first: weight j is in the low four bits": np.concatenate([high, low], axis=1) - 8,
        "neighbours share a byte, the first in its high half: it holds weights j and j + 16, j in the low half": np.stack(
            [high, low], axis=2).reshape(-1, 32) - 8,
        "the high halves were not moved down by four bits": np.concatenate([low, 16 * high], axis=1) - 8,
        "the codes were read from byte 0 on: the first two bytes are d": first - 8,
    }  # fmt: skip


def scale_mistakes(raw):  # (n, 18) -> {words: (n, 1)}
    return {
        "d was read from the end of the block: it stands in front": halves(raw[:, 16:18]),
        "the bytes of d were taken for an integer": np.array([[a + 256 * b] for a, b in raw[:, :2].tolist()]),
        "the bytes of d were swapped: the lower one comes first": halves(raw[:, 1::-1]),
        "all blocks got the d of the first": np.repeat(halves(raw[:1, :2]), len(raw), axis=0),
    }


def halves(two_bytes):  # (n, 2) uint8 -> (n, 1) float64, bit by bit: sign, five of exponent, ten of mantissa
    found = []
    for low, high in two_bytes.tolist():
        bits = low + 256 * high
        sign, exponent, mantissa = -1 if bits >> 15 else 1, bits >> 10 & 31, bits & 1023
        found.append([sign * (mantissa / 1024 + (exponent > 0)) * 2.0 ** (max(exponent, 1) - 15)])
    return np.array(found)


def signed(rows, levels):  # (n, columns), 8 or 16 -> codes (blocks, 32) int, scales (blocks, 1), in plain loops
    codes, scales = [], []
    for block in rows.reshape(-1, 32).tolist():
        top = max(block, key=abs)
        d = top / -levels
        scales.append([d])
        codes.append([min(int(w / d + levels + 0.5), 2 * levels - 1) if d else levels for w in block])
    return np.array(codes), np.array(scales)


def signed_mistakes(rows, levels):  # -> {words: codes}, {words: scales}
    blocks = rows.reshape(-1, 32).astype(np.float64)
    top = np.take_along_axis(blocks, np.abs(blocks).argmax(1)[:, None], 1)
    ways = {
        "the scale was made of the largest value, not of the largest magnitude": blocks.max(1, keepdims=True) / -levels,
        "the scale was made of the lowest value, not of the largest magnitude": blocks.min(1, keepdims=True) / -levels,
        f"the sign of the largest weight is lost: it must become -{levels} whatever its sign": np.abs(top) / levels,
        f"the sign of the largest weight is lost, and that of the others turned: it must become -{levels}": np.abs(top) / -levels,
        f"the largest weight became +{levels} and was cut: it must become -{levels}": top / levels,
        f"the scale is the largest magnitude over {levels - 1}": np.abs(top) / (levels - 1),
        f"the scale is the largest weight over -{levels - 1}": top / -(levels - 1),
        "all blocks got the scale of the one with the largest weight": np.full_like(top, top.reshape(-1)[np.abs(top).argmax()])
        / -levels,
    }  # fmt: skip
    right = top / -levels
    with np.errstate(all="ignore"):
        x = blocks / right
        codes = {said: coded(np.rint(blocks / d) + levels, levels) for said, d in ways.items()}
        codes |= {
            "the quotient was cut, not rounded": coded(np.floor(x + levels), levels),
            "the quotient was cut towards zero, not rounded": coded(np.trunc(x) + levels, levels),
            f"what would need +{levels} was not cut to {levels - 1}": np.rint(x) + levels,
            f"{levels} was not added: codes are stored plus {levels}": np.rint(np.clip(x, -levels, levels - 1)) % 256,
            "weights were multiplied by the scale, not divided": coded(np.rint(blocks * right) + levels, levels),
            f"the range from minimum to maximum was divided into {2 * levels - 1} steps, as Q4_1 has it": np.rint(
                (blocks - blocks.min(1, keepdims=True)) / np.ptp(blocks, axis=1, keepdims=True) * (2 * levels - 1)),
            f"codes were cut at {2 * levels - 2}": np.minimum(np.rint(x) + levels, 2 * levels - 2),
        }  # fmt: skip
    return codes, ways


def coded(codes, levels):
    return np.clip(np.nan_to_num(codes), 0, 2 * levels - 1)


# --- 09.4 ---------------------------------------------------------------------------------------------------------------


def six_bits(packed):  # (n, 12) uint8 -> scales, minima, each (n, 8) int, bit by bit
    scales, minima = np.zeros((len(packed), 8), int), np.zeros((len(packed), 8), int)
    for n, b in enumerate(packed.tolist()):
        for g in range(4):
            scales[n, g], minima[n, g] = b[g] % 64, b[4 + g] % 64
            scales[n, 4 + g] = b[8 + g] % 16 + 16 * (b[g] // 64)
            minima[n, 4 + g] = b[8 + g] // 16 + 16 * (b[4 + g] // 64)
    return scales, minima


def six_bit_mistakes(packed, which):  # (n, 12), 0 or 1: scales or minima -> {words: (n, 8)}
    b = packed.astype(int)
    right, other = six_bits(packed)[which], six_bits(packed)[1 - which]
    own, top = (b[:, 0:4], b[:, 4:8])[which], (b[:, 0:4] >> 6, b[:, 4:8] >> 6)
    low = (b[:, 8:] & 15, b[:, 8:] >> 4)

    def upper(part):  # the last four are these; the first four are right
        return np.concatenate([right[:, :4], part], axis=1)

    bits = "".join(f"{byte:08b}"[::-1] for byte in packed.reshape(-1).tolist())
    stream = np.array([int(bits[i : i + 6][::-1], 2) for i in range(0, len(bits), 6)]).reshape(-1, 16)
    turned = [part[::-1] for part in (top, low)]
    return {
        "scales and minima are swapped": other,
        "the first four kept their upper two bits, which belong to the last four": np.concatenate([own, right[:, 4:]], axis=1),
        "the last four have their low four bits only": upper(low[which]),
        "the last four have the two upper bits lowest": upper(low[which] * 4 + top[which]),
        "the upper two bits stand in bits 5 and 6 of the last four: they belong right above the low four": upper(
            low[which] + 32 * top[which]),
        "the upper two bits were left where they were, at 64 and 128": upper(low[which] + 64 * top[which]),
        "the last four have upper bits of the other kind": upper(low[which] + 16 * turned[0][which]),
        "the halves of bytes 8 to 11 are swapped: scales are low, minima high": upper(turned[1][which] + 16 * top[which]),
        "both nibbles of bytes 8 to 11 stayed in the last four": upper(b[:, 8:] | 16 * top[which]),
        "the sixteen numbers were read as a stream of 6 bits each": stream[:, 8 * which : 8 * which + 8],
        "byte g was taken for group g": np.concatenate([own & 63, b[:, 4:8] & 63 if which == 0 else b[:, 8:] & 63], axis=1),
    }  # fmt: skip


# --- 09.5 ---------------------------------------------------------------------------------------------------------------


def laid_out(sizes, alignment):  # -> [offset], counting byte by byte
    found, at = [], 0
    for nbytes in sizes:
        while at % alignment:
            at += 1
        found.append(at)
        at += nbytes
    return found


def offset_mistakes(sizes, alignment):  # -> {words: [offset]}
    def up(n):
        return -(-n // alignment) * alignment

    right, end = laid_out(sizes, alignment), 0
    beside, once, always, down, ends = [], [], [], [], []
    for nbytes in sizes:
        beside.append(end)
        once.append(up(end))
        end += nbytes
    at = below = 0
    for nbytes in sizes:
        always.append(at)
        down.append(below)
        at += (nbytes // alignment + 1) * alignment
        below += nbytes // alignment * alignment
    for start, nbytes in zip(right, sizes, strict=True):
        ends.append(up(start + nbytes))
    return {
        "nothing was padded: each begins where the one before ends": beside,
        "one unit of padding follows a tensor that ends on a multiple already": always,
        "sizes were rounded down: tensors overlap": down,
        "each has the offset of the next: the first begins at 0": ends,
        "offsets are sizes, each rounded up: add them up": [up(n) for n in sizes],
        "the bytes of the tensors were summed without the padding between them, and rounded up": once,
        "the sizes came back": list(sizes),
        "only the padding was summed": [start - before for start, before in zip(right, beside, strict=True)],
        "offsets are counted in units of the alignment: they are bytes": [start // alignment for start in right],
    }


# --- 09.6 ---------------------------------------------------------------------------------------------------------------


def fit(x, q, weight):  # (weights, groups) three times -> (groups,), in plain loops
    scales = []
    for group in zip(x.T.tolist(), q.T.tolist(), weight.T.tolist(), strict=True):
        numbers = list(zip(*group, strict=True))
        size = sum(w * b * b for _, b, w in numbers)
        scales.append(sum(w * a * b for a, b, w in numbers) / size if size > 0 else 0.0)
    return np.array(scales)


def fit_mistakes(x, q, weight):  # -> {words: (groups,)}
    x, q, weight = (a.astype(np.float64) for a in (x, q, weight))
    scale, at = fit(x, q, weight), np.abs(q).argmax(0)[None]
    with np.errstate(all="ignore"):
        return {
            "weight was left out: it stands in both sums": fit(x, q, np.ones_like(x)),
            "weight stands in the upper sum only": (weight * x * q).sum(0) / (q * q).sum(0),
            "weight stands in the lower sum only": (x * q).sum(0) / (weight * q * q).sum(0),
            "weight was squared: it stands in each sum once": fit(x, q, weight**2),
            "the fit is turned round, q ≈ x / scale: divide by the sum of q², not of x q": (weight * x * x).sum(0)
            / (weight * x * q).sum(0),
            "the sums are of x and of q, without the factor q": (weight * x).sum(0) / (weight * q).sum(0),
            "it is the mean of x / q: small q count as much as large ones then": np.divide(
                x, q, out=np.zeros_like(x), where=q != 0).sum(0) / (q != 0).sum(0),
            "all groups were summed together: each has a scale of its own": np.full(len(scale), fit(
                *(a.reshape(-1, 1) for a in (x, q, weight)))[0]),
            "it is 1 / scale": 1 / scale,
            "it is the root of Σ x² / Σ q², which knows no signs": np.sqrt((weight * x * x).sum(0) / (weight * q * q).sum(0)),
            "the largest q alone decides": np.take_along_axis(x, at, 0)[0] / np.take_along_axis(q, at, 0)[0],
        }  # fmt: skip


# --- 09.7 ---------------------------------------------------------------------------------------------------------------


def merged(merges, tokens, control):  # [str], [str], {id} -> {(left, right): (rank, merged)}
    place = {text: i for i, text in enumerate(tokens)}
    found = {}
    for rank in range(len(merges)):
        a, b = merges[rank][: merges[rank].index(" ")], merges[rank][merges[rank].index(" ") + 1 :]
        if place[a + b] not in control:
            found[place[a], place[b]] = (rank, place[a + b])
    return found


def merge_mistakes(merges, tokens, control):  # -> {words: table}
    right, everything = merged(merges, tokens, control), merged(merges, tokens, set())
    first = min((rank for rank, _ in everything.values()), default=0)
    counted = {pair: (i, made) for i, (pair, (_, made)) in enumerate(right.items())}

    def texts(i):
        return tokens[i]

    return {
        "merges into control tokens were kept: text that holds one would become it": everything,
        "ranks count only the merges that are kept: a rank is the place in the file": counted,
        "ranks begin at 1: the first merge has rank 0": {p: (rank + 1, made) for p, (rank, made) in right.items()},
        "ranks are counted from the end: the first merge goes first": {
            p: (len(merges) - 1 - rank, made) for p, (rank, made) in right.items()},
        "rank and merged id are swapped": {p: (made, rank) for p, (rank, made) in right.items()},
        "the rank is the id of the merged token": {p: (made, made) for p, (_, made) in right.items()},
        "the pair is turned: the left token comes first": {(b, a): entry for (a, b), entry in right.items()},
        "the keys are texts: they are ids": {(texts(a), texts(b)): entry for (a, b), entry in right.items()},
        "the merged id is counted from the first merge: it is the id of the joined text": {
            p: (rank, 256 + rank - first) for p, (rank, _) in right.items()},
        "only the rank is there: (rank, merged id) is wanted": {p: rank for p, (rank, _) in right.items()},
    }  # fmt: skip
