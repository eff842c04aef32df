// The keys and values of one sequence, after RoPE.
//
// 32 and 16 bits: keys lie as the float kernels read weights, 16 positions in lanes, [head_dim][16]
// a tile; values lie position by position, head_dim padded to 16.
// 8, 4 and 3 bits: codes with a scale and a minimum for each position and head (kv_codes.h). The
// first position, on which every other one may look, stays in half precision.
//
// Each layer and key/value head has room for the full capacity; memory is touched only as positions
// are written.
#pragma once
#include <stdint.h>

#include "buffer.h"
#include "memory.h"
#include "ops.h"

namespace onebit {

class Cache : public Memory {
 public:
  // kv_bits: 32, 16, 8, 4 or 3. Throws std::bad_alloc where the memory cannot be had.
  Cache(Decoder& owner, size_t layers, size_t heads, size_t kv_heads, size_t head_dim,
        size_t capacity, int kv_bits);

  // Throws std::invalid_argument for bits that are not among the accepted ones.
  static void check_bits(int kv_bits);

  // Setting it lower forgets the newest; higher throws std::invalid_argument.
  void set_length(size_t length) override;

  int kv_bits() const { return kv_bits_; }
  size_t size_bytes() const override {
    return keys_.size_bytes() + values_.size_bytes() + first_.size_bytes();
  }

  // Throws std::invalid_argument if `from` is of another decoder or other bits, holds fewer, or n
  // is more than the capacity.
  void copy_prefix(const Memory& from, size_t n) override;

  // For the decoder, whose lock is held: nothing is checked, and the length stays as it is.
  // Key/value heads do not depend on one another; positions of a head are written by one thread.

  // Positions first .. first + T - 1 of a layer. k and v: [T][kv_heads * head_dim].
  void write(const Ops& ops, size_t layer, size_t kv_head, size_t first, size_t T, const float* k,
             const float* v);
  void write(const Ops& ops, size_t layer, size_t first, size_t T, const float* k, const float* v);

  // The query heads of one key/value head, for T tokens at positions first .. first + T - 1, of
  // which each sees 0 .. its own, or the last `window` of these. q and out: [T][heads * head_dim];
  // scratch: scratch_floats().
  void attend(const Ops& ops, size_t layer, size_t kv_head, size_t first, size_t T, const float* q,
              float* out, float* scratch, float scale, size_t window) const;
  static size_t scratch_floats(size_t head_dim) { return attention_scratch(head_dim); }

  // Tokens that `attend` takes together; a good size to split a prompt by.
  static size_t tokens_together(size_t group) { return group < kQueries ? kQueries / group : 1; }

 private:
  bool has_codes() const { return kv_bits_ < 16; }
  size_t key_at(size_t layer, size_t kv_head) const {
    return (layer * kv_heads_ + kv_head) * (positions_ / 16) * key_tile_;
  }
  size_t value_at(size_t layer, size_t kv_head) const {
    return (layer * kv_heads_ + kv_head) * (positions_ / 16) * value_tile_;
  }
  size_t first_at(size_t layer, size_t kv_head) const {
    return (layer * kv_heads_ + kv_head) * 2 * first_size_;
  }
  void write_floats(const Ops& ops, uint8_t* keys, uint8_t* values, size_t position, const float* k,
                    const float* v);
  void write_codes(const Ops& ops, uint8_t* keys, uint8_t* values, uint16_t* first, size_t position,
                   const float* k, const float* v);

  size_t layers_, heads_, kv_heads_, head_dim_;
  int kv_bits_;
  size_t positions_;  // capacity rounded up to 16
  size_t v_stride_;   // head_dim rounded up to 16
  size_t first_size_;  // head_dim rounded up to 32
  size_t key_tile_, value_tile_;  // bytes of 16 positions
  Buffer<uint8_t> keys_, values_;
  Buffer<uint16_t> first_;  // codes only: [layers][kv_heads][key, value][first_size]
  Hadamard turn_;           // codes only: of head_dim, powers of two
};

}  // namespace onebit
