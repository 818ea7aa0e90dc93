// The order "torchtitan" against what TorchTitan's own data set yields.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "data/rows_test.h"
#include "tensor/safetensors.h"

namespace nereus::data {
namespace {

using test::Row;
using test::rows_of;
using testing::HasSubstr;
using testing::ThrowsMessage;

constexpr int64_t kSeqLen = 256;

// FIPS 180-4.
std::string sha256(std::string message) {
  const auto rotate = [](uint32_t x, int n) { return x >> n | x << (32 - n); };
  // The first 32 bits of the fractional parts of the roots of the first primes.
  std::array<uint32_t, 64> k{};
  std::array<uint32_t, 8> h{};
  size_t found = 0;
  for (int n = 2; found < 64; ++n) {
    bool prime = true;
    for (int d = 2; d * d <= n; ++d) prime = prime && n % d != 0;
    if (!prime) continue;
    const auto fraction = [](long double x) {
      return static_cast<uint32_t>((x - std::floor(x)) * 4294967296.0L);
    };
    if (found < 8) h[found] = fraction(std::sqrt(static_cast<long double>(n)));
    k[found++] = fraction(std::cbrt(static_cast<long double>(n)));
  }
  const uint64_t bits = message.size() * 8;
  message += '\x80';
  while (message.size() % 64 != 56) message += '\0';
  for (int i = 56; i >= 0; i -= 8) message += static_cast<char>(bits >> i);
  for (size_t block = 0; block < message.size(); block += 64) {
    std::array<uint32_t, 64> w{};
    for (size_t i = 0; i < 64; ++i)
      w[i / 4] |= i / 4 < 16 ? uint32_t{static_cast<unsigned char>(message[block + i])}
                                   << (24 - 8 * (i % 4))
                             : 0;
    for (size_t i = 16; i < 64; ++i)
      w[i] = w[i - 16] + (rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3) +
             w[i - 7] + (rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10);
    auto [a, b, c, d, e, f, g, last] = h;
    for (size_t i = 0; i < 64; ++i) {
      const uint32_t t1 = last + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) +
                          ((e & f) ^ (~e & g)) + k[i] + w[i];
      const uint32_t t2 =
          (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      last = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    const std::array<uint32_t, 8> add = {a, b, c, d, e, f, g, last};
    for (size_t i = 0; i < 8; ++i) h[i] += add[i];
  }
  std::string out;
  for (const uint32_t x : h)
    for (int i = 28; i >= 0; i -= 4) out += "0123456789abcdef"[x >> i & 15];
  return out;
}

std::string little_endian(const std::vector<Row>& rows) {
  std::string out;
  for (const Row& row : rows)
    for (const int32_t id : row)
      for (int i = 0; i < 32; i += 8) out += static_cast<char>(static_cast<uint32_t>(id) >> i);
  return out;
}

std::vector<Row> golden_rows(const std::string& name) {
  const SafetensorsFile file =
      SafetensorsFile::open(test::source_path("tests/golden/tokenizer/packed.safetensors"));
  const std::vector<int32_t> ids = file.require(name).values<int32_t>();
  std::vector<Row> out;
  for (auto row = ids.begin(); row != ids.end(); row += kSeqLen + 1)
    out.emplace_back(row, row + kSeqLen + 1);
  return out;
}

struct World {
  int size, rank;
};
class GoldenPacking : public testing::TestWithParam<World> {};

TEST_P(GoldenPacking, EqualsTorchTitansToTheLastRow) {
  const auto [size, rank] = GetParam();
  const std::string name = "world" + std::to_string(size) + ".rank" + std::to_string(rank);
  const log::Capture quiet;
  const auto source =
      text_rows(test::deepseek_options(DataOrder::torchtitan, false),
                {.seq_len = kSeqLen, .global_batch = size, .dp_rank = rank, .dp_size = size});
  const std::vector<Row> rows = rows_of(*source, kSeqLen, 10000);
  const std::vector<Row> want = golden_rows(name);
  const auto info = nlohmann::json::parse(test::read_file(
      test::source_path("tests/golden/tokenizer/corpus.json")))["torchtitan_packed"][name];
  ASSERT_EQ(rows.size(), info["n_sequences"].get<size_t>());
  for (size_t r = 0; r < want.size(); ++r) EXPECT_EQ(rows[r], want[r]) << "row " << r;
  EXPECT_EQ(sha256(little_endian(rows)), info["sha256_le_u32_of_all_rows"].get<std::string>());
}
INSTANTIATE_TEST_SUITE_P(EveryWorld, GoldenPacking,
                         testing::Values(World{1, 0}, World{2, 0}, World{2, 1}, World{4, 0},
                                         World{4, 3}));

TEST(TorchTitanOrder, BeginsAgainAsTorchTitanDoes) {
  const log::Capture capture;
  const auto source =
      text_rows(test::deepseek_options(DataOrder::torchtitan, true), {.seq_len = kSeqLen});
  const std::vector<Row> rows = rows_of(*source, kSeqLen, 507);
  EXPECT_EQ(std::vector<Row>(rows.begin() + 504, rows.end()), golden_rows("world1.rank0.relooped"));
  EXPECT_THAT(capture.text(), HasSubstr("Dataset c4 is being re-looped"));
  EXPECT_EQ(source->status().epochs, 1);
  EXPECT_EQ(source->status().all().tokens_a_pass,
            66740 + 62894);  // corpus.json: ids of the two shards
}

TEST(TorchTitanOrder, GoesOnWithTheSameRanksOnly) {
  const log::Capture quiet;
  const TextOptions options = test::deepseek_options(DataOrder::torchtitan, true);
  for (const int size : {2, 4}) {  // whole shards; every fourth document
    const RowPlan plan{.seq_len = 100, .global_batch = 8, .dp_size = size};
    const std::vector<Row> whole = test::run_rows(options, plan, 170);
    SavedStates states;
    test::run_rows(options, plan, 165, &states);  // into the second pass
    const std::vector<Row> rest = test::run_rows(options, plan, 5, &states);
    EXPECT_EQ(rest, std::vector<Row>(whole.begin() + 165 * 8, whole.end()));
    EXPECT_THAT([&] { text_rows(options, {.seq_len = 100, .global_batch = 8}, states); },
                ThrowsMessage<Error>(HasSubstr(
                    "dp_degree is inconsistent before and after checkpoint, dataloader resharding "
                    "is not supported yet.")));
  }
}

}  // namespace
}  // namespace nereus::data
