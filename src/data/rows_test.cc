#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "data/loader.h"
#include "data/row_source.h"
#include "data/tokenizer/tokenizer.h"
#include "tensor/safetensors.h"
#include "test/test_tensor.h"

namespace nereus::data {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

std::shared_ptr<const Tokenizer> deepseek() {
  static const auto tokenizer = Tokenizer::load(test::source_path("assets/tokenizer"));
  return tokenizer;
}

TextOptions text_options(const std::string& path, const std::string& order, bool loop,
                         int workers = 2) {
  return {.dataset = "c4",
          .path = path,
          .order = order,
          .workers = workers,
          .loop = loop,
          .vocab_size = 129280,
          .make_encoder = [] {
            auto encoder = std::make_shared<Tokenizer::Encoder>(*deepseek());
            return [encoder](std::string_view text, std::vector<int32_t>& ids) {
              ids.push_back(*deepseek()->bos_id());
              encoder->encode(text, ids);
              ids.push_back(*deepseek()->eos_id());
            };
          }};
}

// An encoder without a vocabulary: a byte is its own id; 256 begins and 257 ends a document.
TextOptions byte_options(const std::string& path, bool loop, int workers = 2) {
  TextOptions o = text_options(path, "global", loop, workers);
  o.vocab_size = 258;
  o.make_encoder = [] {
    return [](std::string_view text, std::vector<int32_t>& ids) {
      ids.push_back(256);
      for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
      ids.push_back(257);
    };
  };
  return o;
}

std::string gz(const std::string& text) {
  z_stream z{};
  deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string out(text.size() + 1000, '\0');
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  z.avail_in = static_cast<uInt>(text.size());
  z.next_out = reinterpret_cast<Bytef*>(out.data());
  z.avail_out = static_cast<uInt>(out.size());
  deflate(&z, Z_FINISH);
  out.resize(z.total_out);
  deflateEnd(&z);
  return out;
}

std::string line(const std::string& text) { return nlohmann::json{{"text", text}}.dump() + "\n"; }

// Rows as seq_len + 1 tokens, until the source ends or `most` are there.
std::vector<std::vector<int32_t>> rows_of(RowSource& source, int64_t seq_len, int64_t most) {
  std::vector<std::vector<int32_t>> out;
  std::vector<int32_t> in(static_cast<size_t>(seq_len)), labels(in.size());
  while (static_cast<int64_t>(out.size()) < most && source.next(1, in, labels) == 1) {
    EXPECT_TRUE(std::equal(in.begin() + 1, in.end(), labels.begin()));
    out.push_back(in);
    out.back().push_back(labels.back());
  }
  return out;
}

struct World {
  int size, rank;
};
class GoldenPacking : public testing::TestWithParam<World> {};

TEST_P(GoldenPacking, EqualsTorchTitans) {
  const auto [size, rank] = GetParam();
  const std::string name = "world" + std::to_string(size) + ".rank" + std::to_string(rank);
  const log::Capture quiet;
  const auto source =
      text_rows(text_options(test::source_path("tests/golden/tokenizer/c4"), "torchtitan", false),
                {.seq_len = 256, .global_batch = size, .dp_rank = rank, .dp_size = size});
  const auto rows = rows_of(*source, 256, 10000);
  const SafetensorsFile golden =
      SafetensorsFile::open(test::source_path("tests/golden/tokenizer/packed.safetensors"));
  const std::vector<int32_t> want = golden.require(name).values<int32_t>();
  const auto info = nlohmann::json::parse(test::read_file(
      test::source_path("tests/golden/tokenizer/corpus.json")))["torchtitan_packed"][name];
  ASSERT_EQ(rows.size(), info["n_sequences"].get<size_t>());
  for (size_t r = 0; r < want.size() / 257; ++r)
    EXPECT_TRUE(std::equal(rows[r].begin(), rows[r].end(),
                           want.begin() + static_cast<std::ptrdiff_t>(r * 257)))
        << "row " << r;
}
INSTANTIATE_TEST_SUITE_P(EveryWorld, GoldenPacking,
                         testing::Values(World{1, 0}, World{2, 0}, World{2, 1}, World{4, 0},
                                         World{4, 3}));

TEST(TextRows, BeginsAgainAsTorchTitanDoes) {
  const log::Capture capture;
  const auto source =
      text_rows(text_options(test::source_path("tests/golden/tokenizer/c4"), "torchtitan", true),
                {.seq_len = 256});
  const auto rows = rows_of(*source, 256, 507);
  const std::vector<int32_t> want =
      SafetensorsFile::open(test::source_path("tests/golden/tokenizer/packed.safetensors"))
          .require("world1.rank0.relooped")
          .values<int32_t>();
  for (size_t r = 0; r < 3; ++r)
    EXPECT_TRUE(std::equal(rows[504 + r].begin(), rows[504 + r].end(),
                           want.begin() + static_cast<std::ptrdiff_t>(r * 257)));
  EXPECT_THAT(capture.text(), HasSubstr("Dataset c4 is being re-looped"));
}

TEST(TextRows, TheGlobalOrderDoesNotDependOnRanksOrThreads) {
  const log::Capture quiet;
  const std::string path = test::source_path("tests/golden/tokenizer/c4");
  const auto batches = [&](int dp, int workers) {
    std::vector<std::vector<int32_t>> out(6 * 8);
    for (int rank = 0; rank < dp; ++rank) {
      const RowPlan plan{.seq_len = 64, .global_batch = 8, .dp_rank = rank, .dp_size = dp};
      const auto source = text_rows(text_options(path, "global", true, workers), plan);
      const auto rows = rows_of(*source, 64, 6 * 8 / dp);
      for (size_t i = 0; i < rows.size(); ++i)
        out[static_cast<size_t>(plan.global_row(static_cast<int64_t>(i)))] = rows[i];
    }
    return out;
  };
  const auto one = batches(1, 1);
  EXPECT_EQ(batches(1, 4), one);
  EXPECT_EQ(batches(2, 2), one);
  EXPECT_EQ(batches(8, 1), one);
}

// Every document's bytes come out once an epoch, in the order of its stream.
TEST(TextRows, TheGlobalOrderLosesAndRepeatsNothing) {
  const test::TemporaryFolder folder;
  std::string shard;
  for (int i = 0; i < 200; ++i)
    shard +=
        line("document " + std::to_string(i) + std::string(static_cast<size_t>(i % 7) * 20, 'x'));
  folder.write("c4-train.00000.json.gz", gz(shard));
  const log::Capture quiet;
  const auto source =
      text_rows(byte_options(folder.path(), true), {.seq_len = 15, .global_batch = 4});
  std::vector<int64_t> begun(200);
  std::vector<std::string> streams(64);
  for (int64_t g = 0; g < 64 * 30; ++g) {
    std::vector<int32_t> in(15), labels(15);
    ASSERT_EQ(source->next(1, in, labels), 1);
    for (const int32_t id : in)
      streams[static_cast<size_t>(g % 64)] += id < 256 ? static_cast<char>(id) : '|';
    streams[static_cast<size_t>(g % 64)] += labels[14] < 256 ? static_cast<char>(labels[14]) : '|';
  }
  for (size_t s = 0; s < 64; ++s) {
    // The stream's documents of the first epoch: s, s + 64, s + 128, ...
    size_t at = 0;
    for (size_t i = s; i < 200; i += 64) {
      const std::string want = "|document " + std::to_string(i);
      ASSERT_NE(at = streams[s].find(want, at), std::string::npos) << want;
    }
  }
}

TEST(TextRows, SkipsAndCountsBrokenLinesAndMendsUtf8) {
  const test::TemporaryFolder folder;
  folder.write("a.json.gz", gz(line("one") + "{\"text\": \n" + "{\"txt\": 1}\n" +
                               "{\"text\": \"tw\xff\"}\n" + line("") + line("three")));
  const log::Capture capture;
  TextOptions options = byte_options(folder.path(), false, 1);
  const auto source = text_rows(options, {.seq_len = 4});
  const auto rows = rows_of(*source, 4, 100);
  const SourceStatus status = source->status();
  EXPECT_EQ(status.skipped_lines, 2);
  EXPECT_EQ(status.replaced, 1);
  EXPECT_EQ(status.documents, 4);
  EXPECT_THAT(capture.text(), HasSubstr("a.json.gz:2: not a JSON object with a \"text\""));
  EXPECT_THAT(capture.text(), HasSubstr("a.json.gz:4: not valid UTF-8"));
  ASSERT_EQ(rows.size(), 4u);  // 5 + 7 + 2 + 7 ids in rows of 5
  EXPECT_EQ(rows[0], (std::vector<int32_t>{256, 'o', 'n', 'e', 257}));
  EXPECT_EQ(rows[1], (std::vector<int32_t>{256, 't', 'w', 0xEF, 0xBF}));
}

TEST(TextRows, NamesATruncatedGz) {
  const test::TemporaryFolder folder;
  std::string shard;
  for (int i = 0; i < 3000; ++i) shard += line("document " + std::to_string(i * 7919));
  const std::string whole = gz(shard);
  folder.write("c4-train.00000.json.gz", whole.substr(0, whole.size() / 2));
  const log::Capture quiet;
  EXPECT_THAT(
      [&] {
        const auto source = text_rows(byte_options(folder.path(), true), {.seq_len = 64});
        rows_of(*source, 64, 100000);
      },
      ThrowsMessage<Error>(HasSubstr("c4-train.00000.json.gz: is truncated")));
  folder.write("c4-train.00000.json.gz", "this is no gz");
  EXPECT_THAT(
      [&] {
        const auto source = text_rows(byte_options(folder.path(), true), {.seq_len = 64});
        rows_of(*source, 64, 10);
      },
      ThrowsMessage<Error>(HasSubstr("is not a gz file or is corrupt")));
}

TEST(TextRows, ReadsGzOfSeveralMembers) {
  const test::TemporaryFolder folder;
  folder.write("a.jsonl.gz", gz(line("abc")) + gz(line("def")));
  const log::Capture quiet;
  const auto source = text_rows(byte_options(folder.path(), false), {.seq_len = 4});
  EXPECT_EQ(rows_of(*source, 4, 9).size(), 2u);
}

TEST(TextRows, NamesAFolderWithoutShardsAndATokenizerOfAnotherModel) {
  const test::TemporaryFolder folder;
  folder.write("readme.txt", "nothing");
  const log::Capture quiet;
  EXPECT_THAT([&] { text_rows(byte_options(folder.path(), true), {}); },
              ThrowsMessage<Error>(HasSubstr("neither it nor its en/ has shards named")));
  EXPECT_THAT([&] { text_rows(byte_options(folder.file("missing"), true), {}); },
              ThrowsMessage<Error>(HasSubstr("there is no such folder or file")));
  folder.write("a.json", line("abc"));
  TextOptions small = byte_options(folder.path(), true);
  small.vocab_size = 256;
  EXPECT_THAT([&] { rows_of(*text_rows(small, {.seq_len = 4}), 4, 1); },
              ThrowsMessage<Error>(
                  HasSubstr("the tokenizer makes the id 256, but the model's vocabulary")));
}

TEST(TokenRows, ReadsBatchesAndLoops) {
  const std::string path =
      test::source_path("tests/golden/torchtitan_debug/v3_small/train/batches.safetensors");
  const log::Capture capture;
  const auto source = token_rows(path, {.seq_len = 32, .global_batch = 2}, 256, true);
  const std::vector<int64_t> want = SafetensorsFile::open(path).require("inputs").values<int64_t>();
  std::vector<int32_t> in(64), labels(64);
  for (int step = 0; step < 21; ++step) {
    ASSERT_EQ(source->next(2, in, labels), 2);
    const size_t from = static_cast<size_t>(step % 20) * 64;
    for (size_t i = 0; i < 64; ++i) ASSERT_EQ(in[i], want[from + i]);
  }
  EXPECT_THAT(capture.text(), HasSubstr("is being re-looped"));
  EXPECT_THAT([&] { token_rows(path, {.seq_len = 16, .global_batch = 2}, 256, true); },
              ThrowsMessage<Error>(
                  HasSubstr("rows of 32 tokens, but training.seq_len = 16; set it to 32")));
  EXPECT_THAT(
      [&] { token_rows(path, {.seq_len = 32, .global_batch = 4}, 256, true); },
      ThrowsMessage<Error>(HasSubstr("batches of 2 rows, but a step has a global batch of 4")));
  EXPECT_THAT(
      [&] { token_rows(path, {.seq_len = 32, .global_batch = 2}, 100, true); },
      ThrowsMessage<Error>(HasSubstr("not a token of the model, whose vocabulary has 100 ids")));
  EXPECT_THAT([&] { token_rows("/nowhere.npy", {.seq_len = 32}, 100, true); },
              ThrowsMessage<Error>(HasSubstr("there is no such file")));
}

TEST(TokenRows, PacksNpyIds) {
  const test::TemporaryFolder folder;
  std::string header = "{'descr': '<u2', 'fortran_order': False, 'shape': (3, 4), }";
  header.resize(117, ' ');
  header += '\n';
  std::string file("\x93NUMPY\x01\x00\x76\x00", 10);
  file += header;
  for (char i = 0; i < 12; ++i) file += std::string{i, '\0'};
  const std::string path = folder.write("ids.npy", file);
  const auto source = token_rows(path, {.seq_len = 4}, 12, false);
  EXPECT_THAT(rows_of(*source, 4, 10), testing::ElementsAre(testing::ElementsAre(0, 1, 2, 3, 4),
                                                            testing::ElementsAre(5, 6, 7, 8, 9)));
  EXPECT_THAT(
      [&] { token_rows(folder.write("x.npy", file.substr(0, 130)), {.seq_len = 4}, 12, false); },
      ThrowsMessage<Error>(HasSubstr("is truncated: 12 elements of 2 bytes need 24 bytes")));
}

TEST(RandomRows, DependOnSeedAndTheRunsRowOnly) {
  const auto whole = random_rows({.seq_len = 8, .global_batch = 4}, 1000, 5);
  const auto second =
      random_rows({.seq_len = 8, .global_batch = 4, .dp_rank = 1, .dp_size = 2}, 1000, 5);
  const auto all = rows_of(*whole, 8, 8), part = rows_of(*second, 8, 4);
  EXPECT_EQ(part, (std::vector<std::vector<int32_t>>{all[2], all[3], all[6], all[7]}));
  EXPECT_NE(rows_of(*random_rows({.seq_len = 8}, 1000, 6), 8, 1)[0], all[0]);
}

TEST(Loader, HandsOutBatchesInOrderAndRethrows) {
  class Counting final : public RowSource {
   public:
    int64_t next(int64_t rows, std::span<int32_t> in, std::span<int32_t> labels) override {
      for (int64_t r = 0; r < rows; ++r) {
        if (row_ == 5) throw Error(Fault::kIo, "row 5");
        in[static_cast<size_t>(r)] = labels[static_cast<size_t>(r)] = row_++;
      }
      return rows;
    }
    SourceStatus status() const override { return {.rows = row_}; }
    int32_t row_ = 0;
  };
  Loader loader(std::make_unique<Counting>(), {.seq_len = 1, .global_batch = 2});
  EXPECT_EQ(loader.next().inputs, (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(loader.next().inputs, (std::vector<int32_t>{2, 3}));
  EXPECT_THAT([&] { loader.next(); }, ThrowsMessage<Error>(HasSubstr("row 5")));
}

}  // namespace
}  // namespace nereus::data
