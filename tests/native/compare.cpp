// Compares every table of operations that this CPU runs with the scalar one: integers are equal,
// floats are equal bit for bit. Needs no Python, so that it can be compiled for another CPU and run
// under an emulator.
//
//   compare [name ...]     the instruction sets that must be there, best first; none: any
//
// Exits with 1 after the first difference, which it prints.
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "buffer.h"
#include "decoder.h"
#include "dispatch.h"
#include "hadamard.h"
#include "half.h"
#include "kv_codes.h"
#include "linear.h"
#include "matrix.h"
#include "ops.h"
#include "parallel.h"
#include "recurrence.h"
#include "training.h"

using namespace onebit;

namespace {

size_t compared = 0;

[[noreturn]] void fail(const std::string& what) {
  printf("%s\n", what.c_str());
  exit(1);
}

// Numbers that are the same on every CPU.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t bits() {  // splitmix64
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  int within(int low, int high) {
    return low + static_cast<int>(bits() % static_cast<uint64_t>(high - low + 1));
  }
  float unit() { return static_cast<float>(within(-1000000, 1000000)) * 1e-6f; }

 private:
  uint64_t state_;
};

std::vector<float> floats(Random& random, size_t n, float size = 1.0f) {
  std::vector<float> x(n);
  for (float& v : x) v = size * random.unit();
  return x;
}

std::vector<int8_t> codes(Random& random, size_t n, int low, int high) {
  std::vector<int8_t> x(n);
  for (int8_t& v : x) v = static_cast<int8_t>(random.within(low, high));
  return x;
}

// Floats with what is rare among them: infinities, NaN, zeros, numbers below the normal range.
std::vector<float> odd_floats(Random& random, size_t n) {
  static const float rare[] = {0.0f,   -0.0f,  INFINITY, -INFINITY, NAN,    1e-45f, -1e-40f,
                               3e38f,  -3e38f, 65504.0f, 65520.0f,  88.7f,  -103.9f, 0.5f};
  std::vector<float> x = floats(random, n, 8.0f);
  for (float& v : x)
    if (!random.within(0, 3)) v = rare[random.within(0, sizeof rare / sizeof rare[0] - 1)];
  return x;
}

// Which NaN an operation makes is the CPU's choice, and a compiler may swap its operands.
bool same(float a, float b) {
  return memcmp(&a, &b, sizeof a) == 0 || (a != a && b != b);
}
template <class T>
bool same(T a, T b) {
  return a == b;
}

template <class T>
void compare(const std::string& what, const std::vector<T>& expected, const std::vector<T>& got) {
  for (size_t i = 0; i < expected.size(); ++i)
    if (!same(expected[i], got[i]))
      fail(what + ": [" + std::to_string(i) + "] is " + std::to_string(got[i]) + ", scalar has " +
           std::to_string(expected[i]));
  compared += expected.size();
}

std::vector<const Ops*> tables;  // all but scalar

// `run` writes what an operation gives; every table must write what scalar does.
template <class T>
void each(const std::string& what, size_t n, const std::function<void(const Ops&, T*)>& run) {
  std::vector<T> expected(n);
  run(kScalar, expected.data());
  for (const Ops* ops : tables) {
    std::vector<T> got(n);
    run(*ops, got.data());
    compare(std::string(ops->isa) + ", " + what, expected, got);
  }
}

// ---- products

struct CodeLayout {
  const char* name;
  int low, high;
};
const CodeLayout kCodeLayouts[] = {
    {"t2", -1, 1}, {"t1_6", -1, 1}, {"b1", -1, 1},
    {"i4", -8, 7}, {"i6", -32, 31}, {"i8", -128, 127}};

// Codes that the layout holds.
std::vector<int8_t> codes_of(const CodeLayout& layout, Random& random, size_t n) {
  std::vector<int8_t> w = codes(random, n, layout.low, layout.high);
  if (!strcmp(layout.name, "b1"))
    for (int8_t& v : w) v = v < 0 ? -1 : 1;
  return w;
}

std::string shape(const std::string& name, size_t N, size_t K, size_t T) {
  return name + " N=" + std::to_string(N) + " K=" + std::to_string(K) + " T=" + std::to_string(T);
}

// Integer sums, of scalar against plain arithmetic and of the others against scalar.
void sums(const CodeLayout& layout, size_t N, size_t K, size_t T, const std::vector<int8_t>& w,
          const std::vector<int8_t>& x) {
  const std::vector<float> scale(N, 1.0f);
  const Matrix matrix = matrix_of_codes(layout.name, w.data(), N, K, scale.data(), nullptr, 1);
  const auto run = [&](const Ops& ops, int32_t* y) {
    Input input;
    Products products;
    input.take_codes(ops, x.data(), T, matrix);
    products.add_sums(matrix, input, y);
    products.run(ops);
  };
  std::vector<int32_t> plain(T * N), scalar(T * N);
  for (size_t t = 0; t < T; ++t)
    for (size_t n = 0; n < N; ++n)
      for (size_t k = 0; k < K; ++k) plain[t * N + n] += w[n * K + k] * x[t * K + k];
  run(kScalar, scalar.data());
  compare("scalar, sums of " + shape(layout.name, N, K, T), plain, scalar);
  each<int32_t>("sums of " + shape(layout.name, N, K, T), T * N, run);
}

