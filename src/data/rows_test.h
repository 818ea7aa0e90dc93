// For this layer's tests: text data sets made on the spot, and rows read from a source.
#pragma once

#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>
#include <string>
#include <vector>

#include "data/document_encoder.h"
#include "data/row_source.h"
#include "test/test_tensor.h"

namespace nereus::test {

// Compressed, one member.
inline std::string gz(const std::string& text) {
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

// A line of a shard; `text` is plain (nothing to escape).
inline std::string text_line(const std::string& text) { return "{\"text\": \"" + text + "\"}\n"; }

inline const std::shared_ptr<const data::Tokenizer>& deepseek() {
  static const auto tokenizer = data::Tokenizer::load(source_path("assets/tokenizer"));
  return tokenizer;
}

// The golden shards, or others, with DeepSeek-V3's tokenizer.
inline data::TextOptions deepseek_options(DataOrder order, bool loop, int workers = 2) {
  return {.dataset = "c4",
          .path = source_path("tests/golden/tokenizer/c4"),
          .order = order,
          .workers = workers,
          .loop = loop,
          .vocab_size = 129280,
          .make_encoder = data::document_encoder(deepseek())};
}

// An encoder without a vocabulary: a byte is its own id; 256 begins and 257 ends a document.
inline data::TextOptions byte_options(const std::string& path, bool loop, int workers = 2) {
  return {.dataset = "c4",
          .path = path,
          .workers = workers,
          .loop = loop,
          .vocab_size = 258,
          .make_encoder = [] {
            return [](std::string_view text, std::vector<int32_t>& ids) {
              ids.push_back(256);
              for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
              ids.push_back(257);
            };
          }};
}

using Row = std::vector<int32_t>;  // seq_len + 1 tokens

// Rows until the source ends or `most` are there.
inline std::vector<Row> rows_of(data::RowSource& source, int64_t seq_len, int64_t most) {
  std::vector<Row> out;
  std::vector<int32_t> in(static_cast<size_t>(seq_len)), labels(in.size());
  while (static_cast<int64_t>(out.size()) < most && source.next(1, in, labels) == 1) {
    EXPECT_TRUE(std::equal(in.begin() + 1, in.end(), labels.begin()));
    out.push_back(in);
    out.back().push_back(labels.back());
  }
  return out;
}

// The run's next `steps` global batches, row by row, from the sources of plan.dp_size ranks.
// `states`: all ranks', where they begin (none: the beginning) and, afterwards, where they are.
inline std::vector<Row> run_rows(const data::TextOptions& options, data::RowPlan plan,
                                 int64_t steps, data::SavedStates* states = nullptr) {
  std::vector<Row> out(static_cast<size_t>(steps * plan.global_batch));
  data::SavedStates after;
  for (plan.dp_rank = 0; plan.dp_rank < plan.dp_size; ++plan.dp_rank) {
    const auto source =
        data::text_rows(options, plan, states != nullptr ? *states : data::SavedStates{});
    const std::vector<Row> rows = rows_of(*source, plan.seq_len, steps * plan.local_rows());
    for (size_t i = 0; i < rows.size(); ++i)
      out[static_cast<size_t>(plan.global_row(static_cast<int64_t>(i)))] = rows[i];
    const bool whole = static_cast<int64_t>(rows.size()) == steps * plan.local_rows();
    after.push_back(whole ? source->save_state() : "ended");
  }
  if (states != nullptr) *states = after;
  return out;
}

}  // namespace nereus::test
