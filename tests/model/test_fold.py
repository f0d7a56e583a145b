"""Batch norms are folded where that changes nothing, and only there."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from autocompress.model.fold import fold_batch_norms


def norm(channels: int) -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(channels)
    with torch.no_grad():
        for tensor in (made.weight, made.running_var):
            tensor.uniform_(0.5, 2)
        for tensor in (made.bias, made.running_mean):
            tensor.normal_()
    return made


class Net(nn.Module):
    """A pair of each kind: plain, read elsewhere, run twice, under two names; a norm alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.bn1 = nn.Conv2d(2, 4, 3, bias=False), norm(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 1), norm(4)
        self.conv3, self.bn3 = nn.Conv2d(4, 4, 1), norm(4)
        self.conv4, self.bn4 = nn.Conv2d(4, 4, 1), norm(4)
        self.alias = self.bn4
        self.depthwise, self.bn5 = nn.Conv2d(4, 4, 3, groups=4, bias=False), norm(4)
        self.alone = norm(4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu_(self.bn1(self.conv1(x)))
        y = self.conv2(x)
        x = self.bn2(y) + y
        x = self.bn3(self.conv3(self.bn3(self.conv3(x))))
        x = self.bn4(self.conv4(x))
        return self.alone(self.bn5(self.depthwise(x)).abs())


def folded(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, nn.Identity)}


def test_only_what_alone_reads_a_convolution_is_folded() -> None:
    model, x = Net().eval(), torch.randn(3, 2, 9, 9)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    found = fold_batch_norms(model, (x,))
    assert folded(found) == {"bn1", "bn5"}
    assert torch.allclose(found(x), model(x), rtol=1e-4, atol=1e-4)
    assert found.conv1.bias is not None
    assert model.conv1.bias is None
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_a_model_without_any_is_returned_as_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU()).eval()
    assert fold_batch_norms(model, (torch.randn(1, 2, 5, 5),)) is model


class Branches(nn.Module):
    """Cannot be exported: the way through depends on the values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 4, 3), norm(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return x if x.sum() > 0 else -x


def test_a_model_that_cannot_be_exported_is_left() -> None:
    model = Branches().eval()
    assert fold_batch_norms(model, (torch.randn(1, 2, 5, 5),)) is model


def test_folding_that_would_change_the_outputs_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), norm(4)).eval()
    with torch.no_grad():
        model[1].running_var.fill_(1e-30)
        model[1].eps = 1e-38
        model[0].weight.mul_(1e30)
    assert fold_batch_norms(model, (torch.randn(1, 2, 5, 5),)) is model
