"""The optimizer."""

import torch

from support.processes import all_reduce_sum


class Adam:
    """Adam (Kingma and Ba 2015). torch.optim's does the same, but takes seconds to be imported.

    clip: the greatest norm of the gradient.
    """

    def __init__(self, weights, lr, clip=torch.inf):
        self.weights, self.lr, self.clip, self.steps = list(weights), lr, clip, 0
        self.sizes = [w.numel() for w in self.weights]
        self.mean = torch.zeros(sum(self.sizes), device=self.weights[0].device)
        self.square = torch.zeros_like(self.mean)

    def step(self, losses):
        """A step down the gradient of the mean of losses (N,), those of all processes of the run.

        Returns the mean, and the norm of the gradient before it is clipped: (2,).
        """
        number = all_reduce_sum(torch.full((), float(len(losses)), device=losses.device))
        loss = losses.sum() / number.clamp(min=1)
        gradient = torch.autograd.grad(loss, self.weights)
        gradient = all_reduce_sum(torch.cat([part.flatten() for part in gradient]))
        norm = gradient.norm()
        self.move(gradient * (self.clip / (norm + 1e-6)).clamp(max=1))
        return torch.stack([all_reduce_sum(loss.detach()), norm])

    @torch.no_grad()
    def move(self, gradient, beta1=0.9, beta2=0.999, epsilon=1e-8):
        """gradient: of all weights, flattened, one after the other: as one vector they are fast."""
        self.steps += 1
        self.mean.lerp_(gradient, 1 - beta1)
        self.square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        root = (self.square / (1 - beta2**self.steps)).sqrt_().add_(epsilon)
        change = (self.mean / root).mul_(-self.lr / (1 - beta1**self.steps))
        for w, part in zip(self.weights, change.split(self.sizes)):
            w += part.view_as(w)

    def state(self):
        """All of it, to be saved; `restore` takes it back."""
        return dict(steps=self.steps, mean=self.mean, square=self.square)

    def restore(self, state):
        self.steps, self.mean, self.square = state["steps"], state["mean"], state["square"]
