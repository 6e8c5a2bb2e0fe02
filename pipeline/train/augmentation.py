"""Images moved and mirrored at random, a batch at a time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def augment(x: Tensor, generator: torch.Generator, *, flip: bool = False, crop: int = 0) -> Tensor:
    """Images x [N, C, H, W], each mirrored left to right with probability ½ (`flip`), and each cut at random out of
    itself with `crop` black pixels around it (He et al., "Deep residual learning", CVPR 2016, section 4.2)."""
    if flip:
        mirrored = (torch.rand(len(x), generator=generator) < 0.5).to(x.device)
        x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
    if crop:
        height, width = x.shape[-2:]
        down, right = torch.randint(0, 2 * crop + 1, (2, len(x)), generator=generator).to(x.device)
        rows = down[:, None] + torch.arange(height, device=x.device)
        columns = right[:, None] + torch.arange(width, device=x.device)
        image = torch.arange(len(x), device=x.device)
        padded = pad(x, (crop, crop, crop, crop)).permute(0, 2, 3, 1)
        x = padded[image[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return x.contiguous()
