// The forward pass: chunks of a prompt through the layers, in working memory that is kept.
#include "decoder.h"

#include <math.h>
#include <string.h>

#include <algorithm>
#include <stdexcept>

#include "parallel.h"

namespace onebit {
namespace {

constexpr size_t kPanel = panel_of(100);  // the widest panel of tokens
constexpr size_t kChunk = 11 * kPanel;    // tokens that go through the layers together
constexpr size_t kTokenGrain = 4;         // below it, row-wise work stays on one thread

[[noreturn]] void fail(const std::string& message) { throw std::invalid_argument(message); }

// A decoder with attention makes no other memory.
Cache* cache_of(Memory* memory) { return static_cast<Cache*>(memory); }

}  // namespace

Decoder::Decoder(Shape shape) : shape_(std::move(shape)), layers_(shape_.layers) {}

std::unique_ptr<Memory> Decoder::new_memory(size_t capacity, int kv_bits) {
  if (shape_.recurrent) return std::make_unique<State>(*this, shape_.layers, shape_.hidden);
  if (!capacity) fail("cache: capacity is 0; it must be at least 1 token.");
  Cache::check_bits(kv_bits);
  return std::make_unique<Cache>(*this, shape_.layers, shape_.heads, shape_.kv_heads,
                                 shape_.head_dim, capacity, kv_bits);
}

void Decoder::check_append(const Append& append) const {
  if (!append.memory) fail("decoder: None is no cache.");
  const Memory& memory = *append.memory;
  if (&memory.owner_ != this)
    fail(std::string("decoder: the ") + (shape_.recurrent ? "state" : "cache") +
         " belongs to another decoder.");
  if (!append.T) fail("decoder: no tokens.");
  if (append.T > memory.capacity_ - memory.length_)
    fail("cache: " + std::to_string(append.T) + " more tokens do not fit; it holds " +
         std::to_string(memory.length_) + " of " + std::to_string(memory.capacity_) + ".");
  for (size_t t = 0; t < append.T; ++t)
    if (append.tokens[t] < 0 || static_cast<size_t>(append.tokens[t]) >= shape_.vocab)
      fail("decoder: token id " + std::to_string(append.tokens[t]) + " at position " +
           std::to_string(t) + " is outside 0 to " + std::to_string(shape_.vocab - 1) + ".");
}

void Decoder::check_step(const Append* appends, size_t count) {
  if (!finished_) fail("decoder: call finish() before a step.");
  if (!count) fail("decoder: a step needs at least one sequence.");
  memories_.clear();
  for (size_t i = 0; i < count; ++i) {
    try {
      check_append(appends[i]);
    } catch (const std::invalid_argument& error) {
      if (count == 1) throw;
      fail("sequence " + std::to_string(i) + ": " + error.what());
    }
    memories_.push_back(appends[i].memory);
  }
  std::sort(memories_.begin(), memories_.end());
  if (std::adjacent_find(memories_.begin(), memories_.end()) != memories_.end())
    fail("decoder: a cache appears twice in a step; each sequence needs its own.");
}

void Decoder::reserve(size_t T) {
  const Shape& s = shape_;
  const size_t q = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
  rows_.reserve(T);  // nothing is to fail once a state has changed
  runs_.reserve(T);
  h_.grow(T * s.hidden);
  x_.grow(T * s.hidden);
  q_.grow(T * q);
  a_.grow(T * q);
  k_.grow(T * kv);
  v_.grow(T * kv);
  gate_.grow((s.recurrent ? 2 : 1) * T * s.intermediate);
  up_.grow(T * s.intermediate);
  if (s.recurrent)
    for (Buffer<float>* each : {&i_, &f_, &g_}) each->grow(T * s.hidden);
  for (Angles* angles : {&global_, &local_}) {
    if (angles == &local_ && !s.window) continue;
    angles->cos.grow(T * s.head_dim / 2);
    angles->sin.grow(T * s.head_dim / 2);
  }
  slots_ = 4 * threads();
  scratch_.grow(slots_ * Cache::scratch_floats(s.head_dim));
  const size_t widest = std::max({s.hidden, q, s.intermediate});
  for (Input& input : inputs_) input.reserve(terms_ * T, widest);
  products_.reserve(terms_ * T, widest);
}

void Decoder::step(const Ops& ops, const Append* appends, size_t count, float* logits) {
  std::lock_guard<std::mutex> lock(mutex_);
  check_step(appends, count);
  size_t rows = 0;
  for (size_t i = 0; i < count; ++i) rows += appends[i].T;
  // Chunks of whole panels and about equal size: one of few rows would read all weights for them.
  const size_t chunks = (rows + kChunk - 1) / kChunk;
  const size_t size = std::min(rows, ((rows + chunks - 1) / chunks + kPanel - 1) / kPanel * kPanel);
  reserve(size);
  size_t i = 0, t = 0;  // the next row is token t of sequence i
  for (size_t c = 0; c < chunks; ++c) {
    rows_.clear();
    for (size_t row = c * size; row < std::min(rows, (c + 1) * size); ++row) {
      const Append& a = appends[i];
      const bool last = t + 1 == a.T;
      rows_.push_back({a.memory, a.memory->length_ + t, a.tokens[t],
                       a.logits == Logits::all || (a.logits == Logits::last && last)});
      t = last ? 0 : t + 1;
      i += last;
    }
    rope_angles(shape_.inv_freq, global_);
    if (shape_.window) rope_angles(shape_.local_inv_freq, local_);
    for (size_t layer = 0; layer < layers_.size(); ++layer) {
      shape_.recurrent ? mlgru(ops, layer) : attention(ops, layer);
      if (rows_.empty()) break;  // the last layer, with no logits wanted
      shape_.recurrent ? fused_mlp(ops, layer) : mlp(ops, layer);
    }
    if (rows_.empty()) continue;
    head(ops, logits);
    logits += rows_.size() * shape_.vocab;
  }
  for (size_t j = 0; j < count; ++j) appends[j].memory->length_ += appends[j].T;
}

// Angles in float32, position times frequency, as transformers computes them.
void Decoder::rope_angles(const std::vector<float>& inv_freq, Angles& angles) {
  const size_t half = shape_.head_dim / 2;
  parallel_for(rows_.size(), kTokenGrain, [&](size_t begin, size_t end) {
    for (size_t t = begin; t < end; ++t)
      for (size_t i = 0; i < half; ++i) {
        const float angle = static_cast<float>(rows_[t].position) * inv_freq[i];
        angles.cos.data()[t * half + i] = cosf(angle);
        angles.sin.data()[t * half + i] = sinf(angle);
      }
  });
}

// Row t: h = the token's embedding; x = h normed for the first layer. Returns the largest |x|.
float Decoder::begin_row(const Ops& ops, const std::vector<float>& w, size_t t) {
  const size_t K = shape_.hidden;
  float *h = h_.data() + t * K, *x = x_.data() + t * K;
  embedding_.matrix->row(static_cast<size_t>(rows_[t].token), h);
  if (shape_.embedding_scale != 1.0f)
    for (size_t k = 0; k < K; ++k) h[k] *= shape_.embedding_scale;
  if (!w.empty()) return ops.rms_norm(h, w.data(), shape_.eps, x, K);
  memcpy(x, h, K * sizeof(float));
  return kUnknown;
}

// Row t: h += x, by the norm `post` if there is one; x = h normed for what reads it next, or as it is,
// without a norm.
float Decoder::add_and_norm(const Ops& ops, const std::vector<float>& post,
                            const std::vector<float>& w, size_t t) {
  const size_t K = shape_.hidden;
  float *h = h_.data() + t * K, *x = x_.data() + t * K;
  if (!post.empty()) ops.rms_norm(x, post.data(), shape_.eps, x, K);
  const float squares = ops.add(x, h, K);
  if (!w.empty()) return ops.normalize(h, w.data(), squares, shape_.eps, x, K);
  memcpy(x, h, K * sizeof(float));
  return kUnknown;
}

// Up to three layers that read the same x [T][K], whose rows are made on the way.
void Decoder::multiply(const Ops& ops, const float* x, size_t K, const Rows& rows,
                       const Linear* const* linears, float* const* outputs, size_t count) {
  products_.clear();
  size_t source[3];
  for (size_t i = 0; i < count; ++i) {
    source[i] = i;
    for (size_t j = 0; j < i && source[i] == i; ++j)
      if (Input::same(*linears[i], *linears[j])) source[i] = source[j];
    if (source[i] == i)
      inputs_[i].prepare(ops, x, rows_.size(), K, *linears[i], shape_.eps,
                         i ? Rows{} : rows);
    products_.add(ops, *linears[i], inputs_[source[i]], outputs[i]);
  }
  products_.run(ops);
}

void Decoder::attention(const Ops& ops, size_t index) {
  const Shape& s = shape_;
  const Layer& layer = layers_[index];
  const size_t D = s.head_dim, heads = s.heads, kv_heads = s.kv_heads;
  const auto normed = [&](size_t t) {
    if (!index) return begin_row(ops, layer.input_norm, t);
    return add_and_norm(ops, layers_[index - 1].post_mlp_norm, layer.input_norm, t);
  };
  const Linear* const qkv[] = {&layer.q, &layer.k, &layer.v};
  float* const outputs[] = {q_.data(), k_.data(), v_.data()};
  multiply(ops, x_.data(), s.hidden, Rows::of(normed), qkv, outputs, 3);

  const bool local = s.is_local(index);
  const Angles& angles = local ? local_ : global_;
  parallel_for(rows_.size(), kTokenGrain, [&](size_t begin, size_t end) {
    for (size_t t = begin; t < end; ++t) {
      const float* cos = angles.cos.data() + t * (D / 2);
      const float* sin = angles.sin.data() + t * (D / 2);
      for (size_t i = 0; i < heads + kv_heads; ++i) {
        const bool is_q = i < heads;
        float* x = is_q ? q_.data() + (t * heads + i) * D
                        : k_.data() + (t * kv_heads + i - heads) * D;
        if (s.qk_norm)
          ops.rms_norm(x, (is_q ? layer.q_norm : layer.k_norm).data(), s.eps, x, D);
        ops.rope(x, cos, sin, D / 2);
        if (is_q) finish_query(ops, layer, i, x);
      }
    }
  });
  cut_runs(rows_.size());
  const size_t kv = kv_heads * D, pieces = runs_.size() * kv_heads;
  parallel_for(pieces, rows_.size() < kTokenGrain ? pieces : 1, [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) {
      const Run& run = runs_[i / kv_heads];
      cache_of(rows_[run.row].memory)
          ->write(ops, index, i % kv_heads, rows_[run.row].position, run.T,
                  k_.data() + run.row * kv, v_.data() + run.row * kv);
    }
  });
  if (index + 1 == layers_.size()) drop_unwanted_rows({{q_.data(), heads * D}});
  if (rows_.empty()) return;

