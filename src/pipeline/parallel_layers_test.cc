// Layers of the model cut over ranks, against the same layers on one rank: outputs, gradients of
// inputs and of weights. Partial weight gradients (of what every rank has whole) are summed here.
#include <gtest/gtest.h>

#include <functional>

#include "comm/thread_ranks.h"
#include "model/mla.h"
#include "model/moe.h"
#include "parallel/group_region.h"
#include "parallel/host_counts_dispatcher.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using test::normwise_error;
using test::Tensor;
using Values = std::vector<double>;

constexpr double kBound = 2e-6;  // f32: sums of some dozen terms in another order

Tensor random(uint64_t seed, const Shape& shape, double std = 0.3) {
  return Tensor(Device::cpu(), DType::f32, shape).fill_normal(seed, 0, std);
}
Tensor zeros(const Shape& shape) { return Tensor(Device::cpu(), DType::f32, shape).fill(0); }

// Indices [begin, end) of `dim`, of up to three dims, as a tensor of its own.
Tensor cut(const Tensor& x, int dim, int64_t begin, int64_t end) {
  Shape shape = x.shape();
  shape[dim] = end - begin;
  Tensor out(Device::cpu(), DType::f32, shape);
  int64_t inner = 1, outer = 1;
  for (int d = dim + 1; d < shape.rank(); ++d) inner *= shape[d];
  for (int d = 0; d < dim; ++d) outer *= shape[d];
  for (int64_t o = 0; o < outer; ++o)
    for (int64_t i = 0; i < (end - begin) * inner; ++i)
      out.set_element(o * (end - begin) * inner + i, x[(o * x.shape()[dim] + begin) * inner + i]);
  return out;
}
Tensor part(const Tensor& x, int dim, int rank, int ranks) {
  const int64_t n = x.shape()[dim];
  return cut(x, dim, n * rank / ranks, n * (rank + 1) / ranks);
}

struct Work {  // arenas of one rank
  Work() = default;
  Stream stream{Device::cpu(), &test::pool()};
  Buffer input_buffer{Device::cpu(), 4 << 20, "i"}, weight_buffer{Device::cpu(), 4 << 20, "w"},
      scratch_buffer{Device::cpu(), 4 << 20, "s"};
  Arena input = input_buffer.arena("input"), weight = weight_buffer.arena("weight"),
        scratch = scratch_buffer.arena("scratch");
  Context ctx{stream, input, weight, scratch};
};

void ranks(int n, const std::function<void(Communicator&)>& work) {
  run_thread_ranks(n, {.timeout = std::chrono::seconds(60)},
                   [&](Communicator& group) { work(group); });
}

// What a layer gives, by name; of all ranks put together: `joined` one after the other along a dim,
// `summed` by adding.
struct Results {
  std::vector<std::pair<std::string, Tensor>> joined, summed;
  std::vector<int> dims;  // of joined
  void join(const char* name, int dim, Tensor t) {
    joined.emplace_back(name, std::move(t));
    dims.push_back(dim);
  }
  void sum(const char* name, Tensor t) { summed.emplace_back(name, std::move(t)); }
};

void expect_equal(const Results& one, const std::vector<Results>& parts) {
  const int n = static_cast<int>(parts.size());
  for (size_t i = 0; i < one.joined.size(); ++i) {
    const auto& [name, whole] = one.joined[i];
    for (int r = 0; r < n; ++r)
      EXPECT_LT(normwise_error(parts[static_cast<size_t>(r)].joined[i].second.values(),
                               part(whole, one.dims[i], r, n).values()),
                kBound)
          << name << " of rank " << r;
  }
  for (size_t i = 0; i < one.summed.size(); ++i) {
    const auto& [name, whole] = one.summed[i];
    Values sum(static_cast<size_t>(whole.count()));
    for (const Results& p : parts)
      for (size_t j = 0; j < sum.size(); ++j) sum[j] += p.summed[i].second[static_cast<int64_t>(j)];
    EXPECT_LT(normwise_error(sum, whole.values()), kBound) << name;
  }
}

constexpr int64_t kTokens = 16, kSequence = 8, kDim = 24;

