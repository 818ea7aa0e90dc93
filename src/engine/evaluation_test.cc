// What an evaluation asks of the ranks, counted.
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "comm/thread_ranks.h"
#include "engine/step_runner.h"
#include "parallel/rank_world.h"
#include "test/small_models.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

// Another communicator, whose all-gathers are counted, and those of its groups.
class Counted final : public Communicator {
 public:
  Counted(Communicator& inner, int& gathers)
      : Communicator(inner.name(), inner.members(), inner.rank()),
        inner_(inner),
        gathers_(gathers) {}
  Counted(std::unique_ptr<Communicator> inner, int& gathers) : Counted(*inner, gathers) {
    owned_ = std::move(inner);
  }
  std::string library() const override { return inner_.library(); }

 private:
  std::unique_ptr<Communicator> do_split(const std::string& name, int color, int key,
                                         GroupUse use) override {
    auto part = inner_.split(name, color, key, use);
    return part ? std::make_unique<Counted>(std::move(part), gathers_) : nullptr;
  }
  void do_all_reduce(Stream& s, TensorView data, ReduceOp op) override {
    inner_.all_reduce(s, data, op);
  }
  void do_all_gather(Stream& s, TensorView out, ConstTensorView in) override {
    ++gathers_;
    inner_.all_gather(s, out, in);
  }
  void do_reduce_scatter(Stream& s, TensorView out, ConstTensorView in, ReduceOp op) override {
    inner_.reduce_scatter(s, out, in, op);
  }
  void do_all_to_all(Stream& s, TensorView out, ConstTensorView in,
                     std::span<const int64_t> send_rows,
                     std::span<const int64_t> recv_rows) override {
    inner_.all_to_all(s, out, in, send_rows, recv_rows);
  }
  void do_broadcast(Stream& s, TensorView data, int root) override {
    inner_.broadcast(s, data, root);
  }
  void do_send(Stream& s, ConstTensorView data, int to) override { inner_.send(s, data, to); }
  void do_recv(Stream& s, TensorView data, int from) override { inner_.recv(s, data, from); }
  void do_barrier(Stream& s) override { inner_.barrier(s); }

  std::unique_ptr<Communicator> owned_;
  Communicator& inner_;
  int& gathers_;
};

TEST(Evaluation, GathersWeightsOnceWhereTheyStayUnsharded) {
  constexpr int64_t kSequence = 8, kBatches = 5;
  for (const bool reshard : {false, true}) {
    run_thread_ranks(2, {.timeout = std::chrono::seconds(120)}, [&](Communicator& all) {
      int gathers = 0;
      Counted counted(all, gathers);
      const RankWorld world(Mesh({.dp_shard = 2}, 2), counted);
      Stream stream(Device::cpu(), &test::pool());
      Engine engine(
          test::eight_blocks(), stream,
          {.rows = 1, .sequence = kSequence, .eos_id = 5, .world = &world, .reshard = reshard});
      engine.store().initialize(stream, 32);
      const std::vector<int32_t> ids(kSequence, 3 + all.rank()), labels(kSequence, 4);
      StepRunner runner(stream, engine, {.tokens = 2 * kSequence});
      const auto evaluate = [&](int64_t batches) {
        const int before = gathers;
        const std::vector<HostMicrobatch> mine(static_cast<size_t>(batches),
                                               {.ids = ids, .labels = labels});
        EXPECT_GT(runner.evaluate(mine, static_cast<double>(2 * kSequence * batches), 0), 1);
        return gathers - before;
      };
      const int one = evaluate(1), all_of_them = evaluate(kBatches);
      EXPECT_GT(one, 8) << "the weights of eight blocks";
      if (!reshard) {
        EXPECT_EQ(all_of_them, one);
      } else {
        EXPECT_GT(all_of_them, 4 * (one - 2)) << "a block's memory is another's at once";
      }
    });
  }
}

}  // namespace
}  // namespace nereus
