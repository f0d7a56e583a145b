"""The words of the report, each in a sentence, and how the names of options are read."""

from __future__ import annotations

import re

from autocompress.report.markup import escaped
from autocompress.report.units import printable

WORDS = (
    ("candidate", "One way to compress the whole model: an option for every layer."),
    (
        "option",
        "How one layer is stored and run, such as w4-s50: weights in 4 bits, half of them zero.",
    ),
    (
        "loss",
        "How far a candidate's outputs are from the original's, on the calibration inputs (KL "
        "divergence, unless the study says otherwise): 0 is no difference, lower is better. The "
        "search goes by it because it needs no labels and is quick; what counts in the end is "
        "the quality.",
    ),
    (
        "quality",
        "Your own metric. Finalists are compared on the selection split; the winner alone meets "
        "the test split, once, so its two figures may differ.",
    ),
    (
        "predicted, measured",
        "Predicted is what the search believed from its price tables; measured is what the "
        "file's bytes, the clock or your metric said.",
    ),
    (
        "front",
        "The candidates that no other beats in loss, size and latency at once: what is worth "
        "choosing from.",
    ),
    ("knee", "The point of the front beyond which a little more saved costs much more loss."),
    ("finalist", "A candidate that was measured by your metric and by the clock at the end."),
    ("the limit that binds", "The limit that stops the model from becoming any better."),
    ("bits", "How many bits a weight is stored in; the original has 32."),
    ("zeros", "Share of the weights that are exactly zero: smaller files, seldom more speed."),
    ("rank", "Share that is kept where a layer is split into two thinner ones (low rank)."),
    ("channels", "Inputs and outputs of a layer that are kept; the others are removed for good."),
    ("int8", "The layer computes on 8-bit integers instead of float32, which is often faster."),
    (
        "packed weights",
        "Weights stay in 4 or 8 bits in memory while the layer computes; its inputs are rounded "
        "to 8-bit integers at each call.",
    ),
    ("multiply-adds", "Multiplications with an addition in one pass, a rough measure of work."),
    ("proxy", "The loss, when it stands in for the quality during the search."),
    ("cost model", "Predicts milliseconds from a table of operations timed on this device."),
    (
        "Spearman",
        "Whether two figures put candidates into the same order: 1 is the same, 0 is no "
        "relation, -1 is the reverse.",
    ),
    ("full pass", "One run of the model over all search inputs, the unit of the search's work."),
    (
        "hypervolume",
        "How much of the space of loss, size and latency the front has conquered, from 0 to 1: "
        "it grows while the search still finds something.",
    ),
    (
        "move",
        "A way of proposing the next candidate, such as switching one layer's option. Where "
        "channels may go, each choice of widths is searched for itself and stands here under the "
        "steps that it takes.",
    ),
)
_PARTS = (
    (r"w32", "float32 weights"),
    (r"w16", "16-bit weights"),
    (r"w1", "weights of one bit"),
    (r"w(\d+)", "{}-bit weights"),
    (r"k(\d+)", "a codebook of {} values"),
    (r"gt", "one step for the layer"),
    (r"g(\d+)", "a step for {} columns"),
    (r"z", "with a zero point"),
    (r"l([\d.e-]+)", "rounded for few bytes ({})"),
    (r"s([\d.]+)", "{} % zeros"),
    (r"n(\d+)m(\d+)", "{} of {} weights kept"),
    (r"r([\d.]+)", "{} % rank"),
    (r"t([\d.]+)", "Tucker core of {} %"),
    (r"i([\d.]+)", "{} % of the inputs"),
    (r"o([\d.]+)", "{} % of the outputs"),
    (r"a8", "int8 arithmetic"),
    (r"d8", "packed weights, inputs rounded at each call"),
    (r"nearest", "rounded to nearest"),
)


def option_words(option: str) -> str:
    """An option's name in words; a name of another kind as it is.

    Args:
        option: Such as `w4-s50-o75-a8`.
    """
    if option == "dense":
        return "as it was"
    found = []
    # A minus may belong to the exponent of a rate.
    for part in re.split(r"(?<!e)-", option):
        for pattern, text in _PARTS:
            if match := re.fullmatch(pattern, part):
                found.append(text.format(*match.groups()))
                break
        else:
            return printable(option)
    return ", ".join(found)


def words_list() -> str:
    """Every word with its sentence."""
    return f'<dl class="words">{"".join(_entry(*pair) for pair in WORDS)}</dl>'


def options_key(options: list[str]) -> str:
    """The names of some options in words; empty without any.

    Args:
        options: Names; those that say the same part are needed once, so few suffice.
    """
    shown = list(dict.fromkeys(options))
    if not shown:
        return ""
    pairs = "; ".join(
        f"<code>{escaped(name)}</code> {escaped(option_words(name))}" for name in shown
    )
    return f'<p class="soft">How to read an option: {pairs}.</p>'


def telling(options: list[str], most: int = 4) -> list[str]:
    """At most `most` of the options, chosen to show every kind of part; short ones first."""
    seen: set[str] = set()
    found: list[str] = []
    for option in sorted(set(options), key=lambda name: (-name.count("-"), name)):
        kinds = {part[:1] for part in option.split("-")}
        if not kinds <= seen and len(found) < most:
            found.append(option)
            seen |= kinds
    return sorted(found, key=len)


def _entry(word: str, text: str) -> str:
    return f"<div><dt>{escaped(word)}</dt><dd>{escaped(text)}</dd></div>"
