"""Tunes the packaged encoder of this study to its task and writes `tuned.safetensors`.

    python studies/minilm_sentiment/train.py
    python studies/minilm_sentiment/train.py --rank 0       the classifier alone

Every linear layer gains a product of two thin matrices (LoRA, Hu et al. 2022, 2106.09685), so that
what is stored is small and the packaged weights stay as they are.  Only texts of the split `train`
are seen; the last state is kept, and nothing is selected on test texts.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

sys.path.insert(0, str(Path(__file__).resolve().parent))
from minilm import packaged_encoder
from reviews import inputs
from task import evaluate

BATCH = 32
SORTED = 16 * BATCH  # texts that are put in batches of like length


class LowRank(nn.Module):
    """A weight and the product of two thin matrices, which is zero at first."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.zeros(weight.shape[0], rank))
        self.right = nn.Parameter(torch.randn(rank, weight.shape[1]) / weight.shape[1] ** 0.5)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.left @ self.right


def order(lengths: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Batches of indices in a new order, each of texts of like length."""
    batches: list[Tensor] = []
    for part in torch.randperm(len(lengths), generator=generator).split(SORTED):
        batches += part[lengths[part].argsort(stable=True)].split(BATCH)
    return [batches[place] for place in torch.randperm(len(batches), generator=generator)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--peak", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("tuned.safetensors"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)

    net = packaged_encoder()
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name.startswith("classifier"))
    linear = {
        name: module
        for name, module in net.layers.named_modules(prefix="layers")
        if isinstance(module, nn.Linear) and options.rank
    }
    for module in linear.values():
        parametrize.register_parametrization(
            module, "weight", LowRank(module.weight, options.rank)
        )

    ids, mask, wanted = inputs("train")
    lengths = mask.sum(1)
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    print(f"{len(ids)} texts, {sum(p.numel() for p in trained)} parameters to train")
    optimiser = torch.optim.AdamW(trained, weight_decay=0.01)
    steps = options.epochs * len(order(lengths, generator))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, options.peak, total_steps=steps, pct_start=0.1
    )
    started = time.perf_counter()
    for epoch in range(options.epochs):
        net.train()
        total = 0.0
        for part in order(lengths, generator):
            tokens = int(lengths[part].max())
            with torch.autocast("cpu", torch.bfloat16):
                logits = net(ids[part, :tokens], mask[part, :tokens])
            loss = nn.functional.cross_entropy(logits.float(), wanted[part])
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            schedule.step()
            total += loss.item() * len(part)
        net.eval()
        print(
            f"epoch {epoch + 1}: loss {total / len(ids):.4f}, "
            f"selection {evaluate(net, 'selection'):.2f} %, {time.perf_counter() - started:.0f} s"
        )
        sys.stdout.flush()

    tuned = {f"classifier.{k}": v for k, v in net.classifier.state_dict().items()}
    for name, module in linear.items():
        (low,) = module.parametrizations["weight"]
        tuned |= {f"{name}.weight.left": low.left.data, f"{name}.weight.right": low.right.data}
    save_file(tuned, options.out)


if __name__ == "__main__":
    main()
