#include "cli/checkpoint.h"

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/text.h"
#include "checkpoint/difference.h"
#include "checkpoint/step_folders.h"
#include "checkpoint/verify.h"
#include "cli/command.h"
#include "tensor/format.h"
#include "train/config_changes.h"
#include "train/run_state.h"

namespace nereus {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

struct Opened {
  std::string path;
  Manifest manifest;
  RunState run;
};

// A step's folder, or the newest of a folder of steps.
std::string step_folder(const std::string& path) {
  NEREUS_CHECK(kConfig, fs::exists(path), "{}: there is no such folder", path);
  if (fs::exists(fs::path(path) / kManifestFile)) return path;
  for (const StepFolder& s : step_folders(path))
    if (s.kind == StepFolder::Kind::native) return s.path;
  NEREUS_FAIL(kConfig,
              "{}: this is no native checkpoint, and no folder of them: it has no {} and no step-N "
              "that has one",
              path, kManifestFile);
}

Opened open(const std::string& path) {
  Opened out{.path = step_folder(path), .manifest = {}, .run = {}};
  out.manifest = read_manifest(out.path);
  out.run = parse_run_state(out.manifest.run, out.path + "/" + kManifestFile);
  return out;
}

// On a terminal, one line that is written over; elsewhere nothing.
class Progress {
 public:
  explicit Progress(const char* what) : what_(what), shown_(isatty(STDERR_FILENO) != 0) {}
  ~Progress() {
    if (shown_) std::fputs("\r\033[K", stderr);
  }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void operator()(size_t done, size_t of) const {
    if (!shown_) return;
    constexpr size_t kWidth = 30;
    const size_t filled = of == 0 ? kWidth : done * kWidth / of;
    std::fprintf(stderr, "\r%s [%s%s] %zu of %zu tensors", what_, std::string(filled, '#').c_str(),
                 std::string(kWidth - filled, ' ').c_str(), done, of);
    std::fflush(stderr);
  }

