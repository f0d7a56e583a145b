"""Our sampler where units share widths: what it may ask, what it must find, how it goes on."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from autocompress.errors import ConfigError
from autocompress.search.catalogue import DEFAULT, SAMPLERS, make_sampler
from autocompress.search.problem import Candidate, Floats, Integers, Problem
from autocompress.search.resource import Edge, Resource, Tie
from autocompress.search.sampler import Trial
from autocompress.search.tied_sampler import ARMS, TiedSampler
from autocompress.search.widths import promising, widths_of


@cache
def problem(seed: int, units: int = 4, kinds: int = 4) -> Problem:
    """A chain whose neighbours share the width between them, each at three levels.

    An option is a kind (bits, say) at a level of what the unit reads and of what it makes; fewer
    channels cost less and lose more.
    """
    rng = np.random.default_rng(seed)
    levels = {"full": 1.0, "half": 0.5, "quarter": 0.25}
    losses, sizes, times, labels, reads, makes = [], [], [], [], [], []
    for unit in range(units):
        menu = list(
            itertools.product(
                range(3 if unit else 1), range(3 if unit < units - 1 else 1), range(kinds)
            )
        )
        share = np.array(list(levels.values()))
        inputs, outputs, kind = (np.array(column) for column in zip(*menu, strict=True))
        bits = np.array([8.0, 6.0, 4.0, 3.0])[:kinds]
        weights = rng.uniform(100, 1000)
        sizes.append(np.round(weights * share[inputs] * share[outputs] * bits[kind]))
        losses.append(
            rng.uniform(0.5, 2) * (2.0 ** -bits[kind]) + rng.uniform(0.02, 0.2) * inputs + 1e-4
        )
        labels.append(kind % 2)
        times.append(share[inputs] * share[outputs] * (1 - 0.3 * labels[-1]))
        reads.append(inputs)
        makes.append(outputs)
    ties = tuple(
        Tie(f"width{place}", {place: makes[place], place + 1: reads[place + 1]})
        for place in range(units - 1)
    )
    chain = [(None, 0), *itertools.pairwise(range(units)), (units - 1, None)]
    edges = tuple(Edge(tail, head, 0.05, 0.04) for tail, head in chain)
    return Problem(
        tuple(f"unit{unit}" for unit in range(units)),
        {"swap": tuple(losses)},
        {
            "size_bytes": Resource(10, tuple(sizes)),
            "latency_ms": Resource(0.1, tuple(times), edges),
        },
        tuple(labels),
        {
            "size_bytes": 0.3 * sum(float(size.max()) for size in sizes),
            "latency_ms": 0.8 * units,
        },
        ties=ties,
    )


def loss_of(problem: Problem, rows: Integers) -> Floats:
    return np.asarray(
        sum(values[rows[:, unit]] for unit, values in enumerate(problem.losses["swap"]))
    )


def trials(problem: Problem, candidates: list[Candidate]) -> list[Trial]:
    losses = loss_of(problem, np.array(candidates)) if candidates else []
    return [
        Trial(candidate, float(loss), problem.resource_costs(candidate))
        for candidate, loss in zip(candidates, losses, strict=True)
    ]


def tied_rows(problem: Problem) -> Integers:
    rows = np.array(list(itertools.product(*map(range, problem.sizes))))
    return rows[problem.feasible(rows, {})]


def make(problem: Problem, seed: int = 0) -> TiedSampler:
    return TiedSampler(problem, np.random.default_rng(seed))


def run(problem: Problem, sampler: TiedSampler, evaluations: int, batch: int = 6) -> list[Trial]:
    done: list[Trial] = []
    while len(done) < evaluations:
        asked = sampler.ask(min(batch, evaluations - len(done)))
        if not asked:
            break
        sampler.tell(trials(problem, asked))
        done += trials(problem, asked)
    return done


@pytest.mark.parametrize("batch", [1, 7])
def test_candidates_keep_the_ties_and_never_repeat(batch: int) -> None:
    made = problem(0)
    sampler = make(made)
    asked = [trial.candidate for trial in run(made, sampler, 60, batch)]
    assert len(asked) == len(set(asked)) == 60
    assert made.feasible(np.array(asked), {}).all()
    for candidate in asked:
        assert all(type(option) is int for option in candidate)
        assert sampler.origin[candidate]
        assert sampler.attributes(candidate) == {"origin": sampler.origin[candidate]}
    assert sampler.attributes((99,) * 4) == {}
    # Widths that earn nothing are asked all the same, now and then.
    assert len({widths_of(made, candidate) for candidate in asked}) > 1


def test_the_catalogue_gives_it_and_refuses_the_others() -> None:
    rng = np.random.default_rng(0)
    assert isinstance(make_sampler(DEFAULT, problem(0), rng), TiedSampler)
    for name in set(SAMPLERS) - {DEFAULT}:
        with pytest.raises(ConfigError, match=rf"'{name}'.*shared widths; take '{DEFAULT}'"):
            make_sampler(name, problem(0), rng)


@pytest.mark.parametrize("seed", range(4))
def test_it_finds_the_optimum_of_a_small_problem(seed: int) -> None:
    made = problem(seed)
    rows = tied_rows(made)
    rows = rows[made.feasible(rows)]
    best = loss_of(made, rows).min()
    found = [t.loss for t in run(made, make(made), 40) if made.satisfies(t.candidate)]
    assert min(found) == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_it_finds_the_smallest_within_a_loss(seed: int) -> None:
    made = problem(seed)
    rows = tied_rows(made)
    most = float(np.quantile(loss_of(made, rows), 0.2))
    made = replace(made, limits={"loss": most}, minimise="size_bytes")
    fine = rows[loss_of(made, rows) <= most]
    best = made.costs("size_bytes", fine).min()
    done = run(made, make(made), 40)
    found = [made.cost("size_bytes", t.candidate) for t in done if t.loss <= most]
    assert min(found) == best


def test_limits_out_of_reach_end_at_the_closest_candidate() -> None:
    made = problem(1)
    rows = tied_rows(made)
    least = made.costs("size_bytes", rows).min()
    tight = replace(made, limits={"size_bytes": 0.5 * least})
    done = run(tight, make(tight), 20)
    assert min(tight.cost("size_bytes", trial.candidate) for trial in done) == least


def test_a_front_is_covered_from_wide_to_narrow() -> None:
    made = replace(problem(2), limits={}, front=("size_bytes",))
    rows = tied_rows(made)
    losses, sizes = loss_of(made, rows), made.costs("size_bytes", rows)
    done = run(made, make(made), 80)
    for share in (0.1, 0.3, 0.6):
        most = share * sizes.max()
        found = min(t.loss for t in done if t.resources["size_bytes"] <= most)
        # Near the best of each size, with eighty of some thousands of candidates.
        assert found <= 1.5 * losses[sizes <= most].min()
    assert len({widths_of(made, trial.candidate) for trial in done}) > 1


def test_the_same_seed_asks_the_same() -> None:
    made = problem(1)
    first, second, other = (run(made, make(made, seed), 50) for seed in (3, 3, 4))
    assert first == second
    assert first != other


def test_it_goes_on_when_asked_and_told_again() -> None:
    made = problem(2)
    whole = run(made, make(made), 60)
    again = make(made)
    done: list[Trial] = []
    while len(done) < 30:
        asked = again.ask(6)
        assert asked == [trial.candidate for trial in whole[len(done) : len(done) + 6]]
        told = whole[len(done) : len(done) + 6]  # as a journal recalls them
        again.tell(told)
        done += told
    assert [*done, *run(made, again, 30)] == whole


def test_trials_of_others_are_taken() -> None:
    made = problem(3)
    rows = tied_rows(made)
    kept = {fixed.widths for fixed in promising(made, made.losses["swap"], ARMS)}
    foreign = [row for row in map(tuple, rows.tolist()) if widths_of(made, row) not in kept][:30]
    own = [row for row in map(tuple, rows.tolist()) if widths_of(made, row) in kept][::41][:30]
    untied = (made.sizes[0] - 1, *(0 for _ in made.units[1:]))
    assert foreign
    assert not made.feasible(np.array([untied]), {})[0]
    sampler = make(made)
    sampler.tell(trials(made, [*foreign, *own]))
    failed = [Trial(own[0], float("nan")), Trial(foreign[0], float("inf"))]
    sampler.tell([*failed, *trials(made, [untied])])
    asked = [trial.candidate for trial in run(made, sampler, 40)]
    assert len(set(asked)) == 40
    assert not set(asked) & set(own)
    assert made.feasible(np.array(asked), {}).all()


def test_what_breaks_the_ties_is_no_rival() -> None:
    made = problem(3)
    untied = (made.sizes[0] - 1, *(0 for _ in made.units[1:]))
    sampler = make(made)
    (candidate,) = sampler.ask(1)
    sampler.tell([Trial(untied, 1e-9, dict.fromkeys(made.resources, 0.0))])
    assert sampler.rival(candidate) is None


def test_a_rival_may_have_other_widths() -> None:
    made = problem(0)
    sampler = make(made)
    done = run(made, sampler, 40)
    best = min(
        (trial for trial in done if made.satisfies(trial.candidate)), key=lambda trial: trial.loss
    )
    names = tuple(made.resources)
    for trial in done:
        rival = sampler.rival(trial.candidate)
        if all(best.resources[name] <= trial.resources[name] for name in names):
            assert rival is not None
    assert any(
        widths_of(made, rival) != widths_of(made, trial.candidate)
        for trial in done
        if (rival := sampler.rival(trial.candidate)) is not None
    )


def test_when_all_is_known_it_asks_for_nothing() -> None:
    made = problem(0, units=2, kinds=2)
    rows = tied_rows(made)
    small = replace(made, limits={})
    done = run(small, make(small), 10 * len(rows))
    asked = {trial.candidate for trial in done}
    assert len(asked) == len(done)
    assert asked == {tuple(row) for row in rows.tolist()}  # of three widths, none is left out
    assert make(small).ask(0) == []


def with_products(made: Problem, seed: int = 0) -> Problem:
    """Slopes are only asked for where pushes are known."""
    rng = np.random.default_rng(seed)
    losses = np.concatenate(made.losses["swap"])
    pushes = rng.normal(size=(len(losses), 12))
    pushes *= np.sqrt(losses)[:, None] / np.linalg.norm(pushes, axis=1)[:, None]
    return replace(made, products={"swap": pushes @ pushes.T})


def test_slopes_are_handed_to_the_widths_of_their_place() -> None:
    made = with_products(problem(1))
    sampler = make(made)
    starts = np.cumsum([0, *made.sizes[:-1]])
    places = []
    for _ in range(20):
        place = sampler.place()
        if place is not None:
            assert place not in places
            assert made.feasible(np.array([place]), {})[0]
            places.append(place)
            name = "widths " + " ".join(map(str, widths_of(made, place)))
            fixed, arm = sampler._arms[name]
            slopes = np.concatenate(
                [
                    values - values[option]
                    for values, option in zip(made.losses["swap"], place, strict=True)
                ]
            )
            before = {key: len(other._sloped) for key, (_, other) in sampler._arms.items()}
            sampler.learn(place, slopes)
            after = {key: len(other._sloped) for key, (_, other) in sampler._arms.items()}
            assert {key for key in after if after[key] > before[key]} == {name}
            assert fixed.narrow(place) in arm._sloped
            # Slopes at the place itself are zero, whatever the numbers of its options here.
            own = slopes[fixed.columns(made.sizes)]
            here = np.cumsum([0, *fixed.problem.sizes[:-1]]) + np.array(fixed.narrow(place))
            np.testing.assert_array_equal(own[here], 0)
            np.testing.assert_array_equal(slopes[starts + np.array(place)], 0)
        asked = sampler.ask(6)
        sampler.tell(trials(made, asked))
    assert places
