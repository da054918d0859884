"""Numbers as people type them: "about 42,000", "0.5 MiB", "512KB", "1e3 tokens", "½", "3/4", "10^9", "~5.5 GB".

A number comes in the unit that the card asks for. Where a unit can be meant in two ways there are several readings: many write
KB for 1,024 bytes. The quiz takes the reading nearest to the right value.
"""

import re
import unicodedata

ABOUT = r"about|around|roughly|nearly|almost|some|approximately|approx\.?|circa|ca?\.?|~|≈|=|it is"
LEAD = re.compile(rf"^(?:(?:{ABOUT})\s*)+", re.IGNORECASE)
NUMBER = re.compile(
    r"([+-]?(?:\d[\d,_ ]*)?\.?\d*(?:e[+-]?\d+)?)([½⅓⅔¼¾⅕⅛⅜⅝⅞]?)(?:\s*(\^|/)\s*(-?\d+))?\s*(.*)", re.IGNORECASE
)
PREFIXES = {"": 1, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12, "thousand": 1e3, "million": 1e6, "billion": 1e9}
SI, BINARY = "kmgtp", 1024
TIMES = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "sec": 1, "second": 1, "seconds": 1, "min": 60, "h": 3600}


def readings(text: str, unit: str = "") -> list[float]:  # -> [float], none where no number was typed
    """List the readings of a typed number, in `unit`; the plainest first."""
    match = NUMBER.fullmatch(LEAD.sub("", text.strip()))
    if match is None or not (match[1] or match[2]):
        return []
    try:
        number = float(re.sub(r"[,_ ]", "", match[1]) or 0)
        if match[2]:
            number += unicodedata.numeric(match[2]) * (-1 if match[1].startswith("-") else 1)
        if match[3]:
            number = number ** int(match[4]) if match[3] == "^" else number / int(match[4])
    except (ValueError, ArithmeticError):
        return []
    if isinstance(number, complex) or not abs(number) < float("inf"):
        return []
    return [number * factor for factor in factors(match[5].strip().rstrip("."), unit)]


def factors(typed: str, unit: str) -> list[float]:  # text after the number, the card's unit -> [what to multiply with]
    """List the factors from a typed unit to the card's; none where the two are unrelated."""
    typed, unit = typed.lower(), unit.lower()
    if typed in TIMES and unit in TIMES:
        return [TIMES[typed] / TIMES[unit]]
    for ending in (unit, unit.rstrip("s")):
        if ending and typed.endswith(ending) and (rest := typed.removesuffix(ending).strip()) in PREFIXES:
            return [PREFIXES[rest]]
    if typed in PREFIXES:
        return [PREFIXES[typed]]
    rate = re.compile(r"(/s|ps)$")
    if bool(rate.search(typed)) != bool(rate.search(unit)):
        return []
    there, wanted = rate.sub("", typed), rate.sub("", unit)
    return [a / b for b in scales(wanted)[:1] for a in scales(there, binary_too="i" in wanted or wanted in ("b", "bytes"))]


def scales(unit: str, binary_too: bool = False) -> list[int]:  # "kib" -> [1024]; "kb" -> [1000, perhaps 1024]
    """Bytes, or FLOP, in a unit; nothing for one that is neither."""
    match = re.fullmatch(rf"(?:([{SI}])(i?))?(b|byte|bytes|flop|flops)", unit)
    if match is None:
        return []
    power = SI.index(match[1]) + 1 if match[1] else 0
    if match[2]:
        return [BINARY**power]
    return [1000**power, *([BINARY**power] if binary_too and power else [])]