  const double temperature = s.learned_temperature ? 1.0 : static_cast<double>(s.temperature);
  const auto scale = static_cast<float>(1.0 / (sqrt(static_cast<double>(D)) * temperature));
  // A unit is a key/value head for a few tokens. Each slot has its own scratch, whichever thread
  // takes it.
  cut_runs(Cache::tokens_together(heads / kv_heads));
  const size_t units = kv_heads * runs_.size();
  parallel_for(slots_, 1, [&](size_t begin, size_t end) {
    for (size_t unit = units * begin / slots_; unit < units * end / slots_; ++unit) {
      const Run& run = runs_[unit % runs_.size()];
      const Row& row = rows_[run.row];
      cache_of(row.memory)
          ->attend(ops, index, unit / runs_.size(), row.position, run.T,
                   q_.data() + run.row * heads * D, a_.data() + run.row * heads * D,
                   scratch_.data() + begin * Cache::scratch_floats(D), scale,
                   local ? s.window : 0);
    }
  });

  const auto sub_normed = [&](size_t t) {
    float* a = a_.data() + t * heads * D;
    return ops.rms_norm(a, layer.attention_sub_norm.data(), s.eps, a, heads * D);
  };
  const Linear* const o[] = {&layer.o};
  float* const out[] = {x_.data()};
  multiply(ops, a_.data(), heads * D, s.sub_norms ? Rows::of(sub_normed) : Rows{}, o, out, 1);
}

