// The position of a source of rows, as text for a checkpoint. From the texts of all ranks any
// number of ranks can continue (except in one order, which says so).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "data/dealer.h"
#include "data/packer.h"
#include "data/row_source.h"

namespace nereus::data {

struct SourceState {
  std::string source;  // "global", "torchtitan", "tokens" or "random"
  int64_t row = 0;     // of the run, the next one
  int64_t dp_rank = 0, dp_size = 1;
  int64_t streams = 0;                         // of all ranks
  std::map<int64_t, TokenPosition> positions;  // this rank's streams: the next token of each
  ReadPosition reader;                         // not after any of them
  std::string shard;                           // the reader's, its file name
  int64_t shards = 0;
};

std::string to_string(const SourceState&);

// The states of all ranks. Throws Error{kConfig} for a text that is not a state, and for states of
// another source or of different runs.
std::vector<SourceState> parse_states(const std::vector<std::string>& texts,
                                      const std::string& source);

// The run's row that the next step begins with, after `rows` rows of this rank, whole steps, from
// the run's row `first`.
int64_t next_step(const RowPlan&, int64_t first, int64_t rows);

// Sources that need to know the next row only.
std::string row_state(const std::string& source, int64_t row);
int64_t parse_row_state(const std::vector<std::string>& texts, const std::string& source);

}  // namespace nereus::data
