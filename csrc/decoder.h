// The forward pass of the llama, bitnet and gemma families and of the MatMul-free LM, from token ids
// to logits.
//
// A step takes new tokens of one or many sequences. Their rows go through the layers together, in
// chunks, so working memory does not grow with their number. Every operation treats a token alone,
// apart from attention, which reads the cache of its own sequence, and a recurrent layer, which takes
// a sequence's tokens in their order into its state; so a prompt in one call, in chunks, token by
// token or beside other sequences gives the same bits. For the same reason "int8_absmax_tensor"
// takes its scale per token here, as BitNet b1 does at inference (https://arxiv.org/abs/2310.11453).
#pragma once
#include <initializer_list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cache.h"
#include "linear.h"
#include "state.h"

namespace onebit {

// The fields of onebit.Architecture that the forward pass needs.
struct Shape {
  size_t vocab = 0, hidden = 0, intermediate = 0, layers = 0;
  size_t heads = 0, kv_heads = 0, head_dim = 0;
  float eps = 1e-5f;
  enum class Gate { silu, relu2, gelu_tanh } gate = Gate::silu;
  bool tied = false;       // the head is the embedding, unless a head is set
  bool qkv_bias = false, out_bias = false, mlp_bias = false;
  bool qk_norm = false;    // RMSNorm over each head of q and k, before RoPE
  bool sub_norms = false;  // RMSNorm before the attention output and the down projection
  bool pre_norms = true;   // RMSNorm before attention and before the MLP
  bool post_norms = false;  // RMSNorm over what attention and the MLP give (Gemma 3)
  float embedding_scale = 1.0f;
  size_t window = 0;        // tokens that a local layer sees; 0 where all layers are global
  size_t global_every = 1;  // with a window: of so many layers the last is global
  int q_bits = 16;         // below 16, a head's query is rounded to as many, after RoPE
  float temperature = 1.0f;  // of the softmax, on top of sqrt(head_dim)
  bool learned_temperature = false;  // each head has its own instead
  std::vector<float> inv_freq;  // [head_dim / 2]
  std::vector<float> local_inv_freq;  // of the local layers

  // MLGRU in place of attention, and one matrix for gate and up (https://arxiv.org/abs/2406.02528).
  bool recurrent = false;
  bool lower_bounds = false;  // of the forget gate, a vector for each layer
  bool norm_of_gate = true;   // RMSNorm over the output gate, and the state's silu in place of its
                              // sigmoid: the published code, not the paper

  bool is_local(size_t layer) const { return window && (layer + 1) % global_every; }
};

constexpr size_t kMostHeadDim = 1024;

enum class Logits { last, all, none };

// What one sequence does in a step: its new tokens, and after which of them it wants logits.
struct Append {
  Memory* memory;
  const int32_t* tokens;
  size_t T;
  Logits logits;

  size_t rows_wanted() const {
    return logits == Logits::all ? T : logits == Logits::last ? 1 : 0;
  }
};

// What changes is locked, so that threads may share a decoder and its memories. What a caller got
// wrong is a std::invalid_argument that says what, and leaves everything as it was.
class Decoder {
 public:
  explicit Decoder(Shape shape);

  // hadamard: its input is transformed, after its norm. Signs are 1 and -1.
  void set_matrix(const std::string& name, Linear linear, bool hadamard);
  void set_norm(const std::string& name, std::vector<float> weight);
  void finish();  // throws if a part is missing

  // A Cache, or of a recurrent decoder a State, for which capacity and bits say nothing.
  std::unique_ptr<Memory> new_memory(size_t capacity, int kv_bits);

  size_t vocab() const { return shape_.vocab; }

  // Every sequence appends its tokens to its memory. Writes the rows of logits that are wanted, each
  // of vocab() floats, sequence after sequence. An exception leaves every memory as it was.
  void step(const Ops& ops, const Append* appends, size_t count, float* logits);

 private:
  friend class Memory;
  friend class Cache;
  friend class State;

