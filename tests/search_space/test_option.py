from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from autocompress.errors import ConfigError
from autocompress.search_space.candidate import Candidate
from autocompress.search_space.option import ACTIVATIONS, BITS, METHODS, Option

SHARES = (0.0, 0.05, 0.1, 0.29, 0.3, 0.5, 0.57, 0.7, 0.875, 0.9, 0.95, 0.97, 0.99, 0.995, 1 / 3)
RANKS = (1.0, 0.75, 0.5, 0.35, 0.29, 0.25, 0.15, 0.125, 0.1, 0.07, 0.05, 0.01, 0.001, 2 / 3)


def further_options() -> list[Option]:
    """Codebooks, scales, zero points, patterns and rates, with sparsity, rank and int8."""
    codes: list[dict[str, Any]] = [
        *({"codebook": levels} for levels in (2, 16, 17, 256)),
        *({"bits": 4, "scales": scales} for scales in ("tensor", "2", "32", "128")),
        *({"bits": bits, "affine": True} for bits in (2, 7)),
        {"bits": 1},
        {"bits": 3, "scales": "64", "affine": True},
    ]
    zeros = ({}, {"sparsity": 0.9}, {"pattern": "2:4"}, {"pattern": "1:16"})
    return [
        Option(**way, **zero, rate=rate, rank=rank, activations=activations)
        for way, zero, rate, rank, activations in itertools.product(
            codes, zeros, (0, 1e-5, 0.01, 2.5, 1 / 3), (1.0, 0.5), ACTIVATIONS
        )
        if activations == "float32"
        or not (way.get("codebook") or way.get("scales", "t").isdigit())
        or (activations == "dynamic" and way.get("scales") in ("32", "64", "128"))
    ]


def every_option() -> list[Option]:
    cores = [
        Option(bits, tucker=share, inputs=inputs, activations=activations, method=method)
        for bits, share, inputs, activations, method in itertools.product(
            BITS, RANKS[1:], (1.0, 0.5), ACTIVATIONS, METHODS
        )
        if bits <= 8 or activations == "float32"
    ]
    return (
        further_options()
        + cores
        + [
            Option(bits, sparsity, rank, activations, method)
            for bits, sparsity, rank, activations, method in itertools.product(
                BITS, SHARES, RANKS, ACTIVATIONS, METHODS
            )
            if bits <= 8 or activations == "float32"
        ]
    )


def test_every_id_is_read_back_to_the_same_option() -> None:
    ids: dict[str, Option] = {}
    for option in every_option():
        read = Option.parse(option.id)
        if option.is_identity:
            assert read == Option()
        else:
            assert read == option
            assert ids.setdefault(option.id, option) == option  # no two share an id
    assert len(ids) > 4000


def test_ids_are_short_and_known() -> None:
    known = {
        Option(): "dense",
        Option(8): "w8",
        Option(16, rank=0.5): "w16-r50",
        Option(4, 0.9, 0.25, "int8"): "w4-s90-r25-a8",
        Option(2, 0.875): "w2-s87.5",
        Option(32, 0.5, method="nearest"): "w32-s50-nearest",
        Option(3, 0.29, 0.125, "int8", "nearest"): "w3-s29-r12.5-a8-nearest",
        Option(6, 0.0001): "w6-s0.01",
        Option(codebook=16): "k16",
        Option(codebook=16, sparsity=0.9, rate=0.01): "k16-l0.01-s90",
        Option(4, scales="tensor", activations="int8"): "w4-gt-a8",
        Option(4, scales="64", affine=True, pattern="2:4", rank=0.5): "w4-g64-z-n2m4-r50",
        Option(3, rate=1e-5): "w3-l1e-05",
        Option(8, tucker=0.5, activations="int8"): "w8-t50-a8",
        Option(4, scales="tensor", tucker=0.375, inputs=0.5, outputs=0.25): "w4-gt-t37.5-i50-o25",
        Option(codebook=16, tucker=0.25): "k16-t25",
    }
    for option, text in known.items():
        assert option.id == text
        assert Option.parse(text) == option


