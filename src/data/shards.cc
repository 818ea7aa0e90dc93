#include "data/shards.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

#include "base/check.h"
#include "base/fetched.h"
#include "base/files.h"
#include "base/text.h"
#include "data/document_text.h"
#include "data/gunzip.h"

namespace nereus::data {
namespace {

namespace fs = std::filesystem;

constexpr size_t kStart = size_t{1} << 14;     // bytes of a file that are looked at
constexpr size_t kUnpacked = size_t{1} << 16;  // of text, where these are gz
constexpr size_t kThreads = 16;

std::string file_name(const std::string& path) { return fs::path(path).filename().string(); }

bool is_shard(const std::string& name) {
  // What Hugging Face's libraries, and others, put beside data.
  constexpr std::array kNoData = {
      "config.json",        "dataset_dict.json",       "dataset_info.json",
      "dataset_infos.json", "generation_config.json",  "metadata.json",
      "package.json",       "special_tokens_map.json", "state.json",
      "tokenizer.json",     "tokenizer_config.json",   "vocab.json"};
  if (name.starts_with('.') || name.starts_with("dataset_info") || name.ends_with(".index.json") ||
      std::find(kNoData.begin(), kNoData.end(), name) != kNoData.end())
    return false;
  for (const char* ending : {".json.gz", ".jsonl.gz", ".json", ".jsonl"})
    if (name.ends_with(ending)) return true;
  return false;
}

bool has_name_of_c4(const std::string& path) {
  const std::string name = file_name(path);
  return name.starts_with("c4-train") || name.starts_with("c4-validation");
}

std::vector<std::string> shards_in(const fs::path& folder, const std::string& path_key) {
  std::vector<std::string> out;
  std::error_code error;
  if (!fs::is_directory(folder, error)) return out;
  const std::vector<fs::directory_entry> entries = entries_of(folder, error);
  NEREUS_CHECK(kConfig, !error, "{} = {}: cannot be read: {}", path_key, folder.string(),
               error.message());
  for (const auto& entry : entries) {
    const bool dangling = entry.is_symlink(error) && !entry.exists(error);
    if ((entry.is_regular_file(error) || dangling) && is_shard(entry.path().filename().string()))
      out.push_back(entry.path().string());
  }
  std::sort(out.begin(), out.end());
  return out;
}

// The start of a file; what went wrong, if it did.
std::optional<ShardFault> read_start(const std::string& path, std::string& start, bool& whole) {
  std::error_code error;
  if (fs::is_symlink(path, error) && !fs::exists(path, error))
    return ShardFault{"a link to a file that is not there",
                      fmt::format("The first one's target is {}: restore it, or remove the link.",
                                  fs::read_symlink(path, error).string())};
  errno = 0;
  std::ifstream in(path, std::ios::binary);
  start.resize(kStart);
  if (in.good()) in.read(start.data(), static_cast<std::streamsize>(start.size()));
  start.resize(static_cast<size_t>(in.gcount()));
  if (!in.is_open() || in.bad())
    return ShardFault{fmt::format("cannot be read: {}", std::strerror(errno)),
                      "Look at its permissions and at the disk."};
  whole = start.size() < kStart;
  if (start.empty())
    return ShardFault{"empty", "Download or copy it again, or take it out of the folder."};
  return std::nullopt;
}

// Unpacks the start of a gz file.
std::optional<ShardFault> unpack(const std::string& path, std::string& start, bool& whole) {
  std::string text(kUnpacked, '\0');
  size_t filled = 0;
  try {
    Gunzip gunzip(path);
    std::span<const std::byte> in = std::as_bytes(std::span(start));
    while (filled < text.size()) {
      const size_t more = gunzip.run(in, std::as_writable_bytes(std::span(text)).subspan(filled));
      filled += more;
      if (more == 0 && in.empty()) break;
    }
    whole = whole && filled < text.size();
    if (whole) gunzip.finish();
  } catch (const Error&) {
    return ShardFault{"corrupt or cut short, as gz", "Download or copy it again."};
  }
  text.resize(filled);
  start = std::move(text);
  return std::nullopt;
}

std::optional<ShardFault> of_other_kind(std::string_view start) {
  struct Kind {
    std::string_view magic;
    const char *what, *remedy;
  };
  static constexpr Kind kKinds[] = {
      {"version https://git-lfs", "a Git LFS pointer, not the file itself",
       "`git lfs pull` in their repository fetches what it stands for; or name a folder with only "
       "the shards that are there."},
      {"PAR1", "Parquet, not lines of JSON",
       "Convert it: python -c \"import pandas, sys; "
       "pandas.read_parquet(sys.argv[1]).to_json(sys.argv[2], orient='records', lines=True)\" IN "
       "OUT.jsonl"},
      {"ARROW1", "Arrow, not lines of JSON",
       "Convert it: Dataset.from_file(IN).to_json(OUT) of Hugging Face's datasets."},
      {"\x28\xB5\x2F\xFD", "compressed with zstd, which is not read here",
       "Convert it: zstd -dc IN | gzip > OUT.jsonl.gz"},
      {"BZh", "compressed with bzip2, which is not read here",
       "Convert it: bzip2 -dc IN | gzip > OUT.jsonl.gz"},
      {"\xFD"
       "7zXZ",
       "compressed with xz, which is not read here", "Convert it: xz -dc IN | gzip > OUT.jsonl.gz"},
      {"\x1F\x8B", "compressed with gzip twice",
       "Unpack it once: gzip -dc IN > OUT.json.gz, under a new name"},
      {"PK\x03\x04", "a zip archive", "Unpack it: what is in it may be shards."},
      {"\xFF\xFE", "text in UTF-16", "Convert it: iconv -f UTF-16 -t UTF-8 IN > OUT.jsonl"},
      {"\xFE\xFF", "text in UTF-16", "Convert it: iconv -f UTF-16 -t UTF-8 IN > OUT.jsonl"}};
  for (const Kind& k : kKinds)
    if (start.starts_with(k.magic)) return ShardFault{k.what, k.remedy};
  if (start.size() > 262 && start.substr(257, 5) == "ustar")
    return ShardFault{"a tar archive", "Unpack it: what is in it may be shards."};
  if (start.find_first_not_of('\0') == std::string_view::npos)
    return ShardFault{"nothing but zeros, as of a copy or a download that did not end",
                      "Download or copy it again."};
  return std::nullopt;
}

// What a folder without shards has instead, for a message.
std::string contents_of(const std::string& folder) {
  constexpr size_t kMost = 8;  // names
  std::vector<std::string> files, folders;
  std::string convert;
  std::error_code error;
  for (const fs::directory_entry& entry : entries_of(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with('.')) continue;
    (entry.is_directory(error) ? folders : files).push_back(name);
  }
  std::sort(files.begin(), files.end());
  std::sort(folders.begin(), folders.end());
  for (const std::string& name : files) {
    std::string start;
    bool whole = false;
    if (read_start((fs::path(folder) / name).string(), start, whole)) continue;
    const std::optional<ShardFault> fault = of_other_kind(start);
    if (!fault) continue;
    convert = fmt::format("\n  {}: {}\n    {}", name, fault->what, fault->remedy);
    break;
  }
  const auto list = [&](const char* what, std::vector<std::string> names) {
    if (names.empty()) return std::string();
    const size_t count = names.size();
    names.resize(std::min(count, kMost));
    return fmt::format("\n  It has {}: {}{}", what, fmt::join(names, ", "),
                       count > kMost ? fmt::format(" and {} more", count - kMost) : "");
  };
  return list("the files", files) + list("the folders, which are not looked into", folders) +
         convert;
}

// Of text that begins with a brace.
std::optional<ShardFault> of_lines(std::string_view text, bool whole) {
  std::string first_why;
  bool any = false, any_json = false, broken_first = false, indented = false;
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    if (end == std::string_view::npos && !whole) break;  // the line may be longer
    const std::string line = trimmed(text.substr(at, end - at), " \t\r");
    const bool starts_with_blank = text[at] == ' ' || text[at] == '\t';
    at = end == std::string_view::npos ? text.size() : end + 1;
    if (line.empty()) continue;
    const DocumentText document = read_document(line);
    if (document.text) return std::nullopt;
    const bool json = document.skipped == DocumentText::Skipped::no_text;
    if (json && !any_json) first_why = document.why;
    if (!any) {
      broken_first = !json;
    } else if (broken_first && starts_with_blank) {
      indented = true;
    }
    any = true;
    any_json |= json;
  }
  if (!any) return std::nullopt;
  if (broken_first && indented)
    return ShardFault{"JSON over several lines, not a document a line",
                      "Make lines of it: jq -c . IN > OUT.jsonl"};
  const std::string_view line = text.substr(0, text.find('\n'));
  if (any_json && whole && line.size() < 1000 &&
      (line.find("\"error\"") != std::string_view::npos ||
       line.find("\"message\"") != std::string_view::npos))
    return ShardFault{fmt::format("a server's answer, not the file: {}", shown_start(line)),
                      "Download it again."};
  if (any_json && first_why.starts_with("its \"text\""))
    return ShardFault{
        fmt::format("without a \"text\" that is a string; {}", first_why),
        "A line is to be {\"text\": \"...\"}, a string for each document: convert it."};
  if (any_json)
    return ShardFault{fmt::format("without a \"text\" that is a string; {}", first_why),
                      "Name the column that has the documents \"text\": jq -c '{text: .content}' "
                      "IN > OUT.jsonl, with its name for content."};
  return ShardFault{fmt::format("not lines of JSON; it begins with {}", shown_start(text)),
                    "A line is to be {\"text\": \"...\"}. Download or convert it again."};
}

}  // namespace

