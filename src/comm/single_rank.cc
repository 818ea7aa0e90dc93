#include "comm/single_rank.h"

#include "base/check.h"
#include "comm/call.h"

namespace nereus {
namespace {

// Of contiguous tensors of equal size.
void copy(Stream& s, TensorView to, ConstTensorView from) {
  if (to.data != from.data) copy_rows(s, to.reshape({to.count()}), from.reshape({from.count()}));
}

class OwnWindow final : public Window {
 public:
  OwnWindow(Stream& s, int64_t bytes)
      : block_(s.device(), bytes, "a window"), base_(s.device(), 8, "the address of a window") {
    data_ = block_.data();
    bytes_ = bytes;
    const TensorView base(base_.data(), DType::i64, {1});
    const auto address = reinterpret_cast<int64_t>(data_);
    copy_to_device(s, base, &address);
    s.synchronize();
    bases_ = base;
  }
  void meet(Stream&) override {}

 private:
  Buffer block_, base_;
};

class SingleRank final : public Communicator {
 public:
  SingleRank(std::string name, int member) : Communicator(std::move(name), {member}, 0) {}

  std::string library() const override { return "none"; }
  bool shares_memory() const override { return true; }

 private:
  std::unique_ptr<Communicator> do_split(const std::string& name, int color, int,
                                         GroupUse) override {
    calls_.next();
    return color < 0 ? nullptr : single_rank(name, members()[0]);
  }
  void do_all_reduce(Stream&, TensorView, ReduceOp) override { calls_.next(); }
  void do_all_gather(Stream& s, TensorView out, ConstTensorView in) override {
    calls_.next();
    copy(s, out, in);
  }
  void do_reduce_scatter(Stream& s, TensorView out, ConstTensorView in, ReduceOp) override {
    calls_.next();
    copy(s, out, in);
  }
  void do_all_to_all(Stream& s, TensorView out, ConstTensorView in,
                     std::span<const int64_t> send_rows,
                     std::span<const int64_t> recv_rows) override {
    const Call call = calls_.collective(Call::Kind::all_to_all, in);
    const int64_t rows = send_rows[0], counts[2] = {rows, recv_rows[0]};
    const int64_t* const table[1] = {counts};
    const std::string wrong = row_disagreement(name(), members(), call, table);
    NEREUS_CHECK(kComm, wrong.empty(), "{}", wrong);
    copy(s, out.rows(0, rows), in.rows(0, rows));
  }
  void do_broadcast(Stream&, TensorView, int) override { calls_.next(); }
  void do_barrier(Stream&) override { calls_.next(); }
  // Communicator refuses these: rank 0 of 1 can name nobody.
  void do_send(Stream&, ConstTensorView, int) override { NEREUS_FAIL(kContract, "send alone"); }
  void do_recv(Stream&, TensorView, int) override { NEREUS_FAIL(kContract, "recv alone"); }
  std::unique_ptr<Window> do_window(Stream& s, int64_t bytes) override {
    return std::make_unique<OwnWindow>(s, bytes);
  }

  CallCounter calls_{1};
};

}  // namespace

std::unique_ptr<Communicator> single_rank(const std::string& name, int member) {
  return std::make_unique<SingleRank>(name, member);
}

}  // namespace nereus