// A head's query after RoPE: in few bits, and by the head's own temperature.
void Decoder::finish_query(const Ops& ops, const Layer& layer, size_t head, float* q) const {
  const size_t D = shape_.head_dim;
  if (shape_.q_bits < 16) {
    int8_t codes[kMostHeadDim];
    const float scale = ops.quantize(q, D, ops.absmax(q, D), range_of(shape_.q_bits), codes);
    ops.dequantize(codes, scale, q, D);
  }
  if (!shape_.learned_temperature) return;
  const float factor = 1.0f / layer.temperature[head];
  for (size_t d = 0; d < D; ++d) q[d] *= factor;
}

// The rows as runs of at most `most`.
void Decoder::cut_runs(size_t most) {
  runs_.clear();
  for (size_t t = 0; t < rows_.size(); ++t) {
    const bool goes_on = t && rows_[t].memory == rows_[t - 1].memory &&
                         rows_[t].position == rows_[t - 1].position + 1;
    if (goes_on && runs_.back().T < most)
      ++runs_.back().T;
    else
      runs_.push_back({t, 1});
  }
}

// In the last layer, once the memory has what is new: rows without logits have done their part. The
// stream and `buffers` keep the others.
void Decoder::drop_unwanted_rows(std::initializer_list<Kept> buffers) {
  const size_t hidden = shape_.hidden;
  size_t kept = 0;
  for (size_t t = 0; t < rows_.size(); ++t) {
    if (!rows_[t].wanted) continue;
    if (kept < t) {
      rows_[kept] = rows_[t];
      memcpy(h_.data() + kept * hidden, h_.data() + t * hidden, hidden * sizeof(float));
      for (const Kept& b : buffers)
        memcpy(b.data + kept * b.width, b.data + t * b.width, b.width * sizeof(float));
    }
    ++kept;
  }
  rows_.resize(kept);
}

