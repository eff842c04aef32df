// The keys and values of one sequence, after RoPE.
//
// Keys lie as the float kernels read weights: 16 positions in lanes, [head_dim][16] a tile. Values
// lie position by position, head_dim padded to 16. Both in float32 or float16, for each layer and
// key/value head, at the full capacity; memory is touched only as positions are written.
#pragma once
#include <stdint.h>

#include "buffer.h"
#include "ops.h"

namespace onebit {

class Decoder;

class Cache {
 public:
  // kv_bits is 16 or 32. Throws std::bad_alloc where the memory cannot be had.
  Cache(Decoder& owner, size_t layers, size_t kv_heads, size_t head_dim, size_t capacity,
        int kv_bits);

  // Tokens held. Setting it lower forgets the newest; higher throws std::invalid_argument.
  size_t length() const;
  void set_length(size_t length);

  size_t capacity() const { return capacity_; }
  size_t size_bytes() const { return keys_.size_bytes() + values_.size_bytes(); }

 private:
  friend class Decoder;

  void write(const Ops& ops, size_t layer, size_t head, size_t position, const float* k,
             const float* v);
  void attend(const Ops& ops, size_t layer, size_t head, size_t n, const float* q, float scale,
              float* scores, float* out);
  uint8_t* keys(size_t layer, size_t head);
  uint8_t* values(size_t layer, size_t head);

  Decoder& owner_;
  size_t kv_heads_, head_dim_, capacity_;
  size_t positions_;  // capacity rounded up to 16
  size_t v_stride_;   // head_dim rounded up to 16
  size_t bytes_;      // of a number
  size_t length_ = 0;
  Buffer<uint8_t> keys_, values_;
};

}  // namespace onebit
