// A copy that goes on beside the next update is of the states before it.
#include "checkpoint/snapshot.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <thread>

#include "ops/elementwise.h"
#include "parallel/store_updates_test.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

// `rows` of a: more than one slice on both sides of the norms. One tensor has two parameters in
// turns, as experts have.
std::vector<StoredTensor> tensors(int64_t rows) {
  const Initial normal{.mean = 0, .std = 0.02, .low = -2, .high = 2};
  const auto tensor = [&](const char* name, Shape shape, bool norm, bool replicated_on_tp) {
    return StoredTensor{.name = name,
                        .shape = shape,
                        .read_format = norm ? ReadFormat::f32_master : ReadFormat::bf16_copy,
                        .replicated_on_tp = replicated_on_tp,
                        .parts = {{.parameter = {.name = name,
                                                 .shape = shape,
                                                 .initial = norm ? Initial{.mean = 1} : normal}}}};
  };
  std::vector<StoredTensor> out = {
      tensor("a", {rows, 70}, false, false), tensor("b", {77}, true, true),
      tensor("c", {100, 50}, false, true), tensor("d", {9, 5}, true, false),
      tensor("e", {257, 31}, false, true)};
  out.push_back(
      {.name = "gate_up",
       .shape = {3, 10, 7},
       .parts = {{.parameter = {.name = "w1", .shape = {3, 4, 7}, .initial = normal}, .dim = 1},
                 {.parameter = {.name = "w3", .shape = {3, 6, 7}, .initial = normal},
                  .dim = 1,
                  .begin = 4}}});
  return out;
}

// All that is kept, flat, as f32: of masters, first and second moments.
std::vector<std::vector<float>> states(Stream& stream, ParameterStore& store) {
  store.assemble_masters(stream);
  std::vector<std::vector<float>> out{test::floats(stream, store.masters()), {}, {}};
  store.visit_states(stream, false, [&](const ParameterStore::States& s) {
    for (const float x : test::floats(stream, s.first_moment)) out[1].push_back(x);
    for (const float x : test::floats(stream, s.second_moment)) out[2].push_back(std::abs(x));
  });
  return out;
}

struct Case {
  DType moments;
  bool split, beside;
  Offload offload;
};

void expect_copy_of_states_before_the_update(Device device, const Case& c) {
  const int64_t slice = device.kind == Device::Kind::cuda ? int64_t{1} << 17 : 1000;
  Stream stream = test::stream(device);
  ParameterStore store(device, tensors(16 * slice / 70),
                       {.compute = DType::bf16,
                        .moment_type = c.moments,
                        .split_masters = c.split,
                        .offload = c.offload,
                        .offload_chunk = slice + slice / 3});
  store.initialize(stream, 3);
  RankSlices slices = rank_slices(store.layout(), Mesh({}, 1), 0);
  slices.slices[2].written = false;
  const test::Tensor bias(device, DType::f32, {5});
  const std::vector<NamedView> extras = {{.name = "bias", .view = bias}};
  Snapshot snapshot(slices, store, extras, stream, {.beside = c.beside, .slice = slice});
  for (int64_t step = 1; step <= 2; ++step) {
    test::update(stream, store, 2 * step - 1);
    // Halfway between two bf16 values: split, the sign of the second moment says which side.
    store.assemble_masters(stream);
    ops::fill(stream, {.out = store.masters().rows(0, 100), .value = 1 + 0x1p-8});
    store.refresh_copies(stream);
    ops::fill(stream, {.out = bias, .value = static_cast<float>(step)});
    const auto want = states(stream, store);
    snapshot.take(store, extras, stream);
    ops::fill(stream, {.out = bias, .value = 9});
    std::thread writer([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(30));
      ThreadPool pool(1);
      Stream host(Device::cpu(), &pool);
      snapshot.finish(host);
    });
    test::update(stream, store, 2 * step);
    writer.join();
    const ShardContents got = snapshot.contents();
    ASSERT_EQ(got.states.size(), 3u);
    EXPECT_EQ(got.slices.written_elements(), slices.written_elements());
    std::vector<RankSlices::Piece> source;
    for (const RankSlices::Piece& p : slices.pieces)
      if (slices.slices[p.slice].written) source.push_back(p);
    ASSERT_EQ(got.slices.pieces.size(), source.size());
    int64_t wrong = 0;
    for (size_t i = 0; i < source.size(); ++i) {
      const RankSlices::Piece &p = got.slices.pieces[i], &from = source[i];
      EXPECT_EQ(got.slices.slices[p.slice].box.name, slices.slices[from.slice].box.name);
      EXPECT_EQ(p.at, from.at);
      ASSERT_EQ(p.count, from.count);
      for (size_t s = 0; s < 3; ++s) {
        Stream host = test::stream(Device::cpu());
        const auto copy = test::floats(host, got.states[s].view.rows(p.flat, p.flat + p.count));
        for (int64_t k = 0; k < p.count; ++k)
          wrong += copy[static_cast<size_t>(k)] == want[s][static_cast<size_t>(from.flat + k)] &&
                           !std::signbit(s == 2 ? copy[static_cast<size_t>(k)] : 1)
                       ? 0
                       : 1;
      }
    }
    EXPECT_EQ(wrong, 0);
    EXPECT_EQ(got.extras[0].view.as<float>()[4], static_cast<float>(step));
  }
}

TEST(Snapshot, IsOfTheStatesBeforeTheNextUpdate) {
  for (const Device device : test::devices())
    for (const DType moments : {DType::f32, DType::bf16})
      for (const bool split : {false, true})
        for (const bool beside : {false, true})
          for (const Offload offload : {Offload::none, Offload::moments, Offload::states}) {
            SCOPED_TRACE(fmt::format("device {}, moments {}, split {}, beside {}, offload {}",
                                     static_cast<int>(device.kind), static_cast<int>(moments),
                                     split, beside, static_cast<int>(offload)));
            expect_copy_of_states_before_the_update(device, {moments, split, beside, offload});
          }
}

}  // namespace
}  // namespace nereus
