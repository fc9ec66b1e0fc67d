"""The first block of convolutional hosts, against one network at a time."""

import pytest
import torch
import torch.nn.functional as F

from esper_env.network import images, layers

SAMPLES, SIZE = 6, 8


def parameters(hosts, out, into, kernel, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (hosts, out, into, kernel, kernel), (hosts, out), (hosts, out)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def plainly(image, weight, scale, shift):
    """Convolution, GroupNorm and ReLU of one network's images `[n, h, w, c]`, as torch has them."""
    maps = F.conv2d(image.permute(0, 3, 1, 2), weight, padding=weight.shape[-1] // 2)
    return F.relu(F.group_norm(maps, layers.norm_groups(len(weight)), scale, shift))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("out", "into", "kernel"), [(1, 3, 1), (2, 3, 1), (4, 1, 1), (8, 3, 3), (4, 1, 3), (32, 3, 1)])
@pytest.mark.parametrize("hosts", [1, 2, 5])
def test_the_first_block_is_that_of_every_host_by_itself(hosts, out, into, kernel, shared):
    seen = torch.randn(1 if shared else hosts, SAMPLES, SIZE, SIZE, into, generator=torch.Generator().manual_seed(1))
    stacked, alone = parameters(hosts, out, into, kernel), parameters(hosts, out, into, kernel)
    ours = images.conv_norm_relu(seen, *stacked)
    theirs = torch.cat([plainly(seen[0 if shared else i], *(p[i] for p in alone)) for i in range(hosts)], 1)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert ours.permute(0, 2, 3, 1).is_contiguous()
    direction = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(2))
    (ours * direction).sum().backward()
    (theirs * direction).sum().backward()
    for mine, plain in zip(stacked, alone, strict=True):
        torch.testing.assert_close(mine.grad, plain.grad, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("samples", "size"), [(SAMPLES, SIZE), (5, 6), (3, 32)])
@pytest.mark.parametrize(("out", "into", "kernel"), [(1, 3, 1), (2, 3, 1), (32, 3, 1), (8, 3, 3)])
def test_neighbours_do_not_change_a_hosts_bits(out, into, kernel, samples, size, shared):
    seen = torch.randn(1 if shared else 9, samples, size, size, into, generator=torch.Generator().manual_seed(1))
    every = parameters(9, out, into, kernel)

    def maps_of(chosen):
        own = [p.detach()[chosen].requires_grad_() for p in every]
        maps = images.conv_norm_relu(seen if shared else seen[chosen], *own)
        if shared:  # as in evaluation, where nothing is trained
            return (maps.detach().split(out, 1),)
        maps.square().sum().backward()
        return maps.detach().split(out, 1), *(p.grad for p in own)

    together = maps_of(list(range(9)))
    for chosen in ([0, 1], [4, 2, 7], [8, 0, 3, 5, 1]):
        for whole, part in zip(together, maps_of(chosen), strict=True):
            for place, host in enumerate(chosen):
                assert torch.equal(whole[host], part[place])
