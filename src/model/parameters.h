// A model's parameters: names, shapes, kinds, initial distributions, and the tensors they are
// stored in. Names are TorchTitan's: `layers.3.moe.experts.w1` is [E, F, D].
//
// The X<T> structs below hold one T for each stored tensor of a part of the model: handles, weights
// (Weight) or gradients (TensorView); map() goes from one to the other.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "config/model_args.h"
#include "parallel/mesh.h"
#include "parallel/parameter.h"

namespace nereus {

template <class T>
struct MlpTensors {
  T gate_up;  // [2F, D]: w1, then w3
  T down;     // [D, F]: w2
  template <class F>
  auto map(F f) const {
    return MlpTensors<decltype(f(gate_up))>{f(gate_up), f(down)};
  }
};

template <class T>
struct MlaTensors {
  T q;        // [H Dqk, D] wq, when there is no q_lora
  T latent;   // [Rq + Rkv + Drope, D]: wq_a (with q_lora), then wkv_a
  T q_norm;   // [Rq], with q_lora
  T q_up;     // [H Dqk, Rq] wq_b, with q_lora
  T kv_norm;  // [Rkv]
  T kv_up;    // [H (Dnope + Dv), Rkv] wkv_b
  T out;      // [D, H Dv] wo
  template <class F>
  auto map(F f) const {
    return MlaTensors<decltype(f(q))>{f(q),       f(latent), f(q_norm), f(q_up),
                                      f(kv_norm), f(kv_up),  f(out)};
  }
};

template <class T>
struct MoeTensors {
  T gate;                // [E, D]
  T gate_up;             // [E, 2F, D]: w1, then w3, of each expert
  T down;                // [E, D, F]: w2
  MlpTensors<T> shared;  // of width F * num_shared_experts
  template <class F>
  auto map(F f) const {
    return MoeTensors<decltype(f(gate))>{f(gate), f(gate_up), f(down), shared.map(f)};
  }
};

// A block has either mlp (dense) or moe; the other's handles are -1.
template <class T>
struct BlockTensors {
  T attention_norm, ffn_norm;  // [D]
  MlaTensors<T> attention;
  MlpTensors<T> mlp;
  MoeTensors<T> moe;
  template <class F>
  auto map(F f) const {
    return BlockTensors<decltype(f(ffn_norm))>{f(attention_norm), f(ffn_norm), attention.map(f),
                                               mlp.map(f), moe.map(f)};
  }
};

template <class T>
struct HeadTensors {
  T norm;    // [D]
  T output;  // [V, D]
  template <class F>
  auto map(F f) const {
    return HeadTensors<decltype(f(norm))>{f(norm), f(output)};
  }
};

// The modules of a stage of a pipeline, in their order: the embedding, a run of blocks, the head.
struct StagePart {
  int64_t first_block = 0, end_block = 0;
  bool embedding = true, head = true;
};

// How tensor and expert parallelism cut the layers, and which part a rank has. Cut over tp: heads,
// feed-forward widths, the vocabulary. What is not cut (norms, latents, the router) is whole on
// each rank of a tp group.
struct ShardSpec {
  int tp = 1, tp_rank = 0;
  int ep = 1, ep_rank = 0;    // experts are dealt in order: E / ep each
  int etp = 1, etp_rank = 0;  // an expert's width: tp, or 1 when ep borrows tp
};

ShardSpec shard_spec(const Mesh&, int rank);

// All stored tensors of a rank and where each module finds its own. Handles of modules of other
// ranks are -1.
struct ModelLayout {
  std::vector<StoredTensor> tensors;
  TensorHandle embedding = -1;                     // [V, D]
  std::vector<BlockTensors<TensorHandle>> blocks;  // by layer of the model
  HeadTensors<TensorHandle> head{-1, -1};

  // The bucket of each module's tensors (StoredTensor::bucket), the same on all ranks.
  int embedding_bucket = 0;
  std::vector<int> block_buckets;  // by layer of the model
  int head_bucket = 0;
};

// Of the stages of one rank; `stages` empty: all of the model.
ModelLayout model_layout(const ModelArgs&, const ShardSpec& = {},
                         std::span<const StagePart> stages = {});

// The logical parameters in the order of the model.
std::vector<Parameter> parameters(const ModelArgs&);

// Do the layers of experts have a balancing bias, and its logical name.
bool has_expert_bias(const ModelArgs&);
std::string expert_bias_name(int64_t layer);

}  // namespace nereus