def test_shares_are_kept_to_six_decimals() -> None:
    assert Option(sparsity=1 / 3).sparsity == 0.333333
    assert Option(sparsity=1 / 3) == Option(sparsity=0.333333)
    assert Option(rank=0.9999999) == Option()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bits": 5}, r"Option\(bits=5\): allowed are 1, 2, 3, 4, 6, 7, 8, 16, 32"),
        ({"bits": 0}, r"Option\(bits=0\): allowed"),
        ({"sparsity": 1.0}, r"Option\(sparsity=1.0\): must lie in \[0, 1\)"),
        ({"sparsity": -0.1}, r"Option\(sparsity=-0.1\): must lie in \[0, 1\)"),
        ({"sparsity": float("nan")}, r"sparsity=nan\): must lie"),
        ({"rank": 0.0}, r"Option\(rank=0.0\): must lie in \(0, 1\]"),
        ({"rank": 1.5}, r"Option\(rank=1.5\): must lie in \(0, 1\]"),
        ({"activations": "int4"}, r"activations='int4'\): allowed are .*float32.*int8"),
        ({"method": "magic"}, r"method='magic'\): allowed are .*obs.*nearest"),
        ({"bits": 16, "activations": "int8"}, "int8 needs bits <= 8"),
        ({"activations": "int8"}, "int8 needs bits <= 8"),
        ({"codebook": 1}, r"codebook=1\): 0, or 2 to 256 values"),
        ({"codebook": 257}, r"codebook=257\): 0, or 2 to 256 values"),
        ({"codebook": 16, "bits": 8}, r"its index has 4 bits"),
        ({"codebook": 16, "scales": "tensor"}, "no other scales"),
        ({"codebook": 16, "affine": True}, "no zero point"),
        ({"codebook": 16, "activations": "int8"}, "no integer kernels"),
        ({"bits": 16, "activations": "dynamic"}, "dynamic needs bits <= 8"),
        ({"bits": 4, "scales": "48", "activations": "dynamic"}, "16, 32, 64, 128, 256 columns"),
        ({"bits": 4, "scales": "row"}, r"scales='row'\): allowed are 'channel', 'tensor'"),
        ({"bits": 4, "scales": "1"}, r"scales='1'\): allowed"),
        ({"bits": 4, "scales": "032"}, r"scales='032'\): allowed"),
        ({"bits": 4, "scales": "32", "activations": "int8"}, "one scale a channel"),
        ({"bits": 16, "scales": "tensor"}, "floats have no scales and no rate"),
        ({"rate": 0.1}, "floats have no scales and no rate"),
        ({"bits": 4, "rate": -1}, r"rate=-1.0\): must lie in \[0, 10\]"),
        ({"bits": 4, "rate": float("nan")}, "rate=nan"),
        ({"bits": 8, "affine": True}, "a zero point needs 2 to 7 bits"),
        ({"bits": 4, "pattern": "4:2"}, "expected N:M such as '2:4'"),
        ({"bits": 4, "pattern": "2/4"}, "expected N:M such as '2:4'"),
        ({"bits": 4, "pattern": "2:64"}, "expected N:M such as '2:4'"),
        ({"bits": 4, "pattern": "2:4", "sparsity": 0.5}, "the pattern alone"),
        ({"bits": 4, "pattern": "2:4", "inputs": 0.5}, "a pattern counts along all inputs"),
        ({"bits": 4, "rate": 0.1, "method": "nearest"}, "the baseline has no codebook"),
        ({"tucker": 0.0}, r"Option\(tucker=0.0\): must lie in \(0, 1\]"),
        ({"tucker": 1.5}, r"Option\(tucker=1.5\): must lie in \(0, 1\]"),
        ({"tucker": 0.5, "rank": 0.5}, "a weight is factored one way"),
        ({"tucker": 0.5, "pattern": "2:4"}, "factors around a core take no pattern"),
    ],
)
def test_values_that_are_not_allowed_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Option(**values)


@pytest.mark.parametrize(
    "text", ["", "w", "dense ", "W4", "w4-", "w4-a8-s50", "w4-s", "w4-s50-s50", "s50", "w4-r5e-1"]
)
def test_text_that_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected 'dense' or an id such as"):
        Option.parse(text)


@pytest.mark.parametrize(
    "text", ["w5", "w4-s100", "w4-r0", "w4-r101", "w4-t0", "w4-r50-t50", "w16-a8", "w32-a8"]
)
def test_an_id_of_values_that_are_not_allowed_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="Option"):
        Option.parse(text)


def test_only_dense_float_weights_are_the_identity() -> None:
    assert Option().is_identity
    assert Option(method="nearest").is_identity
    for change in ({"bits": 16}, {"sparsity": 0.5}, {"rank": 0.5}, {"tucker": 0.5}):
        assert not replace(Option(), **change).is_identity  # type: ignore[arg-type]
    assert Option(rank=0.5).is_factored
    assert Option(tucker=0.5).is_factored
    assert not Option(sparsity=0.5).is_factored


CANDIDATE = Candidate((("conv1", Option(8, activations="int8")), ("fc.0", Option(4, 0.9, 0.25))))


def test_a_candidate_id_is_the_same_on_every_machine() -> None:
    # Journals and plans of earlier versions hold it: it must not change.
    assert CANDIDATE.id == "c0b4272445"
    assert Candidate(CANDIDATE.choices).id == CANDIDATE.id


def test_a_candidate_is_plain_data_and_back() -> None:
    plain = CANDIDATE.as_dict()
    assert plain == {"conv1": "w8-a8", "fc.0": "w4-s90-r25"}
    assert Candidate.from_dict(plain) == CANDIDATE
    assert hash(Candidate.from_dict(plain)) == hash(CANDIDATE)
    assert CANDIDATE["fc.0"] == Option(4, 0.9, 0.25)
    with pytest.raises(KeyError):
        CANDIDATE["fc.1"]
    with pytest.raises(ConfigError, match="bits=5"):
        Candidate.from_dict({"conv1": "w5"})


def test_candidates_that_differ_have_other_ids() -> None:
    others = {
        Candidate.from_dict({"conv1": a, "fc.0": b}).id
        for a in ("dense", "w8", "w4-s50")
        for b in ("dense", "w8", "w4-s50")
    }
    others |= {Candidate.from_dict({"fc.0": "w8", "conv1": "dense"}).id}  # another order
    assert len(others) == 10
