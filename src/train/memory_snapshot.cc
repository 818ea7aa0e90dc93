#include "train/memory_snapshot.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/atomic_file.h"
#include "base/check.h"

namespace nereus {

void write_snapshot(const std::string& path, const MemorySnapshot& snapshot,
                    std::span<const TraceMemory> series, int64_t begin) {
  using Json = nlohmann::ordered_json;
  const TraceFacts& f = snapshot.facts;
  Json json = {{"rank", f.rank},         {"ranks", f.ranks},
               {"step", f.last_step},    {"device", f.device},
               {"layout", f.layout},     {"total", static_cast<int64_t>(snapshot.table.total())},
               {"owners", Json::array()}};
  for (const MemoryTable::Row& r : snapshot.table.rows)
    json["owners"].push_back(
        {{"owner", r.owner}, {"bytes", static_cast<int64_t>(r.bytes)}, {"host", r.host}});
  for (const auto& [key, entries] : {std::pair("pass_by_name", &snapshot.table.largest),
                                     std::pair("kept_by_name", &snapshot.table.kept)}) {
    json[key] = Json::array();
    for (const Arena::Entry& e : *entries)
      json[key].push_back({{"name", e.what}, {"bytes", e.bytes}});
  }
  json["series"] = Json::array();
  for (const TraceMemory& m : series) {
    if (m.time < begin) continue;
    Json action = {{"time", 1e-9 * static_cast<double>(m.time - begin)}, {"action", m.action}};
    if (m.stage >= 0) action["stage"] = m.stage;
    if (m.microbatch >= 0) action["microbatch"] = m.microbatch;
    action["live"] = {{"kept", m.kept}, {"edges", m.edges}, {"pass", m.pass}};
    json["series"].push_back(std::move(action));
  }
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  if (!error) error = replace_file(path, json.dump() + "\n");
  NEREUS_CHECK(kIo, !error, "cannot write {}: {}", path, error.message());
}

}  // namespace nereus