void random_sums() {
  Random random(1);
  for (const CodeLayout& layout : kCodeLayouts)
    for (const size_t K : {1, 3, 16, 17, 63, 64, 65, 100, 333, 640})
      for (size_t T = 1; T <= 13; ++T) {
        const size_t N = static_cast<size_t>(random.within(1, 40));
        sums(layout, N, K, T, codes_of(layout, random, N * K),
             codes(random, T * K, -128, 127));
      }
}

// The largest sums that a row can give: every code and every activation at an end of its range.
void extreme_sums() {
  const size_t N = 3, K = 32768;
  for (const CodeLayout& layout : kCodeLayouts)
    for (const int w : {layout.low, layout.high})
      for (const int x : {-128, 127})
        for (const size_t T : {1, 2, 5, 13}) {
          if (T > 2 && (w != layout.low || x != -128)) continue;
          sums(layout, N, K, T, std::vector<int8_t>(N * K, static_cast<int8_t>(w)),
               std::vector<int8_t>(T * K, static_cast<int8_t>(x)));
        }
}

// y = x W^T + bias of a layer, from float inputs. `made`: a row of inputs is there only when it is
// asked for, as a gated unit makes it from `other`.
void layer(const std::string& what, const Linear& linear, size_t T, const std::vector<float>& x,
           const std::vector<float>* other = nullptr) {
  const Matrix& m = *linear.matrix;
  const size_t K = m.columns;
  each<float>("layer of " + shape(what, m.rows, K, T), T * m.rows, [&](const Ops& ops, float* y) {
    Input input;
    Products products;
    std::vector<float> rows = x;
    const auto make = [&](size_t t) {
      float* row = rows.data() + t * K;
      const float squares = ops.glu_silu(row, other->data() + t * K, row, K);
      return ops.normalize(row, other->data(), squares, 1e-5f, row, K);
    };
    input.prepare(ops, rows.data(), T, K, linear, 1e-5f, other ? Rows::of(make) : Rows{});
    products.add(ops, linear, input, y);
    products.run(ops);
  });
}

// Scales or minima that a matrix can keep in 4, 2 or 1 bytes; `span` of them share a float then.
std::vector<float> factors_in(size_t bytes, Random& random, size_t n, size_t span) {
  std::vector<float> x = floats(random, n);
  if (bytes < 4)
    for (float& v : x) v = float_of_half(half_of_float(v));
  if (bytes == 1)
    for (size_t i = 0; i < n; ++i) x[i] = x[i / span * span] * (i % span ? random.within(-63, 63) : 127);
  return x;
}

void code_layers() {
  Random random(2);
  struct Sizes {
    size_t K, groups, factor_bytes;
  };
  const char* const rules[] = {"fp", "fp_int8", "int8_absmax", "int8_absmax_tensor", "int4_absmean", "int8_b1",
                               "int8_b1_positive", "int8_top50", "fp4_e2m1", "int4_absmax",
                               "dynamic:3"};
  for (const CodeLayout& layout : kCodeLayouts)
    for (const Sizes& s : {Sizes{33, 1, 4}, Sizes{192, 1, 4}, Sizes{192, 12, 4}, Sizes{256, 8, 2},
                           Sizes{256, 16, 1}, Sizes{320, 5, 4}, Sizes{480, 10, 2}, Sizes{512, 16, 1}})
      for (const char* const rule : rules)
        for (const size_t T : {1, 2, 3, 5, 8, 13}) {
          const size_t multiple = !strcmp(layout.name, "b1") ? 32 : 16;
          if (s.groups > 1 && (!strcmp(layout.name, "t1_6") || s.K / s.groups % multiple)) continue;
          const size_t N = static_cast<size_t>(random.within(1, 36));
          Linear linear;
          linear.activation = activation_of(rule);
          const bool tensor = linear.activation.rule == Rule::absmax_tensor;
          if (random.within(0, 1))
            linear.norm = floats(random, s.K);
          else
            linear.layer_norm = random.within(0, 1);
          if (s.K % 64 == 0 && !tensor) linear.parts = static_cast<size_t>(random.within(1, 2));
          if (random.within(0, 1)) linear.bias = floats(random, N);
          if (!random.within(0, 3)) linear.hadamard = std::make_shared<HadamardPlan>(s.K);
          if (linear.hadamard && random.within(0, 1))
            linear.signs = std::make_shared<std::vector<float>>(s.K, -1.0f);
          const size_t span = s.factor_bytes == 1 ? 256 * s.groups / s.K : s.groups;
          const auto factors = [&] {
            return factors_in(s.factor_bytes, random, N * s.groups, span);
          };
          const std::vector<float> scale = factors(), minimum = factors();
          linear.matrix = std::make_shared<Matrix>(matrix_of_codes(
              layout.name, codes_of(layout, random, N * s.K).data(), N, s.K, scale.data(),
              random.within(0, 1) ? minimum.data() : nullptr, s.groups));
          if (linear.matrix->factor_bytes != s.factor_bytes)
            fail("factors in " + std::to_string(linear.matrix->factor_bytes) + " bytes, not " +
                 std::to_string(s.factor_bytes));
          const std::vector<float> x = floats(random, T * s.K, 4.0f);
          const std::vector<float> other = floats(random, T * s.K);
          const bool made = linear.norm.empty() && !linear.layer_norm && !tensor;
          layer(std::string(layout.name) + " groups=" + std::to_string(s.groups), linear, T, x,
                made && random.within(0, 1) ? &other : nullptr);
        }
}

