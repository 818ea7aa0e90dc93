#include "comm/single_rank.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "base/error.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using test::Tensor;
using testing::HasSubstr;

std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

class SingleRankTest : public testing::TestWithParam<Device> {};
INSTANTIATE_TEST_SUITE_P(Devices, SingleRankTest, testing::ValuesIn(test::devices()),
                         [](const auto& device) {
                           return std::string(device.param.kind == Device::Kind::cpu ? "cpu"
                                                                                     : "cuda");
                         });

TEST_P(SingleRankTest, ReductionsBroadcastsAndBarriersLeaveTheDataAsItIs) {
  Stream s = test::stream(GetParam());
  const auto group = single_rank("alone");
  EXPECT_EQ(group->name(), "alone");
  EXPECT_EQ(group->size(), 1);
  EXPECT_EQ(group->rank(), 0);
  EXPECT_EQ(group->members(), std::vector<int>{0});
  const std::vector<double> values = {1, -2, 3, 0.5, 7};
  Tensor x(s.device(), DType::bf16, {5});
  x.set(values);
  group->all_reduce(s, x);
  group->all_reduce(s, x, ReduceOp::max);
  group->broadcast(s, x, 0);
  group->barrier(s);
  s.synchronize();
  EXPECT_EQ(x.values(), values);
}

TEST_P(SingleRankTest, GatherScatterAndExchangeCopyWhatIsNotInPlace) {
  Stream s = test::stream(GetParam());
  const auto group = single_rank("alone");
  for (const DType t : {DType::f32, DType::bf16, DType::i64}) {
    for (const int64_t rows : {0, 1, 5}) {
      const auto in = Tensor(s.device(), t, {rows, 3}).fill_uniform_int(3, -100, 100);
      const std::vector<double> before = in.values();
      const auto gathered = Tensor(s.device(), t, {rows, 3}).poison();
      const auto scattered = Tensor(s.device(), t, {rows, 3}).poison();
      group->all_gather(s, gathered, in);
      group->reduce_scatter(s, scattered, in);
      group->all_gather(s, in, in);
      group->reduce_scatter(s, in, in, ReduceOp::max);
      s.synchronize();
      EXPECT_EQ(gathered.values(), before);
      EXPECT_EQ(scattered.values(), before);
      EXPECT_EQ(in.values(), before);
    }
  }
  // Of four rows two go, and the rest of out stays.
  const auto in = Tensor(s.device(), DType::f32, {4, 2}).fill(6);
  const auto out = Tensor(s.device(), DType::f32, {3, 2}).fill(-1);
  const std::vector<int64_t> two = {2}, one = {1};
  group->all_to_all(s, out, in, two, two);
  s.synchronize();
  EXPECT_EQ(out.values(), (std::vector<double>{6, 6, 6, 6, -1, -1}));
  const auto another = single_rank("alone");
  EXPECT_EQ(message_of([&] { another->all_to_all(s, out, in, two, one); }),
            "all_to_all number 1 of f32 [rows, 2] of group alone: rank 0 sends 2 rows to rank 0, "
            "which expects 1");
}

TEST_P(SingleRankTest, SplitGivesAnotherGroupOfTheSameRank) {
  const auto group = single_rank("world", 5);
  const auto part = group->split("part", 3, -7);
  ASSERT_TRUE(part);
  EXPECT_EQ(part->name(), "part");
  EXPECT_EQ(part->members(), std::vector<int>{5});
  EXPECT_EQ(group->split("none", -1, 0), nullptr);
  EXPECT_THAT(message_of([&] { (void)group->split("x", -2, 0); }), HasSubstr("color -2"));
}

TEST_P(SingleRankTest, AWindowIsABlockOfItsOwn) {
  Stream s = test::stream(GetParam());
  const auto group = single_rank("alone");
  ASSERT_TRUE(group->shares_memory());
  const auto window = group->window(s, 64);
  EXPECT_EQ(window->bytes(), 64);
  int64_t base = 0;
  copy_to_host(s, &base, window->bases());
  s.synchronize();
  EXPECT_EQ(base, reinterpret_cast<int64_t>(window->data()));
  const auto x = Tensor(s.device(), DType::f32, {16}).fill(4);
  window->meet(s);
  copy_rows(s, TensorView(window->data(), DType::f32, {16}), x);
  window->meet(s);
  const auto y = Tensor(s.device(), DType::f32, {16}).poison();
  copy_rows(s, y, ConstTensorView(window->data(), DType::f32, {16}));
  s.synchronize();
  EXPECT_EQ(y.values(), x.values());
}

TEST_P(SingleRankTest, MessagesToItselfAndOtherRanksAreRefused) {
  Stream s = test::stream(GetParam());
  const auto group = single_rank("alone");
  const auto x = Tensor(s.device(), DType::f32, {4}).fill(1);
  for (const int other : {-1, 0, 1}) {
    EXPECT_THAT(message_of([&] { group->send(s, x, other); }), HasSubstr("send of group alone"));
    EXPECT_THAT(message_of([&] { group->recv(s, x, other); }), HasSubstr("recv of group alone"));
  }
  EXPECT_THAT(message_of([&] { group->broadcast(s, x, 1); }), HasSubstr("root 1 of 1 ranks"));
}

TEST(SingleRank, OnTheMetaDeviceItChecksAndDoesNothing) {
  Stream meta(Device::meta());
  const auto group = single_rank("alone");
  const TensorView x(nullptr, DType::f32, {4}), y(nullptr, DType::f32, {8});
  group->all_gather(meta, x, x);
  EXPECT_THAT(message_of([&] { group->all_gather(meta, y, x); }), HasSubstr("1 times in"));
}

}  // namespace
}  // namespace nereus
