"""Language models in torch: built new, loaded from any format we read, and saved.

model = models.build(architecture, scheme, seed=1)
model = models.load("folder, file or catalog name")
models.save(model, "folder")
"""

from onebit.models.build import build
from onebit.models.export import ExportReport, export
from onebit.models.generate import generate
from onebit.models.language_model import FAMILIES, LanguageModel
from onebit.models.load import load
from onebit.models.save import save

__all__ = [
    "FAMILIES",
    "ExportReport",
    "LanguageModel",
    "build",
    "export",
    "generate",
    "load",
    "save",
]