void float_layers() {
  Random random(3);
  for (const Layout layout : {Layout::f32, Layout::f16, Layout::bf16})
    for (const size_t K : {1, 6, 64, 131})
      for (const size_t T : {1, 2, 3, 5, 13}) {
        const size_t N = static_cast<size_t>(random.within(1, 36));
        const std::vector<float> w = floats(random, N * K);
        std::vector<uint16_t> halves(N * K);
        for (size_t i = 0; i < w.size(); ++i) {
          uint32_t bits;
          memcpy(&bits, &w[i], 4);
          halves[i] = layout == Layout::f16 ? half_of_float(w[i]) : static_cast<uint16_t>(bits >> 16);
        }
        const void* values = layout == Layout::f32 ? static_cast<const void*>(w.data()) : halves.data();
        Linear linear;
        if (random.within(0, 1)) linear.bias = floats(random, N);
        linear.matrix = std::make_shared<Matrix>(matrix_of_floats(layout, values, N, K));
        layer(name_of(layout), linear, T, floats(random, T * K));
      }
}

// ---- operations on vectors

const size_t kSizes[] = {1, 2, 15, 16, 17, 31, 33, 64, 100, 257};

void quantizers() {
  Random random(4);
  for (const size_t n : kSizes)
    for (const bool odd : {false, true}) {
      const std::string at = " n=" + std::to_string(n) + (odd ? " odd" : "");
      const std::vector<float> x = odd ? odd_floats(random, n) : floats(random, n, 3.0f);
      each<float>("absmax" + at, 1, [&](const Ops& ops, float* y) { *y = ops.absmax(x.data(), n); });
      const float largest = odd ? 2.0f : kScalar.absmax(x.data(), n);
      each<float>("absmean" + at, 1, [&](const Ops& ops, float* y) { *y = ops.absmean(x.data(), n); });
      using Quantize = std::function<float(const Ops&, int8_t*)>;
      const std::pair<const char*, Quantize> all[] = {
          {"quantize",
           [&](const Ops& ops, int8_t* y) { return ops.quantize(x.data(), n, largest, kInt8, y); }},
          {"quantize_positive",
           [&](const Ops& ops, int8_t* y) {
             float low;
             const float scale = ops.quantize_positive(x.data(), n, y, &low);
             return scale + low;
           }},
          {"quantize_fp4",
           [&](const Ops& ops, int8_t* y) { return ops.quantize_fp4(x.data(), n, largest, y); }},
          {"quantize_half",
           [&](const Ops& ops, int8_t* y) { return ops.quantize_half(x.data(), n, largest, y); }},
      };
      for (const auto& [name, run] : all) {
        const Quantize& quantize = run;
        each<float>(std::string("scale of ") + name + at, 1, [&](const Ops& ops, float* y) {
          std::vector<int8_t> code(n);
          *y = quantize(ops, code.data());
        });
        each<int8_t>(name + at, n, [&](const Ops& ops, int8_t* code) { quantize(ops, code); });
      }
      const size_t blocks = (n + kBlock - 1) / kBlock;
      each<float>("scales of quantize_i8_blocks" + at, blocks, [&](const Ops& ops, float* y) {
        std::vector<int8_t> code(n);
        ops.quantize_i8_blocks(x.data(), n, code.data(), y);
      });
      each<int8_t>("quantize_i8_blocks" + at, n, [&](const Ops& ops, int8_t* code) {
        std::vector<float> scale(blocks);
        ops.quantize_i8_blocks(x.data(), n, code, scale.data());
      });
      const auto remainder = [&](const Ops& ops, int8_t* rest, float* rest_scale) {
        std::vector<int8_t> code(n);
        std::vector<float> scale(blocks);
        ops.quantize_i8_blocks(x.data(), n, code.data(), scale.data());
        ops.remainder_i8_blocks(x.data(), n, code.data(), scale.data(), rest, rest_scale);
      };
      each<float>("scales of remainder_i8_blocks" + at, blocks, [&](const Ops& ops, float* y) {
        std::vector<int8_t> rest(n);
        remainder(ops, rest.data(), y);
      });
      each<int8_t>("remainder_i8_blocks" + at, n, [&](const Ops& ops, int8_t* rest) {
        std::vector<float> scale(blocks);
        remainder(ops, rest, scale.data());
      });
      const std::vector<int8_t> code = codes(random, 16 * n, -128, 127);
      each<float>("dequantize" + at, n, [&](const Ops& ops, float* y) {
        ops.dequantize(code.data(), x[0], y, n);
      });
      each<int32_t>("sum_by_16" + at, n, [&](const Ops& ops, int32_t* y) {
        ops.sum_by_16(code.data(), y, n);
      });
    }
}

