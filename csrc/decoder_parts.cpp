// The parts of a decoder: which names there are, which shapes they have, and whether all are there.
#include <algorithm>
#include <stdexcept>

#include "decoder.h"

namespace onebit {
namespace {

[[noreturn]] void fail(const std::string& message) { throw std::invalid_argument(message); }

std::string shape_text(size_t rows, size_t columns) {
  return "(" + std::to_string(rows) + ", " + std::to_string(columns) + ")";
}

}  // namespace

// "model.layers.3.mlp.up_proj" -> 3, "mlp.up_proj"
bool Decoder::split_name(const std::string& name, size_t* layer, std::string* part) const {
  static const std::string prefix = "model.layers.";
  if (name.compare(0, prefix.size(), prefix)) return false;
  const size_t dot = name.find('.', prefix.size());
  if (dot == std::string::npos || dot == prefix.size() || dot > prefix.size() + 6) return false;
  size_t index = 0;
  for (size_t i = prefix.size(); i < dot; ++i) {
    if (name[i] < '0' || name[i] > '9') return false;
    index = 10 * index + static_cast<size_t>(name[i] - '0');
  }
  if (index >= layers_.size())
    fail(name + ": the architecture has " + std::to_string(layers_.size()) + " layers.");
  *layer = index;
  *part = name.substr(dot + 1);
  return true;
}

Decoder::MatrixSlot Decoder::matrix_slot(const std::string& name) {
  const Shape& s = shape_;
  if (name == "model.embed_tokens") return {&embedding_, s.vocab, s.hidden, false};
  if (name == "lm_head") return {&head_, s.vocab, s.hidden, false};
  size_t index;
  std::string part;
  if (split_name(name, &index, &part)) {
    Layer& layer = layers_[index];
    if (s.recurrent) return recurrent_slot(name, layer, part);
    const size_t q = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
    if (part == "self_attn.q_proj") return {&layer.q, q, s.hidden, s.qkv_bias};
    if (part == "self_attn.k_proj") return {&layer.k, kv, s.hidden, s.qkv_bias};
    if (part == "self_attn.v_proj") return {&layer.v, kv, s.hidden, s.qkv_bias};
    if (part == "self_attn.o_proj") return {&layer.o, s.hidden, q, s.out_bias};
    if (part == "mlp.gate_proj") return {&layer.gate, s.intermediate, s.hidden, s.mlp_bias};
    if (part == "mlp.up_proj") return {&layer.up, s.intermediate, s.hidden, s.mlp_bias};
    if (part == "mlp.down_proj") return {&layer.down, s.hidden, s.intermediate, s.mlp_bias};
  }
  fail(name + " is no matrix of this architecture.");
}

Decoder::MatrixSlot Decoder::recurrent_slot(const std::string& name, Layer& layer,
                                            const std::string& part) const {
  const size_t d = shape_.hidden, l = shape_.intermediate;
  if (part == "attn.i_proj") return {&layer.i, d, d, false};
  if (part == "attn.f_proj") return {&layer.f, d, d, false};
  if (part == "attn.g_proj") return {&layer.g, d, d, false};
  if (part == "attn.o_proj") return {&layer.o, d, d, false};
  if (part == "mlp.gate_proj") return {&layer.gate, 2 * l, d, false};
  if (part == "mlp.down_proj") return {&layer.down, d, l, false};
  fail(name + " is no matrix of this architecture.");
}

Decoder::NormSlot Decoder::norm_slot(const std::string& name) {
  const Shape& s = shape_;
  if (name == "model.norm") return {&final_norm_, s.hidden};
  size_t index;
  std::string part;
  if (split_name(name, &index, &part)) {
    Layer& layer = layers_[index];
    if (s.recurrent) {
      if (part == "attn_norm") return {&layer.input_norm, s.hidden};
      if (part == "mlp_norm") return {&layer.mlp_norm, s.hidden};
      if (s.norm_of_gate && part == "attn.g_norm") return {&layer.g_norm, s.hidden};
      if (s.lower_bounds && part == "attn.lower_bound") return {&layer.lower_bound, s.hidden};
      fail(name + " is no norm of this architecture.");
    }
    const char* mlp_norm = s.post_norms ? "pre_feedforward_layernorm" : "post_attention_layernorm";
    if (s.pre_norms && part == "input_layernorm") return {&layer.input_norm, s.hidden};
    if (s.pre_norms && part == mlp_norm) return {&layer.mlp_norm, s.hidden};
    if (s.post_norms && part == "post_attention_layernorm")
      return {&layer.post_attention_norm, s.hidden};
    if (s.post_norms && part == "post_feedforward_layernorm")
      return {&layer.post_mlp_norm, s.hidden};
    if (s.learned_temperature && part == "self_attn.temperature")
      return {&layer.temperature, s.heads};
    if (s.qk_norm && part == "self_attn.q_norm") return {&layer.q_norm, s.head_dim};
    if (s.qk_norm && part == "self_attn.k_norm") return {&layer.k_norm, s.head_dim};
    if (s.sub_norms && part == "self_attn.attn_sub_norm")
      return {&layer.attention_sub_norm, s.heads * s.head_dim};
    if (s.sub_norms && part == "mlp.ffn_sub_norm") return {&layer.ffn_sub_norm, s.intermediate};
  }
  fail(name + " is no norm of this architecture.");
}

std::shared_ptr<const HadamardPlan> Decoder::plan_of(size_t n) {
  for (const auto& plan : plans_)
    if (plan->get().n == n) return plan;
  plans_.push_back(std::make_shared<HadamardPlan>(n));
  return plans_.back();
}

// The same vector for the same signs, so that layers know that they read the same; null for ones.
std::shared_ptr<const std::vector<float>> Decoder::signs_of(
    std::shared_ptr<const std::vector<float>> signs) {
  if (!signs || std::all_of(signs->begin(), signs->end(), [](float s) { return s == 1.0f; }))
    return nullptr;
  for (const auto& known : signs_)
    if (*known == *signs) return known;
  signs_.push_back(std::move(signs));
  return signs_.back();
}

void Decoder::check_input(const std::string& name, const Linear& linear) const {
  const size_t K = linear.matrix->columns / linear.planes;
  if (!linear.norm.empty() && linear.norm.size() != K)
    fail(name + ": its norm has " + std::to_string(linear.norm.size()) + " weights for " +
         std::to_string(K) + " columns.");
  if (!linear.norm.empty() && linear.layer_norm)
    fail(name + ": it has an RMSNorm and a LayerNorm inside; give one of them.");
  if (linear.signs && linear.signs->size() != K)
    fail(name + ": " + std::to_string(linear.signs->size()) + " signs for a Hadamard transform of " +
         std::to_string(K) + " columns.");
  if (linear.signs && !std::all_of(linear.signs->begin(), linear.signs->end(),
                                   [](float s) { return s == 1.0f || s == -1.0f; }))
    fail(name + ": signs of a Hadamard transform are 1 and -1.");
  try {
    check_parts(K, linear.parts);
    check_planes(K, linear);
  } catch (const std::invalid_argument& error) {
    fail(name + ": " + error.what());
  }
}

void Decoder::set_matrix(const std::string& name, Linear linear, bool hadamard) {
  std::lock_guard<std::mutex> lock(mutex_);
  const MatrixSlot slot = matrix_slot(name);
  const Matrix& m = *linear.matrix;
  if (m.rows != slot.rows || m.columns != linear.planes * slot.columns)
    fail(name + ": the matrix is " + shape_text(m.rows, m.columns / linear.planes) + "; the architecture needs " +
         shape_text(slot.rows, slot.columns) + ".");
  check_input(name, linear);
  if (!linear.bias.empty() && linear.bias.size() != slot.rows)
    fail(name + ": its bias has " + std::to_string(linear.bias.size()) + " values for " +
         std::to_string(slot.rows) + " rows.");
  if (linear.bias.empty() == slot.bias)
    fail(name + (slot.bias ? ": the bias is missing." : ": the architecture has no bias here."));
  if (linear.activation.rule == Rule::absmax_tensor)
    linear.activation.rule = Rule::absmax;  // see the top of decoder.h
  if (hadamard) linear.hadamard = plan_of(slot.columns);
  linear.signs = hadamard ? signs_of(std::move(linear.signs)) : nullptr;
  if (linear.signs && !linear.norm.empty()) {  // a sign more in each product of the norm
    for (size_t k = 0; k < linear.norm.size(); ++k) linear.norm[k] *= (*linear.signs)[k];
    linear.signs = nullptr;
  }
  if (m.has_codes()) terms_ = std::max(terms_, linear.activation.terms);
  *slot.linear = std::move(linear);
}

void Decoder::set_norm(const std::string& name, std::vector<float> weight) {
  std::lock_guard<std::mutex> lock(mutex_);
  const NormSlot slot = norm_slot(name);
  if (weight.size() != slot.size)
    fail(name + " has " + std::to_string(weight.size()) + " weights; the architecture needs " +
         std::to_string(slot.size) + ".");
  *slot.weight = std::move(weight);
}

void Decoder::check_layer(size_t index) {
  const std::string prefix = "model.layers." + std::to_string(index) + ".";
  std::vector<std::string> matrices = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                       "self_attn.o_proj", "mlp.gate_proj",    "mlp.up_proj",
                                       "mlp.down_proj"};
  if (shape_.recurrent)
    matrices = {"attn.i_proj", "attn.f_proj",   "attn.g_proj",
                "attn.o_proj", "mlp.gate_proj", "mlp.down_proj"};
  for (const std::string& part : matrices)
    if (!matrix_slot(prefix + part).linear->matrix) fail(prefix + part + " is missing.");
  std::vector<std::string> norms;
  if (shape_.recurrent) {
    norms = {"attn_norm", "mlp_norm"};
    if (shape_.norm_of_gate) norms.push_back("attn.g_norm");
    if (shape_.lower_bounds) norms.push_back("attn.lower_bound");
    for (const std::string& part : norms)
      if (norm_slot(prefix + part).weight->empty()) fail(prefix + part + " is missing.");
    return;
  }
  if (shape_.pre_norms) norms.push_back("input_layernorm");
  if (shape_.pre_norms || shape_.post_norms) norms.push_back("post_attention_layernorm");
  if (shape_.pre_norms && shape_.post_norms) norms.push_back("pre_feedforward_layernorm");
  if (shape_.post_norms) norms.push_back("post_feedforward_layernorm");
  if (shape_.learned_temperature) norms.push_back("self_attn.temperature");
  if (shape_.qk_norm) norms.insert(norms.end(), {"self_attn.q_norm", "self_attn.k_norm"});
  if (shape_.sub_norms) norms.insert(norms.end(), {"self_attn.attn_sub_norm", "mlp.ffn_sub_norm"});
  for (const std::string& part : norms)
    if (norm_slot(prefix + part).weight->empty()) fail(prefix + part + " is missing.");
}

void Decoder::finish() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!embedding_.matrix) fail("model.embed_tokens is missing.");
  if (!head_.matrix && !shape_.tied) fail("lm_head is missing, and the embedding is not tied.");
  if (final_norm_.empty()) fail("model.norm is missing.");
  for (size_t i = 0; i < layers_.size(); ++i) check_layer(i);
  finished_ = true;
}

}  // namespace onebit
