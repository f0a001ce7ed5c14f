"""A 2-D residual classifier written out, with the names of torchvision, which is not needed."""

import torch
from torch import nn

BLOCKS = {"resnet10": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}


class Block(nn.Module):
    def __init__(self, channels, out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample = None
        if stride != 1 or channels != out:
            shortcut = nn.Conv2d(channels, out, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(out))

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class ResNet(nn.Module):
    """He et al. 2016, arXiv:1512.03385, table 1, for a thousand classes of colour pictures."""

    def __init__(self, name="resnet10"):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        before = 64
        for level, count in enumerate(BLOCKS[name]):
            width = 64 * 2**level
            first = Block(before, width, 1 if level == 0 else 2)
            more = [Block(width, width, 1) for _ in range(count - 1)]
            setattr(self, f"layer{level + 1}", nn.Sequential(first, *more))
            before = width
        self.fc = nn.Linear(512, 1000)

    def forward(self, x):
        """Return the maps that a U-Net joins, the finest first."""
        maps = [self.bn1(self.conv1(x)).relu()]
        x = self.maxpool(maps[0])
        for level in range(1, 5):
            x = getattr(self, f"layer{level}")(x)
            maps.append(x)
        return maps


def classifier(name="resnet10", seed=0):
    """Return one whose every number is drawn, statistics too; in evaluation."""
    generator = torch.Generator().manual_seed(seed)
    network = ResNet(name).eval()
    with torch.no_grad():
        for key, tensor in network.state_dict().items():
            if key.endswith("num_batches_tracked"):
                continue
            if tensor.ndim > 1:
                fan = tensor[0].numel()
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2 / fan) ** 0.5)
            elif key.endswith(("running_mean", "bias")):
                tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
            else:
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return network
