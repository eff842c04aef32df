#include "cache.h"

#include <math.h>
#include <string.h>

#include <mutex>
#include <stdexcept>
#include <string>

#include "container.h"
#include "decoder.h"
#include "kv_codes.h"

namespace onebit {
namespace {

constexpr size_t kMostDim = 1024;  // of a head; module.cpp refuses more

[[noreturn]] void fail(const std::string& message) {
  throw std::invalid_argument("cache: " + message);
}

bool is_nan_half(uint16_t h) { return (h & 0x7fff) > 0x7c00; }

}  // namespace

void Cache::check_bits(int kv_bits) {
  for (int accepted : {32, 16, 8, 4, 3})
    if (kv_bits == accepted) return;
  fail("kv_bits is " + std::to_string(kv_bits) + "; accepted: 32, 16, 8, 4, 3.");
}

Cache::Cache(Decoder& owner, size_t layers, size_t heads, size_t kv_heads, size_t head_dim,
             size_t capacity, int kv_bits)
    : Memory(owner, capacity),
      layers_(layers),
      heads_(heads),
      kv_heads_(kv_heads),
      head_dim_(head_dim),
      kv_bits_(kv_bits),
      positions_((capacity + 15) / 16 * 16),
      v_stride_((head_dim + 15) / 16 * 16),
      first_size_((head_dim + 31) / 32 * 32) {
  if (capacity > PTRDIFF_MAX) throw std::bad_alloc();
  const size_t bytes = kv_bits / 8;
  key_tile_ = has_codes() ? kv_tile_bytes(head_dim, kv_bits) : 16 * head_dim * bytes;
  value_tile_ = has_codes() ? key_tile_ : 16 * v_stride_ * bytes;
  const size_t all_heads = checked_product(layers, kv_heads);
  const size_t tiles = checked_product(all_heads, positions_ / 16);
  const size_t keys = checked_product(tiles, key_tile_);
  const size_t values = checked_product(tiles, value_tile_), left = available_memory();
  // The system would promise more than it has, and end the process once it is used.
  if (keys > left || values > left - keys) throw std::bad_alloc();
  keys_ = Buffer<uint8_t>(keys);
  values_ = Buffer<uint8_t>(values);
  if (!has_codes()) return;
  first_ = Buffer<uint16_t>(checked_product(all_heads, 2 * first_size_));
  turn_.n = head_dim;
  turn_.size = turn_.power = head_dim & (~head_dim + 1);
  turn_.scale = static_cast<float>(1.0 / sqrt(static_cast<double>(turn_.size)));
}

void Cache::set_length(size_t length) {
  std::lock_guard<std::mutex> lock(owner_.mutex_);
  if (length > length_)
    fail("length " + std::to_string(length) + " is more than the " + std::to_string(length_) +
         " tokens held; it can only be lowered.");
  length_ = length;
}

void Cache::copy_prefix(const Memory& memory, size_t n) {
  const auto* same_kind = dynamic_cast<const Cache*>(&memory);
  if (!same_kind || &same_kind->owner_ != &owner_) fail("the prefix belongs to another decoder.");
  const Cache& from = *same_kind;
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
  const size_t tiles = (n + 15) / 16;
  for (size_t layer = 0; layer < layers_; ++layer)
    for (size_t head = 0; head < kv_heads_; ++head) {
      memcpy(keys_.data() + key_at(layer, head), from.keys_.data() + from.key_at(layer, head),
             tiles * key_tile_);
      memcpy(values_.data() + value_at(layer, head),
             from.values_.data() + from.value_at(layer, head), tiles * value_tile_);
    }
  if (n && has_codes()) memcpy(first_.data(), from.first_.data(), first_.size_bytes());
}

void Cache::write_floats(const Ops& ops, uint8_t* keys, uint8_t* values, size_t position,
                         const float* k, const float* v) {
  uint8_t* tile = keys + position / 16 * key_tile_;
  uint8_t* value = values + position * (value_tile_ / 16);
  if (kv_bits_ == 32) {
    auto* out = reinterpret_cast<float*>(tile) + position % 16;
    for (size_t d = 0; d < head_dim_; ++d) out[16 * d] = k[d];
    memcpy(value, v, head_dim_ * sizeof(float));
    return;
  }
  auto* out = reinterpret_cast<uint16_t*>(tile) + position % 16;
  uint16_t part[16];
  for (size_t d = 0; d < head_dim_; d += 16) {
    const size_t count = head_dim_ - d < 16 ? head_dim_ - d : 16;
    ops.f32_to_f16(k + d, part, count);
    for (size_t i = 0; i < count; ++i) out[16 * (d + i)] = part[i];
  }
  ops.f32_to_f16(v, reinterpret_cast<uint16_t*>(value), head_dim_);
}

void Cache::write_codes(const Ops& ops, uint8_t* keys, uint8_t* values, uint16_t* first,
                        size_t position, const float* k, const float* v) {
  const size_t r = position % 16, at = position / 16 * key_tile_, D = head_dim_;
  float row[kMostDim];
  uint8_t codes[kMostDim];
  uint16_t* key_scale = reinterpret_cast<uint16_t*>(keys + at + key_tile_ - 64) + r;
  for (const bool is_key : {true, false}) {
    memcpy(row, is_key ? k : v, D * sizeof(float));
    if (is_key) ops.hadamard(turn_, row);
    if (!position) ops.f32_to_f16(row, first + (is_key ? 0 : first_size_), D);
    uint8_t* tile = (is_key ? keys : values) + at;
    auto* scale = reinterpret_cast<uint16_t*>(tile + key_tile_ - 64);
    ops.quantize_range(row, D, (1 << kv_bits_) - 1, codes, scale + r, scale + 16 + r);
    for (size_t d = 0; d < D; ++d) {
      if (is_key)
        put_kv_code(tile, kv_bits_, d / 16, r, d % 16, codes[d]);
      else
        put_kv_code(tile, kv_bits_, d / 16, d % 16, r, codes[d]);
    }
    // Scales of values are read together, also by queries that do not see this one: a NaN among
    // them is said by the key, whose score those queries pass over.
    if (is_key || !is_nan_half(scale[r])) continue;
    *key_scale = scale[r];
    scale[r] = 0;
  }
}

void Cache::write(const Ops& ops, size_t layer, size_t kv_head, size_t first, size_t T,
                  const float* k, const float* v) {
  uint8_t* keys = keys_.data() + key_at(layer, kv_head);
  uint8_t* values = values_.data() + value_at(layer, kv_head);
  for (size_t t = 0; t < T; ++t) {
    const size_t at = (t * kv_heads_ + kv_head) * head_dim_;
    if (has_codes())
      write_codes(ops, keys, values, first_.data() + first_at(layer, kv_head), first + t, k + at,
                  v + at);
    else
      write_floats(ops, keys, values, first + t, k + at, v + at);
  }
}

void Cache::write(const Ops& ops, size_t layer, size_t first, size_t T, const float* k,
                  const float* v) {
  for (size_t head = 0; head < kv_heads_; ++head) write(ops, layer, head, first, T, k, v);
}

void Cache::attend(const Ops& ops, size_t layer, size_t kv_head, size_t first, size_t T,
                   const float* q, float* out, float* scratch, float scale,
                   size_t window) const {
  Attention a;
  a.group = heads_ / kv_heads_;
  a.head_dim = head_dim_;
  a.stride = heads_ * head_dim_;
  a.q = q + kv_head * a.group * head_dim_;
  a.out = out + kv_head * a.group * head_dim_;
  a.tokens = T;
  a.first = first;
  a.window = window;
  a.scale = scale;
  a.k = keys_.data() + key_at(layer, kv_head);
  a.v = values_.data() + value_at(layer, kv_head);
  a.v_stride = v_stride_;
  a.scratch = scratch;
  if (has_codes()) {
    a.tile_bytes = key_tile_;
    a.first_k = first_.data() + first_at(layer, kv_head);
    a.first_v = a.first_k + first_size_;
    a.turn = &turn_;
  }
  const auto attend = kv_bits_ == 32   ? ops.attend_f32
                      : kv_bits_ == 16 ? ops.attend_f16
                      : kv_bits_ == 8  ? ops.attend_i8
                      : kv_bits_ == 4  ? ops.attend_i4
                                       : ops.attend_i3;
  attend(a);
}

}  // namespace onebit