TEST(ParallelLayers, AFeedForwardLayerCutOverRanksIsTheWholeOne) {
  constexpr int64_t F = 40;
  const Tensor w1 = random(1, {F, kDim}), w3 = random(2, {F, kDim}), down = random(3, {kDim, F}),
               x = random(4, {kTokens, kDim}), dy = random(5, {kTokens, kDim});
  const auto run = [&](TpRegion& region, int rank, bool at_once) {
    const int tp = region.size();
    Work work;
    const Tensor a = part(w1, 0, rank, tp), b = part(w3, 0, rank, tp),
                 mine_down = part(down, 1, rank, tp), mine_x = part(x, 0, rank, tp),
                 mine_dy = part(dy, 0, rank, tp);
    const int64_t f = F / tp;
    Tensor gate_up(Device::cpu(), DType::f32, {2 * f, kDim});
    for (int64_t i = 0; i < f * kDim; ++i) {
      gate_up.set_element(i, a[i]);
      gate_up.set_element(f * kDim + i, b[i]);
    }
    Tensor y = zeros(mine_x.shape()), dx = zeros(mine_x.shape()), dgate_up = zeros({2 * f, kDim}),
           ddown = zeros({kDim, f});
    const Mlp mlp(region, Recompute{.swiglu = at_once});
    const Mlp::Weights w{gate_up, mine_down};
    const Mlp::Grads grads{dgate_up, ddown};
    Mlp::Saved saved;
    Mlp::Pending pending;
    mlp.forward(work.ctx, w, mine_x, y, saved);
    if (at_once) {
      mlp.backward(work.ctx, w, mine_dy, dx, saved, grads);
    } else {
      mlp.backward_input(work.ctx, w, mine_dy, dx, saved, pending);
      mlp.backward_weight(work.ctx, saved, pending, grads);
    }
    Results out;
    out.join("y", 0, std::move(y));
    out.join("dx", 0, std::move(dx));
    out.join("dw1", 0, cut(dgate_up, 0, 0, f));
    out.join("dw3", 0, cut(dgate_up, 0, f, 2 * f));
    out.join("dw2", 1, std::move(ddown));
    return out;
  };
  for (const bool at_once : {false, true}) {
    IdentityRegion alone;
    const Results one = run(alone, 0, at_once);
    for (const int tp : {1, 2, 4}) {
      SCOPED_TRACE(tp);
      std::vector<Results> parts(static_cast<size_t>(tp));
      ranks(tp, [&](Communicator& group) {
        GroupRegion region(group);
        parts[static_cast<size_t>(group.rank())] = run(region, group.rank(), at_once);
      });
      expect_equal(one, parts);
    }
  }
}

TEST(ParallelLayers, LatentAttentionCutByHeadsIsTheWholeOne) {
  ModelArgs args;
  args.dim = kDim;
  args.n_heads = 4;
  args.kv_lora_rank = 8;
  args.qk_nope_head_dim = 8;
  args.qk_rope_head_dim = 4;
  args.v_head_dim = 8;
  const int64_t H = 4, Dqk = 12, Dkv = 16, rkv = 8, rope = 4;
  const Tensor x = random(1, {kTokens, kDim}, 1), dy = random(2, {kTokens, kDim}, 1);
  Tensor cos = random(3, {kSequence, rope / 2}), sin = random(4, {kSequence, rope / 2});
  Tensor positions(Device::cpu(), DType::i32, {kTokens}),
      first_key(Device::cpu(), DType::i32, {kTokens});
  for (int64_t t = 0; t < kTokens; ++t) {
    positions.set_element(t, static_cast<double>(t % kSequence));
    first_key.set_element(t, static_cast<double>(t / kSequence * kSequence));
  }
  for (const int64_t rq : {0, 12}) {
    args.q_lora_rank = rq;
    const Tensor latent = random(5, {rq + rkv + rope, kDim}), q = random(6, {H * Dqk, kDim}),
                 q_norm = random(7, {std::max<int64_t>(rq, 1)}, 1),
                 q_up = random(8, {H * Dqk, std::max<int64_t>(rq, 1)}),
                 kv_norm = random(9, {rkv}, 1), kv_up = random(10, {H * Dkv, rkv}),
                 wo = random(11, {kDim, H * 8});
    const auto run = [&](TpRegion& region, int rank, const Recompute& recompute) {
      const int tp = region.size();
      Work work;
      const Tensor mine_q = part(q, 0, rank, tp), mine_q_up = part(q_up, 0, rank, tp),
                   mine_kv_up = part(kv_up, 0, rank, tp), mine_wo = part(wo, 1, rank, tp),
                   mine_x = part(x, 0, rank, tp), mine_dy = part(dy, 0, rank, tp);
      const auto if_lora = [&](const Tensor& t) {
        return rq > 0 ? ConstTensorView(t) : ConstTensorView();
      };
      const Mla::Weights w{.q = rq > 0 ? ConstTensorView() : ConstTensorView(mine_q),
                           .latent = latent,
                           .q_norm = if_lora(q_norm),
                           .q_up = if_lora(mine_q_up),
                           .kv_norm = kv_norm,
                           .kv_up = mine_kv_up,
                           .out = mine_wo};
      Tensor dq = zeros(mine_q.shape()), dlatent = zeros(latent.shape()),
             dq_norm = zeros(q_norm.shape()), dq_up = zeros(mine_q_up.shape()),
             dkv_norm = zeros(kv_norm.shape()), dkv_up = zeros(mine_kv_up.shape()),
             dwo = zeros(mine_wo.shape()), y = zeros(mine_x.shape()), dx = zeros(mine_x.shape());
      const Mla::Grads grads{dq, dlatent, dq_norm, dq_up, dkv_norm, dkv_up, dwo};
      const Microbatch mb{.ids = positions,
                          .labels = positions,
                          .positions = positions,
                          .first_key = first_key,
                          .sequence = kSequence};
      const Mla mla(args, {.cos = cos, .sin = sin}, region, region, recompute, {});
      Mla::Saved saved;
      Mla::Pending pending;
      mla.forward(work.ctx, w, mb, mine_x, y, saved, work.ctx, false);
      mla.backward_input(work.ctx, w, mb, mine_dy, dx, saved, pending, grads);
      mla.backward_weight(work.ctx, saved, pending, grads);
      Results out;
      out.join("y", 0, std::move(y));
      out.join("dx", 0, std::move(dx));
      out.join("dq", 0, std::move(dq));
      out.join("dq_up", 0, std::move(dq_up));
      out.join("dkv_up", 0, std::move(dkv_up));
      out.join("dwo", 1, std::move(dwo));
      out.sum("dlatent", std::move(dlatent));
      out.sum("dq_norm", std::move(dq_norm));
      out.sum("dkv_norm", std::move(dkv_norm));
      return out;
    };
    for (const Recompute& recompute : {Recompute::none(), Recompute::selective()}) {
      IdentityRegion alone;
      const Results one = run(alone, 0, recompute);
      for (const int tp : {1, 2, 4}) {
        SCOPED_TRACE(testing::Message() << "tp " << tp << ", q_lora " << rq);
        std::vector<Results> parts(static_cast<size_t>(tp));
        ranks(tp, [&](Communicator& group) {
          GroupRegion region(group);
          parts[static_cast<size_t>(group.rank())] = run(region, group.rank(), recompute);
        });
        expect_equal(one, parts);
      }
    }
  }
}

