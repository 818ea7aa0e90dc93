#include "comm/meta_ranks.h"

#include "base/check.h"

namespace nereus {
namespace {

class MetaRanks final : public Communicator {
 public:
  MetaRanks(std::string name, std::vector<int> members, int rank)
      : Communicator(std::move(name), std::move(members), rank) {}

  // As ranks of one machine do.
  bool shares_memory() const override { return size() <= 8; }
  std::string library() const override { return "none"; }

 private:
  [[noreturn]] void refuse() const {
    NEREUS_FAIL(kContract, "group {} has no ranks: it is for measuring", name());
  }
  std::unique_ptr<Communicator> do_split(const std::string&, int, int, GroupUse) override {
    refuse();
  }
  void do_all_reduce(Stream&, TensorView, ReduceOp) override { refuse(); }
  void do_all_gather(Stream&, TensorView, ConstTensorView) override { refuse(); }
  void do_reduce_scatter(Stream&, TensorView, ConstTensorView, ReduceOp) override { refuse(); }
  void do_all_to_all(Stream&, TensorView, ConstTensorView, std::span<const int64_t>,
                     std::span<const int64_t>) override {
    refuse();
  }
  void do_broadcast(Stream&, TensorView, int) override { refuse(); }
  void do_send(Stream&, ConstTensorView, int) override { refuse(); }
  void do_recv(Stream&, TensorView, int) override { refuse(); }
  void do_barrier(Stream&) override { refuse(); }
};

}  // namespace

std::unique_ptr<Communicator> meta_ranks(const std::string& name, std::vector<int> members,
                                         int rank) {
  return std::make_unique<MetaRanks>(name, std::move(members), rank);
}

}  // namespace nereus
