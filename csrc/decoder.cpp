// The forward pass: chunks of a prompt through the layers, in working memory that is kept.
#include "decoder.h"

#include <math.h>
#include <string.h>

#include <algorithm>
#include <stdexcept>

#include "parallel.h"

namespace onebit {
namespace {

constexpr size_t kChunk = 128;     // tokens of a prompt that go through the layers together
constexpr size_t kTokenGrain = 4;  // below this many tokens, row-wise work stays on one thread

[[noreturn]] void fail(const std::string& message) { throw std::invalid_argument(message); }

}  // namespace

Decoder::Decoder(Shape shape) : shape_(std::move(shape)), layers_(shape_.layers) {}

std::unique_ptr<Cache> Decoder::new_cache(size_t capacity, int kv_bits) {
  if (!capacity) fail("cache: capacity is 0; it must be at least 1 token.");
  if (kv_bits != 16 && kv_bits != 32)
    fail("cache: kv_bits is " + std::to_string(kv_bits) + "; accepted: 16, 32.");
  return std::make_unique<Cache>(*this, shape_.layers, shape_.kv_heads, shape_.head_dim, capacity,
                                 kv_bits);
}

size_t Decoder::rows_of(Logits logits, size_t tokens) {
  return logits == Logits::all ? tokens : logits == Logits::last ? 1 : 0;
}

void Decoder::check_tokens(const int32_t* tokens, size_t T, const Cache& cache) const {
  if (!finished_) fail("decoder: call finish() before forward().");
  if (&cache.owner_ != this) fail("decoder: the cache belongs to another decoder.");
  if (!T) fail("decoder: no tokens.");
  if (T > cache.capacity_ - cache.length_)
    fail("cache: " + std::to_string(T) + " more tokens do not fit; it holds " +
         std::to_string(cache.length_) + " of " + std::to_string(cache.capacity_) + ".");
  for (size_t t = 0; t < T; ++t)
    if (tokens[t] < 0 || static_cast<size_t>(tokens[t]) >= shape_.vocab)
      fail("decoder: token id " + std::to_string(tokens[t]) + " at position " + std::to_string(t) +
           " is outside 0 to " + std::to_string(shape_.vocab - 1) + ".");
}

void Decoder::reserve(size_t T, size_t positions) {
  const Shape& s = shape_;
  const size_t q = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
  h_.grow(T * s.hidden);
  x_.grow(T * s.hidden);
  q_.grow(T * q);
  a_.grow(T * q);
  k_.grow(T * kv);
  v_.grow(T * kv);
  gate_.grow(T * s.intermediate);
  up_.grow(T * s.intermediate);
  cos_.grow(T * s.head_dim / 2);
  sin_.grow(T * s.head_dim / 2);
  score_stride_ = std::max(score_stride_, (positions + 15) / 16 * 16);
  slots_ = 4 * threads();
  scores_.grow(checked_product(slots_, score_stride_));
  const size_t widest = std::max({s.hidden, q, s.intermediate});
  for (Input& input : inputs_) input.reserve(T, widest);
  products_.reserve(T, widest);
}

void Decoder::forward(const Ops& ops, const int32_t* tokens, size_t T, Cache& cache, Logits which,
                      float* logits) {
  std::lock_guard<std::mutex> lock(mutex_);
  check_tokens(tokens, T, cache);
  const size_t before = cache.length_;
  reserve(std::min(T, kChunk), cache.capacity_);
  for (size_t done = 0; done < T; done += kChunk) {
    const size_t count = std::min(kChunk, T - done), first = before + done;
    embed(tokens + done, count);
    rope_angles(first, count);
    for (size_t i = 0; i < layers_.size(); ++i) {
      attention(ops, layers_[i], i, count, first, cache);
      mlp(ops, layers_[i], count);
    }
    if (which == Logits::all) head(ops, 0, count, logits + done * shape_.vocab);
    if (which == Logits::last && done + count == T) head(ops, count - 1, 1, logits);
  }
  cache.length_ = before + T;
}

void Decoder::embed(const int32_t* tokens, size_t T) {
  parallel_for(T, kTokenGrain, [&](size_t begin, size_t end) {
    for (size_t t = begin; t < end; ++t)
      embedding_.matrix->row(static_cast<size_t>(tokens[t]), h_.data() + t * shape_.hidden);
  });
}

// Angles in float32, position times frequency, as transformers computes them.
void Decoder::rope_angles(size_t first, size_t T) {
  const size_t half = shape_.head_dim / 2;
  for (size_t t = 0; t < T; ++t)
    for (size_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(first + t) * shape_.inv_freq[i];
      cos_.data()[t * half + i] = cosf(angle);
      sin_.data()[t * half + i] = sinf(angle);
    }
}

void Decoder::norm(const Ops& ops, const float* x, const std::vector<float>& w, float* y, size_t T,
                   size_t K) {
  parallel_for(T, kTokenGrain, [&](size_t begin, size_t end) {
    for (size_t t = begin; t < end; ++t)
      ops.rms_norm(x + t * K, w.data(), shape_.eps, y + t * K, K);
  });
}

// Up to three layers that read the same x [T][K].
void Decoder::multiply(const Ops& ops, const float* x, size_t T, size_t K,
                       const Linear* const* linears, float* const* outputs, size_t count) {
  products_.clear();
  size_t source[3];
  for (size_t i = 0; i < count; ++i) {
    source[i] = i;
    for (size_t j = 0; j < i && source[i] == i; ++j)
      if (Input::same(*linears[i], *linears[j])) source[i] = source[j];
    if (source[i] == i) inputs_[i].prepare(ops, x, T, K, *linears[i], shape_.eps);
    const std::vector<float>& bias = linears[i]->bias;
    products_.add(*linears[i]->matrix, inputs_[source[i]], bias.empty() ? nullptr : bias.data(),
                  outputs[i]);
  }
  products_.run(ops);
}

void Decoder::attention(const Ops& ops, Layer& layer, size_t index, size_t T, size_t first,
                        Cache& cache) {
  const Shape& s = shape_;
  const size_t D = s.head_dim, heads = s.heads, kv_heads = s.kv_heads;
  norm(ops, h_.data(), layer.input_norm, x_.data(), T, s.hidden);
  const Linear* const qkv[] = {&layer.q, &layer.k, &layer.v};
  float* const outputs[] = {q_.data(), k_.data(), v_.data()};
  multiply(ops, x_.data(), T, s.hidden, qkv, outputs, 3);

  parallel_for(T, kTokenGrain, [&](size_t begin, size_t end) {
    for (size_t t = begin; t < end; ++t) {
      const float *cos = cos_.data() + t * (D / 2), *sin = sin_.data() + t * (D / 2);
      for (size_t i = 0; i < heads + kv_heads; ++i) {
        const bool is_q = i < heads;
        float* x = is_q ? q_.data() + (t * heads + i) * D
                        : k_.data() + (t * kv_heads + i - heads) * D;
        if (s.qk_norm)
          ops.rms_norm(x, (is_q ? layer.q_norm : layer.k_norm).data(), s.eps, x, D);
        ops.rope(x, cos, sin, D / 2);
      }
      for (size_t i = 0; i < kv_heads; ++i)
        cache.write(ops, index, i, first + t, k_.data() + (t * kv_heads + i) * D,
                    v_.data() + (t * kv_heads + i) * D);
    }
  });

  const float scale = static_cast<float>(1.0 / sqrt(static_cast<double>(D)));
  // Each slot has its own scratch, whichever thread takes it.
  parallel_for(slots_, 1, [&](size_t begin, size_t end) {
    for (size_t unit = heads * T * begin / slots_; unit < heads * T * end / slots_; ++unit) {
      const size_t i = unit / T, t = unit % T, at = (t * heads + i) * D;
      cache.attend(ops, index, i / (heads / kv_heads), first + t + 1, q_.data() + at, scale,
                   scores_.data() + begin * score_stride_, a_.data() + at);
    }
  });

  if (s.sub_norms) norm(ops, a_.data(), layer.attention_sub_norm, a_.data(), T, heads * D);
  const Linear* const o[] = {&layer.o};
  float* const out[] = {x_.data()};
  multiply(ops, a_.data(), T, heads * D, o, out, 1);
  ops.add(x_.data(), h_.data(), T * s.hidden);
}

void Decoder::mlp(const Ops& ops, Layer& layer, size_t T) {
  const Shape& s = shape_;
  const size_t I = s.intermediate;
  norm(ops, h_.data(), layer.post_norm, x_.data(), T, s.hidden);
  const Linear* const gate_up[] = {&layer.gate, &layer.up};
  float* const outputs[] = {gate_.data(), up_.data()};
  multiply(ops, x_.data(), T, s.hidden, gate_up, outputs, 2);
  parallel_for(T, kTokenGrain, [&](size_t begin, size_t end) {
    for (size_t t = begin; t < end; ++t) {
      float *gate = gate_.data() + t * I, *up = up_.data() + t * I;
      (s.relu2 ? ops.glu_relu2 : ops.glu_silu)(gate, up, gate, I);
      if (s.sub_norms) ops.rms_norm(gate, layer.ffn_sub_norm.data(), s.eps, gate, I);
    }
  });
  const Linear* const down[] = {&layer.down};
  float* const out[] = {x_.data()};
  multiply(ops, gate_.data(), T, I, down, out, 1);
  ops.add(x_.data(), h_.data(), T * s.hidden);
}

// Logits of the T tokens of this chunk from `first` on.
void Decoder::head(const Ops& ops, size_t first, size_t T, float* logits) {
  const size_t K = shape_.hidden;
  norm(ops, h_.data() + first * K, final_norm_, x_.data(), T, K);
  const Linear* const linear[] = {head_.matrix ? &head_ : &embedding_};
  multiply(ops, x_.data(), T, K, linear, &logits, 1);
}

}  // namespace onebit
