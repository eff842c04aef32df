// The state of one sequence in a recurrent decoder: a vector per layer, however many tokens were
// taken in.
//
// What is past cannot be told apart any more: a state forgets all or nothing, and is copied whole.
#pragma once
#include <stdint.h>

#include "buffer.h"
#include "memory.h"

namespace onebit {

class State : public Memory {
 public:
  // Zeros. Throws std::bad_alloc where the memory cannot be had.
  State(Decoder& owner, size_t layers, size_t hidden);

  size_t size_bytes() const override { return h_.size_bytes(); }

  // Only to 0, or to the length it has.
  void set_length(size_t length) override;

  // n: the length of `from`, or 0.
  void copy_prefix(const Memory& from, size_t n) override;

  // For the decoder, whose lock is held: h [hidden] of a layer.
  float* layer(size_t index) { return h_.data() + index * hidden_; }

 private:
  void clear();

  size_t hidden_;
  Buffer<float> h_;  // [layers][hidden]
};

}  // namespace onebit
