"""The block formats of ggml, as GGUF files hold them. Page: docs/formats/ggml.md.

block     what they share: blocks of a fixed number of columns, each with its own float16 factors
ternary   tq1_0, tq2_0
few_bits  q1_0, q2_0, q2_0_g128: one or two bits and one scale
simple    q4_0, q4_1, q5_0, q5_1, q8_0: blocks of 32, one scale each
k_quants  q2_k to q6_k: blocks of 256, whose 8 or 16 groups have small integer scales of their own

Source: https://github.com/ggml-org/llama.cpp, ggml/src/ggml-common.h and ggml-quants.c
"""
