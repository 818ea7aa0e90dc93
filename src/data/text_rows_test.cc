#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "base/log.h"
#include "data/rows_test.h"

namespace nereus::data {
namespace {

using test::byte_options;
using test::gz;
using test::Row;
using test::rows_of;
using test::text_line;
using testing::HasSubstr;
using testing::Not;
using testing::ThrowsMessage;

TEST(GlobalOrder, DoesNotDependOnRanksOrThreads) {
  const log::Capture quiet;
  const auto batches = [&](int dp, int workers) {
    return test::run_rows(test::deepseek_options(DataOrder::global, true, workers),
                          {.seq_len = 64, .global_batch = 12, .dp_size = dp}, 6);
  };
  const std::vector<Row> one = batches(1, 1);
  EXPECT_EQ(batches(1, 4), one);
  EXPECT_EQ(batches(2, 2), one);
  EXPECT_EQ(batches(12, 1), one);
}

TEST(GlobalOrder, WithoutLoopingEveryRankHasItsRowsOfOnePass) {
  const log::Capture quiet;
  const auto whole = text_rows(test::deepseek_options(DataOrder::global, false), {.seq_len = 256});
  const std::vector<Row> all = rows_of(*whole, 256, 10000);
  EXPECT_EQ(all.size(), 504u);  // as TorchTitan's one rank
  const auto second = text_rows(test::deepseek_options(DataOrder::global, false),
                                {.seq_len = 256, .global_batch = 6, .dp_rank = 1, .dp_size = 2});
  const std::vector<Row> part = rows_of(*second, 256, 10000);
  ASSERT_EQ(part.size(), 252u);
  for (size_t i = 0; i < part.size(); ++i) EXPECT_EQ(part[i], all[i / 3 * 6 + 3 + i % 3]);
}

TEST(GlobalOrder, SaysThatADataSetBeginsAgain) {
  const test::TemporaryFolder folder;
  folder.write("a.jsonl", text_line("one") + text_line("two"));
  const log::Capture capture;
  const auto source = text_rows(byte_options(folder.path(), true), {.seq_len = 4});
  rows_of(*source, 4, 3000);
  EXPECT_GT(source->status().epochs, 1000);
  EXPECT_EQ(source->status().all().tokens_a_pass, 10);
  size_t said = 0, at = 0;
  while ((at = capture.text().find("Dataset c4 is being re-looped", at)) != std::string::npos)
    ++said, ++at;
  EXPECT_GT(said, 3u);
  EXPECT_LT(said, 20u);
}

// What all ranks know together, whatever part of the documents each of them reads.
TEST(TextRows, CountTheDocumentsOfTheRunByParts) {
  const test::TemporaryFolder folder;
  std::string lines;
  int64_t tokens = 0;
  for (int i = 0; i < 10; ++i) {
    lines += text_line(std::string(static_cast<size_t>(7 * i), 'x'));
    tokens += 7 * i + 2;
  }
  folder.write("a.jsonl", lines);
  const log::Capture quiet;
  for (const DataOrder order : {DataOrder::global, DataOrder::torchtitan}) {
    // Streams of one rank each, and streams whose rows go to several.
    for (const auto& [ranks, rows] :
         {std::pair<int, int64_t>{1, 8}, {2, 8}, {8, 8}, {2, 6}, {3, 9}}) {
      SourceStatus run;
      for (int rank = 0; rank < ranks; ++rank) {
        TextOptions options = byte_options(folder.path(), true);
        options.order = order;
        const RowPlan plan{.seq_len = 10, .global_batch = rows, .dp_rank = rank, .dp_size = ranks};
        const auto source = text_rows(options, plan);
        EXPECT_EQ(source->status().all().tokens_a_pass, 0) << "not yet known";
        const int64_t steps = order == DataOrder::global ? 64 : 2 * tokens / (11 * rows / ranks);
        rows_of(*source, 10, steps * plan.local_rows());
        const SourceStatus mine = source->status();
        run.parts.resize(mine.parts.size());
        for (size_t i = 0; i < mine.parts.size(); ++i) {
          SourceStatus::Part& part = run.parts[i];
          part.tokens_a_pass = std::max(part.tokens_a_pass, mine.parts[i].tokens_a_pass);
        }
      }
      EXPECT_EQ(run.all().tokens_a_pass, tokens) << word(order) << " " << ranks << " " << rows;
    }
  }
}

TEST(TextRows, SkipsAndCountsBrokenLinesAndMendsUtf8) {
  const test::TemporaryFolder folder;
  folder.write("a.json.gz", gz(text_line("one") + "{\"text\": \n" + "{\"txt\": 1}\n" +
                               "{\"text\": \"tw\xff\"}\n" + text_line("") + text_line("three")));
  const log::Capture capture;
  const auto source = text_rows(byte_options(folder.path(), false, 1), {.seq_len = 4});
  const std::vector<Row> rows = rows_of(*source, 4, 100);
  const SourceStatus status = source->status();
  EXPECT_EQ(status.all().not_json, 1);
  EXPECT_EQ(status.all().without_text, 1);
  EXPECT_EQ(status.all().replaced, 1);
  EXPECT_EQ(status.documents, 4);
  EXPECT_THAT(capture.text(), HasSubstr("a.json.gz:2: not JSON (parse error at line 1, column 10"));
  EXPECT_THAT(capture.text(), HasSubstr("); such lines are skipped and counted"));
  EXPECT_THAT(capture.text(), HasSubstr("a.json.gz:3: no \"text\" that is a string (the keys that "
                                        "are there: txt); such lines"));
  EXPECT_THAT(capture.text(), HasSubstr("a.json.gz:4: not valid UTF-8"));
  ASSERT_EQ(rows.size(), 4u);  // 5 + 7 + 2 + 7 ids in rows of 5
  EXPECT_EQ(rows[0], (Row{256, 'o', 'n', 'e', 257}));
  EXPECT_EQ(rows[1], (Row{256, 't', 'w', 0xEF, 0xBF}));
}

TEST(TextRows, PacksEmptyDocumentsAndOnesOfManyRows) {
  const test::TemporaryFolder folder;
  folder.write("a.json.gz", gz(text_line("") + text_line(std::string(3000000, 'x')) +
                               text_line("") + text_line("end")));
  const log::Capture quiet;
  const auto source = text_rows(byte_options(folder.path(), false), {.seq_len = 9});
  const std::vector<Row> rows = rows_of(*source, 9, 1000000);
  ASSERT_EQ(rows.size(), 300001u);  // 2 + 3000002 + 2 + 5 ids in rows of 10
  EXPECT_EQ(rows[0], (Row{256, 257, 256, 'x', 'x', 'x', 'x', 'x', 'x', 'x'}));
  EXPECT_EQ(rows[1], Row(10, 'x'));
  EXPECT_EQ(rows[299999], Row(10, 'x'));
  EXPECT_EQ(rows[300000], (Row{'x', 'x', 'x', 257, 256, 257, 256, 'e', 'n', 'd'}));
}

TEST(TextRows, NamesATruncatedAndACorruptGz) {
  const test::TemporaryFolder folder;
  std::string shard;
  for (int i = 0; i < 30000; ++i) shard += text_line("document " + std::to_string(i * 7919));
  const std::string whole = gz(shard);
  const log::Capture quiet;
  const auto read = [&](const std::string& contents) {
    folder.write("c4-train.00000.json.gz", contents);
    const auto source = text_rows(byte_options(folder.path(), true), {.seq_len = 64});
    rows_of(*source, 64, 100000);
  };
  EXPECT_THAT([&] { read(whole.substr(0, whole.size() / 2)); },
              ThrowsMessage<Error>(HasSubstr("c4-train.00000.json.gz: is truncated")));
  EXPECT_THAT([&] { read(whole.substr(0, whole.size() - 1)); },
              ThrowsMessage<Error>(HasSubstr("is truncated")));
  EXPECT_THAT([&] { read("this is no gz"); },
              ThrowsMessage<Error>(HasSubstr("not lines of JSON; it begins with this is no gz")));
  std::string wrong_sum = whole;
  wrong_sum[whole.size() - 6] ^= 1;
  EXPECT_THAT([&] { read(wrong_sum); },
              ThrowsMessage<Error>(HasSubstr("is not a gz file or is corrupt")));
}

TEST(TextRows, NamesAFolderWithoutShardsOrDocumentsAndATokenizerOfAnotherModel) {
  const test::TemporaryFolder folder;
  folder.write("readme.txt", "nothing");
  const log::Capture quiet;
  EXPECT_THAT([&] { text_rows(byte_options(folder.path(), true), {}); },
              ThrowsMessage<Error>(HasSubstr(
                  "neither it nor its en/ has shards named *.json.gz, *.jsonl.gz, *.json or "
                  "*.jsonl\n  It has the files: readme.txt\n  `nereus download dataset --dir " +
                  folder.path() + "` fetches C4 there (--shards N: a part).")));
  folder.write("train.parquet", "PAR1");
  folder.write("data/a.jsonl", text_line("a"));
  EXPECT_THAT([&] { text_rows(byte_options(folder.path(), true), {}); },
              ThrowsMessage<Error>(
                  HasSubstr("It has the files: readme.txt, train.parquet\n  It has the folders, "
                            "which are not looked into: data\n  train.parquet: Parquet, not lines "
                            "of JSON\n    Convert it: python -c ")));
  std::filesystem::remove(folder.file("train.parquet"));
  EXPECT_THAT([&] { text_rows(byte_options(folder.file("missing"), true), {}); },
              ThrowsMessage<Error>(
                  HasSubstr("there is no such folder or file\n  `nereus download dataset --dir " +
                            folder.file("missing") + "` fetches C4 there")));
  const auto first_row = [&](const TextOptions& options, RowPlan plan = {.seq_len = 4}) {
    rows_of(*text_rows(options, plan), 4, 1);
  };
  folder.write("a.json", "\n\n");
  EXPECT_THAT([&] { first_row(byte_options(folder.path(), true)); },
              ThrowsMessage<Error>(HasSubstr("a.json: without a line")));
  folder.write("a.json", "{\"txt\": \"abc\"}\n");
  EXPECT_THAT(
      [&] { first_row(byte_options(folder.path(), true)); },
      ThrowsMessage<Error>(HasSubstr("a.json: without a \"text\" that is a string; the keys that "
                                     "are there: txt")));
  folder.write("a.json", text_line("abc"));
  TextOptions split = byte_options(folder.path(), true);
  split.order = DataOrder::torchtitan;
  EXPECT_THAT(
      [&] { first_row(split, {.seq_len = 4, .global_batch = 2, .dp_rank = 1, .dp_size = 2}); },
      ThrowsMessage<Error>(HasSubstr("the set is too small for so many ranks")));
  TextOptions small = byte_options(folder.path(), true);
  small.vocab_size = 256;
  EXPECT_THAT([&] { first_row(small); },
              ThrowsMessage<Error>(
                  HasSubstr("the tokenizer makes the id 256, but the model's vocabulary")));
}

TEST(TextRows, AnErrorComesAfterTheRowsBeforeIt) {
  const test::TemporaryFolder folder;
  std::string shard;  // several batches
  for (int i = 0; i < 20000; ++i) shard += text_line("document " + std::to_string(i * 7919));
  folder.write("a.json.gz", gz(shard).substr(0, 70000));
  const log::Capture quiet;
  std::vector<size_t> counts;
  for (const int workers : {1, 4, 4}) {
    const auto source = text_rows(byte_options(folder.path(), false, workers), {.seq_len = 64});
    std::vector<int32_t> inputs(64), labels(64);
    size_t rows = 0;
    EXPECT_THROW(for (;; ++rows) source->next(1, inputs, labels), Error);
    EXPECT_THROW(source->next(1, inputs, labels), Error);  // and again
    counts.push_back(rows);
  }
  EXPECT_GT(counts[0], 0u);
  EXPECT_EQ(counts[1], counts[0]);
  EXPECT_EQ(counts[2], counts[0]);
}

TEST(SavedState, NamesWhatDoesNotFit) {
  const test::TemporaryFolder folder;
  folder.write("c4-train.0.json", text_line("one") + text_line("two"));
  const log::Capture quiet;
  TextOptions options = byte_options(folder.path(), true);
  const RowPlan plan{.seq_len = 4, .global_batch = 2, .dp_size = 2};
  SavedStates states;
  test::run_rows(options, plan, 3, &states);
  const auto go_on = [&](const SavedStates& s) { text_rows(options, {.seq_len = 4}, s); };
  EXPECT_THAT([&] { go_on({states[1]}); },
              ThrowsMessage<Error>(HasSubstr("are those of 1 ranks and lack what rank 0 of 1 needs "
                                             "(stream 0)")));
  EXPECT_THAT([&] { go_on({"{}"}); },
              ThrowsMessage<Error>(HasSubstr("the saved position in the data set cannot be read")));
  EXPECT_THAT(
      [&] { random_rows({}, 10, 1, states); },
      ThrowsMessage<Error>(HasSubstr("is of the order or data set \"global\", but the run's "
                                     "is \"random\"")));
  SavedStates later;
  test::run_rows(options, plan, 4, &later);
  EXPECT_THAT(
      [&] {
        go_on({states[0], later[1]});
      },
      ThrowsMessage<Error>(HasSubstr("one is at row 6, one at row 8")));
  folder.write("c4-train.1.json", text_line("three"));
  EXPECT_THAT([&] { go_on(states); },
              ThrowsMessage<Error>(HasSubstr("has 2 shards for this rank, but 1 when the run was "
                                             "saved")));
}

}  // namespace
}  // namespace nereus::data
