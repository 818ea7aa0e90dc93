// Where the states of parameters are kept, and in which parts, changes no bit of them.
#include <gtest/gtest.h>

#include <map>

#include "base/error.h"
#include "ops/elementwise.h"
#include "parallel/parameter_store.h"
#include "parallel/store_updates_test.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

// More than one chunk on both sides of the norms, and tensors of both kinds on both sides of tp.
std::vector<StoredTensor> tensors() {
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
  return {tensor("a", {301, 70}, false, false), tensor("b", {77}, true, true),
          tensor("c", {100, 50}, false, true),  tensor("d", {9, 5}, true, false),
          tensor("e", {40, 33}, false, false),  tensor("f", {257, 31}, false, true)};
}

struct Outcome {
  std::vector<std::vector<float>> weights, masters;  // by tensor; by view
  std::vector<double> m, v;
  bool operator==(const Outcome&) const = default;
};

Outcome run(Device device, ParameterStore::Options options) {
  Stream stream = test::stream(device);
  ParameterStore store(device, tensors(), options);
  store.initialize(stream, 3);
  for (int64_t step = 1; step <= 6; ++step) {
    store.begin_step(stream);
    test::update(stream, store, step);
    if (step % 3 != 0) continue;
    store.assemble_masters(stream);
    if (step == 3) store.refresh_copies(stream);  // as after loading: nothing changes
  }
  Outcome out;
  for (const NamedView& v : store.master_views())
    out.masters.push_back(test::floats(stream, v.view));
  for (int i = 0; i < 6; ++i) out.weights.push_back(test::floats(stream, store.weight(i).view));
  store.visit_states(stream, false, [&](const ParameterStore::States& s) {
    for (const float x : test::floats(stream, s.first_moment))
      out.m.push_back(static_cast<double>(x));
    for (const float x : test::floats(stream, s.second_moment))
      out.v.push_back(std::abs(static_cast<double>(x)));
  });
  return out;
}

TEST(ParameterStates, AreTheSameBitsInPartsAndInHostMemory) {
  for (const Device device : test::devices()) {
    for (const DType moments : {DType::f32, DType::bf16}) {
      const Outcome plain = run(device, {.compute = DType::bf16, .moment_type = moments});
      ASSERT_EQ(plain.masters.size(), 6u);
      for (const bool split : {false, true}) {
        for (const Offload offload : {Offload::none, Offload::moments, Offload::states}) {
          for (const int64_t chunk : {int64_t{1000}, int64_t{12345}, HostStates::kChunk}) {
            const Outcome other = run(device, {.compute = DType::bf16,
                                               .moment_type = moments,
                                               .split_masters = split,
                                               .offload = offload,
                                               .offload_chunk = chunk});
            EXPECT_TRUE(other == plain) << "split " << split << ", offload "
                                        << static_cast<int>(offload) << ", chunk " << chunk;
          }
        }
      }
    }
    const Outcome f32 = run(device, {});
    EXPECT_TRUE(run(device, {.offload = Offload::moments, .offload_chunk = 1000}) == f32);
  }
}

// What a checkpoint needs that is written a chunk at a time.
TEST(ParameterStates, OfAChunkBelongToTheElementsThatTheLayoutNames) {
  Stream stream(Device::cpu(), &test::pool());
  std::vector<StoredTensor> stored = tensors();
  stored.push_back(
      {.name = "gate_up",
       .shape = {3, 10, 7},
       .parts = {{.parameter = {.name = "w1", .shape = {3, 4, 7}}, .dim = 1},
                 {.parameter = {.name = "w3", .shape = {3, 6, 7}}, .dim = 1, .begin = 4}}});
  for (const Offload offload : {Offload::none, Offload::states}) {
    ParameterStore store(Device::cpu(), stored,
                         {.compute = DType::bf16, .offload = offload, .offload_chunk = 1000});
    // Through views of whole parameters each gradient gets its parameter's number and its index.
    float parameter = 0;
    std::map<std::string, float> numbers;
    for (const NamedView& v : store.gradient_views()) {
      ASSERT_EQ(v.view.shape, v.whole);
      numbers[v.name] = parameter += 1 << 16;
      float index = 0;
      const int64_t rows = v.view.count() / v.view.dim(v.view.rank() - 1);
      const int64_t width = v.view.count() / rows, panel = v.view.rank() > 2 ? v.view.dim(1) : rows;
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < width; ++i)
          v.view.as<float>()[r / panel * v.view.stride[0] * (v.view.rank() > 2 ? 1 : 0) +
                             r % panel * width + i] = parameter + index++;
    }
    int64_t seen = 0, chunks = 0, next = 0;
    store.visit_states(stream, false, [&](const ParameterStore::States& s) {
      ++chunks;
      ASSERT_EQ(s.first, next);
      next += s.gradient.count();
      for (const StoreLayout::Slice& slice : store.layout().slices({})) {
        for (const StoreLayout::Run& run : StoreLayout::runs(slice)) {
          const int64_t end = std::min(run.flat + run.count, next);
          for (int64_t at = std::max(run.flat, s.first); at < end; ++at, ++seen)
            ASSERT_EQ(s.gradient.as<float>()[at - s.first],
                      numbers[slice.name] + static_cast<float>(run.index + at - run.flat))
                << slice.name;
        }
      }
    });
    EXPECT_EQ(next, store.elements());
    EXPECT_EQ(seen, 301 * 70 + 77 + 100 * 50 + 9 * 5 + 40 * 33 + 257 * 31 + 3 * 10 * 7);
    EXPECT_EQ(chunks > 30, offload == Offload::states);
  }
}

TEST(ParameterStates, OfWhichNothingIsKeptAreNotWritten) {
  for (const Device device : test::devices()) {
    Stream stream = test::stream(device);
    ParameterStore store(device, tensors(), {.offload = Offload::moments, .offload_chunk = 1000});
    for (const bool write : {false, true}) {
      store.visit_states(stream, write, [&](const ParameterStore::States& s) {
        ops::fill(stream, {.out = s.first_moment, .value = 2});
      });
      store.visit_states(stream, false, [&](const ParameterStore::States& s) {
        for (const float m : test::floats(stream, s.first_moment)) ASSERT_EQ(m, write ? 2 : 0);
      });
    }
  }
}

TEST(ParameterStates, MastersInPartsAreAskedForWhenTheyArePutTogether) {
  Stream stream(Device::cpu(), &test::pool());
  ParameterStore store(Device::cpu(), tensors(), {.compute = DType::bf16, .split_masters = true});
  store.initialize(stream, 3);
  EXPECT_EQ(store.masters().data, store.gradients().data);
  store.begin_step(stream);
  const auto message = [&](auto&& call) {
    try {
      call();
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  const char* const refused = "masters are asked for that are not whole";
  EXPECT_NE(message([&] { store.master_views(); }).find(refused), std::string::npos);
  EXPECT_NE(message([&] { store.refresh_copies(stream); }).find(refused), std::string::npos);
  store.assemble_masters(stream);
  EXPECT_EQ(message([&] { store.master_views(); }), "");
  EXPECT_NE(message([&] {
              ParameterStore(Device::cpu(), tensors(), {.split_masters = true});
            }).find("masters that are not whole need bf16 copies"),
            std::string::npos);
}

}  // namespace
}  // namespace nereus