bool is_gz(std::string_view start) { return start.starts_with("\x1F\x8B"); }

std::vector<std::string> find_shards(const std::string& path, const std::string& split,
                                     const std::string& path_key) {
  std::error_code error;
  const auto fetch = [&] {
    return fmt::format(
        "\n  `nereus download dataset --dir {}` fetches C4 there (--shards N: a part).", path);
  };
  NEREUS_CHECK(kConfig, fs::exists(path, error) || !fs::is_symlink(path, error),
               "{} = {}: is a link to {}, which is not there", path_key, path,
               fs::read_symlink(path, error).string());
  NEREUS_CHECK(kConfig, fs::exists(path, error), "{} = {}: there is no such folder or file{}",
               path_key, path, fetch());
  if (!fs::is_directory(path, error)) return {path};
  std::vector<std::string> all = shards_in(path, path_key);
  if (std::none_of(all.begin(), all.end(), has_name_of_c4)) {
    const std::vector<std::string> below = shards_in(fs::path(path) / "en", path_key);
    if (all.empty() || std::any_of(below.begin(), below.end(), has_name_of_c4)) all = below;
  }
  NEREUS_CHECK(kConfig, !all.empty(),
               "{} = {}: neither it nor its en/ has shards named *.json.gz, "
               "*.jsonl.gz, *.json or *.jsonl{}{}",
               path_key, path, contents_of(path), fetch());
  // C4's names say their split; files of other names belong to whichever is asked for.
  std::vector<std::string> chosen, other_names;
  for (const std::string& shard : all) {
    if (file_name(shard).starts_with("c4-" + split)) chosen.push_back(shard);
    if (!has_name_of_c4(shard)) other_names.push_back(shard);
  }
  if (chosen.empty()) chosen = other_names;
  // Training on a folder that has only held-out text is allowed; validating on training text would
  // make the loss look better than it is.
  if (chosen.empty() && split == "train") chosen = all;
  NEREUS_CHECK(kConfig, !chosen.empty(), "{} = {}: has shards such as {}, but none named c4-{}.*",
               path_key, path, file_name(all.front()), split);
  return chosen;
}

