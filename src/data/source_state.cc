#include "data/source_state.h"

#include <nlohmann/json.hpp>

#include "base/check.h"

namespace nereus::data {
namespace {

using nlohmann::json;

json json_of(const ReadPosition& p) {
  return {{"document", p.document}, {"epoch", p.epoch}, {"shard", p.shard},
          {"line", p.line},         {"index", p.index}, {"loads", p.loads}};
}

ReadPosition read_position(const json& j) {
  return {.document = j.at("document").get<int64_t>(),
          .epoch = j.at("epoch").get<int64_t>(),
          .shard = j.at("shard").get<int64_t>(),
          .line = j.at("line").get<int64_t>(),
          .index = j.at("index").get<int64_t>(),
          .loads = j.at("loads").get<std::vector<int64_t>>()};
}

SourceState parse_state(const std::string& text) {
  try {
    const json j = json::parse(text);
    SourceState out;
    out.source = j.at("source").get<std::string>();
    out.row = j.at("row").get<int64_t>();
    if (!j.contains("reader")) return out;
    out.dp_rank = j.at("dp_rank").get<int64_t>();
    out.dp_size = j.at("dp_size").get<int64_t>();
    out.streams = j.at("streams").get<int64_t>();
    for (const json& p : j.at("positions"))
      out.positions[p.at(0).get<int64_t>()] = {p.at(1).get<int64_t>(), p.at(2).get<int64_t>()};
    out.reader = read_position(j.at("reader"));
    out.shard = j.at("shard").get<std::string>();
    out.shards = j.at("shards").get<int64_t>();
    return out;
  } catch (const json::exception& e) {
    NEREUS_FAIL(kConfig, "the saved position in the data set cannot be read: {}", e.what());
  }
}

}  // namespace

std::string to_string(const SourceState& s) {
  json j = {{"source", s.source}, {"row", s.row}};
  if (s.streams > 0) {
    j["dp_rank"] = s.dp_rank;
    j["dp_size"] = s.dp_size;
    j["streams"] = s.streams;
    json& positions = j["positions"] = json::array();
    for (const auto& [stream, p] : s.positions) positions.push_back({stream, p.document, p.token});
    j["reader"] = json_of(s.reader);
    j["shard"] = s.shard;
    j["shards"] = s.shards;
  }
  return j.dump();
}

std::vector<SourceState> parse_states(const std::vector<std::string>& texts,
                                      const std::string& source) {
  std::vector<SourceState> out;
  for (const std::string& text : texts) {
    out.push_back(parse_state(text));
    NEREUS_CHECK(kConfig, out.back().source == source,
                 "the saved position in the data set is of the order or data set \"{}\", but the "
                 "run's is \"{}\"; set training.dataset and data.order as they were",
                 out.back().source, source);
    NEREUS_CHECK(kConfig, out.back().row == out.front().row,
                 "the saved positions in the data set do not belong together: one is at row {}, "
                 "one at row {}",
                 out.front().row, out.back().row);
  }
  return out;
}

int64_t next_step(const RowPlan& plan, int64_t first, int64_t rows) {
  NEREUS_CHECK(kContract, rows % plan.local_rows() == 0,
               "the data set's position is saved after {} rows, in the middle of a step of {}",
               rows, plan.local_rows());
  return first + rows / plan.local_rows() * plan.global_batch;
}

std::string row_state(const std::string& source, int64_t row) {
  SourceState s;
  s.source = source;
  s.row = row;
  return to_string(s);
}

int64_t parse_row_state(const std::vector<std::string>& texts, const std::string& source) {
  const std::vector<SourceState> states = parse_states(texts, source);
  return states.empty() ? 0 : states.front().row;
}

}  // namespace nereus::data
