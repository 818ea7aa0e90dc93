#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "base/log.h"
#include "data/loader.h"
#include "data/row_source.h"
#include "data/rows_test.h"
#include "tensor/safetensors.h"

namespace nereus::data {
namespace {

using test::Row;
using test::rows_of;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

std::string golden_batches() {
  return test::source_path("tests/golden/torchtitan_debug/v3_small/train/batches.safetensors");
}

TEST(TokenRows, ReadsBatchesAndLoops) {
  const std::string path = golden_batches();
  const log::Capture capture;
  const auto source = token_rows(path, {.seq_len = 32, .global_batch = 2}, 256, true);
  const SafetensorsFile file = SafetensorsFile::open(path);
  const std::vector<int64_t> want = file.require("inputs").values<int64_t>();
  const std::vector<int64_t> want_labels = file.require("labels").values<int64_t>();
  std::vector<int32_t> in(64), labels(64);
  for (int step = 0; step < 21; ++step) {
    ASSERT_EQ(source->next(2, in, labels), 2);
    const size_t from = static_cast<size_t>(step % 20) * 64;
    for (size_t i = 0; i < 64; ++i) {
      ASSERT_EQ(in[i], want[from + i]);
      ASSERT_EQ(labels[i], want_labels[from + i]);
    }
  }
  EXPECT_THAT(capture.text(), HasSubstr("is being re-looped"));
}

TEST(TokenRows, GivesARankItsSliceOfABatchAndGoesOnWithOtherRanks) {
  const log::Capture quiet;
  const auto open = [](RowPlan plan, const SavedStates& saved = {}) {
    return token_rows(golden_batches(), plan, 256, true, saved);
  };
  const std::vector<Row> all = rows_of(*open({.seq_len = 32, .global_batch = 2}), 32, 10);
  const RowPlan half{.seq_len = 32, .global_batch = 2, .dp_rank = 1, .dp_size = 2};
  const auto second = open(half);
  EXPECT_THAT(rows_of(*second, 32, 3), ElementsAre(all[1], all[3], all[5]));
  const auto resumed = open({.seq_len = 32, .global_batch = 2}, {second->save_state()});
  EXPECT_THAT(rows_of(*resumed, 32, 4), ElementsAre(all[6], all[7], all[8], all[9]));
}

TEST(TokenRows, NamesWhatDoesNotFitTheRun) {
  const std::string path = golden_batches();
  EXPECT_THAT([&] { token_rows(path, {.seq_len = 16, .global_batch = 2}, 256, true); },
              ThrowsMessage<Error>(
                  HasSubstr("rows of 32 tokens, but training.seq_len = 16; set it to 32")));
  EXPECT_THAT(
      [&] { token_rows(path, {.seq_len = 32, .global_batch = 4}, 256, true); },
      ThrowsMessage<Error>(HasSubstr("batches of 2 rows, but a step has a global batch of 4")));
  EXPECT_THAT([&] { token_rows(path, {.seq_len = 32, .global_batch = 2}, 100, true); },
              ThrowsMessage<Error>(testing::AllOf(
                  HasSubstr("batches.safetensors: inputs row 0, position "),
                  HasSubstr("not a token of the model, whose vocabulary has 100 ids"))));
  const test::TemporaryFolder folder;
  const std::string loop = folder.file("loop.npy");
  std::filesystem::create_symlink(loop, loop);
  for (const auto& [name, what] : std::vector<std::pair<std::string, std::string>>{
           {"/nowhere.npy", "there is no such file or folder"},
           {folder.path(), "it is a folder"},
           {loop, "Too many levels of symbolic links"}})
    EXPECT_THAT(([&, name = name] { token_rows(name, {.seq_len = 32}, 100, true); }),
                ThrowsMessage<Error>(HasSubstr("training.dataset_path = " + name + ": " + what +
                                               "; the data set `tokens` is a .safetensors")));
}

TEST(TokenRows, IgnoredLabelsAreCountedOverTheGlobalBatchOnEveryRank) {
  const test::TemporaryFolder folder;
  std::vector<int64_t> inputs(6 * 4, 1), labels(6 * 4, 2);
  for (const size_t i : {0, 1, 2, 3, 5, 23}) labels[i] = -100;
  const auto file = [&](const std::string& name) {
    SafetensorsWriter writer(folder.file(name),
                             {{.name = "inputs", .dtype = FileDType::i64, .shape = {6, 4}},
                              {.name = "labels", .dtype = FileDType::i64, .shape = {6, 4}}});
    writer.append(0, std::as_bytes(std::span(inputs)));
    writer.append(1, std::as_bytes(std::span(labels)));
    writer.finish();
    return folder.file(name);
  };
  const std::string path = file("some.safetensors");
  const log::Capture quiet;
  for (int rank = 0; rank < 2; ++rank) {
    const auto source =
        token_rows(path, {.seq_len = 4, .global_batch = 4, .dp_rank = rank, .dp_size = 2}, 9, true);
    std::vector<int32_t> in(8), out(8);
    for (const int64_t counted : {11, 10, 15}) {  // rows 0 to 3; 4, 5, 0 and 1; 2 to 5
      ASSERT_EQ(source->next(2, in, out), 2);
      EXPECT_EQ(source->counted(), counted);
    }
  }
  labels[7] = -1;
  EXPECT_THAT([&] { token_rows(file("bad.safetensors"), {.seq_len = 4}, 9, true); },
              ThrowsMessage<Error>(HasSubstr("labels row 1, position 3 is -1: not a token of the "
                                             "model, whose vocabulary has 9 ids; a label that is "
                                             "to be ignored is -100")));
  labels.assign(labels.size(), 3);
  EXPECT_EQ(token_rows(file("all.safetensors"), {.seq_len = 4}, 9, true)->counted(), std::nullopt);
}

// Version 1.0, as numpy.save writes it.
std::string npy(const std::string& type, const std::string& shape, const std::string& data) {
  std::string header =
      "{'descr': '" + type + "', 'fortran_order': False, 'shape': " + shape + ", }";
  header.resize(117, ' ');
  return std::string("\x93NUMPY\x01\x00\x76\x00", 10) + header + "\n" + data;
}

TEST(TokenRows, PacksNpyIdsOfAnyIntegerType) {
  const test::TemporaryFolder folder;
  for (const auto& [type, width] :
       std::vector<std::pair<std::string, int>>{{"|u1", 1}, {"<u2", 2}, {"<i4", 4}, {"<i8", 8}}) {
    std::string data;
    for (char i = 0; i < 12; ++i)
      data += std::string{i} + std::string(static_cast<size_t>(width) - 1, '\0');
    const std::string path = folder.write("ids.npy", npy(type, "(3, 4)", data));
    const auto source = token_rows(path, {.seq_len = 4}, 12, false);
    EXPECT_THAT(rows_of(*source, 4, 10),
                ElementsAre(ElementsAre(0, 1, 2, 3, 4), ElementsAre(5, 6, 7, 8, 9)));
  }
}

TEST(TokenRows, NamesWhatIsWrongWithAnNpy) {
  const test::TemporaryFolder folder;
  const auto open = [&](const std::string& contents, int64_t vocab_size = 1000) {
    token_rows(folder.write("x.npy", contents), {.seq_len = 4}, vocab_size, false);
  };
  const std::string data(24, '\7');
  EXPECT_THAT(
      [&] { open(npy("<u2", "(13,)", data)); },
      ThrowsMessage<Error>(HasSubstr("is truncated: 13 elements of 2 bytes need 26 bytes")));
  EXPECT_THAT([&] { open(npy("<f4", "(6,)", data)); },
              ThrowsMessage<Error>(HasSubstr("elements of type '<f4'; token ids must be")));
  EXPECT_THAT([&] { open(npy(">i4", "(6,)", data)); },
              ThrowsMessage<Error>(HasSubstr("must be little-endian integers")));
  EXPECT_THAT([&] { open("no numpy at all"); },
              ThrowsMessage<Error>(HasSubstr("x.npy: is not a .npy file")));
  EXPECT_THAT([&] { open(npy("<u2", "(12,)", data).substr(0, 60)); },
              ThrowsMessage<Error>(HasSubstr("the .npy header is cut short")));
  EXPECT_THAT([&] { open(npy("<u2", "(4,)", data)); },
              ThrowsMessage<Error>(HasSubstr("has no whole row of 4 tokens")));
  EXPECT_THAT([&] { open(npy("|u1", "(24,)", std::string(9, '\1') + std::string(15, '\7')), 7); },
              ThrowsMessage<Error>(HasSubstr("x.npy: labels row 1, position 3 is 7: not a token")));
}

TEST(RandomRows, DependOnSeedAndTheRunsRowOnly) {
  const auto whole = random_rows({.seq_len = 8, .global_batch = 4}, 1000, 5);
  const RowPlan half{.seq_len = 8, .global_batch = 4, .dp_rank = 1, .dp_size = 2};
  const auto second = random_rows(half, 1000, 5);
  const std::vector<Row> all = rows_of(*whole, 8, 12);
  EXPECT_THAT(rows_of(*second, 8, 4), ElementsAre(all[2], all[3], all[6], all[7]));
  const auto resumed =
      random_rows({.seq_len = 8, .global_batch = 4}, 1000, 5, {second->save_state()});
  EXPECT_THAT(rows_of(*resumed, 8, 4), ElementsAre(all[8], all[9], all[10], all[11]));
  EXPECT_NE(rows_of(*random_rows({.seq_len = 8}, 1000, 6), 8, 1)[0], all[0]);
  for (const Row& row : all)
    for (const int32_t id : row) EXPECT_TRUE(id >= 0 && id < 1000);
}

TEST(Loader, HandsOutBatchesInOrderWithTheirStatesAndRethrows) {
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
    std::string save_state() override { return "at " + std::to_string(row_); }
    int32_t row_ = 0;
  };
  Loader loader(std::make_unique<Counting>(), {.seq_len = 1, .global_batch = 2});
  EXPECT_EQ(loader.state(), "at 0");
  const Batch& first = loader.next();
  EXPECT_THAT(first.inputs, ElementsAre(0, 1));
  EXPECT_EQ(loader.state(), "at 0");
  const Batch& second = loader.next();
  EXPECT_THAT(second.inputs, ElementsAre(2, 3));
  EXPECT_THAT(first.inputs, ElementsAre(0, 1)) << "it is not confirmed";
  loader.confirm();
  EXPECT_EQ(loader.state(), "at 2");
  EXPECT_THAT(second.inputs, ElementsAre(2, 3)) << "the first alone was confirmed";
  loader.confirm();
  EXPECT_EQ(loader.state(), "at 4");
  EXPECT_THAT([&] { loader.confirm(); }, ThrowsMessage<Error>(HasSubstr("has been confirmed")));
  EXPECT_THAT([&] { loader.next(); }, ThrowsMessage<Error>(HasSubstr("row 5")));
  EXPECT_THAT([&] { loader.next(); }, ThrowsMessage<Error>(HasSubstr("row 5")));  // still
}

// What a data set has to say comes from a thread of the loader: with the label of the rank that
// made it, and not at all from a rank that LOG_RANK leaves out.
TEST(Loader, ItsThreadsSpeakAsTheRankThatMadeThem) {
  for (const bool speaks : {true, false}) {
    const log::Capture capture;
    log::set_rank(3, speaks);
    Loader loader(token_rows(golden_batches(), {.seq_len = 32, .global_batch = 2}, 256, true),
                  {.seq_len = 32, .global_batch = 2});
    for (int step = 0; step < 21; ++step) {
      loader.next();
      loader.confirm();
    }
    log::set_rank(-1, true);
    const std::string text = capture.text();
    EXPECT_EQ(text.starts_with("[rank3]:[titan] "), speaks) << text;
    EXPECT_EQ(text.find("is being re-looped") != std::string::npos, speaks) << text;
  }
}

TEST(Loader, EndsWithTheSource) {
  const test::TemporaryFolder folder;
  const std::string path = folder.write("x.npy", npy("|u1", "(9,)", std::string(9, '\3')));
  const RowPlan plan{.seq_len = 2, .global_batch = 2};
  Loader loader(token_rows(path, plan, 10, false), plan);
  EXPECT_EQ(loader.next().rows, 2);
  EXPECT_EQ(loader.next().rows, 1);
  EXPECT_EQ(loader.next().rows, 0);
  EXPECT_EQ(loader.next().rows, 0);
}

}  // namespace
}  // namespace nereus::data
