"""Everything from Python: capture, apply a pass, look at the graph, compile, train, take the weights back."""

from pathlib import Path

import torch
from torch import nn

import e2compile
from e2compile.passes import BatchDrop

OUTPUT = Path("out/from_python")


def network() -> nn.Module:
    def layer(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]

    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)]
    return nn.Sequential(*layer(1, 16), *layer(16, 32, stride=2), *layer(32, 32), *head)


def main(epochs: int = 20) -> float:
    """The test accuracy after so many epochs with half of the batches dropped."""
    torch.manual_seed(0)
    model = network()
    batch = (torch.randn(64, 1, 8, 8), torch.randint(0, 10, (64,)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)

    graph = e2compile.capture(model, batch, optimizer=optimizer, data="digits", epochs=epochs)
    graph = graph.apply(BatchDrop(p=0.5))
    for stage in graph.stages:
        print(f"{stage.name}: {len(stage.text.splitlines())} lines, {stage.changed} changed")
    print(next(line for line in graph.text().splitlines() if "e2.uniform" in line))

    program = e2compile.compile(graph, output=OUTPUT)
    results = program.fit()
    print(f"{results.steps_executed} of {results.steps_scheduled} steps in {results.seconds:.1f} s")
    print(f"test accuracy {program.evaluate().accuracy:.2%}")

    model.load_state_dict({name: torch.from_numpy(array) for name, array in program.state_dict().items()})
    return results.accuracy or 0.0


if __name__ == "__main__":
    main()
