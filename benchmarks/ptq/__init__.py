"""Methods of quantizing after training on two real models: `make results-ptq` writes the page."""