TEST(ParallelLayers, ExpertsOnSeveralRanksAreThoseOfOne) {
  constexpr int64_t E = 8, F = 16;
  ModelArgs args;
  args.dim = kDim;
  args.moe_inter_dim = F;
  args.moe = {.num_experts = E, .num_shared_experts = 1, .top_k = 3, .route_norm = true};
  const Tensor gate = random(1, {E, kDim}, 1), gate_up = random(2, {E, 2 * F, kDim}),
               down = random(3, {E, kDim, F}), shared_up = random(4, {2 * F, kDim}),
               shared_down = random(5, {kDim, F}), x = random(6, {kTokens, kDim}, 1),
               dy = random(7, {kTokens, kDim}, 1);
  const auto run = [&](TokenDispatcher& dispatcher, int rank, int ep, const Recompute& recompute,
                       bool at_once) {
    Work work;
    IdentityRegion region;
    const Tensor mine_up = part(gate_up, 0, rank, ep), mine_down = part(down, 0, rank, ep),
                 mine_x = part(x, 0, rank, ep), mine_dy = part(dy, 0, rank, ep);
    const Moe::Weights w{gate, mine_up, mine_down, {shared_up, shared_down}};
    Tensor dgate = zeros(gate.shape()), dup = zeros(mine_up.shape()),
           ddown = zeros(mine_down.shape()), dshared_up = zeros(shared_up.shape()),
           dshared_down = zeros(shared_down.shape()), y = zeros(mine_x.shape()),
           dx = zeros(mine_x.shape());
    const Moe::Grads grads{dgate, dup, ddown, {dshared_up, dshared_down}};
    Tensor load(Device::cpu(), DType::i64, {E});
    load.fill(0);
    const Tensor tokens = Tensor(Device::cpu(), DType::i32, {kTokens / ep}).fill(0);
    const Microbatch mb{.ids = tokens, .labels = tokens, .positions = tokens, .first_key = tokens};
    const Moe moe(args, dispatcher, region, region, nullptr, recompute, 0);
    Moe::Saved saved;
    Moe::Pending pending;
    moe.route(work.ctx, w, {.load = load}, mb, mine_x, saved.routing);
    moe.forward(work.ctx, w, mine_x, y, saved);
    if (at_once) {
      moe.backward(work.ctx, w, mine_dy, dx, saved, grads);
    } else {
      moe.backward_input(work.ctx, w, mine_dy, dx, saved, pending);
      moe.backward_weight(work.ctx, saved, pending, grads);
    }
    Results out;
    out.join("y", 0, std::move(y));
    out.join("dx", 0, std::move(dx));
    out.join("dgate_up", 0, std::move(dup));
    out.join("ddown", 0, std::move(ddown));
    out.sum("dgate", std::move(dgate));
    out.sum("dshared_up", std::move(dshared_up));
    out.sum("dshared_down", std::move(dshared_down));
    return out;
  };
  for (const bool first : {false, true}) {
    args.moe.score_before_experts = first;
    for (const Recompute& recompute : {Recompute::none(), Recompute::selective()}) {
      for (const bool at_once : {false, true}) {
        LocalDispatcher local(E);
        const Results one = run(local, 0, 1, recompute, at_once);
        for (const int ep : {2, 8}) {
          SCOPED_TRACE(testing::Message() << "ep " << ep << (first ? ", scores first" : ""));
          std::vector<Results> parts(static_cast<size_t>(ep));
          ranks(ep, [&](Communicator& group) {
            HostCountsDispatcher dispatcher(group, E);
            parts[static_cast<size_t>(group.rank())] =
                run(dispatcher, group.rank(), ep, recompute, at_once);
          });
          expect_equal(one, parts);
        }
      }
    }
  }
}

}  // namespace
}  // namespace nereus
