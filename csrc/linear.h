// Linear layers: from float activations to float outputs, whatever the weights and the scheme.
//
// A layer is an optional RMSNorm, an optional Hadamard transform, an activation quantizer, a matrix
// and an optional bias. Layers that read the same input in the same way (q, k and v; gate and up)
// share its codes, and their products run as one parallel region.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "buffer.h"
#include "hadamard.h"
#include "matrix.h"
#include "ops.h"

namespace onebit {

// How a layer takes its input. "fp" asks for no quantization: matrices of floats then multiply
// floats, and matrices of codes multiply int8 codes with a scale for each 32 columns.
enum class Activation { fp, int8_absmax, int8_absmax_tensor, int4_absmean };

// Throws std::invalid_argument for a name that is none of these.
Activation activation_of(const std::string& name);

struct Linear {
  std::shared_ptr<const Matrix> matrix;
  Activation activation = Activation::fp;
  std::vector<float> norm;                       // [K], or empty
  std::shared_ptr<const HadamardPlan> hadamard;  // for K numbers, or null
  std::vector<float> bias;                       // [N], or empty
};

// Writes row t of activations and returns the largest |x| in it. Rows do not depend on one another.
struct Rows {
  float (*make)(const void* context, size_t t) = nullptr;
  const void* context = nullptr;

  // f(t) must live as long as this is in use.
  template <class F>
  static Rows of(const F& f) {
    return {[](const void* context, size_t t) { return (*static_cast<const F*>(context))(t); }, &f};
  }
};

// Activations made ready for a matrix: codes with scales, or floats.
class Input {
 public:
  // Memory for T tokens of K columns; nothing is allocated after the largest was seen.
  void reserve(size_t T, size_t K);

  // Reads x [T][K], which must live until the product is done. `rows` writes a row of x just before
  // it is read, where x is not there yet.
  void prepare(const Ops& ops, const float* x, size_t T, size_t K, const Linear& linear, float eps,
               const Rows& rows = {});

  // Takes codes [T][K] as they are, with no scale: for the integer sums of a matrix.
  void take_codes(const Ops& ops, const int8_t* codes, size_t T, const Matrix& matrix);

  // Whether what `linear` needs of the same x is what was prepared for `other`.
  static bool same(const Linear& linear, const Linear& other);

 private:
  friend class Products;

  void set_size(size_t T, size_t K, size_t blocks, const Matrix& matrix);
  void finish_row(const Ops& ops, size_t t);
  void make_panels();

  size_t tokens_ = 0, columns_ = 0, blocks_ = 1;
  size_t code_stride_ = 0;         // K rounded up to 80 and to 64, zeros beyond K
  bool by_fives_ = false;          // columns are in the order of layout t1_6
  const float* values_ = nullptr;  // what a matrix of floats reads, [T][K]
  const int8_t* x_ = nullptr;      // what a matrix of codes reads: codes_ of one token, or panels_
  Buffer<float> floats_;           // [T][K]: normed and transformed, or codes times scale
  Buffer<int8_t> codes_;           // [T][code_stride]
  Buffer<int8_t> panels_;          // the same, as several tokens are read; see Product::x
  const float* x_scale_ = nullptr; // scale_ of one token, or scale_panels_
  Buffer<float> scale_;            // [T][blocks]
  Buffer<float> scale_panels_;     // the same; see Product::x_scale
  Buffer<int32_t> sum16_;          // [T][code_stride / 16]
};

// Up to three products that run together.
class Products {
 public:
  void clear() { count_ = 0; }
  void reserve(size_t T, size_t K);
  // y [T][N]; bias [N] or null.
  void add(const Matrix& matrix, const Input& input, const float* bias, float* y);
  void add_sums(const Matrix& matrix, const Input& input, int32_t* sums);
  void run(const Ops& ops) const;

 private:
  static constexpr size_t kMost = 3;

  struct Item {
    Product product;
    ProductFn fn(const Ops& ops) const;
    void sum_steps(const Input& input, bool has_minimum);
    Layout layout = Layout::f32;
    size_t tiles = 0;
    Buffer<int32_t> low_sum;
    Buffer<float> scaled_sum;
  };
  Item& push(const Matrix& matrix, const Input& input, bool whole_row);

  Item items_[kMost];
  size_t count_ = 0;
};

}  // namespace onebit
