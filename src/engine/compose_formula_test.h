// The whole model by its formulas, in double: what one rank is held against. Written for the test
// from docs/numerics.md and the papers, a token at a time, with nothing of the program's but the
// names and shapes of parameters. Slow; for tens of tokens of models of some thousand weights.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "config/model_args.h"
#include "model/layer_test.h"

namespace nereus::compose {

using test::Values;
using Weights = std::map<std::string, Values>;  // by name, experts' biases too; row-major

class Formula {
 public:
  // Rows of `sequence` tokens; token `eos` ends a document, where the mask asks for it.
  Formula(const ModelArgs& args, size_t sequence, int32_t eos)
      : a_(args), sequence_(sequence), eos_(eos) {
    rotary();
  }

  struct Result {
    double loss = 0;  // mean over the tokens whose label is not negative; 0 without any
    Values logits;    // [T, V]
  };
  // `experts`: ids by layer of experts, token and choice, best first. Chosen when it is empty, else
  // those that are there are taken: the derivative of the loss is that at a fixed choice.
  Result run(const Weights& w, std::span<const int32_t> ids, std::span<const int32_t> labels,
             std::vector<int32_t>& experts) const {
    const size_t D = size(a_.dim), T = ids.size(), V = size(a_.vocab_size);
    const Values& table = w.at("tok_embeddings.weight");
    Values x;
    for (const int32_t id : ids) {
      const auto row = table.begin() + static_cast<ptrdiff_t>(size(id) * D);
      x.insert(x.end(), row, row + static_cast<ptrdiff_t>(D));
    }
    const bool choose = experts.empty();
    size_t at = 0;  // in experts
    for (int64_t layer = 0; layer < a_.n_layers; ++layer) {
      const std::string p = "layers." + std::to_string(layer) + ".";
      add(x, attention(w, p + "attention.", ids,
                       test::rms_normalised(x, w.at(p + "attention_norm.weight"), a_.norm_eps)));
      const Values n = test::rms_normalised(x, w.at(p + "ffn_norm.weight"), a_.norm_eps);
      if (!a_.is_moe_layer(layer)) {
        add(x, feed_forward(w, p + "feed_forward.", n));
        continue;
      }
      if (choose) choose_experts(w, p + "moe.", n, experts);
      const size_t count = T * size(a_.moe.top_k);
      add(x, mixture(w, p + "moe.", n, std::span(experts).subspan(at, count)));
      at += count;
    }
    Result out;
    out.logits = test::product(test::rms_normalised(x, w.at("norm.weight"), final_eps()),
                               w.at("output.weight"), D);
    double counted = 0;
    for (size_t t = 0; t < T; ++t) {
      if (labels[t] < 0) continue;
      ++counted;
      const double* row = &out.logits[t * V];
      const double most = *std::max_element(row, row + V);
      double sum = 0;
      for (size_t v = 0; v < V; ++v) sum += std::exp(row[v] - most);
      out.loss += std::log(sum) + most - row[size(labels[t])];
    }
    if (counted > 0) out.loss /= counted;
    return out;
  }

 private:
  static size_t size(int64_t n) { return static_cast<size_t>(n); }
  static void add(Values& x, const Values& y) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }
  bool huggingface() const { return a_.numerics.family == NumericsFamily::huggingface; }
  double final_eps() const { return huggingface() ? a_.norm_eps : 1.1920929e-07; }
  double latent_eps() const { return huggingface() ? 1e-6 : a_.norm_eps; }

