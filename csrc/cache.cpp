#include "cache.h"

#include <string.h>

#include <mutex>
#include <stdexcept>
#include <string>

#include "decoder.h"

namespace onebit {

Cache::Cache(Decoder& owner, size_t layers, size_t kv_heads, size_t head_dim, size_t capacity,
             int kv_bits)
    : owner_(owner),
      kv_heads_(kv_heads),
      head_dim_(head_dim),
      capacity_(capacity),
      positions_((capacity + 15) / 16 * 16),
      v_stride_((head_dim + 15) / 16 * 16),
      bytes_(kv_bits == 16 ? 2 : 4) {
  if (capacity > PTRDIFF_MAX) throw std::bad_alloc();
  const size_t heads = checked_product(layers, kv_heads);
  const size_t numbers = checked_product(heads, positions_);
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
    throw std::invalid_argument("cache: length " + std::to_string(length) +
                                " is more than the " + std::to_string(length_) +
                                " tokens held; it can only be lowered.");
  length_ = length;
}

uint8_t* Cache::keys(size_t layer, size_t head) {
  return keys_.data() + (layer * kv_heads_ + head) * positions_ * head_dim_ * bytes_;
}
uint8_t* Cache::values(size_t layer, size_t head) {
  return values_.data() + (layer * kv_heads_ + head) * positions_ * v_stride_ * bytes_;
}

void Cache::write(const Ops& ops, size_t layer, size_t head, size_t position, const float* k,
                  const float* v) {
  uint8_t* tile = keys(layer, head) + position / 16 * 16 * head_dim_ * bytes_;
  uint8_t* value = values(layer, head) + position * v_stride_ * bytes_;
  const size_t lane = position % 16;
  if (bytes_ == 4) {
    auto* out = reinterpret_cast<float*>(tile);
    for (size_t d = 0; d < head_dim_; ++d) out[16 * d + lane] = k[d];
    memcpy(value, v, head_dim_ * sizeof(float));
    return;
  }
  auto* out = reinterpret_cast<uint16_t*>(tile);
  uint16_t part[16];
  for (size_t d = 0; d < head_dim_; d += 16) {
    const size_t count = head_dim_ - d < 16 ? head_dim_ - d : 16;
    ops.f32_to_f16(k + d, part, count);
    for (size_t i = 0; i < count; ++i) out[16 * (d + i) + lane] = part[i];
  }
  ops.f32_to_f16(v, reinterpret_cast<uint16_t*>(value), head_dim_);
}

void Cache::attend(const Ops& ops, size_t layer, size_t head, size_t n, const float* q, float scale,
                   float* scores, float* out) {
  const Attention a = {q,         keys(layer, head), values(layer, head),
                       v_stride_, head_dim_,         n,
                       scale,     scores,            out};
  (bytes_ == 4 ? ops.attend_f32 : ops.attend_f16)(a);
}

}  // namespace onebit
