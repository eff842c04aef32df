// Counts what is allocated while a decoder writes tokens: nothing, once a longer step was seen.
//
// Linked with --wrap=calloc, which is how csrc/buffer.h takes memory; standard containers take it by
// the operator new that stands here.
#include <stdio.h>
#include <stdlib.h>

#include <atomic>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "decoder.h"
#include "parallel.h"

static std::atomic<size_t> allocations{0};

extern "C" void* __real_calloc(size_t count, size_t size);
extern "C" void* __wrap_calloc(size_t count, size_t size) {
  ++allocations;
  return __real_calloc(count, size);
}
void* operator new(size_t size) {
  ++allocations;
  if (void* p = malloc(size ? size : 1)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { free(p); }
void operator delete(void* p, size_t) noexcept { free(p); }

using namespace onebit;

namespace {

Shape small_shape() {
  Shape s;
  s.vocab = 48;
  s.hidden = 96;  // in the transform, an axis of 12
  s.intermediate = 192;
  s.layers = 2;
  s.heads = 4;
  s.kv_heads = 2;
  s.head_dim = 24;
  s.gate = Shape::Gate::relu2;
  s.sub_norms = s.qk_norm = s.tied = s.learned_temperature = true;
  s.q_bits = 4;
  s.inv_freq.assign(s.head_dim / 2, 0.01f);
  return s;
}

// Ternary and 4-bit layers, with the norms of every kind.
void fill(Decoder& decoder, const Shape& s, const Activation& activation, bool hadamard) {
  const auto set = [&](const std::string& name, const char* layout, size_t N, size_t K) {
    std::vector<int8_t> codes(N * K);
    for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<int8_t>(i * i % 3) - 1;
    const std::vector<float> scale(N, 0.1f);
    Linear linear;
    linear.matrix = std::make_shared<Matrix>(
        matrix_of_codes(layout, codes.data(), N, K, scale.data(), nullptr, 1));
    linear.activation = activation;
    linear.layer_norm = hadamard;
    linear.parts = hadamard && K % 64 == 0 ? 2 : 1;
    if (hadamard) linear.signs = std::make_shared<std::vector<float>>(K, -1.0f);
    decoder.set_matrix(name, std::move(linear), hadamard);
  };
  const auto norm = [&](const std::string& name, size_t n) {
    decoder.set_norm(name, std::vector<float>(n, 1.0f));
  };
  const size_t q = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
  set("model.embed_tokens", "i8", s.vocab, s.hidden);
  norm("model.norm", s.hidden);
  for (size_t i = 0; i < s.layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    if (s.recurrent) {
      for (const char* name : {"attn.i_proj", "attn.f_proj", "attn.g_proj", "attn.o_proj"})
        set(layer + name, "t2", s.hidden, s.hidden);
      set(layer + "mlp.gate_proj", "t1_6", 2 * s.intermediate, s.hidden);
      set(layer + "mlp.down_proj", "t1_6", s.hidden, s.intermediate);
      for (const char* name : {"attn_norm", "attn.g_norm", "attn.lower_bound", "mlp_norm"})
        norm(layer + name, s.hidden);
      continue;
    }
    set(layer + "self_attn.q_proj", "t2", q, s.hidden);
    set(layer + "self_attn.k_proj", "t2", kv, s.hidden);
    set(layer + "self_attn.v_proj", "i4", kv, s.hidden);
    set(layer + "self_attn.o_proj", "t1_6", s.hidden, q);
    set(layer + "mlp.gate_proj", "t1_6", s.intermediate, s.hidden);
    set(layer + "mlp.up_proj", "t2", s.intermediate, s.hidden);
    set(layer + "mlp.down_proj", "t1_6", s.hidden, s.intermediate);
    norm(layer + "input_layernorm", s.hidden);
    norm(layer + "post_attention_layernorm", s.hidden);
    norm(layer + "self_attn.q_norm", s.head_dim);
    norm(layer + "self_attn.k_norm", s.head_dim);
    norm(layer + "self_attn.temperature", s.heads);
    norm(layer + "self_attn.attn_sub_norm", q);
    norm(layer + "mlp.ffn_sub_norm", s.intermediate);
  }
  decoder.finish();
}

// A prompt for three sequences, then tokens one by one, of all together, and with drafts.
size_t allocated(int kv_bits, const Activation& activation, bool hadamard, bool recurrent) {
  Shape shape = small_shape();
  shape.recurrent = shape.lower_bounds = recurrent;
  if (recurrent) shape.gate = Shape::Gate::silu;
  Decoder decoder(shape);
  fill(decoder, shape, activation, hadamard);
  std::vector<std::unique_ptr<Memory>> caches;
  for (int i = 0; i < 3; ++i) caches.push_back(decoder.new_memory(256, kv_bits));
  const std::vector<int32_t> tokens(60, 7);
  std::vector<float> logits(200 * shape.vocab);
  const auto step = [&](size_t count, size_t T, Logits wanted) {
    Append appends[3];
    for (size_t i = 0; i < count; ++i) appends[i] = {caches[i].get(), tokens.data(), T, wanted};
    decoder.step(kScalar, appends, count, logits.data());
  };
  step(3, 60, Logits::all);
  const size_t before = allocations;
  for (int i = 0; i < 8; ++i) {
    step(1, 1, Logits::last);
    step(3, 1, Logits::last);
    step(1 + i % 3, 1 + i % 7, i % 2 ? Logits::all : Logits::none);
    caches[0]->copy_prefix(*caches[1], recurrent ? caches[1]->length() : 50);
    caches[1]->set_length(recurrent ? 0 : 60);
  }
  return allocations - before;
}

}  // namespace

int main() {
  for (size_t threads : {1, 3}) {
    set_threads(threads);
    for (int kv_bits : {32, 16, 8, 4, 3})
      for (const char* rule : {"int8_absmax", "fp", "fp_int8", "int8_b1_positive", "int8_top50", "fp4_e2m1",
                               "int4_absmean", "dynamic:3"})
        if (const size_t n =
                allocated(kv_bits, activation_of(rule), kv_bits == 4, kv_bits == 32)) {
          printf("%zu allocations, %zu threads, %d bits, %s\n", n, threads, kv_bits, rule);
          return 1;
        }
  }
  if (allocations == 0) return 2;  // nothing was counted at all
  printf("nothing was allocated\n");
}
