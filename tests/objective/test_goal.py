"""Goals in one sentence: every form, and what is said of a sentence that is none."""

from __future__ import annotations

import pytest

from autocompress.errors import ConfigError
from autocompress.objective.budget import Limit, Metric, budget_from, parse_budget
from autocompress.objective.goal import Goal, parse_goal, settle
from autocompress.objective.preset import ObjectivePreset, load_objective

ACCURACY = Metric("accuracy", higher_is_better=True)
PERPLEXITY = Metric("perplexity", higher_is_better=False)


@pytest.mark.parametrize(
    ("text", "minimise", "front", "limits"),
    [
        (
            "minimise latency subject to size<=25% and quality>=-1pt",
            "latency",
            (),
            ["size<=25%", "quality>=-1pt"],
        ),
        (
            "Minimize  size S.T. accuracy >= 98.5, latency<=80%",
            "size",
            (),
            ["quality>=98.5", "latency<=80%"],
        ),
        ("minimise size s. t. quality>=-1%", "size", (), ["quality>=-1%"]),
        ("maximise quality subject to size<=25%", "quality", (), ["size<=25%"]),
        ("maximize accuracy within size<=2 MB", "quality", (), ["size<=2 MB"]),
        (
            "maximise Accuracy subject to size at most 2 MB and latency ≤ 3 ms",
            "quality",
            (),
            ["size<=2 MB", "latency<=3 ms"],
        ),
        ("minimise size subject to accuracy at least 98", "size", (), ["quality>=98"]),
        ("as small as possible within 0.5 points", "size", (), ["quality=-0.5 points"]),
        ("as small as possible within 0.5pt of accuracy", "size", (), ["quality=-0.5pt"]),
        (
            "as fast as possible within 1% and size<=2MB",
            "latency",
            (),
            ["quality=-1%", "size<=2MB"],
        ),
        (
            "as fast as possible within 1 point (soft), and size~2MB",
            "latency",
            (),
            ["quality~-1 point", "size~2MB"],
        ),
        ("as accurate as possible subject to size<=3%", "quality", (), ["size<=3%"]),
        ("front of quality, size and latency", "quality", ("size", "latency"), []),
        ("Pareto front of size, and accuracy", "quality", ("size",), []),
        (
            "front of quality and size subject to latency<=80%",
            "quality",
            ("size",),
            ["latency<=80%"],
        ),
        ("front of latency within 1pt", "quality", ("latency",), ["quality>=-1pt"]),
        # Limits alone do not say what is minimised.
        ("size=25%", None, (), ["size=25%"]),
        (
            "size=25%, quality=-1pt and latency~50%",
            None,
            (),
            ["size=25%", "quality=-1pt", "latency~50%"],
        ),
    ],
)
def test_every_form_of_a_goal(
    text: str, minimise: str | None, front: tuple[str, ...], limits: list[str]
) -> None:
    found = parse_goal(text, ACCURACY)
    assert found == Goal(text, minimise, front, parse_budget(limits))
    assert list(found.limits) == list(parse_budget(limits)), "the order is lost"


