"""Pictures for the tests of views: noise, and something with shapes and colours that looks like a photograph to histograms."""

import torch


def noise(count, channels=3, height=9, width=7, seed=0):
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def smooth(count, channels=3, height=40, width=32, seed=0):
    """Noise of a few pixels, enlarged: neighbouring pixels are alike."""
    coarse = noise(count, channels, 5, 4, seed).float()
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 255).round().to(torch.uint8)