  struct Layer {
    Linear q, k, v, o, gate, up, down;
    Linear i, f, g;  // of MLGRU, which has an o too; its gate is gate and up in one
    std::vector<float> input_norm, mlp_norm;  // before attention, before the MLP
    std::vector<float> post_attention_norm, post_mlp_norm;
    std::vector<float> q_norm, k_norm, attention_sub_norm, ffn_sub_norm;
    std::vector<float> temperature;  // [heads]
    std::vector<float> g_norm, lower_bound;  // [hidden]
  };

  // What a name of set_matrix or set_norm means: where it goes, and its shape.
  struct MatrixSlot {
    Linear* linear;
    size_t rows, columns;
    bool bias;
  };
  struct NormSlot {
    std::vector<float>* weight;
    size_t size;
  };
  bool split_name(const std::string& name, size_t* layer, std::string* part) const;
  MatrixSlot matrix_slot(const std::string& name);
  MatrixSlot recurrent_slot(const std::string& name, Layer& layer, const std::string& part) const;
  NormSlot norm_slot(const std::string& name);
  std::shared_ptr<const HadamardPlan> plan_of(size_t n);
  std::shared_ptr<const std::vector<float>> signs_of(std::shared_ptr<const std::vector<float>> signs);
  void check_input(const std::string& name, const Linear& linear) const;
  void check_layer(size_t index);
  void check_step(const Append* appends, size_t count);
  void check_append(const Append& append) const;

  // One row of a chunk: a token, and where in which sequence it stands.
  struct Row {
    Memory* memory;
    size_t position;
    int32_t token;
    bool wanted;  // its logits
  };

  // Consecutive positions of one sequence: rows `row` .. row + T - 1.
  struct Run {
    size_t row, T;
  };

  void reserve(size_t T);
  struct Angles;
  void rope_angles(const std::vector<float>& inv_freq, Angles& angles);
  float begin_row(const Ops& ops, const std::vector<float>& w, size_t t);
  float add_and_norm(const Ops& ops, const std::vector<float>& post, const std::vector<float>& w,
                     size_t t);
  void finish_query(const Ops& ops, const Layer& layer, size_t head, float* q) const;
  void multiply(const Ops& ops, const float* x, size_t K, const Rows& rows,
                const Linear* const* linears, float* const* outputs, size_t count);
  void attention(const Ops& ops, size_t index);
  void mlgru(const Ops& ops, size_t index);
  void cut_runs(size_t most);
  // One of the buffers whose rows go on to what follows, `width` floats each.
  struct Kept {
    float* data;
    size_t width;
  };
  void drop_unwanted_rows(std::initializer_list<Kept> buffers);
  void mlp(const Ops& ops, size_t index);
  void fused_mlp(const Ops& ops, size_t index);
  void head(const Ops& ops, float* logits);

  Shape shape_;
  std::mutex mutex_;
  bool finished_ = false;

  Linear embedding_, head_;
  std::vector<float> final_norm_;
  std::vector<Layer> layers_;
  std::vector<std::shared_ptr<const HadamardPlan>> plans_;  // one for each size in use
  std::vector<std::shared_ptr<const std::vector<float>>> signs_;  // those in use, each once

  // Working memory of one chunk of T rows.
  std::vector<Row> rows_;
  std::vector<Run> runs_;
  std::vector<const Memory*> memories_;
  Buffer<float> h_, x_;            // [T][hidden]: the residual stream, and what is on its way to it
  Buffer<float> q_, k_, v_, a_;    // [T][heads * head_dim], k and v [T][kv_heads * head_dim]
  Buffer<float> gate_, up_;        // [T][intermediate]; a fused gate [T][2 * intermediate]
  Buffer<float> i_, f_, g_;        // [T][hidden], of MLGRU
  struct Angles {
    Buffer<float> cos, sin;        // [T][head_dim / 2]
  };
  Angles global_, local_;
  Buffer<float> scratch_;          // [slots][Cache::scratch_floats]
  size_t slots_ = 1;
  size_t terms_ = 1;  // of an input, at most
  Input inputs_[3];
  Products products_;
};

}  // namespace onebit