void Decoder::mlp(const Ops& ops, size_t index) {
  const Shape& s = shape_;
  const Layer& layer = layers_[index];
  const size_t I = s.intermediate;
  const auto normed = [&](size_t t) {
    return add_and_norm(ops, layer.post_attention_norm, layer.mlp_norm, t);
  };
  const Linear* const gate_up[] = {&layer.gate, &layer.up};
  float* const outputs[] = {gate_.data(), up_.data()};
  multiply(ops, x_.data(), s.hidden, Rows::of(normed), gate_up, outputs, 2);

  const auto glu = s.gate == Shape::Gate::relu2       ? ops.glu_relu2
                   : s.gate == Shape::Gate::gelu_tanh ? ops.glu_gelu_tanh
                                                      : ops.glu_silu;
  const auto gated = [&](size_t t) {
    float* gate = gate_.data() + t * I;
    const float squares = glu(gate, up_.data() + t * I, gate, I);
    if (!s.sub_norms) return kUnknown;
    return ops.normalize(gate, layer.ffn_sub_norm.data(), squares, s.eps, gate, I);
  };
  const Linear* const down[] = {&layer.down};
  float* const out[] = {x_.data()};
  multiply(ops, gate_.data(), I, Rows::of(gated), down, out, 1);
}

// Logits of the rows that are left.
void Decoder::head(const Ops& ops, float* logits) {
  const auto normed = [&](size_t t) {
    return add_and_norm(ops, layers_.back().post_mlp_norm, final_norm_, t);
  };
  const Linear* const linear[] = {head_.matrix ? &head_ : &embedding_};
  multiply(ops, x_.data(), shape_.hidden, Rows::of(normed), linear, &logits, 1);
}

}  // namespace onebit