def test_a_metric_that_is_to_be_small() -> None:
    goal = parse_goal("minimise perplexity subject to size<=25%", PERPLEXITY)
    assert goal.minimise == "quality"
    goal = parse_goal("maximise quality subject to size<=25%", PERPLEXITY)
    assert goal.minimise == "quality"
    (limit,) = parse_goal("minimise size s.t. perplexity<=20", PERPLEXITY).limits.values()
    assert limit.bound(18.0, higher_is_better=False) == 20
    (limit,) = parse_goal("as small as possible within 5%", PERPLEXITY).limits.values()
    assert limit.bound(18.0, higher_is_better=False) == pytest.approx(18.9)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "what is wanted"),
        ("subject to size<=3%", "what is wanted"),
        ("make it small", "'make it small' is not understood; write such as 'minimise latency"),
        ("minimise quality subject to size<=3%", "quality is better when large; write 'maximise"),
        ("minimise accuracy s.t. size<=3%", "accuracy is better when large; write 'maximise acc"),
        ("maximise size", "size is made small; write 'minimise size'"),
        ("minimise size and latency", "only one can be optimised; .* 'front of quality, size"),
        ("minimise power", "'power' is not known; allowed are size, latency, quality, accuracy"),
        ("minimise energy", "energy can be limited only, such as energy<=50%"),
        ("front of quality and energy", "energy can be limited only"),
        ("as tiny as possible", "'as tiny as possible': allowed are small, fast, good, accurate"),
        ("front of quality", "name size, latency or both beside quality"),
        ("front of accuracy, quality and size", "names one twice"),
        ("front of size and power", "'power' is not known; allowed are size"),
        ("maximise quality within 25%", "'25%': of what. write size<=25% or quality>=-25%"),
        ("minimise size subject to 0.5 points", "of what. write quality>=-0.5 points"),
        ("as small as possible within 25% of size", "'25% of size': write size<=25%"),
        ("as small as possible within half a point", "'half a point' is not a limit; write such"),
        ("minimise size subject to", "'' is not a limit"),
        ("minimise size s.t. quality>=-1pt,, size<=2MB", "'' is not a limit"),
        ("minimise latency size<=25%", "'subject to' is missing"),
        ("minimise latency s.t. size<=25", r"size<=25: expected a number and a unit \(%, B"),
        ("minimise latency s.t. size<=25 percent", "size<=25 percent: expected a number"),
        ("minimise latency s.t. size>=25%", "size is made small; write size<=25%"),
        ("minimise latency s.t. size<25%", "size<25%: the sign must be one of"),
        (
            "minimise latency s.t. weight<=25%",
            "'weight'; allowed are size, latency, energy, quality, acc",
        ),
        ("minimise latency s.t. size<=25% and size~20%", "'size' is given twice"),
        ("minimise latency s.t. quality>=-1", "quality>=-1pt for what may be lost"),
        ("minimise latency s.t. accuracy<=98", "accuracy is better when large: write >="),
        ("minimise latency s.t. size<=25% subject to quality>=-1pt", "expected a number and a"),
    ],
)
def test_a_sentence_that_is_no_goal_names_the_bad_part(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        parse_goal(text, ACCURACY)
    assert str(caught.value).startswith(f"goal {text!r}: ")
    assert "budget" not in str(caught.value)


def test_a_goal_takes_the_place_of_the_objectives_aim_and_limits() -> None:
    fastest, _ = load_objective("fastest")
    goal = parse_goal("minimise size subject to quality>=-1pt", ACCURACY)
    aimed, limits = settle(fastest, goal, {}, {})
    assert (aimed.minimise, aimed.front, aimed.limits()) == ("size", (), {})
    assert limits == budget_from({"quality": "-1pt"})
    assert (aimed.proxy, aimed.finalists) == (fastest.proxy, fastest.finalists)
    front = parse_goal("front of quality and latency", ACCURACY)
    aimed, limits = settle(fastest, front, {}, {})
    assert (aimed.minimise, aimed.front, limits) == ("quality", ("latency",), {})


def test_limits_alone_keep_what_the_objective_minimises() -> None:
    fastest, pareto = load_objective("fastest")[0], load_objective("pareto")[0]
    aimed, limits = settle(fastest, parse_goal("size<=25% and quality>=-1pt"), {}, {})
    assert aimed.minimise == "latency"
    assert list(limits) == ["size", "quality"]
    assert settle(pareto, parse_goal("size<=25%"), {}, {})[0].front == ("size", "latency")


def test_limits_that_come_later_win_and_those_beside_may_not_repeat() -> None:
    objective, goal = ObjectivePreset(), parse_goal("size<=25% and latency<=80%")
    size, quality = parse_budget(["size=3%"]), parse_budget(["quality=-1pt"])
    _, limits = settle(objective, goal, quality, size)
    assert {name: limit.text for name, limit in limits.items()} == {
        "size": "3%",
        "latency": "80%",
        "quality": "-1pt",
    }
    with pytest.raises(ConfigError, match=r"goal 'size<=25% .*budget limits size as well \(3%\)"):
        settle(objective, goal, size, {})


def test_without_a_goal_limits_replace_those_of_the_objective_by_name() -> None:
    balanced, _ = load_objective("balanced")
    later = {"size": Limit("size", "3%", 0.03, True)}
    assert settle(balanced, None, {}, later) == (balanced, balanced.limits() | later)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("minimise size", "nothing holds the quality while size is made small"),
        ("minimise latency subject to size<=25%", "nothing holds the quality while latency"),
        ("maximise quality", "the original is the best without a limit on size or latency"),
        ("maximise quality subject to quality>=98", "the original is the best"),
    ],
)
def test_a_goal_without_a_bound_is_refused(text: str, words: str) -> None:
    goal = parse_goal(text)
    with pytest.raises(ConfigError, match=words):
        settle(ObjectivePreset(), goal, {}, {})
    budget = parse_budget(["size=3%"]) if "original" in words else parse_budget(["quality=-1pt"])
    assert settle(ObjectivePreset(), goal, {}, budget)[1]
