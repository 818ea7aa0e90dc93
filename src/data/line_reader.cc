#include "data/line_reader.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/check.h"
#include "data/gunzip.h"

namespace nereus::data {
namespace {

namespace fs = std::filesystem;

constexpr size_t kBytes = size_t{1} << 18;  // read or decompressed at a time

bool is_shard(const std::string& name) {
  for (const char* ending : {".json.gz", ".jsonl.gz", ".json", ".jsonl"})
    if (name.ends_with(ending)) return true;
  return false;
}

std::vector<std::string> shards_in(const fs::path& folder, const std::string& path_key) {
  std::vector<std::string> out;
  std::error_code error;
  if (!fs::is_directory(folder, error)) return out;
  fs::directory_iterator entries(folder, error);
  NEREUS_CHECK(kConfig, !error, "{} = {}: cannot be read: {}", path_key, folder.string(),
               error.message());
  for (const auto& entry : entries)
    if (entry.is_regular_file(error) && is_shard(entry.path().filename().string()))
      out.push_back(entry.path().string());
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace

std::vector<std::string> find_shards(const std::string& path, const std::string& split,
                                     const std::string& path_key) {
  std::error_code error;
  const auto fetch = [&] {
    return fmt::format(
        "\n  `nereus download dataset --dir {}` fetches C4 there (--shards N: a part).", path);
  };
  NEREUS_CHECK(kConfig, fs::exists(path, error), "{} = {}: there is no such folder or file{}",
               path_key, path, fetch());
  if (fs::is_regular_file(path, error)) return {path};
  std::vector<std::string> all = shards_in(path, path_key);
  if (all.empty()) all = shards_in(fs::path(path) / "en", path_key);
  NEREUS_CHECK(kConfig, !all.empty(),
               "{} = {}: neither it nor its en/ has shards named *.json.gz, "
               "*.jsonl.gz, *.json or *.jsonl{}",
               path_key, path, fetch());
  // C4's names say their split; files of other names belong to whichever is asked for.
  std::vector<std::string> chosen, other_names;
  for (const std::string& shard : all) {
    const std::string name = fs::path(shard).filename().string();
    if (name.starts_with("c4-" + split)) chosen.push_back(shard);
    if (!name.starts_with("c4-train") && !name.starts_with("c4-validation"))
      other_names.push_back(shard);
  }
  if (chosen.empty()) chosen = other_names;
  // Training on a folder that has only held-out text is allowed; validating on training text would
  // make the loss look better than it is.
  if (chosen.empty() && split == "train") chosen = all;
  NEREUS_CHECK(kConfig, !chosen.empty(), "{} = {}: has shards such as {}, but none named c4-{}.*",
               path_key, path, fs::path(all.front()).filename().string(), split);
  return chosen;
}

struct LineReader::Input {
  explicit Input(const std::string& path) : stream(path, std::ios::binary), raw(kBytes) {
    NEREUS_CHECK(kConfig, stream.good() && !fs::is_directory(path), "{}: cannot be read: {}", path,
                 std::strerror(errno));
    if (path.ends_with(".gz")) gunzip = std::make_unique<Gunzip>(path);
  }
  // False at the end of the file.
  bool read() {
    stream.read(reinterpret_cast<char*>(raw.data()), static_cast<std::streamsize>(kBytes));
    waiting = std::span<const std::byte>(raw).first(static_cast<size_t>(stream.gcount()));
    return !waiting.empty();
  }
  std::ifstream stream;
  std::vector<std::byte> raw;
  std::span<const std::byte> waiting;  // of raw, compressed or plain
  std::unique_ptr<Gunzip> gunzip;
};

LineReader::LineReader(std::vector<std::string> files, size_t file, int64_t lines)
    : files_(std::move(files)), file_(file), skip_(lines) {}
LineReader::~LineReader() = default;

bool LineReader::fill() {
  buffer_.erase(0, at_);
  at_ = 0;
  const size_t old = buffer_.size();
  buffer_.resize(old + kBytes);
  const std::span<std::byte> out(reinterpret_cast<std::byte*>(buffer_.data() + old), kBytes);
  size_t added = 0;
  for (bool more = true; added == 0 && more;) {
    if (input_->waiting.empty()) more = input_->read();
    if (input_->gunzip) {
      added = input_->gunzip->run(input_->waiting, out);
    } else {
      added = input_->waiting.size();
      if (added > 0) std::memcpy(out.data(), input_->waiting.data(), added);
      input_->waiting = {};
    }
  }
  if (added == 0 && input_->gunzip) input_->gunzip->finish();
  NEREUS_CHECK(kIo, !input_->stream.bad(), "{}: reading failed: {}", file(), std::strerror(errno));
  buffer_.resize(old + added);
  return added > 0;
}

bool LineReader::next_of_file(std::string& line) {
  size_t searched = at_, end;
  bool cut = false;
  while ((end = buffer_.find('\n', searched)) == std::string::npos) {
    searched = buffer_.size() - at_;  // fill() moves the rest to the front
    if (searched > kLongestLine) {
      if (!cut) line.assign(buffer_, at_, kLongestLine);
      cut = true;
      at_ = buffer_.size();
      searched = 0;
    }
    if (!fill()) {
      end = buffer_.size();
      break;
    }
  }
  if (!cut && end == at_ && end == buffer_.size()) return false;
  if (!cut) line.assign(buffer_, at_, end - at_);
  at_ = std::min(end + 1, buffer_.size());
  ++line_;
  return true;
}

bool LineReader::next(std::string& line) {
  for (;;) {
    if (!input_) {
      if (file_ >= files_.size()) return false;
      input_ = std::make_unique<Input>(files_[file_]);
      line_ = 0;
      for (; skip_ > 0; --skip_)
        NEREUS_CHECK(kConfig, next_of_file(line),
                     "{}: has {} lines, fewer than the run has read of it before: the data set has "
                     "changed",
                     file(), line_);
    }
    if (next_of_file(line)) return true;
    if (file_ + 1 >= files_.size()) return false;
    ++file_;
    input_.reset();
    buffer_.clear();
    at_ = 0;
  }
}

}  // namespace nereus::data
