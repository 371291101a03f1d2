from functools import partial
from typing import Any

from . import Peer, whole_numbers

VOCABULARY = 500


def pytorch(windows: tuple[int, ...] = (3, 4, 5), filters: int = 100, width: int = 300, classes: int = 5) -> Any:
    """The network of Kim 2014."""
    import torch

    class TextCNN(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(VOCABULARY, width)
            self.convs = torch.nn.ModuleList([torch.nn.Conv1d(width, filters, size) for size in windows])
            self.fc = torch.nn.Linear(len(windows) * filters, classes)

        def forward(self, ids: Any) -> Any:
            h = self.embedding(ids).transpose(1, 2)
            return self.fc(torch.cat([conv(h).relu().amax(dim=2) for conv in self.convs], dim=1))

    return TextCNN()


PEERS = {
    "text_cnn": [
        Peer(
            "pytorch",
            pytorch,
            size=64,
            odd=37,
            small=12,
            shape=lambda length: (length,),
            draw=partial(whole_numbers, VOCABULARY),
            options={"vocabulary": VOCABULARY, "classes": 5},
            calm={"dropout": 0.0},
        )
    ]
}
REDUCED = {"text_cnn": {"input_shape": (12,), "vocabulary": 50, "width": 16, "filters": 8, "dropout": 0.0}}
TRAINING = {"text_cnn": (1e-2, 12)}