 private:
  const char* what_;
  bool shown_;
};

void print(const std::string& text) { std::fputs(text.c_str(), stdout); }

ordered_json shape_json(const Shape& shape) {
  ordered_json out = ordered_json::array();
  for (int d = 0; d < shape.rank(); ++d) out.push_back(shape[d]);
  return out;
}

int show(const std::string& path, bool json, bool tensors) {
  const Opened c = open(path);
  if (json) {
    ordered_json out = {{"path", c.path}, {"bytes", c.manifest.bytes()}};
    out["files"] = c.manifest.files.size();
    out["run"] = ordered_json::parse(c.manifest.run);
    out["tensors"] = ordered_json::array();
    for (const Manifest::Tensor& t : c.manifest.tensors)
      out["tensors"].push_back({{"name", t.name},
                                {"state", name_of(t.state)},
                                {"dtype", name_of(t.dtype)},
                                {"shape", shape_json(t.shape)},
                                {"slices", t.slices.size()},
                                {"checksum", fmt::format("{:016x}", t.checksum())}});
    print(out.dump(1) + "\n");
    return 0;
  }
  const RunState& r = c.run;
  print(fmt::format("{}: step {}, {} tokens, saved {} by nereus {}\n", c.path, r.step, r.tokens,
                    r.time, r.program));
  print(fmt::format("  holds       {}\n", r.weights_only ? "weights alone: no run can go on from it"
                                                         : "all that a run goes on from"));
  print(fmt::format("  size        {} in {} files\n", size_text(c.manifest.bytes()),
                    c.manifest.files.size()));
  print(fmt::format("  layout      {} ({} ranks), global batch {}\n", r.layout, r.ranks,
                    r.global_batch));
  print(fmt::format("  optimizer   {} steps; learning rate {} in the last of {}\n",
                    r.optimizer_step, r.lr, r.schedule_step));
  print(fmt::format("  fingerprint {:016x}; begun {} time{}\n", r.fingerprint, r.lineage.size(),
                    r.lineage.size() == 1 ? "" : "s"));
  for (size_t i = 0; i < r.data.size(); ++i)
    if (i < 4 || tensors)
      print(fmt::format(
          "  data of rank {}: {}\n", i,
          r.data[i].size() > 160 && !tensors ? r.data[i].substr(0, 160) + "..." : r.data[i]));
  for (const SavedState state :
       {SavedState::model, SavedState::first_moment, SavedState::second_moment}) {
    int64_t count = 0, elements = 0, bytes = 0;
    for (const Manifest::Tensor& t : c.manifest.tensors) {
      if (t.state != state) continue;
      ++count;
      elements += t.shape.count();
      bytes += t.shape.count() * size_of(t.dtype);
    }
    if (count > 0)
      print(fmt::format("  {:<11} {} tensors, {} elements, {}\n", name_of(state), count, elements,
                        size_text(bytes)));
  }
  if (!tensors) return 0;
  for (const Manifest::Tensor& t : c.manifest.tensors)
    print(fmt::format("    {:<10} {} {} {}, {} slice{}\n", name_of(t.state), t.name, t.dtype,
                      t.shape, t.slices.size(), t.slices.size() == 1 ? "" : "s"));
  return 0;
}

int verify(const std::string& path, bool json) {
  std::vector<std::string> damage;
  std::string folder = path;
  int64_t bytes = 0;
  try {
    folder = step_folder(path);
    const Manifest m = read_manifest(folder);
    bytes = m.bytes();
    const Progress progress("reading");
    for (size_t i = 0; i < m.tensors.size(); ++i) {
      progress(i, m.tensors.size());
      for (std::string& line : verify_tensor(folder, m, i)) damage.push_back(std::move(line));
    }
  } catch (const Error& e) {
    if (e.fault() != Fault::kIo) throw;
    damage.emplace_back(e.what());
  }
  if (json) {
    print(ordered_json{{"path", folder}, {"whole", damage.empty()}, {"damage", damage}}.dump(1) +
          "\n");
    return damage.empty() ? 0 : Error(Fault::kIo, "").exit_code();
  }
  NEREUS_CHECK(kIo, damage.empty(), "{} is damaged:\n  {}", folder, fmt::join(damage, "\n  "));
  print(fmt::format("{}: whole, {} read and compared\n", folder, size_text(bytes)));
  return 0;
}

int diff(const std::string& a_path, const std::string& b_path, bool json) {
  const Opened a = open(a_path), b = open(b_path);
  std::vector<TensorDifference> tensors;
  {
    const Progress progress("comparing");
    tensors = tensor_differences(a.path, a.manifest, b.path, b.manifest, std::cref(progress));
  }
  std::vector<std::string> keys;
  const auto add = [&](const auto& there, const auto& here, const char* prefix) {
    for (const auto& [key, value] : there)
      if (const auto it = here.find(key); it != here.end() && it->second != value)
        keys.push_back(fmt::format("{}{}: {} and {}", prefix, key, value, it->second));
  };
  add(a.run.model, b.run.model, "model ");
  add(a.run.config, b.run.config, "");
  const bool same = tensors.empty() && keys.empty() && a.run.step == b.run.step;
  if (json) {
    ordered_json out = {{"a", a.path}, {"b", b.path}, {"same", same}};
    out["steps"] = {a.run.step, b.run.step};
    out["configuration"] = keys;
    out["tensors"] = ordered_json::array();
    for (const TensorDifference& d : tensors) {
      ordered_json t = {{"name", d.name}, {"state", name_of(d.state)}};
      if (!d.what.empty()) {
        t["difference"] = d.what;
      } else {
        t["elements"] = {d.count, d.of};
        t["largest"] = std::isfinite(d.largest) ? ordered_json(d.largest) : ordered_json(nullptr);
        t["largest_at"] = d.largest_at;
        t["first_at"] = d.first;
      }
      out["tensors"].push_back(std::move(t));
    }
    print(out.dump(1) + "\n");
    return same ? 0 : 1;
  }
  if (a.run.step != b.run.step) print(fmt::format("step: {} and {}\n", a.run.step, b.run.step));
  for (const std::string& key : keys) print(key + "\n");
  for (const TensorDifference& d : tensors)
    print(d.what.empty()
              ? fmt::format("{} of {}: {} of {} elements differ, by {:.3g} at most (element {}), "
                            "the first is {}\n",
                            name_of(d.state), d.name, d.count, d.of, d.largest, d.largest_at,
                            d.first)
              : fmt::format("{} of {}: {}\n", name_of(d.state), d.name, d.what));
  if (same) print("the same\n");
  return same ? 0 : 1;
}

}  // namespace

int run_checkpoint(int argc, char** argv) {
  CLI::App app("What is in a native checkpoint, whether it is whole, where two differ",
               "nereus checkpoint");
  app.require_subcommand(1);
  std::string a, b;
  bool json = false, tensors = false;
  const auto sub = [&](const char* name, const char* help) {
    CLI::App* const s = app.add_subcommand(name, help);
    s->add_option("checkpoint", a, "folder of a step, or of a run's checkpoints: the newest")
        ->required();
    s->add_flag("--json", json, "as JSON");
    return s;
  };
  CLI::App* const show_command =
      sub("show", "what it holds: step, layout, sizes, data position, tensors");
  show_command->add_flag("--tensors", tensors, "each tensor in a line");
  CLI::App* const verify_command =
      sub("verify", "read all of it and compare the checksums; exit code 74 when it is damaged");
  CLI::App* const diff_command =
      sub("diff", "configuration and tensors in which two differ; exit code 1 when they do");
  diff_command->add_option("other", b, "the second checkpoint")->required();
  if (const auto done = parse_command(app, argc, argv)) return *done;
  if (*show_command) return show(a, json, tensors);
  if (*verify_command) return verify(a, json);
  return diff(a, b, json);
}

}  // namespace nereus