void vectors() {
  Random random(5);
  for (const size_t n : kSizes)
    for (const bool odd : {false, true}) {
      const std::string at = " n=" + std::to_string(n) + (odd ? " odd" : "");
      const std::vector<float> x = odd ? odd_floats(random, n) : floats(random, n, 30.0f);
      const std::vector<float> w = odd ? odd_floats(random, n) : floats(random, n);
      each<float>("exp" + at, n, [&](const Ops& ops, float* y) { ops.exp(x.data(), y, n); });
      // What is returned stands behind what is written.
      each<float>("add" + at, n + 1, [&](const Ops& ops, float* y) {
        std::copy(x.begin(), x.end(), y);
        y[n] = ops.add(w.data(), y, n);
      });
      each<float>("rms_norm" + at, n + 1, [&](const Ops& ops, float* y) {
        y[n] = ops.rms_norm(x.data(), w.data(), 1e-5f, y, n);
      });
      each<float>("rms_norm in place" + at, n + 1, [&](const Ops& ops, float* y) {
        std::copy(x.begin(), x.end(), y);
        y[n] = ops.rms_norm(y, w.data(), 1e-6f, y, n);
      });
      each<float>("layer_norm" + at, n + 1, [&](const Ops& ops, float* y) {
        y[n] = ops.layer_norm(x.data(), 1e-5f, y, n);
      });
      each<float>("normalize" + at, n + 1, [&](const Ops& ops, float* y) {
        y[n] = ops.normalize(x.data(), w.data(), 3.0f, 1e-5f, y, n);
      });
      each<float>("glu_silu" + at, n + 1, [&](const Ops& ops, float* y) {
        y[n] = ops.glu_silu(x.data(), w.data(), y, n);
      });
      each<float>("glu_gelu_tanh" + at, n + 1, [&](const Ops& ops, float* y) {
        y[n] = ops.glu_gelu_tanh(x.data(), w.data(), y, n);
      });
      each<float>("glu_sigmoid" + at, n + 1, [&](const Ops& ops, float* y) {
        y[n] = ops.glu_sigmoid(x.data(), w.data(), y, n);
      });
      each<float>("glu_relu2 in place" + at, n + 1, [&](const Ops& ops, float* y) {
        std::copy(x.begin(), x.end(), y);
        y[n] = ops.glu_relu2(y, w.data(), y, n);
      });
      each<float>("rope" + at, 2 * n, [&](const Ops& ops, float* y) {
        std::copy(x.begin(), x.end(), y);
        std::copy(w.begin(), w.end(), y + n);
        ops.rope(y, w.data(), x.data(), n);
      });
    }
}

// All halves, and floats of every exponent: on the ties between two halves and beside them.
void halves() {
  std::vector<uint16_t> all(65536);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
  each<uint32_t>("f16_to_f32", all.size(), [&](const Ops& ops, uint32_t* bits) {
    std::vector<float> y(all.size());
    ops.f16_to_f32(all.data(), y.data(), all.size());
    memcpy(bits, y.data(), 4 * y.size());
  });
  Random random(6);
  std::vector<float> x;
  for (uint32_t exponent = 0; exponent < 512; ++exponent)
    for (int i = 0; i < 64; ++i) {
      const auto noise = static_cast<uint32_t>(random.bits());
      const uint32_t low[] = {0, 1, 0xfff, 0x1000, 0x1001, 0x1fff, noise & 0x1fff, noise & 0x1ffe};
      x.push_back(float_of_bits(exponent << 23 | (noise >> 9 & 0x7fe000) | low[i % 8]));
    }
  each<uint16_t>("f32_to_f16", x.size(),
                 [&](const Ops& ops, uint16_t* y) { ops.f32_to_f16(x.data(), y, x.size()); });
}

