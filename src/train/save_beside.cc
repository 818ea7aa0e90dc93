#include "train/save_beside.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/text.h"
#include "base/units.h"
#include "control/tcp.h"
#include "observe/device_info.h"

namespace nereus {

SaveBeside::SaveBeside(Engine& engine, Stream& stream)
    : slices_(rank_slices(engine)),
      biases_(writes_biases(engine.world()) ? rank_biases(engine) : std::vector<NamedView>()),
      snapshot_(slices_, engine.store(), biases_, stream, {}),
      maker_([this] {
        try {
          snapshot_.memory().make();
        } catch (const Error& e) {
          no_memory_ = e.what();
        }
      }) {}

SaveBeside::~SaveBeside() {
  snapshot_.memory().stop();
  if (maker_.joinable()) maker_.join();
  if (writer_.joinable()) writer_.join();
}

std::string SaveBeside::made() {
  if (maker_.joinable()) maker_.join();
  return no_memory_;
}

void SaveBeside::begin(Engine& engine, Stream& stream, World& world, int64_t step,
                       SaveTogether save) {
  NEREUS_CHECK(kContract, !writing_, "a save of step {} begins while one goes on", step);
  begun_ = Clock::now();
  snapshot_.take(engine.store(), biases_, stream);
  writing_ = true;
  current_ = {.step = step, .failure = "", .seconds = 0};
  error_ = nullptr;
  done_ = false;
  save.write_shard = [this, facts = save.write_shard](const std::string& folder,
                                                      const std::string& name) {
    ThreadPool pool(1);
    Stream host(Device::cpu(), &pool);
    Manifest part = save_shard(folder, name, snapshot_.contents(), host);
    part.run = facts("", "").run;
    return part;
  };
  writer_ = std::thread([this, &world, save = std::move(save), trace = stream.trace()] {
    const TraceRange range(trace, TraceKind::saving, "write the checkpoint");
    try {
      ThreadPool pool(1);
      Stream host(Device::cpu(), &pool);
      snapshot_.finish(host);
      current_.failure = save_together(world, save);
    } catch (...) {
      error_ = std::current_exception();
    }
    done_ = true;
  });
}

std::optional<SaveBeside::Ended> SaveBeside::end() {
  if (!writing_) return std::nullopt;
  writer_.join();
  writing_ = false;
  if (error_) std::rethrow_exception(error_);
  current_.seconds = seconds_since(begun_);
  return current_;
}

HostShare host_share(const Engine& engine) {
  constexpr int64_t kBesides = int64_t{256} << 20;  // of a rank that writes
  const auto biases =
      writes_biases(engine.world()) ? rank_biases(engine) : std::vector<NamedView>();
  return {.host = tcp::host_name(),
          .bytes = Snapshot::bytes_of(rank_slices(engine), engine.store(), biases) + kBesides,
          .free = static_cast<int64_t>(available_host_memory())};
}

void check_host_memory(World& world, const HostShare& mine, const std::string& asked) {
  const auto key = [](const char* what, int rank) {
    return fmt::format("checkpoint/memory/{}/{}", what, rank);
  };
  std::string verdict;
  if (world.rank() != 0) {
    world.set(
        key("share", world.rank()),
        nlohmann::json{{"host", mine.host}, {"bytes", mine.bytes}, {"free", mine.free}}.dump());
    verdict = world.take(key("verdict", world.rank()), world.timeout());
  } else {
    struct Host {
      int64_t ranks = 0, bytes = 0, free = 0;
    };
    std::map<std::string, Host> hosts;
    const auto add = [&](const HostShare& s) {
      Host& h = hosts[s.host];
      h.free = h.ranks++ == 0 ? s.free : std::min(h.free, s.free);
      h.bytes += s.bytes;
    };
    add(mine);
    for (int r = 1; r < world.size(); ++r) {
      const auto j = nlohmann::json::parse(world.take(key("share", r), world.timeout()));
      add({.host = j.at("host"), .bytes = j.at("bytes"), .free = j.at("free")});
    }
    for (const auto& [name, h] : hosts)
      if (h.bytes >= h.free && verdict.empty())
        verdict = fmt::format(
            "{} keeps a copy of what a rank saves in host memory: {} for the {} rank{} on {}, "
            "where "
            "{} are free. Set checkpoint.async_mode to disabled, or optimizer.moment_dtype to "
            "bfloat16, or take more hosts.",
            asked, size_text(h.bytes), h.ranks, h.ranks == 1 ? "" : "s", name, size_text(h.free));
    for (int r = 1; r < world.size(); ++r) world.set(key("verdict", r), verdict);
  }
  NEREUS_CHECK(kConfig, verdict.empty(), "{}", verdict);
}

}  // namespace nereus
