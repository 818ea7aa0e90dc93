#include "checkpoint/save_together.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/atomic_file.h"
#include "base/check.h"
#include "checkpoint/step_folders.h"
#include "checkpoint/verify.h"
#include "control/tcp.h"

namespace nereus {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

constexpr char kGood = '+', kBad = '-';  // a part begins with one of them

// This rank's part as a text for rank 0.
std::string my_part(const SaveTogether& s, int rank, int ranks) {
  try {
    const std::string folder = partial_path(s.place);
    std::error_code error;
    fs::create_directories(folder, error);
    NEREUS_CHECK(kIo, !error, "{}: cannot be made: {}", folder, error.message());
    const Manifest part =
        s.write_shard(folder, fmt::format("shard-{:05}-of-{:05}.safetensors", rank, ranks));
    for (size_t i = 0; s.verify && i < part.tensors.size(); ++i) {
      const std::vector<std::string> wrong = verify_tensor(folder, part, i);
      NEREUS_CHECK(kIo, wrong.empty(),
                   "{}\n  It was read back (checkpoint.verify): the disk, or what is between, does "
                   "not keep what it is given.",
                   wrong.front());
    }
    return kGood + to_text(part);
  } catch (const Error& e) {
    if (e.fault() != Fault::kIo && e.fault() != Fault::kConfig) throw;
    return kBad + (ranks == 1 ? std::string(e.what())
                              : fmt::format("rank {} on {}: {}", rank, tcp::host_name(), e.what()));
  }
}

// File systems of several hosts may show late what another one wrote.
void wait_for_files(const Manifest& m, const std::string& folder, std::chrono::seconds limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  for (;;) {
    try {
      return check_files(m, folder);
    } catch (const Error& e) {
      NEREUS_CHECK(kIo, std::chrono::steady_clock::now() < deadline,
                   "{}\n  Rank 0 ({}) does not see after {} s what another rank wrote: is it one "
                   "file system on all hosts?",
                   e.what(), tcp::host_name(), limit.count());
      std::this_thread::sleep_for(milliseconds(100));
    }
  }
}

void complete(const SaveTogether& s, std::vector<Manifest> parts) {
  std::vector<std::string> facts;
  for (const Manifest& p : parts) facts.push_back(p.run);
  Manifest all = merge(std::move(parts));
  all.run = s.make_run(facts);
  const std::string folder = partial_path(s.place), path = folder + "/" + kManifestFile;
  check_slices(all, path);
  wait_for_files(all, folder, s.visible);
  const std::error_code error = replace_file(path, to_text(all), {.sync = true});
  NEREUS_CHECK(kIo, !error, "{}: cannot be written: {}", path, error.message());
  commit_step(s.place);
}

// What rank 0 does with all parts: "" or what went wrong.
std::string outcome(const SaveTogether& s, const std::vector<std::string>& texts) {
  std::string bad;
  std::vector<Manifest> parts;
  for (const std::string& text : texts) {
    if (text[0] == kBad) {
      if (bad.empty()) bad = text.substr(1);
    } else if (bad.empty()) {
      parts.push_back(parse_manifest(text.substr(1), "a rank's part of " + s.place));
    }
  }
  try {
    if (bad.empty()) complete(s, std::move(parts));
  } catch (const Error& e) {
    if (e.fault() != Fault::kIo) throw;
    bad = e.what();
  }
  std::error_code ignored;
  if (!bad.empty()) fs::remove_all(partial_path(s.place), ignored);
  return bad;
}

}  // namespace

std::string save_together(World& world, const SaveTogether& s) {
  const std::string part = my_part(s, world.rank(), world.size());
  const auto part_key = [&](int r) { return fmt::format("{}/part/{}", s.key, r); };
  const auto end_key = [&](int r) { return fmt::format("{}/end/{}", s.key, r); };
  if (world.rank() != 0) {
    world.set(part_key(world.rank()), part);
    return world.take(end_key(world.rank()), s.patience + s.visible + s.patience);
  }
  std::vector<std::string> texts{part};
  for (int r = 1; r < world.size(); ++r) texts.push_back(world.take(part_key(r), s.patience));
  const std::string end = outcome(s, texts);
  for (int r = 1; r < world.size(); ++r) world.set(end_key(r), end);
  return end;
}

}  // namespace nereus
