"""The optimiser does what torch's own does, and a batch in parts what the whole batch does."""

import pytest
import torch
from torch import Tensor, nn

from sa3_training.optimising import Muon, Optimiser
from sa3_training.sharing import Shared


@pytest.mark.parametrize("shape", [(24, 64), (64, 24), (32, 32)])
def test_muon_moves_as_torchs_own_does(shape: tuple[int, int]):
    torch.manual_seed(0)
    begin = torch.randn(shape)
    ours, theirs = nn.Parameter(begin.clone()), nn.Parameter(begin.clone())
    mine = Muon([ours], lr=1e-2)
    reference = torch.optim.Muon([theirs], lr=1e-2, weight_decay=Muon.DECAY, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        gradient = torch.randn(shape)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        mine.step()
        reference.step()
    # Torch multiplies in bfloat16, which has three digits.
    assert float((ours - theirs).detach().norm() / (theirs.detach() - begin).norm()) < 0.03


def test_muons_updates_are_orthogonal():
    torch.manual_seed(0)
    singular = torch.linalg.svdvals(Muon.orthogonal(torch.randn(3, 20, 50)))
    assert float(singular.min()) > 0.6 and float(singular.max()) < 1.3


def net() -> nn.Sequential:
    torch.manual_seed(1)
    module = nn.Sequential()
    module.add_module("layers", nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4)))
    return module


def loss(module: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    return {"loss": module(batch).square().mean()}


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_of_a_batch_give_the_gradient_of_the_whole(parts: int):
    batch = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    whole = net()
    loss(whole, batch)["loss"].backward()
    shared = Shared(net(), parts)
    found = shared.gradients([batch[i::parts] for i in range(parts)], loss)
    assert found["loss"] == pytest.approx(loss(whole, batch)["loss"].item(), rel=1e-5)
    for p, q in zip(shared.copies[0].parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-7)


def test_every_copy_follows_the_weights():
    module = net()
    shared = Shared(module, 3)
    optimiser = Optimiser(module.named_parameters(), matrix_rate=1e-2, rate=1e-2)
    batch = torch.randn(6, 8)
    for index in range(2):
        shared.gradients([batch[i::3] for i in range(3)], loss)
        optimiser.step(1.0, index)
    assert all(torch.equal(copy(batch), module(batch)) for copy in shared.copies)
    assert all(p.grad is None for copy in shared.copies for p in copy.parameters())
