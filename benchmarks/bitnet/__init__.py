"""The BitNet family measured on one small model: `make results-bitnet` writes the results page."""
