#include "recipe/tar_zst.h"

#include <fcntl.h>
#include <unistd.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <thread>
#include <vector>

#include "base/check.h"

namespace nereus::recipe {
namespace {

constexpr size_t kBlock = 512;
constexpr int64_t kLargestId = 07777777;
constexpr int64_t kLargestSize = 077777777777;

// "30 path=a/long/name\n": the number counts itself.
std::string pax_record(const std::string& key, const std::string& value) {
  const size_t rest = key.size() + value.size() + 3;
  size_t length = rest + std::to_string(rest).size();
  if (std::to_string(length).size() > std::to_string(rest).size())
    length = rest + std::to_string(length).size();
  return fmt::format("{} {}={}\n", length, key, value);
}

void put(std::string& block, size_t at, size_t size, const std::string& text) {
  block.replace(at, std::min(size, text.size()), text.substr(0, size));
}
void put_octal(std::string& block, size_t at, size_t size, int64_t value) {
  put(block, at, size, fmt::format("{:0{}o}", value, size - 1));
}

std::string ustar(const std::string& name, const std::string& link, char type,
                  const struct stat& info, int64_t size) {
  std::string b(kBlock, '\0');
  put(b, 0, 100, name);
  put_octal(b, 100, 8, info.st_mode & 07777);
  put_octal(b, 108, 8, std::min<int64_t>(info.st_uid, kLargestId));
  put_octal(b, 116, 8, std::min<int64_t>(info.st_gid, kLargestId));
  put_octal(b, 124, 12, std::min(size, kLargestSize));
  put_octal(b, 136, 12, std::max<int64_t>(info.st_mtime, 0));
  put(b, 148, 8, "        ");
  b[156] = type;
  put(b, 157, 100, link);
  put(b, 257, 8, std::string("ustar\00000", 8));
  unsigned sum = 0;
  for (const char c : b) sum += static_cast<unsigned char>(c);
  put(b, 148, 8, fmt::format("{:06o}", sum) + std::string("\0 ", 2));
  return b;
}

}  // namespace

TarZst::TarZst(const std::string& path)
    : path_(path), out_(path, std::ios::binary), zstd_(ZSTD_createCCtx(), ZSTD_freeCCtx) {
  NEREUS_CHECK(kIo, out_.good(), "{}: cannot be written: {}.", path, std::strerror(errno));
  ZSTD_CCtx_setParameter(zstd_.get(), ZSTD_c_compressionLevel, 5);
  ZSTD_CCtx_setParameter(zstd_.get(), ZSTD_c_checksumFlag, 1);
  // A library that was built without threads refuses this, and compresses in this one.
  ZSTD_CCtx_setParameter(zstd_.get(), ZSTD_c_nbWorkers,
                         static_cast<int>(std::thread::hardware_concurrency()));
  buffer_.resize(ZSTD_CStreamOutSize());
}

TarZst::~TarZst() = default;

void TarZst::write(const char* data, size_t size, bool last) {
  ZSTD_inBuffer in{data, size, 0};
  const ZSTD_EndDirective how = last ? ZSTD_e_end : ZSTD_e_continue;
  for (;;) {
    ZSTD_outBuffer out{buffer_.data(), buffer_.size(), 0};
    const size_t left = ZSTD_compressStream2(zstd_.get(), &out, &in, how);
    NEREUS_CHECK(kIo, !ZSTD_isError(left), "{}: zstd: {}.", path_, ZSTD_getErrorName(left));
    errno = 0;
    out_.write(buffer_.data(), static_cast<std::streamsize>(out.pos));
    NEREUS_CHECK(kIo, out_.good(), "{}: cannot be written: {}.", path_, std::strerror(errno));
    if (last ? left == 0 : in.pos == in.size) return;
  }
}

void TarZst::block(std::string text) {
  text.resize((text.size() + kBlock - 1) / kBlock * kBlock);
  write(text.data(), text.size());
}

void TarZst::header(const std::string& name, const std::string& link, char type,
                    const struct stat& info) {
  const int64_t size = type == '0' ? info.st_size : 0;
  std::string more;
  if (name.size() > 100) more += pax_record("path", name);
  if (link.size() > 100) more += pax_record("linkpath", link);
  if (size > kLargestSize) more += pax_record("size", std::to_string(size));
  if (info.st_uid > kLargestId) more += pax_record("uid", std::to_string(info.st_uid));
  if (info.st_gid > kLargestId) more += pax_record("gid", std::to_string(info.st_gid));
  if (!more.empty()) {
    struct stat plain {};
    plain.st_mode = 0644;
    plain.st_mtime = info.st_mtime;
    block(ustar("pax", "", 'x', plain, static_cast<int64_t>(more.size())));
    block(more);
  }
  block(ustar(name, link, type, info, size));
}

void TarZst::add_folder(const std::string& name) {
  struct stat info {};
  info.st_mode = 0755;
  info.st_mtime = std::time(nullptr);
  header(name + "/", "", '5', info);
}

bool TarZst::add(const std::string& source, const std::string& name) {
  // What is read, or false when it was removed meanwhile.
  const auto there = [&source](bool good) {
    NEREUS_CHECK(kIo, good || errno == ENOENT, "{}: cannot be read: {}.", source,
                 std::strerror(errno));
    return good;
  };
  struct stat info {};
  if (!there(lstat(source.c_str(), &info) == 0)) return false;
  if (S_ISDIR(info.st_mode)) header(name + "/", "", '5', info);
  if (S_ISLNK(info.st_mode)) {
    std::string target(4096, '\0');
    const ssize_t n = readlink(source.c_str(), target.data(), target.size());
    if (!there(n >= 0)) return false;
    target.resize(static_cast<size_t>(n));
    header(name, target, '2', info);
  }
  if (!S_ISREG(info.st_mode)) return true;
  std::ifstream in(source, std::ios::binary);
  if (!there(in.good())) return false;
  header(name, "", '0', info);
  std::vector<char> bytes(1 << 20);
  for (int64_t left = info.st_size; left > 0;) {
    const auto n = static_cast<std::streamsize>(std::min<int64_t>(left, std::ssize(bytes)));
    in.read(bytes.data(), n);
    std::fill(bytes.begin() + in.gcount(), bytes.begin() + n, '\0');
    write(bytes.data(), static_cast<size_t>(n));
    left -= n;
  }
  const auto over = static_cast<size_t>(info.st_size) % kBlock;
  const std::string padding(over ? kBlock - over : 0, '\0');
  write(padding.data(), padding.size());
  return true;
}

void TarZst::finish() {
  const std::string end(2 * kBlock, '\0');
  write(end.data(), end.size(), true);
  out_.close();
  NEREUS_CHECK(kIo, !out_.fail(), "{}: cannot be written: {}.", path_, std::strerror(errno));
}

}  // namespace nereus::recipe
