from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autocompress.errors import ConfigError, DataError
from autocompress.objective.quality import Proxy
from autocompress.objective.scores import TaskScores, labels_key

LOGITS = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 3.0]])
LABELS = torch.tensor([0, 2, 2])


def test_the_score_is_the_rise_of_the_cross_entropy() -> None:
    scores = TaskScores(LOGITS, LABELS)
    assert torch.equal(scores(LOGITS), torch.zeros(3, dtype=torch.float64))
    worse = LOGITS.roll(1, 1)
    rise = nn.functional.cross_entropy(worse, LABELS, reduction="none")
    rise = rise - nn.functional.cross_entropy(LOGITS, LABELS, reduction="none")
    torch.testing.assert_close(scores(worse).float(), rise.clamp_min(0))
    # The second example is right now: that pays for nothing.
    assert scores(worse).tolist()[1] == 0
    assert float(scores(worse)[0]) == pytest.approx(2)
    torch.testing.assert_close(scores(worse[1:], slice(1, 3)), scores(worse)[1:])


def test_several_positions_of_an_example_are_averaged() -> None:
    model, x = nn.Linear(3, 4), torch.randn(5, 2, 3)
    labels = torch.randint(4, (5, 2))
    proxy = Proxy(model, (x,), "task", labels=labels)
    other = nn.Linear(3, 4)
    expected = TaskScores(model(x).detach(), labels)(other(x).detach()).mean(1)
    torch.testing.assert_close(torch.from_numpy(proxy(other).samples), expected)


def test_the_proxy_races_and_pushes_as_with_kl() -> None:
    torch.manual_seed(0)
    model, other, x = nn.Linear(3, 4), nn.Linear(3, 4), torch.randn(40, 3)
    labels = torch.randint(4, (40,))
    proxy, kl = Proxy(model, (x,), "task", labels=labels), Proxy(model, (x,))
    whole = proxy(other)
    assert whole.value > 0
    assert proxy(model).value == 0
    assert whole.unit == "nat"
    outputs = other(x).detach()
    parts = [proxy.score(outputs[rows], rows) for rows in proxy.parts]
    assert [v for part in parts for v in part.tolist()] == pytest.approx(whole.samples.tolist())
    assert proxy.divergence == "kl"
    assert torch.equal(proxy.pushes(outputs), kl.pushes(outputs))


@pytest.mark.parametrize(
    ("logits", "labels", "error", "words"),
    [
        (torch.zeros(3, 1), LABELS, ConfigError, "classes"),
        (torch.zeros(3), LABELS, ConfigError, "classes"),
        (LOGITS, LABELS[:2], DataError, "expected"),
        (LOGITS, torch.tensor([0, 3, 1]), DataError, "0 to 3; the model has 3 classes"),
        (LOGITS, torch.tensor([0, -1, 1]), DataError, "-1 to 1"),
    ],
)
def test_labels_that_do_not_fit(
    logits: Tensor, labels: Tensor, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        TaskScores(logits, labels)


def test_without_labels_it_says_what_to_give() -> None:
    with pytest.raises(ConfigError, match=r"labels\(\)"):
        Proxy(nn.Linear(3, 4), (torch.zeros(2, 3),), "task")


def test_other_labels_have_another_key() -> None:
    assert labels_key(LABELS) == labels_key(LABELS.clone()) != labels_key(LABELS.flip(0))
