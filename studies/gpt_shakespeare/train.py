"""Trains the net of this study and writes `gpt.safetensors`, in half precision.

    python studies/gpt_shakespeare/train.py

The last state is kept, and nothing is selected: what is printed of the selection split is only
looked at.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent))
from gpt import Gpt
from plays import CONTEXT, training_text
from task import evaluate

BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--peak", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bfloat16", action="store_true", help="for processors that have it")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("gpt.safetensors"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)

    text, net = training_text(), Gpt().train()
    decayed = [p for p in net.parameters() if p.dim() > 1]
    plain = [p for p in net.parameters() if p.dim() == 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
        betas=(0.9, 0.99),
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, options.peak, total_steps=options.steps, pct_start=0.1
    )
    started, total = time.perf_counter(), 0.0
    for step in range(1, options.steps + 1):
        starts = torch.randint(len(text) - CONTEXT, (BATCH, 1), generator=generator)
        part = text[starts + torch.arange(CONTEXT + 1)]
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bfloat16):
            logits = net(part[:, :-1])
        loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), part[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        total += loss.item()
        if step % 100 == 0:
            seconds = time.perf_counter() - started
            print(f"step {step}: loss {total / 100:.4f}, {seconds:.0f} s", flush=True)
            total = 0.0
    net.eval()
    save_file({name: value.half() for name, value in net.state_dict().items()}, options.out)
    print(f"perplexity {evaluate(net):.4f} on the selection split")


if __name__ == "__main__":
    main()