// ---- attention

void attention() {
  Random random(7);
  for (const size_t head_dim : {8, 64, 80, 128})
    for (const size_t n : {1, 15, 16, 17, 50, 130}) {
      const size_t positions = (n + 15) / 16 * 16, v_stride = (head_dim + 15) / 16 * 16;
      const size_t tokens = n < 20 ? n : 20, group = 3;
      const std::vector<float> q = floats(random, tokens * group * head_dim);
      const std::vector<float> k = floats(random, positions * head_dim);
      const std::vector<float> v = floats(random, positions * v_stride);
      std::vector<uint16_t> k16(k.size()), v16(v.size());
      kScalar.f32_to_f16(k.data(), k16.data(), k.size());
      kScalar.f32_to_f16(v.data(), v16.data(), v.size());
      for (const bool half : {false, true})
        for (const size_t window : {0, 10})
          each<float>("attend, head_dim=" + std::to_string(head_dim) + " n=" + std::to_string(n) +
                          " window=" + std::to_string(window),
                      tokens * group * head_dim, [&](const Ops& ops, float* y) {
                        Buffer<float> scratch(attention_scratch(head_dim));
                        Attention a = {};
                        a.q = q.data();
                        a.k = half ? static_cast<const void*>(k16.data()) : k.data();
                        a.v = half ? static_cast<const void*>(v16.data()) : v.data();
                        a.v_stride = v_stride;
                        a.head_dim = head_dim;
                        a.first = n - tokens;
                        a.window = window;
                        a.tokens = tokens;
                        a.group = group;
                        a.stride = group * head_dim;
                        a.scale = 0.3f;
                        a.scratch = scratch.data();
                        a.out = y;
                        (half ? ops.attend_f16 : ops.attend_f32)(a);
                      });
    }
}

// Over codes: the tiles are bytes of any kind, their scales halfs, the turn one of powers of two.
void attention_over_codes() {
  Random random(9);
  for (const size_t head_dim : {8, 64, 80})
    for (const size_t n : {1, 16, 17, 70})
      for (const int bits : {8, 4, 3}) {
        const size_t tiles = (n + 15) / 16, tile = kv_tile_bytes(head_dim, bits);
        const size_t tokens = n < 20 ? n : 20, group = 3;
        const std::vector<float> q = floats(random, tokens * group * head_dim);
        std::vector<uint8_t> k(tiles * tile), v(tiles * tile);
        for (std::vector<uint8_t>* codes : {&k, &v})
          for (size_t i = 0; i < codes->size(); ++i)
            (*codes)[i] = static_cast<uint8_t>(random.bits());
        const std::vector<float> numbers = floats(random, 32 * 2 * tiles);
        for (size_t t = 0; t < tiles; ++t) {
          kScalar.f32_to_f16(&numbers[64 * t],
                             reinterpret_cast<uint16_t*>(&k[(t + 1) * tile - 64]), 32);
          kScalar.f32_to_f16(&numbers[64 * t + 32],
                             reinterpret_cast<uint16_t*>(&v[(t + 1) * tile - 64]), 32);
        }
        std::vector<uint16_t> first((head_dim + 31) / 32 * 32);
        kScalar.f32_to_f16(q.data(), first.data(), head_dim);
        Hadamard turn;
        turn.n = head_dim;
        turn.size = turn.power = head_dim & (~head_dim + 1);
        for (const size_t window : {0, 10})
          each<float>("attend_i" + std::to_string(bits) + ", head_dim=" + std::to_string(head_dim) +
                          " n=" + std::to_string(n) + " window=" + std::to_string(window),
                      tokens * group * head_dim, [&](const Ops& ops, float* y) {
                        Buffer<float> scratch(attention_scratch(head_dim));
                        Attention a = {};
                        a.q = q.data();
                        a.k = k.data();
                        a.v = v.data();
                        a.head_dim = head_dim;
                        a.first = n - tokens;
                        a.window = window;
                        a.tokens = tokens;
                        a.group = group;
                        a.stride = group * head_dim;
                        a.scale = 0.1f;
                        a.scratch = scratch.data();
                        a.out = y;
                        a.tile_bytes = tile;
                        a.first_k = a.first_v = first.data();
                        a.turn = &turn;
                        (bits == 8 ? ops.attend_i8 : bits == 4 ? ops.attend_i4 : ops.attend_i3)(a);
                      });
      }
  for (const size_t n : {1, 15, 64, 80})
    for (const int levels : {255, 15, 7}) {
      const std::vector<float> x = floats(random, n);
      each<uint8_t>("quantize_range, n=" + std::to_string(n), n + 4,
                    [&](const Ops& ops, uint8_t* y) {
                      uint16_t scale, minimum;
                      ops.quantize_range(x.data(), n, levels, y, &scale, &minimum);
                      memcpy(y + n, &scale, 2);
                      memcpy(y + n + 2, &minimum, 2);
                    });
    }
}

