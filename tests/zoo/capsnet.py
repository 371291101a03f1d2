from typing import Any

from . import Peer


def pytorch() -> Any:
    """The network of Sabour et al. 2017 for 28 x 28 digits."""
    import torch

    def squash(s: Any) -> Any:
        length = s.norm(dim=-1, keepdim=True)
        return s * length / (1 + length**2)

    class CapsNet(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(1, 256, 9)
            self.primary = torch.nn.Conv2d(256, 32 * 8, 9, stride=2)
            self.capsules = torch.nn.ParameterDict({"weight": 0.1 * torch.randn(6 * 6 * 32, 8, 16, 10)})

        def forward(self, x: Any) -> Any:
            h = self.primary(self.conv(x).relu())
            u = squash(h.permute(0, 2, 3, 1).reshape(len(x), -1, 8))
            votes = torch.einsum("nid,idoj->nijo", u, self.capsules["weight"])
            b = torch.zeros(votes.shape[:3], dtype=votes.dtype)
            for _ in range(3):
                v = squash((b.softmax(dim=2)[..., None] * votes).sum(dim=1))
                b = b + (votes * v[:, None]).sum(dim=3)
            return v.norm(dim=2)

    return CapsNet()


PEERS = {"capsnet": [Peer("pytorch", pytorch, size=28, odd=27, small=28, shape=lambda size: (size, size, 1), options={"classes": 10})]}
REDUCED = {"capsnet": {"input_shape": (19, 19, 1), "width": 8, "kinds": 4}}
TRAINING = {"capsnet": (1e-2, 20)}
LOSSES = {"capsnet": "margin"}
