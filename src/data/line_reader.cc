#include "data/line_reader.h"

#ifdef NEREUS_HAVE_ISAL
#include <isa-l/igzip_lib.h>
#else
#include <zlib.h>
#endif

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/check.h"

namespace nereus::data {
namespace {

constexpr size_t kBytes = size_t{1} << 18;  // read or decompressed at a time

bool is_shard(const std::string& name) {
  for (const char* ending : {".json.gz", ".jsonl.gz", ".json", ".jsonl"})
    if (name.ends_with(ending)) return true;
  return false;
}

std::vector<std::string> shards_in(const std::filesystem::path& folder) {
  std::vector<std::string> out;
  if (!std::filesystem::is_directory(folder)) return out;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.is_regular_file() && is_shard(entry.path().filename().string()))
      out.push_back(entry.path().string());
  std::sort(out.begin(), out.end());
  return out;
}

// Inflates the members of a gz stream, as many as there are.
class Gunzip {
 public:
  explicit Gunzip(const std::string& path) : path_(path) { start(); }
  ~Gunzip() { stop(); }
  Gunzip(const Gunzip&) = delete;
  Gunzip& operator=(const Gunzip&) = delete;

  // Takes compressed bytes until `out` is full or `in` is empty; returns how many were written.
  size_t run(const unsigned char*& in, size_t& available, unsigned char* out, size_t room) {
    size_t written = 0;
    while (available > 0 && written < room) {
      if (ended_) start();
      written += inflate_some(in, available, out + written, room - written);
    }
    return written;
  }
  // At the end of the file: was the last member whole?
  void finish() const {
    NEREUS_CHECK(
        kConfig, ended_,
        "{}: is truncated: the compressed data end in the middle. Download or copy it again.",
        path_);
  }

 private:
  [[noreturn]] void corrupt(int code) const {
    NEREUS_FAIL(kConfig, "{}: is not a gz file or is corrupt (code {}). Download or copy it again.",
                path_, code);
  }
#ifdef NEREUS_HAVE_ISAL
  void start() {
    isal_inflate_init(&state_);
    state_.crc_flag = ISAL_GZIP;
    ended_ = false;
  }
  void stop() {}
  size_t inflate_some(const unsigned char*& in, size_t& available, unsigned char* out,
                      size_t room) {
    state_.next_in = const_cast<unsigned char*>(in);
    state_.avail_in = static_cast<uint32_t>(available);
    state_.next_out = out;
    state_.avail_out = static_cast<uint32_t>(room);
    const int code = isal_inflate(&state_);
    if (code != ISAL_DECOMP_OK) corrupt(code);
    in = state_.next_in;
    available = state_.avail_in;
    ended_ = state_.block_state == ISAL_BLOCK_FINISH;
    return room - state_.avail_out;
  }
  inflate_state state_;
#else
  void start() {
    if (started_) inflateEnd(&state_);
    state_ = z_stream{};
    if (inflateInit2(&state_, 15 + 16) != Z_OK) corrupt(-1);
    started_ = true;
    ended_ = false;
  }
  void stop() {
    if (started_) inflateEnd(&state_);
  }
  size_t inflate_some(const unsigned char*& in, size_t& available, unsigned char* out,
                      size_t room) {
    state_.next_in = const_cast<unsigned char*>(in);
    state_.avail_in = static_cast<uInt>(available);
    state_.next_out = out;
    state_.avail_out = static_cast<uInt>(room);
    const int code = inflate(&state_, Z_NO_FLUSH);
    if (code != Z_OK && code != Z_STREAM_END) corrupt(code);
    in = state_.next_in;
    available = state_.avail_in;
    ended_ = code == Z_STREAM_END;
    return room - state_.avail_out;
  }
  z_stream state_{};
  bool started_ = false;
#endif

  std::string path_;
  bool ended_ = false;
};

}  // namespace

std::vector<std::string> find_shards(const std::string& path, const std::string& split) {
  namespace fs = std::filesystem;
  NEREUS_CHECK(kConfig, fs::exists(path),
               "training.dataset_path = {}: there is no such folder or file", path);
  if (fs::is_regular_file(path)) return {path};
  std::vector<std::string> all = shards_in(path);
  if (all.empty()) all = shards_in(fs::path(path) / "en");
  NEREUS_CHECK(kConfig, !all.empty(),
               "training.dataset_path = {}: neither it nor its en/ has shards named *.json.gz, "
               "*.jsonl.gz, *.json or *.jsonl",
               path);
  std::vector<std::string> chosen;
  for (const std::string& shard : all)
    if (fs::path(shard).filename().string().find("c4-" + split) != std::string::npos)
      chosen.push_back(shard);
  return chosen.empty() ? all : chosen;
}

struct LineReader::Input {
  explicit Input(const std::string& path) : stream(path, std::ios::binary), raw(kBytes) {
    NEREUS_CHECK(kConfig, stream.good(), "{}: cannot be read: {}", path, std::strerror(errno));
    if (path.ends_with(".gz")) gunzip = std::make_unique<Gunzip>(path);
  }
  std::ifstream stream;
  std::vector<char> raw;
  const unsigned char* next = nullptr;  // compressed, not yet inflated
  size_t available = 0;
  std::unique_ptr<Gunzip> gunzip;
};

LineReader::LineReader(std::vector<std::string> files) : files_(std::move(files)) {}
LineReader::~LineReader() = default;

bool LineReader::fill() {
  buffer_.erase(0, at_);
  at_ = 0;
  const size_t old = buffer_.size();
  buffer_.resize(old + kBytes);
  size_t added = 0;
  while (added == 0) {
    if (input_->available == 0) {
      input_->stream.read(input_->raw.data(), static_cast<std::streamsize>(kBytes));
      input_->next = reinterpret_cast<const unsigned char*>(input_->raw.data());
      input_->available = static_cast<size_t>(input_->stream.gcount());
      if (input_->available == 0) {
        if (input_->gunzip) input_->gunzip->finish();
        break;
      }
    }
    auto* out = reinterpret_cast<unsigned char*>(buffer_.data() + old);
    if (input_->gunzip) {
      added = input_->gunzip->run(input_->next, input_->available, out, kBytes);
    } else {
      added = input_->available;
      std::memcpy(out, input_->next, added);
      input_->available = 0;
    }
  }
  buffer_.resize(old + added);
  return added > 0;
}

bool LineReader::next(std::string& line) {
  while (file_ < files_.size()) {
    if (!input_) {
      input_ = std::make_unique<Input>(files_[file_]);
      line_ = 0;
    }
    size_t searched = at_;
    size_t end;
    while ((end = buffer_.find('\n', searched)) == std::string::npos) {
      searched = buffer_.size() - at_;  // fill() moves the rest to the front
      if (!fill()) break;
    }
    if (end == std::string::npos) end = buffer_.size();
    if (end > at_ || end < buffer_.size()) {
      line.assign(buffer_, at_, end - at_);
      at_ = std::min(end + 1, buffer_.size());
      ++line_;
      return true;
    }
    if (file_ + 1 == files_.size()) return false;
    ++file_;
    input_.reset();
    buffer_.clear();
    at_ = 0;
  }
  return false;
}

}  // namespace nereus::data