  // YaRN (Peng et al. 2023, arXiv 2309.00071), and where each family has it.
  void rotary() {
    const auto dim = static_cast<double>(a_.qk_rope_head_dim);
    const double factor = a_.rope_factor;
    scale_ = 1 / std::sqrt(static_cast<double>(a_.qk_nope_head_dim + a_.qk_rope_head_dim));
    const bool yarn = huggingface() ? a_.hf_yarn : a_.max_seq_len > a_.original_seq_len;
    const auto m = [&](double s) { return 0.1 * s * std::log(factor) + 1; };
    double low = 0, high = 0;
    if (yarn) {
      const auto corrected = [&](double turns) {
        return dim *
               std::log(static_cast<double>(a_.original_seq_len) / (2 * std::acos(-1.0) * turns)) /
               (2 * std::log(a_.rope_theta));
      };
      low = std::max(0.0, std::floor(corrected(a_.beta_fast)));
      high = std::min(dim - 1, std::ceil(corrected(a_.beta_slow)));
      if (low == high) high += 0.001;
      const bool both = a_.hf_mscale_given && a_.hf_mscale_all_dim != 0;
      if (!huggingface()) {
        scale_ *= m(a_.mscale) * m(a_.mscale);
      } else {
        if (a_.hf_mscale_all_dim != 0) scale_ *= m(a_.hf_mscale_all_dim) * m(a_.hf_mscale_all_dim);
        amplitude_ = both ? m(a_.mscale) / m(a_.hf_mscale_all_dim) : m(1);
      }
    }
    for (double i = 0; i < dim / 2; ++i) {
      const double f = std::pow(a_.rope_theta, -2 * i / dim);
      const double slow = yarn ? std::clamp((i - low) / (high - low), 0.0, 1.0) : 0;
      frequencies_.push_back(f * (1 - slow) + f / factor * slow);
    }
  }

  // The last qk_rope_head_dim of `width` columns, pair by pair.
  void rotate(double* head, size_t position) const {
    double* pair = head + a_.qk_nope_head_dim;
    for (const double f : frequencies_) {
      const double angle = static_cast<double>(position) * f;
      const double c = amplitude_ * std::cos(angle), s = amplitude_ * std::sin(angle);
      const double turned = pair[0] * c - pair[1] * s;
      pair[1] = pair[0] * s + pair[1] * c;
      pair[0] = turned;
      pair += 2;
    }
  }

  Values attention(const Weights& w, const std::string& p, std::span<const int32_t> ids,
                   const Values& x) const {
    const size_t D = size(a_.dim), T = ids.size(), H = size(a_.n_heads),
                 N = size(a_.qk_nope_head_dim), R = size(a_.qk_rope_head_dim),
                 V = size(a_.v_head_dim), Q = N + R, C = size(a_.kv_lora_rank);
    Values q;
    if (a_.q_lora_rank == 0) {
      q = test::product(x, w.at(p + "wq.weight"), D);
    } else {
      const Values latent = test::rms_normalised(test::product(x, w.at(p + "wq_a.weight"), D),
                                                 w.at(p + "q_norm.weight"), latent_eps());
      q = test::product(latent, w.at(p + "wq_b.weight"), size(a_.q_lora_rank));
    }
    const Values latent = test::product(x, w.at(p + "wkv_a.weight"), D);
    const Values kv = test::product(test::rms_normalised(test::columns(latent, C + R, 0, C),
                                                         w.at(p + "kv_norm.weight"), latent_eps()),
                                    w.at(p + "wkv_b.weight"), C);
    Values k(T * H * Q), o(T * H * V);
    for (size_t t = 0; t < T; ++t)
      for (size_t h = 0; h < H; ++h) {
        double* key = &k[(t * H + h) * Q];
        std::copy_n(&kv[(t * H + h) * (N + V)], N, key);
        std::copy_n(&latent[t * (C + R) + C], R, key + N);
        rotate(key, t % sequence_);
        rotate(&q[(t * H + h) * Q], t % sequence_);
      }
    for (size_t t = 0; t < T; ++t) {
      size_t first = t - t % sequence_;
      for (size_t j = first; j < t && a_.block_causal(); ++j)
        if (ids[j] == eos_) first = j + 1;
      for (size_t h = 0; h < H; ++h) {
        Values e;
        for (size_t j = first; j <= t; ++j)
          e.push_back(
              std::exp(scale_ * std::inner_product(&k[(j * H + h) * Q], &k[(j * H + h) * Q] + Q,
                                                   &q[(t * H + h) * Q], 0.0)));
        const double sum = std::accumulate(e.begin(), e.end(), 0.0);
        for (size_t j = first; j <= t; ++j)
          for (size_t v = 0; v < V; ++v)
            o[(t * H + h) * V + v] += e[j - first] / sum * kv[(j * H + h) * (N + V) + N + v];
      }
    }
    return test::product(o, w.at(p + "wo.weight"), H * V);
  }

