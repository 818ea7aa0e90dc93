// Where training rows come from. A row is seq_len inputs and seq_len labels; a step consumes a
// global batch of rows, of which a data-parallel rank has an equal, contiguous part: its row i of
// step s is row s * global_batch + dp_rank * local_rows() + i of the run.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "config/choices.h"

namespace nereus::data {

struct RowPlan {
  int64_t seq_len = 1;
  int64_t global_batch = 1;  // rows a step, over all ranks; divisible by dp_size
  int dp_rank = 0, dp_size = 1;
  // A file's own batches may have any number of rows: the set is read row by row, by no step.
  bool any_batch = false;
  std::string path_key = "training.dataset_path";  // which key names the data set, for messages

  int64_t local_rows() const { return global_batch / dp_size; }
  // The run's row that is this rank's `row`-th.
  int64_t global_row(int64_t row) const {
    return row / local_rows() * global_batch + dp_rank * local_rows() + row % local_rows();
  }
};

struct SourceStatus {
  int64_t rows = 0;        // given out
  int64_t documents = 0;   // read into them
  int64_t text_bytes = 0;  // of those documents
  int64_t epochs = 0;      // whole passes over the documents before the current one

  // The documents are in parts, as many on every rank; what a rank does not read of them it knows
  // nothing of. Two ranks may read the same part: what one of them counts is what both do.
  struct Part {
    int64_t tokens_a_pass = -1;  // -1: not known, as until the first pass has ended
    int64_t not_json = 0;        // lines left out
    int64_t without_text = 0;    // likewise: JSON, but without a "text" that is a string
    int64_t replaced = 0;        // ill-formed parts of UTF-8 and lone surrogates, each now U+FFFD
    // Passed over, wholly or from some line on. Shards that all ranks read are the first part's.
    int64_t broken_shards = 0;

    int64_t skipped_lines() const { return not_json + without_text; }
  };
  std::vector<Part> parts = {};  // none: the source has no documents

  // Of all parts. 0 tokens: not known.
  Part all() const {
    Part out{.tokens_a_pass = 0};
    bool known = true;
    for (const Part& p : parts) {
      known = known && p.tokens_a_pass >= 0;
      out.tokens_a_pass += p.tokens_a_pass;
      out.not_json += p.not_json;
      out.without_text += p.without_text;
      out.replaced += p.replaced;
      out.broken_shards += p.broken_shards;
    }
    if (!known) out.tokens_a_pass = 0;
    return out;
  }
};

class RowSource {
 public:
  virtual ~RowSource() = default;
  // The next rows of this rank into inputs and labels (both rows * seq_len). Returns how many there
  // were: fewer than asked for only at the end of a source that does not loop.
  virtual int64_t next(int64_t rows, std::span<int32_t> inputs, std::span<int32_t> labels) = 0;
  virtual SourceStatus status() const = 0;
  // Labels that are not ignored (-100) in the whole global batch of which next() gave this rank's
  // rows, all of them, last: the same on all ranks, which need it before the step and exchange
  // nothing for it. None: the source ignores none.
  virtual std::optional<int64_t> counted() { return std::nullopt; }

  // This rank's position after a whole number of steps, as text for a checkpoint. Given the texts
  // of all ranks, the functions below continue with the next step. dp_size may differ then, except
  // for the order "torchtitan".
  virtual std::string save_state() = 0;
};

using SavedStates = std::vector<std::string>;  // none: from the beginning

// Ids drawn uniformly from the vocabulary: Philox keyed by seed, the run's row and the position.
std::unique_ptr<RowSource> random_rows(const RowPlan&, int64_t vocab_size, uint64_t seed,
                                       const SavedStates& = {});

// A file of tokens: .safetensors with `inputs` and `labels` (I64 or I32), [N, B, S] (one global
// batch a step, B the global batch, or any with RowPlan::any_batch) or [rows, S]; or .npy of
// integer ids, packed into rows of seq_len + 1. Rows are read when they are asked for; after the
// last one reading starts over when `loop` is set. A label of a .safetensors may be -100: it is
// ignored. Throws Error{kConfig} for a file that is missing or has another format, sequence length
// or batch, and for ids outside the vocabulary (all of them are checked at once in a small file,
// otherwise as rows are read).
std::unique_ptr<RowSource> token_rows(const std::string& path, const RowPlan&, int64_t vocab_size,
                                      bool loop, const SavedStates& = {});

struct TextOptions {
  std::string dataset;          // c4, c4_test, c4_validation: for messages
  std::string path;             // folder with shards (or with en/), or one shard
  std::string split = "train";  // which of a folder's shards, where they have C4's names
  // global: documents are dealt to a fixed number of streams (dealer.h), row g comes from stream
  // g mod streams, whatever the ranks: a rank tokenises its own streams only, and reads past the
  // rest. torchtitan: its per-rank split and packing.
  DataOrder order = DataOrder::global;
  int workers = 1;   // threads that decompress, parse and tokenise
  bool loop = true;  // begin again after the last document
  BrokenShard on_broken_shard = BrokenShard::stop;
  int64_t streams = 64;  // of order global (a source that does not loop has one)
  int64_t vocab_size = 0;
  // Makes an encoder for one worker thread: appends a document's ids, BOS and EOS included.
  using Encode = std::function<void(std::string_view, std::vector<int32_t>&)>;
  std::function<Encode()> make_encoder;
};

// Shards *.json.gz, *.jsonl.gz, *.json, *.jsonl of {"text": ...} lines, in order of their names,
// streamed: memory does not grow with their size. Broken lines are skipped, counted and the first
// one of each kind named. Throws Error{kConfig}: no shards, one whose first bytes say that it is
// none (unless on_broken_shard is skip), no document with a token, an id that is not in the
// vocabulary. Rows throw Error{kIo} for a shard that breaks later (likewise).
std::unique_ptr<RowSource> text_rows(const TextOptions&, const RowPlan&, const SavedStates& = {});

}  // namespace nereus::data
