"""Train a small ternary model from Python and let the native engine continue a text.

python examples/train.py
"""

import tempfile
from pathlib import Path

import onebit
from onebit import models
from onebit.train import TrainConfig, train
from onebit.train.config import BudgetConfig, DataConfig, ModelConfig, OptimConfig, ScheduleConfig

LINE = "This is the house that Jack built. "

with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    for i in range(10):
        (folder / f"{i}.txt").write_text(LINE * 50)
    config = TrainConfig(
        model=ModelConfig(
            hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2
        ),
        data=DataConfig(source=f"{folder}/*.txt", vocab_size=300, context=64),
        schedule=ScheduleConfig(lr=1e-2),
        optim=OptimConfig(batch=8),
        budget=BudgetConfig(steps=60),
        scheme=onebit.SCHEMES["bitnet-b1.58"],
        threads=1,
    )
    print(train(config, folder / "run"))
    models.export(folder / "run" / "model", folder / "jack.gguf", "t1_6")
    with onebit.LLM(folder / "jack.gguf") as llm:
        print(llm.generate("This is the house", max_tokens=20).text)
