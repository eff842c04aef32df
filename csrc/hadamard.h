// Which Hadamard matrix a size has.
//
// H = H_m1 (x) H_m2 (x) ... (x) H_power, a Kronecker product: `power` is a power of two (Sylvester's
// construction), each other order 4 times an odd number:
//   Paley I,  order q + 1, q prime, q = 3 mod 4:                        12, 20, 44, 60, 68, 84, ...
//   Paley II, order 2 q + 2, q prime or its square, q = 1 mod 4:        28, 36, 52, 76, 100, ...
//   Goethals and Seidel, order 4 p, of four circulant matrices:         92, 116, 172
// Of the products that make n, the one with the smallest sum of orders is taken, so that 576 is
// 12 * 12 * 4, 3200 is 20 * 20 * 8, 8640 is 36 * 20 * 12 and 11008 is 172 * 64. Where none is found
// (39 * 2^k, 47 * 2^k), and for 2 * odd and odd numbers, H is block-diagonal, with blocks of the
// largest power of two that divides n. onebit/hadamard.py makes the same choice.
//
// R. E. A. C. Paley, On orthogonal matrices, 1933. J.-M. Goethals and J. J. Seidel, A skew Hadamard
// matrix of order 36, 1970; the first rows are unions of cyclotomic classes, found by a search here.
#pragma once
#include <stddef.h>

#include <vector>

#include "ops.h"

namespace onebit {

// What Ops::hadamard needs for rows of n numbers. Made once; computes nothing later.
class HadamardPlan {
 public:
  // n >= 1. transpose: of the transposed matrix, its inverse.
  explicit HadamardPlan(size_t n, bool transpose = false);

  const Hadamard& get() const { return plan_; }

  HadamardPlan(const HadamardPlan&) = delete;
  HadamardPlan& operator=(const HadamardPlan&) = delete;

 private:
  Hadamard plan_;
  std::vector<float> signs_[Hadamard::kMostAxes];
};

}  // namespace onebit
