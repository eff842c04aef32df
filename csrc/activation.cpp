#include "activation.h"

#include <algorithm>
#include <locale>
#include <sstream>
#include <stdexcept>

namespace onebit {
namespace {

// BitNet b1, https://arxiv.org/abs/2310.11453, equation 4: Q = 128, clipped one short of it.
constexpr Range kB1 = {128.0f, -127.0f, 127.0f};
// BitNet a4.8, https://arxiv.org/abs/2411.04965, equation 7: sqrt 7 codes to the mean magnitude.
constexpr Range kInt4Mean = {2.6457513110645906f, -8.0f, 7.0f};

struct Named {
  const char* name;
  Activation activation;
};
const Named kRules[] = {
    {"fp", {Rule::fp, kInt8, 2}},
    {"fp_int8", {Rule::fp, kInt8, 1}},
    {"int8_absmax", {Rule::absmax, kInt8}},
    {"int8_absmax_tensor", {Rule::absmax_tensor, kInt8}},
    {"int2_absmax", {Rule::absmax, range_of(2)}},
    {"int3_absmax", {Rule::absmax, range_of(3)}},
    {"int4_absmax", {Rule::absmax, range_of(4)}},
    {"int5_absmax", {Rule::absmax, range_of(5)}},
    {"int6_absmax", {Rule::absmax, range_of(6)}},
    {"int7_absmax", {Rule::absmax, range_of(7)}},
    {"int4_absmean", {Rule::absmean}},
    {"int8_b1", {Rule::absmax, kB1}},
    {"int8_b1_positive", {Rule::positive}},
    {"int8_top50", {Rule::half}},
    {"fp4_e2m1", {Rule::fp4}},
};
const std::string kDynamic = "dynamic:";
// Ops::quantize takes a scale as so many steps of it; a power of two, so that 1 / scale is exact.
constexpr float kFixedSteps = 1024.0f;

// Digits with at most one point among them, as the scheme has them; 0 for anything else.
float ratio_of(const std::string& text) {
  const bool plain = !text.empty() && text.size() < 16 &&
                     text.find_first_not_of("0123456789.") == std::string::npos &&
                     std::count(text.begin(), text.end(), '.') <= 1 && text.front() != '.' &&
                     text.back() != '.';
  std::istringstream words(text);
  words.imbue(std::locale::classic());  // a point is a point, whatever the program's locale
  double ratio = 0.0;
  return plain && words >> ratio ? static_cast<float>(ratio) : 0.0f;
}

// "int8_static" or "int8_static_zero", of 2 to 8 bits; 0 for other names.
int static_bits(const std::string& name, bool* zero_point) {
  const std::string rest = name.size() > 4 ? name.substr(4) : "";
  *zero_point = rest == "_static_zero";
  const bool named = name.compare(0, 3, "int") == 0 && (rest == "_static" || *zero_point);
  return named && name[3] >= '2' && name[3] <= '8' ? name[3] - '0' : 0;
}

Activation fixed_of(const std::string& name, int bits, bool zero_point, float scale, int zero) {
  const float most = static_cast<float>((1 << (bits - 1)) - 1);
  Activation fixed{Rule::fixed, {kFixedSteps, zero_point ? -most - 1.0f : -most, most}};
  const float code = static_cast<float>(zero);
  if (!(scale > 0.0f && scale < 1e30f) || (zero_point ? code < -most - 1.0f || code > most : zero))
    throw std::invalid_argument("activation " + name +
                                " wants a scale above 0 and a zero-point that is a code.");
  fixed.scale = scale;
  fixed.minimum = zero_point ? -code * scale : 0.0f;
  fixed.zero_point = zero_point;
  return fixed;
}

// Piece by piece, as the minimum goes off first.
void quantize_fixed(const Ops& ops, const Activation& a, const float* x, size_t n, int8_t* codes) {
  const float size = a.scale * kFixedSteps;
  if (!a.zero_point) {
    ops.quantize(x, n, size, a.range, codes);
    return;
  }
  for (size_t k = 0; k < n; k += 256) {
    float part[256];
    const size_t count = std::min<size_t>(256, n - k);
    for (size_t i = 0; i < count; ++i) part[i] = x[k + i] - a.minimum;
    ops.quantize(part, count, size, a.range, codes + k);
  }
}

}  // namespace

bool Activation::operator==(const Activation& other) const {
  return rule == other.rule && terms == other.terms && ratio == other.ratio &&
         range.steps == other.range.steps && range.low == other.range.low &&
         range.high == other.range.high && scale == other.scale && minimum == other.minimum &&
         zero_point == other.zero_point;
}

Range range_of(int bits) {
  const float most = static_cast<float>((1 << (bits - 1)) - 1);
  return {most, -most - 1.0f, most};
}

Activation activation_of(const std::string& name, float scale, int zero) {
  bool zero_point;
  if (const int bits = static_bits(name, &zero_point))
    return fixed_of(name, bits, zero_point, scale, zero);
  if (scale != 0.0f || zero) throw std::invalid_argument("activation " + name + " has no scale.");
  std::string accepted;
  for (const Named& rule : kRules) {
    if (name == rule.name) return rule.activation;
    accepted += std::string(rule.name) + ", ";
  }
  if (name.compare(0, kDynamic.size(), kDynamic) == 0) {
    Activation dynamic{Rule::dynamic};
    dynamic.ratio = ratio_of(name.substr(kDynamic.size()));
    if (dynamic.ratio > 0) return dynamic;
  }
  throw std::invalid_argument("activation " + name + " is unknown; accepted: " + accepted +
                              "dynamic:R with a number R above 0, int8_static.");
}

float quantize(const Ops& ops, const Activation& activation, const float* x, size_t n,
               float largest, int8_t* codes, float* minimum) {
  *minimum = 0.0f;
  const auto size = [&] { return largest < 0 ? ops.absmax(x, n) : largest; };
  switch (activation.rule) {
    case Rule::absmean: return ops.quantize(x, n, ops.absmean(x, n), kInt4Mean, codes);
    case Rule::positive: return ops.quantize_positive(x, n, codes, minimum);
    case Rule::half: return ops.quantize_half(x, n, size(), codes);
    case Rule::fp4: return ops.quantize_fp4(x, n, size(), codes);
    case Rule::dynamic: {
      const float mean = std::max(ops.absmean(x, n), 1e-5f), most = std::max(size(), 1e-5f);
      const bool outlier = most > activation.ratio * mean;
      return outlier ? ops.quantize(x, n, most, kInt8, codes)
                     : ops.quantize(x, n, mean, kInt4Mean, codes);
    }
    case Rule::fixed:
      quantize_fixed(ops, activation, x, n, codes);
      *minimum = activation.minimum;
      return activation.scale;
    default: return ops.quantize(x, n, size(), activation.range, codes);
  }
}

}  // namespace onebit
