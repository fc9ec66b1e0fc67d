import itertools

import pytest
import torch
import torch.nn.functional as F

from esper_env.network import layers

KINDS = [  # into, out, kernel
    (1, 4, 1),
    (1, 3, 1),
    (1, 1, 1),
    (1, 32, 1),
    (4, 8, 1),
    (1, 8, 3),
    (4, 4, 3),
    (8, 16, 1),
    (16, 16, 1),
]


def block(n, into, out, kernel, dtype=torch.float64, seed=0, size=6):
    """Maps in channels_last, weights, scale and shift of n convolutions with norm, and a gradient."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=draw, dtype=dtype)

    x, grad = (normal(5, size, size, n * channels).permute(0, 3, 1, 2) for channels in (into, out))
    return x, normal(n, out, into, kernel, kernel), 1 + 0.3 * normal(n, out), 0.3 * normal(n, out), grad


def run(x, weight, scale, shift, grad, through):
    """What comes out, and the gradients of everything that goes in."""
    inputs = [t.clone().requires_grad_() for t in (x, weight, scale, shift)]
    out = through(*inputs)
    return out.detach(), torch.autograd.grad(out, inputs, grad)


def plain(x, weight, scale, shift):
    n, out, _, kernel, _ = weight.shape
    x = F.conv2d(x, weight.flatten(0, 1), padding=kernel // 2, groups=n)
    return F.relu(F.group_norm(x, n * max(1, out // 16), scale.flatten(), shift.flatten()))


@pytest.mark.parametrize("size", [2, 6, 8, 32])
@pytest.mark.parametrize(("n", "kind"), list(itertools.product([1, 2, 5], KINDS)))
def test_a_block_is_a_convolution_a_group_norm_and_a_relu(n, kind, size):
    inputs = block(n, *kind, size=size)
    got, got_grads = run(*inputs, layers.conv_norm_relu)
    want, want_grads = run(*inputs, plain)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(got_grads, want_grads, rtol=1e-8, atol=1e-8)
    assert got.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [2, 8])
@pytest.mark.parametrize("kind", [(4, 8, 1), (4, 4, 3)])
def test_a_factor_per_channel_multiplies_a_block_and_gets_its_gradient(kind, size):
    *inputs, grad = block(3, *kind, size=size)
    factor = torch.randn(3, kind[1], generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    leaves = [t.clone().requires_grad_() for t in (*inputs, factor)]
    got, want = layers.conv_norm_relu(*leaves), plain(*leaves[:-1]) * leaves[-1].view(1, -1, 1, 1)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    got_grads, want_grads = (torch.autograd.grad(out, leaves, grad) for out in (got, want))
    torch.testing.assert_close(got_grads, want_grads, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS[:4])
def test_an_image_without_contrast_is_finite_and_its_block_says_so(kind):
    x, weight, scale, shift, grad = block(2, *kind)
    out, grads = run(torch.full_like(x, 0.7), weight, scale, shift, grad, layers.conv_norm_relu)
    assert out.isfinite().all()
    assert all(g.isfinite().all() for g in grads)
    want, _ = run(torch.full_like(x, 0.7), weight, scale, shift, grad, plain)
    torch.testing.assert_close(out, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", [2, 6, 8, 32])
@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_change_no_bit_of_a_block_not_even_infinite_ones(kind, size):
    into, out, _ = kind
    x, weight, scale, shift, grad = block(5, *kind, dtype=torch.float32, size=size)
    x[:, 2 * into : 3 * into] = torch.inf
    whole, grads = run(x, weight, scale, shift, grad, layers.conv_norm_relu)
    two = [t[[1, 3]] for t in (weight, scale, shift)]
    mine, theirs = slice(into, 2 * into), slice(3 * into, 4 * into)
    few, few_grads = run(
        torch.cat([x[:, mine], x[:, theirs]], 1).contiguous(memory_format=torch.channels_last),
        *two,
        torch.cat([grad[:, out : 2 * out], grad[:, 3 * out : 4 * out]], 1),
        layers.conv_norm_relu,
    )
    assert torch.equal(few, torch.cat([whole[:, out : 2 * out], whole[:, 3 * out : 4 * out]], 1))
    assert torch.equal(few_grads[0], torch.cat([grads[0][:, mine], grads[0][:, theirs]], 1))
    for some, among in zip(few_grads[1:], grads[1:], strict=True):
        assert torch.equal(some, among[[1, 3]])


@pytest.mark.parametrize("size", [(32, 32), (34, 48), (33, 40), (40, 33), (8, 8), (5, 5)])
@pytest.mark.parametrize("channels", [1, 3, 20])
def test_maps_are_halved_by_the_mean_of_two_by_two(size, channels):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(4, *size, channels, generator=draw, dtype=torch.float64).permute(0, 3, 1, 2).requires_grad_()
    got, want = layers.halve(x), F.avg_pool2d(x, 2)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    assert got.is_contiguous(memory_format=torch.channels_last)
    grad = torch.randn(want.shape, generator=draw, dtype=torch.float64)
    assert torch.equal(*(torch.autograd.grad(out, x, grad)[0] for out in (got, want)))


@pytest.mark.parametrize("size", [32, 8])
def test_neighbours_change_no_bit_of_a_halved_map_not_even_infinite_ones(size):
    x = torch.randn(4, size, size, 23, generator=torch.Generator().manual_seed(0)).permute(0, 3, 1, 2)
    for infinite in (0, 16, 22):
        spoilt = x.clone(memory_format=torch.channels_last)
        spoilt[:, infinite] = torch.inf
        sound = [channel for channel in range(23) if channel != infinite]
        assert torch.equal(layers.halve(spoilt)[:, sound], layers.halve(x)[:, sound])
    for channel in range(22):
        pair = x[:, channel : channel + 2].contiguous(memory_format=torch.channels_last)
        assert torch.equal(layers.halve(pair), layers.halve(x)[:, channel : channel + 2])