// ---- the Hadamard transform

void hadamards() {
  Random random(8);
  struct Sizes {
    size_t n, order;  // of the last axis, 1 where there is none
  };
  // An order of each construction and of each remainder by 12, alone and beside powers of two.
  const Sizes all[] = {{1, 1},    {8, 1},    {12, 12},  {16, 1},   {52, 52},   {64, 1},
                       {80, 20},  {92, 92},  {144, 12}, {172, 172}, {416, 52}, {448, 28},
                       {576, 12}, {736, 92}, {2560, 20}, {2752, 172}};
  for (const auto& [n, order] : all)
    for (const bool transpose : {false, true}) {
      const std::vector<float> x = floats(random, n);
      const HadamardPlan plan(n, transpose);
      const Hadamard& h = plan.get();
      const std::string what = "hadamard, n=" + std::to_string(n);
      if (h.size != n || (h.axes ? h.order[h.axes - 1] : 1) != order) fail(what + ": its order");
      each<float>(what, n + 1, [&](const Ops& ops, float* y) {
        std::copy(x.begin(), x.end(), y);
        y[n] = ops.hadamard(h, y);
      });
    }
}

// ---- recurrent layers

// Rows apart, as the engine's are; what is between them stays as it is.
void mlgru() {
  Random random(11);
  const size_t T = 3;
  for (const size_t n : kSizes)
    for (const bool odd : {false, true}) {
      const size_t stride = n + 5;
      const std::vector<float> f = odd ? odd_floats(random, T * stride) : floats(random, T * stride, 9.0f);
      const std::vector<float> i = odd ? odd_floats(random, T * stride) : floats(random, T * stride);
      std::vector<float> lower = floats(random, n);
      for (float& v : lower) v *= v;
      const std::vector<float> h = floats(random, n);
      for (const bool bounded : {false, true}) {
        const float* bound = bounded ? lower.data() : nullptr;
        each<float>("mlgru n=" + std::to_string(n) + (bounded ? " bounded" : "") + (odd ? " odd" : ""),
                    T * stride + n, [&](const Ops& ops, float* y) {
                      std::copy(i.begin(), i.end(), y);
                      std::copy(h.begin(), h.end(), y + T * stride);
                      ops.mlgru(f.data(), y, bound, y + T * stride, T, stride, n);
                    });
      }
    }
}

// With each number of threads, of B sequences; without what may be left out, too.
void recurrences() {
  Random random(12);
  const size_t B = 2, T = 5;
  for (const size_t d : {1, 16, 33, 64, 100, 257, 1100}) {
    const size_t all = B * T * d, state = B * d;
    const std::vector<float> f = floats(random, all), i = floats(random, all), dh = floats(random, all);
    const std::vector<float> before = floats(random, state), dlast = floats(random, state);
    std::vector<float> h(all);
    for (const bool given : {true, false}) {
      const float* h0 = given ? before.data() : nullptr;
      for (const size_t most : {1, 3}) {
        const std::string at = " d=" + std::to_string(d) + " threads=" + std::to_string(most);
        set_threads(most);
        each<float>("recurrence" + at, all + state, [&](const Ops& ops, float* y) {
          recurrence(ops, B, T, d, f.data(), i.data(), h0, y, given ? y + all : nullptr, most);
          std::copy(y, y + all, h.begin());
        });
        each<float>("gradients of the recurrence" + at, 2 * all + state, [&](const Ops& ops, float* y) {
          recurrence_backward(ops, B, T, d, f.data(), h.data(), h0, given ? dh.data() : nullptr,
                              dlast.data(), y, y + all, given ? y + 2 * all : nullptr, most);
        });
      }
    }
  }
  set_threads(1);
}

Shape recurrent_shape(bool paper) {
  Shape s;
  s.vocab = 40;
  s.hidden = 160;  // a unit of channels, and a part of one
  s.intermediate = 48;
  s.layers = 2;
  s.tied = s.recurrent = true;
  s.norm_of_gate = s.lower_bounds = !paper;
  return s;
}