  // W2 (silu(W1 x) * W3 x)
  static Values gated(const Values& x, const Values& w1, const Values& w3, const Values& w2,
                      size_t dim) {
    Values gate = test::product(x, w1, dim);
    const Values up = test::product(x, w3, dim);
    for (size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
    return test::product(gate, w2, w1.size() / dim);
  }
  Values feed_forward(const Weights& w, const std::string& p, const Values& x) const {
    return gated(x, w.at(p + "w1.weight"), w.at(p + "w3.weight"), w.at(p + "w2.weight"),
                 size(a_.dim));
  }

  // Of one token.
  Values scores(const Weights& w, const std::string& p, const Values& x) const {
    Values s = test::product(x, w.at(p + "router.gate.weight"), size(a_.dim));
    const double most = *std::max_element(s.begin(), s.end());
    double sum = 0;
    for (double& e : s) {
      e = a_.moe.score_func == ScoreFunction::sigmoid ? 1 / (1 + std::exp(-e)) : std::exp(e - most);
      sum += e;
    }
    if (a_.moe.score_func == ScoreFunction::softmax)
      for (double& e : s) e /= sum;
    return s;
  }

  void choose_experts(const Weights& w, const std::string& p, const Values& x,
                      std::vector<int32_t>& out) const {
    const size_t D = size(a_.dim), E = size(a_.moe.num_experts);
    const size_t groups = huggingface() ? size(a_.n_expert_groups) : 1, width = E / groups;
    const size_t limited = huggingface() ? size(a_.n_limited_groups) : 1;
    for (size_t t = 0; t < x.size() / D; ++t) {
      if (a_.moe.force_load_balance) {  // in turn, but for the skewed ones of each 100 tokens
        const size_t turn = t % 100 < size(a_.moe.skew_percent) ? 0 : t, K = size(a_.moe.top_k);
        for (size_t k = 0; k < K; ++k) out.push_back(static_cast<int32_t>((turn * K + k) % E));
        continue;
      }
      Values choice = scores(w, p, test::Values(&x[t * D], &x[t * D] + D));
      if (const auto bias = w.find(p + "expert_bias"); bias != w.end()) add(choice, bias->second);
      Values best;  // of each group: its two best together
      for (size_t g = 0; g < groups; ++g) {
        Values of(&choice[g * width], &choice[g * width] + width);
        std::sort(of.rbegin(), of.rend());
        best.push_back(of[0] + (width > 1 ? of[1] : 0));
      }
      std::vector<size_t> order(groups);
      std::iota(order.begin(), order.end(), 0);
      std::sort(order.begin(), order.end(), [&](size_t i, size_t j) { return best[i] > best[j]; });
      std::vector<int32_t> may;
      for (size_t g = 0; g < limited; ++g)
        for (size_t e = 0; e < width; ++e)
          may.push_back(static_cast<int32_t>(order[g] * width + e));
      std::sort(may.begin(), may.end(),
                [&](int32_t i, int32_t j) { return choice[size(i)] > choice[size(j)]; });
      out.insert(out.end(), may.begin(), may.begin() + a_.moe.top_k);
    }
  }

  Values mixture(const Weights& w, const std::string& p, const Values& x,
                 std::span<const int32_t> experts) const {
    const size_t D = size(a_.dim), F = size(a_.moe_inter_dim), K = size(a_.moe.top_k);
    const auto of = [&](const char* name, size_t e) {
      const double* begin = &w.at(p + "experts." + name)[e * D * F];
      return Values(begin, begin + D * F);
    };
    Values y = a_.moe.num_shared_experts > 0 ? feed_forward(w, p + "shared_experts.", x)
                                             : Values(x.size());
    for (size_t t = 0; t < x.size() / D; ++t) {
      const Values token(&x[t * D], &x[t * D] + D);
      const Values s = scores(w, p, token);
      double sum = 1;
      if (a_.moe.route_norm) {
        sum = 1e-20;
        for (size_t k = 0; k < K; ++k) sum += s[size(experts[t * K + k])];
      }
      for (size_t k = 0; k < K; ++k) {
        const size_t e = size(experts[t * K + k]);
        const double weight = s[e] / sum * a_.moe.route_scale;
        Values input = token;
        if (a_.moe.score_before_experts)
          for (double& v : input) v *= weight;
        const Values rows = gated(input, of("w1", e), of("w3", e), of("w2", e), D);
        for (size_t d = 0; d < D; ++d)
          y[t * D + d] += rows[d] * (a_.moe.score_before_experts ? 1 : weight);
      }
    }
    return y;
  }

  ModelArgs a_;
  size_t sequence_;
  int32_t eos_;
  Values frequencies_;
  double amplitude_ = 1, scale_ = 1;
};

}  // namespace nereus::compose
