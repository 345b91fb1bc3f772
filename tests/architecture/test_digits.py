"""The network of the default task learns it."""

import torch
from sklearn.datasets import load_digits

from sam_repro.architecture import digits_cnn


def test_learns_the_digits_in_four_epochs() -> None:
    digits = load_digits()
    images = (torch.tensor(digits.images, dtype=torch.float32)[:, None] - 4.9) / 6.0
    labels = torch.tensor(digits.target)
    torch.manual_seed(0)
    model = digits_cnn(num_classes=10, in_channels=1, image_size=8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(4):
        for batch in torch.randperm(1000).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        predictions = model.eval()(images[1000:]).argmax(1)
    assert (predictions != labels[1000:]).double().mean() < 0.08