void fill(Decoder& decoder, const Shape& s) {
  Random random(13);
  const auto set = [&](const std::string& name, size_t N, size_t K) {
    const std::vector<float> scale(N, 0.1f);
    Linear linear;
    linear.matrix = std::make_shared<Matrix>(
        matrix_of_codes("t2", codes(random, N * K, -1, 1).data(), N, K, scale.data(), nullptr, 1));
    linear.activation = activation_of("int8_absmax");
    linear.norm = floats(random, K);
    decoder.set_matrix(name, std::move(linear), false);
  };
  Linear embedding;
  embedding.matrix = std::make_shared<Matrix>(
      matrix_of_floats(Layout::f32, floats(random, s.vocab * s.hidden).data(), s.vocab, s.hidden));
  decoder.set_matrix("model.embed_tokens", std::move(embedding), false);
  decoder.set_norm("model.norm", floats(random, s.hidden));
  for (size_t i = 0; i < s.layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    for (const char* name : {"attn.i_proj", "attn.f_proj", "attn.g_proj", "attn.o_proj"})
      set(layer + name, s.hidden, s.hidden);
    set(layer + "mlp.gate_proj", 2 * s.intermediate, s.hidden);
    set(layer + "mlp.down_proj", s.hidden, s.intermediate);
    for (const char* name : {"attn_norm", "mlp_norm", "attn.g_norm", "attn.lower_bound"}) {
      std::vector<float> x = floats(random, s.hidden);
      for (float& v : x) v *= v;
      if (s.norm_of_gate || name[4] != '.') decoder.set_norm(layer + name, x);
    }
  }
  decoder.finish();
}

// Two texts whole; then in pieces beside one another, from copies of states and after forgetting.
void states() {
  const size_t T = 150, cut = 33;  // chunks are of 132
  Random random(14);
  std::vector<int32_t> texts[2];
  for (auto& text : texts)
    for (size_t t = 0; t < T; ++t) text.push_back(random.within(0, 39));
  for (const bool paper : {false, true})
    for (const size_t most : {1, 3}) {
      const Shape s = recurrent_shape(paper);
      set_threads(most);
      Decoder decoder(s);
      fill(decoder, s);
      const std::string what = std::string("states, ") + (paper ? "paper" : "code") + " threads=" +
                               std::to_string(most);
      each<float>(what, 2 * T * s.vocab, [&](const Ops& ops, float* y) {
        std::unique_ptr<Memory> memory[3];
        for (auto& one : memory) one = decoder.new_memory(1, 16);
        std::vector<float> whole(2 * T * s.vocab);
        const Append both[] = {{memory[0].get(), texts[0].data(), T, Logits::all},
                               {memory[1].get(), texts[1].data(), T, Logits::all}};
        decoder.step(ops, both, 2, whole.data());

        memory[0]->set_length(0);
        memory[1]->copy_prefix(*memory[0], 0);
        float* second = y + T * s.vocab;
        const Append first[] = {{memory[0].get(), texts[0].data(), cut, Logits::all},
                                {memory[1].get(), texts[1].data(), 1, Logits::none}};
        decoder.step(ops, first, 2, y);
        std::copy(whole.begin() + static_cast<ptrdiff_t>(T * s.vocab),
                  whole.begin() + static_cast<ptrdiff_t>((T + 1) * s.vocab), second);
        memory[2]->copy_prefix(*memory[0], cut);
        memory[0]->set_length(0);
        const Append rest[] = {{memory[2].get(), texts[0].data() + cut, T - cut, Logits::all},
                               {memory[1].get(), texts[1].data() + 1, T - 1, Logits::all}};
        std::vector<float> got((2 * T - cut - 1) * s.vocab);
        decoder.step(ops, rest, 2, got.data());
        const auto middle = got.begin() + static_cast<ptrdiff_t>((T - cut) * s.vocab);
        std::copy(got.begin(), middle, y + cut * s.vocab);
        std::copy(middle, got.end(), second + s.vocab);
        compare(what + ", in pieces", whole, std::vector<float>(y, y + whole.size()));
      });
    }
  set_threads(1);
}

// ---- training

struct Numbers {
  std::vector<float> wide;
  std::vector<uint16_t> half;
  Floats of(bool bf16) const {
    return bf16 ? Floats{half.data(), true} : Floats{wide.data(), false};
  }
};

Numbers numbers(std::vector<float> x) {
  Numbers both{std::move(x), {}};
  for (const float v : both.wide) {
    uint32_t bits;
    memcpy(&bits, &v, 4);
    both.half.push_back(static_cast<uint16_t>(bits >> 16));
  }
  return both;
}

