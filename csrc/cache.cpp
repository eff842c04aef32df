#include "cache.h"

#include <string.h>

#include <mutex>
#include <stdexcept>
#include <string>

#include "decoder.h"

namespace onebit {
namespace {

[[noreturn]] void fail(const std::string& message) {
  throw std::invalid_argument("cache: " + message);
}

}  // namespace

void Cache::check_bits(int kv_bits) {
  if (kv_bits != 16 && kv_bits != 32)
    fail("kv_bits is " + std::to_string(kv_bits) + "; accepted: 16, 32.");
}

Cache::Cache(Decoder& owner, size_t layers, size_t heads, size_t kv_heads, size_t head_dim,
             size_t capacity, int kv_bits)
    : owner_(owner),
      layers_(layers),
      heads_(heads),
      kv_heads_(kv_heads),
      head_dim_(head_dim),
      capacity_(capacity),
      kv_bits_(kv_bits),
      positions_((capacity + 15) / 16 * 16),
      v_stride_((head_dim + 15) / 16 * 16),
      bytes_(kv_bits == 16 ? 2 : 4) {
  if (capacity > PTRDIFF_MAX) throw std::bad_alloc();
  const size_t numbers = checked_product(checked_product(layers, kv_heads), positions_);
  keys_ = Buffer<uint8_t>(checked_product(numbers, head_dim_ * bytes_));
  values_ = Buffer<uint8_t>(checked_product(numbers, v_stride_ * bytes_));
}

size_t Cache::length() const {
  std::lock_guard<std::mutex> lock(owner_.mutex_);
  return length_;
}

void Cache::set_length(size_t length) {
  std::lock_guard<std::mutex> lock(owner_.mutex_);
  if (length > length_)
    fail("length " + std::to_string(length) + " is more than the " + std::to_string(length_) +
         " tokens held; it can only be lowered.");
  length_ = length;
}

void Cache::copy_prefix(const Cache& from, size_t n) {
  if (&from.owner_ != &owner_) fail("the prefix belongs to another decoder.");
  std::lock_guard<std::mutex> lock(owner_.mutex_);
  if (from.kv_bits_ != kv_bits_)
    fail("a prefix of " + std::to_string(from.kv_bits_) + " bits does not fit a cache of " +
         std::to_string(kv_bits_) + "; make both with the same kv_bits.");
  if (n > from.length_ || n > capacity_)
    fail("a prefix of " + std::to_string(n) + " tokens is more than the " +
         std::to_string(n > capacity_ ? capacity_ : from.length_) +
         (n > capacity_ ? " that fit." : " that the other cache holds."));
  length_ = n;
  if (&from == this) return;
  const size_t tiles = (n + 15) / 16 * 16;
  for (size_t layer = 0; layer < layers_; ++layer)
    for (size_t head = 0; head < kv_heads_; ++head) {
      memcpy(keys_.data() + key_at(layer, head), from.keys_.data() + from.key_at(layer, head),
             tiles * head_dim_ * bytes_);
      memcpy(values_.data() + value_at(layer, head),
             from.values_.data() + from.value_at(layer, head), n * v_stride_ * bytes_);
    }
}

void Cache::write(const Ops& ops, size_t layer, size_t kv_head, size_t first, size_t T,
                  const float* k, const float* v) {
  uint8_t* keys = keys_.data() + key_at(layer, kv_head);
  uint8_t* values = values_.data() + value_at(layer, kv_head);
  for (size_t t = 0; t < T; ++t) {
    const size_t position = first + t, at = (t * kv_heads_ + kv_head) * head_dim_;
    uint8_t* tile = keys + position / 16 * 16 * head_dim_ * bytes_;
    uint8_t* value = values + position * v_stride_ * bytes_;
    if (bytes_ == 4) {
      auto* out = reinterpret_cast<float*>(tile) + position % 16;
      for (size_t d = 0; d < head_dim_; ++d) out[16 * d] = k[at + d];
      memcpy(value, v + at, head_dim_ * sizeof(float));
      continue;
    }
    auto* out = reinterpret_cast<uint16_t*>(tile) + position % 16;
    uint16_t part[16];
    for (size_t d = 0; d < head_dim_; d += 16) {
      const size_t count = head_dim_ - d < 16 ? head_dim_ - d : 16;
      ops.f32_to_f16(k + at + d, part, count);
      for (size_t i = 0; i < count; ++i) out[16 * (d + i)] = part[i];
    }
    ops.f32_to_f16(v + at, reinterpret_cast<uint16_t*>(value), head_dim_);
  }
}

void Cache::write(const Ops& ops, size_t layer, size_t first, size_t T, const float* k,
                  const float* v) {
  for (size_t head = 0; head < kv_heads_; ++head) write(ops, layer, head, first, T, k, v);
}

void Cache::attend(const Ops& ops, size_t layer, size_t kv_head, size_t first, size_t T,
                   const float* q, float* out, float* scratch, float scale) const {
  Attention a;
  a.group = heads_ / kv_heads_;
  a.head_dim = head_dim_;
  a.stride = heads_ * head_dim_;
  a.q = q + kv_head * a.group * head_dim_;
  a.out = out + kv_head * a.group * head_dim_;
  a.tokens = T;
  a.first = first;
  a.scale = scale;
  a.k = keys_.data() + key_at(layer, kv_head);
  a.v = values_.data() + value_at(layer, kv_head);
  a.v_stride = v_stride_;
  a.scratch = scratch;
  (bytes_ == 4 ? ops.attend_f32 : ops.attend_f16)(a);
}

}  // namespace onebit
