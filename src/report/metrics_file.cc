#include "report/metrics_file.h"

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "base/check.h"
#include "base/files.h"
#include "report/json_lines.h"

namespace nereus::report {
namespace {

namespace fs = std::filesystem;

// Of metrics.N.jsonl; 0: of another name.
int64_t start_number(const std::string& name) {
  constexpr std::string_view kBegin = "metrics.", kEnd = ".jsonl";
  if (!name.starts_with(kBegin) || !name.ends_with(kEnd) ||
      name.size() <= kBegin.size() + kEnd.size())
    return 0;
  const char* const last = name.data() + name.size() - kEnd.size();
  int64_t n = 0;
  const auto [rest, error] = std::from_chars(name.data() + kBegin.size(), last, n);
  return error == std::errc() && rest == last && n > 0 ? n : 0;
}

}  // namespace

std::vector<std::string> metrics_files(const std::string& folder) {
  std::error_code error;
  std::vector<std::pair<int64_t, std::string>> found;
  for (const auto& entry : entries_of(folder, error))
    if (const int64_t n = start_number(entry.path().filename().string()); n > 0)
      found.emplace_back(n, entry.path().string());
  std::sort(found.begin(), found.end());
  std::vector<std::string> out;
  out.reserve(found.size() + 1);
  for (auto& [n, path] : found) out.push_back(std::move(path));
  if (const fs::path last = fs::path(folder) / "metrics.jsonl"; is_there(last))
    out.push_back(last.string());
  return out;
}

void read_metrics(const std::string& path, Run& run, RunBuilder& builder) {
  using Kind = JsonField::Kind;
  builder.start();
  JsonLines lines(path);
  int64_t others = 0;
  for (std::vector<JsonField> fields; lines.next(fields);) {
    const JsonField* step = nullptr;
    const JsonField* validation = nullptr;
    for (const JsonField& f : fields) {
      if (f.key == "step" && f.kind == Kind::number) step = &f;
      if (f.key == "validation_loss") validation = &f;
    }
    if (step == nullptr || !(step->number >= 0 && step->number < 9e15)) {
      ++others;
      continue;
    }
    const auto number = static_cast<int64_t>(step->number);
    if (validation != nullptr) {
      builder.validation(number, validation->kind == Kind::number ? validation->number : kUnknown);
      continue;
    }
    double time = kUnknown;
    for (const JsonField& f : fields) {
      if (&f == step) continue;
      if (f.key == "time") {
        if (f.kind == Kind::number) time = f.number;
      } else if (f.kind == Kind::number) {
        builder.figure(f.key, f.number);
      } else if (f.kind == Kind::null && (f.key == "loss" || f.key == "grad_norm")) {
        builder.figure(f.key, kUnknown);  // JSON has no NaN
      }
    }
    builder.seen(time);
    builder.step_end(number, time);
  }
  const std::string name = fs::path(path).filename().string();
  if (lines.half_written())
    run.notes.push_back(fmt::format("{}: the last line is half-written and left out.", name));
  const int64_t bad = lines.unreadable() - (lines.half_written() ? 1 : 0) + others;
  if (bad > 0)
    run.notes.push_back(fmt::format("{}: {} line{} no step or validation; left out.", name, bad,
                                    bad == 1 ? " is" : "s are"));
}

}  // namespace nereus::report