void training() {
  Random random(10);
  const size_t N = 35;
  for (const size_t K : {1, 17, 64, 260})
    for (const size_t T : {1, 13, 100}) {
      const Numbers odd = numbers(odd_floats(random, T * K)), x = numbers(floats(random, T * K, 4.0f));
      const Numbers dy = numbers(floats(random, T * K));
      const std::vector<float> weights = floats(random, N * K, 2.0f), w = floats(random, K);
      const std::vector<float> factors = floats(random, T);
      const std::vector<int8_t> code = codes(random, T * K, -127, 127);
      const float scale = 0.7f;
      each<int8_t>("ternary codes of " + shape("", N, K, T), N * K, [&](const Ops& ops, int8_t* y) {
        ternary_matrix(ops, weights.data(), N, K, &scale, 1, y, 1);
      });
      for (const bool bf16 : {false, true}) {
        const std::string at = shape(bf16 ? " of bf16" : " of f32", N, K, T);
        const size_t size = bf16 ? 2 : 4;
        each<int8_t>("codes" + at, T * K, [&](const Ops& ops, int8_t* y) {
          std::vector<float> scales(T);
          TokenCodes(T, K).quantize(ops, odd.of(bf16), y, scales.data(), 1);
        });
        each<float>("scales" + at, T, [&](const Ops& ops, float* y) {
          std::vector<int8_t> unused(T * K);
          TokenCodes(T, K).quantize(ops, odd.of(bf16), unused.data(), y, 1);
        });
        each<uint8_t>("products" + at, T * N * size, [&](const Ops& ops, uint8_t* y) {
          std::vector<int8_t> unused(T * K), ternary(N * K);
          std::vector<float> scales(T);
          TokenCodes tokens(T, K);
          tokens.quantize(ops, x.of(bf16), unused.data(), scales.data(), 1);
          tokens.product(
              ops, ternary_matrix(ops, weights.data(), N, K, &scale, 1, ternary.data(), 1),
              {y, bf16}, 1);
        });
        each<uint8_t>("values" + at, T * K * size, [&](const Ops& ops, uint8_t* y) {
          dequantize_rows(ops, code.data(), T, K, factors.data(), T, {y, bf16}, 1);
        });
        std::vector<float> r(T);
        each<uint8_t>("RMSNorm" + at, T * K * size, [&](const Ops& ops, uint8_t* y) {
          rms_norm_rows(ops, x.of(bf16), w.data(), 1e-5f, T, K, {y, bf16}, r.data(), 1);
        });
        each<uint8_t>("gradients of RMSNorm" + at, T * K * size + 4 * K,
                      [&](const Ops& ops, uint8_t* y) {
                        std::vector<float> dw(K);
                        rms_norm_backward(ops, x.of(bf16), w.data(), r.data(), dy.of(bf16), T, K,
                                          {y, bf16}, dw.data(), 1);
                        memcpy(y + T * K * size, dw.data(), 4 * K);
                      });
      }
    }
}

// ---- from two bits a code to five codes a byte

void trits() {
  Random random(9);
  for (const size_t blocks : {1, 2, 7}) {
    std::vector<uint8_t> t2(blocks * 5 * 64);
    for (uint8_t& byte : t2)
      for (int at = 0; at < 8; at += 2)
        byte = static_cast<uint8_t>(byte | random.within(0, 2) << at);
    each<uint8_t>("t1_6_of_t2, blocks=" + std::to_string(blocks), blocks * 4 * 64,
                  [&](const Ops& ops, uint8_t* tile) { ops.t1_6_of_t2(t2.data(), blocks, tile); });
  }
}

// ---- which tables there are

void dispatch(const std::vector<std::string>& wanted) {
  const std::vector<std::string> names = isas();
  std::string line;
  for (const std::string& name : names) line += (line.empty() ? "" : " ") + name;
  if (!wanted.empty() && wanted != names) fail("this CPU runs " + line);
  if (names.empty() || names.back() != "scalar") fail("scalar is not last of: " + line);
  unsetenv("ONEBIT_ISA");
  if (active_ops().isa != names.front()) fail("the best is not the default");
  for (const std::string& name : names) {
    setenv("ONEBIT_ISA", name.c_str(), 1);
    if (active_ops().isa != name) fail("ONEBIT_ISA=" + name + " gave " + active_ops().isa);
    if (name != "scalar") tables.push_back(&active_ops());
  }
  for (const char* other : {"unknown", "avx512_vnni", "neon_i8mm", "Scalar"}) {
    if (std::find(names.begin(), names.end(), other) != names.end()) continue;
    setenv("ONEBIT_ISA", other, 1);
    try {
      active_ops();
    } catch (const std::invalid_argument&) {
      continue;
    }
    fail(std::string("ONEBIT_ISA=") + other + " was accepted");
  }
  unsetenv("ONEBIT_ISA");
  printf("%s\n", line.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  dispatch(std::vector<std::string>(argv + 1, argv + argc));
  set_threads(1);
  random_sums();
  extreme_sums();
  code_layers();
  float_layers();
  quantizers();
  vectors();
  halves();
  attention();
  attention_over_codes();
  hadamards();
  mlgru();
  recurrences();
  states();
  training();
  trits();
  printf("%zu numbers are equal\n", compared);
}
