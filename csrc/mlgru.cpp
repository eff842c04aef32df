// The layers of the MatMul-free LM: a gated linear recurrence over a sequence in place of attention,
// and a channel mixer whose gate and up are one matrix.
//
// Source: https://arxiv.org/abs/2406.02528, section 3.3; where the published code differs from the
// paper, Shape says which of the two is computed.
#include <algorithm>

#include "decoder.h"
#include "parallel.h"

namespace onebit {
namespace {

constexpr size_t kChannels = 128;  // that one thread takes through a run
constexpr size_t kTokenGrain = 4;  // below it, the recurrence stays on one thread

}  // namespace

//   s = sigmoid(f), within lower .. 1;  h = s h + silu(i) (1 - s)
//   code: o(norm(g) silu(h));  paper: o(g sigmoid(h))
void Decoder::mlgru(const Ops& ops, size_t index) {
  const Layer& layer = layers_[index];
  const size_t d = shape_.hidden;
  const auto normed = [&](size_t t) {
    if (!index) return begin_row(ops, layer.input_norm, t);
    return add_and_norm(ops, layers_[index - 1].post_mlp_norm, layer.input_norm, t);
  };
  const Linear* const gates[] = {&layer.i, &layer.f, &layer.g};
  float* const outputs[] = {i_.data(), f_.data(), g_.data()};
  multiply(ops, x_.data(), d, Rows::of(normed), gates, outputs, 3);

  // A unit is some channels of one sequence, whose tokens it takes in order: h comes in place of i.
  cut_runs(rows_.size());
  const size_t blocks = (d + kChannels - 1) / kChannels, units = runs_.size() * blocks;
  parallel_for(units, rows_.size() < kTokenGrain ? units : 1, [&](size_t begin, size_t end) {
    for (size_t unit = begin; unit < end; ++unit) {
      const Run& run = runs_[unit / blocks];
      const size_t first = unit % blocks * kChannels, at = run.row * d + first;
      // A recurrent decoder makes no other memory.
      float* h = static_cast<State*>(rows_[run.row].memory)->layer(index) + first;
      const float* lower = shape_.lower_bounds ? layer.lower_bound.data() + first : nullptr;
      ops.mlgru(f_.data() + at, i_.data() + at, lower, h, run.T, d, std::min(kChannels, d - first));
    }
  });
  if (index + 1 == layers_.size()) drop_unwanted_rows({{i_.data(), d}, {g_.data(), d}});
  if (rows_.empty()) return;

  const auto gated = [&](size_t t) {
    float *g = g_.data() + t * d, *h = i_.data() + t * d;
    if (shape_.norm_of_gate) {
      ops.rms_norm(g, layer.g_norm.data(), shape_.eps, g, d);
      ops.glu_silu(h, g, h, d);
    } else {
      ops.glu_sigmoid(h, g, h, d);
    }
    return kUnknown;
  };
  const Linear* const o[] = {&layer.o};
  float* const out[] = {x_.data()};
  multiply(ops, i_.data(), d, Rows::of(gated), o, out, 1);
}

// As mlp, of one matrix: rows of the gate, then those of up.
void Decoder::fused_mlp(const Ops& ops, size_t index) {
  const Layer& layer = layers_[index];
  const size_t l = shape_.intermediate;
  const auto normed = [&](size_t t) {
    return add_and_norm(ops, layer.post_attention_norm, layer.mlp_norm, t);
  };
  const Linear* const gate_up[] = {&layer.gate};
  float* const outputs[] = {gate_.data()};
  multiply(ops, x_.data(), shape_.hidden, Rows::of(normed), gate_up, outputs, 1);

  const auto gated = [&](size_t t) {
    const float* gate = gate_.data() + t * 2 * l;
    ops.glu_silu(gate, gate + l, up_.data() + t * l, l);
    return kUnknown;
  };
  const Linear* const down[] = {&layer.down};
  float* const out[] = {x_.data()};
  multiply(ops, up_.data(), l, Rows::of(gated), down, out, 1);
}

}  // namespace onebit
