from __future__ import annotations

import numpy as np
import pytest

from autocompress.objective.audit import audit_proxy, step

LOSSES = [0.01, 0.02, 0.03, 0.04, 0.1, 0.2, 0.4, 0.8]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([98.0, 98.0], 0.0),
        ([98.0], 0.0),
        ([98.0, 98.3, 98.1], 0.1),
        ([98.75, 99.25, 98.5, 99.25], 0.25),
        ([98.0, 98.5, 98.75], 0.25),  # no two differ by this little, but they are multiples of it
        ([100 * k / 400 for k in (380, 387, 390)], 0.25),
        ([0.1 + 0.2, 0.3, 0.5], 0.2),  # up to rounding
    ],
)
def test_the_step_of_a_metric(values: list[float], expected: float) -> None:
    assert step(values) == pytest.approx(expected)


def test_a_continuous_metric_has_next_to_no_step() -> None:
    values = np.random.default_rng(0).normal(size=8).tolist()
    assert step(values) < 1e-3


def test_an_honest_proxy_is_not_blamed() -> None:
    audit = audit_proxy(LOSSES, [99, 98.9, 98.9, 98.7, 98, 97, 95, 90], True, 0.5, 4)
    assert (audit.regret, audit.warning, audit.misleads) == (0, "", False)
    # The metric may fall as it gets better.
    audit = audit_proxy(LOSSES, [1, 1.1, 1.2, 1.3, 2, 3, 5, 9.5], False, 0.5, 4)
    assert (audit.regret, audit.misleads) == (0, False)


def test_ties_within_the_metrics_resolution_say_nothing() -> None:
    # Of 1 000 examples up to three are decided otherwise.
    audit = audit_proxy(LOSSES, [99, 99.1, 99.3, 99.2, 99.1, 99.1, 99.3, 99.0], True, 0.5, 4)
    assert audit.regret == pytest.approx(0.3)
    assert audit.tolerance == pytest.approx(0.3)
    assert not audit.misleads
    assert not audit_proxy(LOSSES, [99.0] * 8, True, 0.0, 4).misleads
    assert audit_proxy(LOSSES, [99.0] * 8, True).spearman is None


def test_a_regretted_choice_is_named() -> None:
    audit = audit_proxy(LOSSES, [98.5, 98.9, 98.9, 99, 98, 97, 95, 90], True, 0.5, 4)
    assert audit.misleads
    assert audit.regret == pytest.approx(0.5)
    assert audit.warning.startswith("the proxy misleads: the candidate that it likes best is 0.5 ")
    # The same is nothing where much may be lost.
    assert not audit_proxy(LOSSES, [98.5, 98.9, 98.9, 99, 98, 97, 95, 90], True, 5, 4).misleads


def test_the_choice_among_peers_counts_for_itself() -> None:
    # Over the whole front the choice is right; among those for the same limits it is not.
    losses = [0.1, 0.2, 0.3, 0.01]
    qualities = [97.0, 98.0, 98.0, 99.0]
    assert audit_proxy(losses, qualities, True, 0.5).regret == 0
    assert audit_proxy(losses, qualities, True, 0.5, 3).regret == 1


def test_wrong_ranks_are_named_where_the_spread_is_large() -> None:
    # The choice is the best one, but all others are ranked the other way round.
    qualities = [99.9, 91, 92, 93, 94, 95, 96, 97]
    audit = audit_proxy(LOSSES, qualities, True, 0.5)
    assert audit.regret == 0
    assert "Spearman" in audit.warning
    narrow = [97 + quality / 1000 for quality in qualities]
    assert not audit_proxy(LOSSES, narrow, True, 0.5).misleads
    # Too few to tell.
    assert not audit_proxy(LOSSES[:3], [99.9, 91, 92], True, 0.5).misleads
