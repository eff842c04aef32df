// Linear layers: from float activations to float outputs, whatever the weights and the scheme.
//
// A layer is an optional norm, an optional Hadamard transform, an activation quantizer, a matrix
// and an optional bias. Layers that read the same input in the same way (q, k and v; gate and up)
// share its codes, and their products run as one parallel region.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "activation.h"
#include "buffer.h"
#include "hadamard.h"
#include "matrix.h"
#include "ops.h"

namespace onebit {

struct Linear {
  std::shared_ptr<const Matrix> matrix;
  Activation activation;
  std::vector<float> norm;                            // RMSNorm: [K], or empty
  bool layer_norm = false;                            // LayerNorm without weights, in its place
  size_t parts = 1;                                   // of the columns; see check_parts
  size_t planes = 1;  // of trits: the matrix has them side by side, and the input's codes repeat
  std::shared_ptr<const HadamardPlan> hadamard;       // for K numbers, or null
  std::shared_ptr<const std::vector<float>> signs;    // of its columns, [K], or null for ones
  std::vector<float> bias;                            // [N], or empty
};

// BitNet b1's group quantization: K / parts columns at a time have their own norm and activation
// scale. Throws std::invalid_argument where these are not equal and multiples of kBlock.
void check_parts(size_t K, size_t parts);

// Two planes of trits side by side want whole blocks of columns in each, and one part.
// Throws std::invalid_argument where K columns of the input do not serve the layer's matrix.
void check_planes(size_t K, const Linear& linear);

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

  // Takes codes [T][K] as they are, with a scale of 1.
  void take_codes(const Ops& ops, const int8_t* codes, size_t T, const Matrix& matrix);

  // Whether what `linear` needs of the same x is what was prepared for `other`.
  static bool same(const Linear& linear, const Linear& other);

 private:
  friend class Products;

  void set_size(size_t T, size_t K, size_t blocks, const Matrix& matrix);
  float prepare_row(const Ops& ops, const Linear& linear, float eps, const float* from, float* own,
                    float largest) const;
  void quantize_row(const Ops& ops, const Linear& linear, const float* row, size_t t,
                    float largest);
  void restore_row(const Ops& ops, size_t t, float* y) const;
  void repeat_row(size_t t);
  void finish_row(const Ops& ops, size_t t);
  void make_panels();
  int8_t* codes_of(size_t t) { return codes_.data() + t * code_stride_; }
  float* scale_of(size_t t) { return scale_.data() + t * blocks_; }

  size_t tokens_ = 0, columns_ = 0, blocks_ = 1;  // tokens_ counts each term of one
  size_t planes_ = 1, width_ = 0;  // columns_ is of the matrix: planes_ times those of the values
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
  bool two_terms_ = false;         // tokens 2 t and 2 t + 1 are terms of token t
  size_t parts_ = 1;
  bool has_minimum_ = false;
  Buffer<float> minimum_;          // [T][parts]
};

// The sums over each part's columns of what the codes of a matrix stand for; kept with it.
std::shared_ptr<const RowSums> row_sums(const Ops& ops, const Matrix& matrix, size_t parts);

// Up to three products that run together.
class Products {
 public:
  void clear() { count_ = 0; }
  void reserve(size_t T, size_t K);
  // y [T][N] of a layer whose input was prepared. The first with a minimum computes row sums.
  void add(const Ops& ops, const Linear& linear, const Input& input, float* y);
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
    // Where activations have a minimum, of each token and part: y += minimum * row sum, then the bias.
    void add_minimum(size_t tile, size_t tile_end) const;
    const float* x_minimum = nullptr;  // [T][parts], or null
    std::shared_ptr<const RowSums> row_sums;
    const float* bias = nullptr;
    size_t parts = 1;
  };
  Item& push(const Matrix& matrix, const Input& input, bool whole_row);

  Item items_[kMost];
  size_t count_ = 0;
};

}  // namespace onebit
