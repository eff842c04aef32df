// The rules by which a layer's input becomes codes; src/onebit/quant/activation.py has the same in
// torch, and the integers are equal.
#pragma once
#include <string>

#include "ops.h"

namespace onebit {

// "fp" asks for no quantization: matrices of floats then multiply floats. Matrices of codes multiply
// int8 codes with a scale for each 32 columns, and by the same way what these leave over: 15 bits or
// more of the largest of the 32. With "fp_int8" they leave that out.
enum class Rule { fp, absmax, absmax_tensor, absmean, positive, half, fp4, dynamic, fixed };

struct Activation {
  Rule rule = Rule::fp;
  Range range = kInt8;  // of absmax
  size_t terms = 1;     // of fp, to a matrix of codes: an input is the sum of so many rows of codes
  float ratio = 0.0f;   // of dynamic: 8 bits from this many times the mean on, else 4
  // Of fixed, which calibration has found: codes = round_half_even((x - minimum) * (1 / scale)).
  float scale = 0.0f, minimum = 0.0f;
  bool zero_point = false;

  // Whether values are codes * scale plus a minimum.
  bool has_minimum() const { return rule == Rule::positive || zero_point; }
  bool operator==(const Activation& other) const;
};

// "int8_b1", "dynamic:7", ...; throws std::invalid_argument for a name that is no rule.
//   scale, zero  of "int8_static" and its like, the code that stands for 0 where the name ends in
//                _zero; 0 for all others
Activation activation_of(const std::string& name, float scale = 0.0f, int zero = 0);

// The largest magnitude becomes 2^(bits-1) - 1.
Range range_of(int bits);

// The largest |x|, where it is not known.
constexpr float kUnknown = -1.0f;

// Rounds n numbers, whose largest magnitude is `largest` or kUnknown; returns the scale and sets the
// minimum, which only some rules have. The rule is not fp.
float quantize(const Ops& ops, const Activation& activation, const float* x, size_t n,
               float largest, int8_t* codes, float* minimum);

}  // namespace onebit