std::optional<ShardFault> fault_of_shard(const std::string& path) {
  std::string start;
  bool whole = false;
  if (auto fault = read_start(path, start, whole)) return fault;
  if (is_gz(start)) {
    if (auto fault = unpack(path, start, whole)) return fault;
    if (start.empty()) return std::nullopt;  // whole, and of nothing
  }
  if (auto fault = of_other_kind(start)) return fault;
  std::string_view text = start;
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  text.remove_prefix(std::min(text.find_first_not_of(" \t\r\n"), text.size()));
  if (text.empty()) {
    if (!whole) return std::nullopt;
    return ShardFault{"without a line", "Download or copy it again, or take it out of the folder."};
  }
  if (text.front() == '<')
    return ShardFault{
        fmt::format("a web page (a server's error, perhaps), not the file: {}", shown_start(text)),
        "Download it again."};
  if (text.front() == '[')
    return ShardFault{"one JSON array, not a document a line",
                      "Make lines of it: jq -c '.[]' IN > OUT.jsonl"};
  if (text.front() != '{')
    return ShardFault{fmt::format("not lines of JSON; it begins with {}", shown_start(text)),
                      "A line is to be {\"text\": \"...\"}. Download or convert it again."};
  return of_lines(text, whole);
}

ShardLook look_at_shards(const std::vector<std::string>& shards, size_t first, size_t stride) {
  std::vector<std::string> mine;
  for (size_t i = first; i < shards.size(); i += stride) mine.push_back(shards[i]);
  std::vector<std::optional<ShardFault>> faults(mine.size());
  std::atomic<size_t> next = 0;
  std::atomic<int64_t> bytes = 0;
  const auto look = [&] {
    for (size_t i; (i = next++) < mine.size();) {
      std::error_code error;
      const auto size = fs::file_size(mine[i], error);
      if (!error) bytes += static_cast<int64_t>(size);
      faults[i] = fault_of_shard(mine[i]);
    }
  };
  std::vector<std::thread> threads;
  for (size_t i = 1; i < std::min(kThreads, mine.size()); ++i) threads.emplace_back(look);
  look();
  for (std::thread& t : threads) t.join();

  ShardLook out;
  out.bytes = bytes;
  struct Group {
    std::string remedy;
    std::vector<std::string> names;
  };
  std::map<std::string, Group> groups;  // by what they are
  for (size_t i = 0; i < mine.size(); ++i) {
    if (!faults[i]) continue;
    out.broken.push_back(mine[i]);
    Group& group = groups[faults[i]->what];
    group.remedy = group.names.empty() ? faults[i]->remedy : group.remedy;
    group.names.push_back(file_name(mine[i]));
  }
  constexpr size_t kMost = 5;  // groups, and names of each
  size_t said = 0;
  for (auto& [what, group] : groups) {
    if (++said > kMost) {
      out.message += "\n  ... and others";
      break;
    }
    const size_t count = group.names.size();
    group.names.resize(std::min(count, kMost));
    out.message += fmt::format("\n  {}{}: {}\n    {}", fmt::join(group.names, ", "),
                               count > kMost ? fmt::format(" and {} more", count - kMost) : "",
                               what, group.remedy);
  }
  return out;
}

}  // namespace nereus::data
