"""Laws of the joint flow: inverse, log-determinant, density, marginals, sampling, CRPS."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from forecasting.flow import FlowContext, JointFlow, MixtureTransform, TriangularTransform, mixture_crps


def random_context(batch: int, cells: int, components: int = 5, seed: int = 0) -> FlowContext:
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    raw = torch.tril(normal(batch, cells, cells), -1) + torch.eye(cells, dtype=torch.float64)
    return FlowContext(
        torch.log_softmax(normal(batch, cells, components), -1),
        2 * normal(batch, cells, components),
        torch.exp(0.7 * normal(batch, cells, components) - 0.5),
        raw / torch.linalg.vector_norm(raw, dim=-1, keepdim=True),
    )


def values(batch: int, cells: int, seed: int = 1) -> Tensor:
    return 2 * torch.randn(batch, cells, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


TRANSFORMS = [MixtureTransform(), TriangularTransform(), JointFlow()._transform]
NAMES = ["mixture", "triangular", "both"]


@pytest.mark.parametrize("transform", TRANSFORMS, ids=NAMES)
@pytest.mark.parametrize("cells", [1, 4, 12])
def test_the_inverse_undoes_the_transform_and_the_log_determinant(transform: MixtureTransform, cells: int) -> None:
    context, y = random_context(3, cells), values(3, cells)
    z, log_det = transform.forward(y, context)
    back, log_det_back = transform.inverse(z, context)
    torch.testing.assert_close(back, y, rtol=0, atol=1e-7)
    torch.testing.assert_close(log_det_back, -log_det, rtol=0, atol=1e-6)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=NAMES)
@pytest.mark.parametrize("cells", [1, 3, 12])
def test_the_log_determinant_is_that_of_autograds_jacobian(transform: MixtureTransform, cells: int) -> None:
    context, y = random_context(1, cells), values(1, cells)
    jacobian = torch.autograd.functional.jacobian(lambda x: transform.forward(x[None], context)[0][0], y[0])
    _, log_det = transform.forward(y, context)
    torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, log_det[0], rtol=1e-7, atol=1e-8)


def test_the_inverse_reaches_far_into_both_tails() -> None:
    context = random_context(1, 1)
    u = torch.linspace(-6.0, 6.0, 25, dtype=torch.float64)[:, None]
    spread = FlowContext(*(t.expand(25, *t.shape[1:]) for t in context.__dict__.values()))
    y, _ = MixtureTransform().inverse(u, spread)
    torch.testing.assert_close(MixtureTransform().forward(y, spread)[0], u, rtol=0, atol=1e-6)
    assert bool((y.diff(dim=0) > 0).all())


@pytest.mark.slow
def test_the_density_integrates_to_one() -> None:
    context = random_context(1, 2, components=3)
    line = torch.linspace(-40, 40, 1201, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    many = FlowContext(*(t.expand(len(grid), *t.shape[1:]) for t in context.__dict__.values()))
    total = JointFlow().log_prob(grid, many).exp().sum() * float(line[1] - line[0]) ** 2
    assert float(total) == pytest.approx(1.0, abs=1e-3)


def test_one_logistic_and_no_dependence_is_the_closed_form() -> None:
    y = values(4, 3)
    one = torch.zeros(4, 3, 1, dtype=torch.float64)
    context = FlowContext(one, one + 0.5, one + 2.0, torch.eye(3, dtype=torch.float64).expand(4, 3, 3))
    t = (y - 0.5) / 2.0
    want = (-t - math.log(2.0) - 2 * torch.log1p(torch.exp(-t))).sum(-1)
    torch.testing.assert_close(JointFlow().log_prob(y, context), want)


def test_parts_of_the_likelihood_add_up_to_the_whole() -> None:
    context, y = random_context(3, 5), values(3, 5)
    marginal, copula = JointFlow().log_prob_parts(y, torch.ones(3, 5, dtype=torch.bool), context)
    torch.testing.assert_close(marginal.sum(-1) + copula, JointFlow().log_prob(y, context))


def test_absent_cells_are_integrated_out() -> None:
    context, y = random_context(1, 2, components=2), values(1, 2)
    observed = torch.tensor([[True, False]])
    marginal, copula = JointFlow().log_prob_parts(y, observed, context)
    line = torch.linspace(-60, 60, 20_001, dtype=torch.float64)
    many = FlowContext(*(t.expand(len(line), *t.shape[1:]) for t in context.__dict__.values()))
    joint = JointFlow().log_prob(torch.stack([y[0, 0].expand(len(line)), line], dim=1), many)
    want = joint.exp().sum().log() + math.log(float(line[1] - line[0]))
    torch.testing.assert_close(marginal.sum() + copula[0], want, rtol=0, atol=1e-4)


def test_the_copula_part_leaves_the_marginals_alone() -> None:
    context, y = random_context(2, 4), values(2, 4)
    leaves = [t.clone().requires_grad_() for t in context.__dict__.values()]
    _, copula = JointFlow().log_prob_parts(y, torch.ones(2, 4, dtype=torch.bool), FlowContext(*leaves))
    copula.sum().backward()
    assert leaves[1].grad is None
    assert leaves[3].grad is not None
    assert float(leaves[3].grad.abs().sum()) > 0


def test_samples_have_the_mixtures_as_marginals_and_the_factor_as_dependence() -> None:
    context = random_context(1, 3)
    noise = torch.randn(40_000, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    drawn = JointFlow.sample_from(noise, context)[0]
    u, _ = MixtureTransform.marginals(
        drawn, FlowContext(*(t.expand(40_000, *t.shape[1:]) for t in context.__dict__.values()))
    )
    assert float(u.mean(0).abs().max()) < 0.03
    assert float((u.std(0) - 1).abs().max()) < 0.03
    want = context.factor[0] @ context.factor[0].T
    assert float((torch.corrcoef(u.T) - want).abs().max()) < 0.03


def test_the_sampling_table_is_close_to_the_exact_inverse() -> None:
    context = random_context(8, 6)
    noise = torch.randn(200, 6, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    drawn = JointFlow.sample_from(noise, context)
    u = torch.einsum("bcd,md->bmc", context.factor, noise)
    many = FlowContext(*(t.repeat_interleave(200, 0) for t in context.__dict__.values()))
    exact, _ = MixtureTransform().inverse(u.flatten(0, 1), many)
    error = (drawn.flatten(0, 1) - exact).abs() / many.scales.amax(-1)
    assert float(error.median()) < 0.02
    assert float(error.quantile(0.999)) < 0.4


def test_any_cells_can_be_sampled_alone() -> None:
    context = random_context(2, 6)
    noise = torch.randn(50, 6, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    full = JointFlow.sample_from(noise, context)
    some = JointFlow.sample_from(noise, context.cells(torch.tensor([4, 1])))
    torch.testing.assert_close(some, full[..., [4, 1]])


def test_the_crps_agrees_with_that_of_samples() -> None:
    context, y = random_context(6, 2), values(6, 2)
    p = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    noise = torch.special.ndtri(p)[:, None].expand(-1, 2)
    plain = FlowContext(*list(context.__dict__.values())[:3], torch.eye(2, dtype=torch.float64).expand(6, 2, 2))
    drawn = JointFlow.sample_from(noise, plain)
    near = (drawn - y[:, None]).abs().mean(1)
    rank = 2 * torch.arange(1, 4001, dtype=torch.float64)[:, None] - 4001
    apart = (rank * drawn.sort(dim=1).values).sum(1) / 4000**2
    torch.testing.assert_close(mixture_crps(y, context), near - apart, rtol=0.02, atol=0.005)


def test_the_context_is_required() -> None:
    with pytest.raises(TypeError, match="context"):
        JointFlow().log_prob(values(1, 2))  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="context"):
        MixtureTransform().forward(values(1, 2))  # type: ignore[call-arg]
