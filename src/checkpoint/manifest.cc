#include "checkpoint/manifest.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/check.h"
#include "tensor/format.h"
#include "tensor/safetensors.h"

namespace nereus {
namespace {

using nlohmann::json;

constexpr const char* kFormat = "nereus checkpoint";

void append(std::string& out, int64_t number) {
  char digits[24];
  out.append(digits, std::to_chars(digits, digits + sizeof digits, number).ptr);
}

void append(std::string& out, const Shape& shape) {
  out += '[';
  for (int d = 0; d < shape.rank(); ++d) {
    if (d > 0) out += ',';
    append(out, shape[d]);
  }
  out += ']';
}

// 16 digits.
void append_hex(std::string& out, uint64_t number) {
  for (int shift = 60; shift >= 0; shift -= 4) out += "0123456789abcdef"[(number >> shift) & 15];
}

Shape shape_with(int rank, const int64_t* d) {
  switch (rank) {
    case 0:
      return {};
    case 1:
      return {d[0]};
    case 2:
      return {d[0], d[1]};
    case 3:
      return {d[0], d[1], d[2]};
    default:
      return {d[0], d[1], d[2], d[3]};
  }
}

Shape shape_of(const json& j) {
  const size_t n = j.size();
  if (n > Shape::kMaxRank) throw std::runtime_error("a shape of " + std::to_string(n) + " dims");
  int64_t dims[Shape::kMaxRank] = {};
  for (size_t d = 0; d < n; ++d) dims[d] = j[d].get<int64_t>();
  return shape_with(static_cast<int>(n), dims);
}

DType dtype_of_word(const std::string& word) {
  const auto file = file_dtype(word);
  const auto dtype = file ? dtype_of(*file) : std::nullopt;
  if (dtype != DType::f32 && dtype != DType::bf16 && dtype != DType::f16)
    throw std::runtime_error("a tensor of type " + word);
  return *dtype;
}

SavedState state_of_word(const std::string& word) {
  for (const SavedState s :
       {SavedState::model, SavedState::first_moment, SavedState::second_moment})
    if (word == name_of(s)) return s;
  throw std::runtime_error("a state named " + word);
}

Manifest::Tensor tensor_of(const json& j) {
  Manifest::Tensor t{.name = j.at("name").get<std::string>(),
                     .state = state_of_word(j.at("state").get_ref<const std::string&>()),
                     .dtype = dtype_of_word(j.at("dtype").get_ref<const std::string&>()),
                     .shape = shape_of(j.at("shape")),
                     .slices = {}};
  const json& slices = j.at("slices");
  t.slices.reserve(slices.size());
  for (const json& s : slices)
    t.slices.push_back(
        {.file = s.at("file").get<int32_t>(),
         .offset = s.at("offset").get<int64_t>(),
         .origin = shape_of(s.at("origin")),
         .extent = shape_of(s.at("extent")),
         .checksum = std::stoull(s.at("checksum").get_ref<const std::string&>(), nullptr, 16)});
  return t;
}

constexpr std::string_view kFilesBegin = "\n\"files\":[", kTensorsBegin = "\n\"tensors\":[";

// The tensors of a manifest as to_text() writes it, character by character: in those of the largest
// runs there are half a million slices, for each of which a general reader makes a tree of objects.
class TensorScanner {
 public:
  explicit TensorScanner(std::string_view text) : at_(text.data()), end_(at_ + text.size()) {}

  // False: it is written in another way.
  bool scan(std::vector<Manifest::Tensor>& out) {
    if (literal("]")) return ends();
    do {
      Manifest::Tensor t;
      std::string_view name, state, dtype;
      if (!literal("\n{\"name\":\"") || !plain(name) || !literal(",\"state\":\"") ||
          !plain(state) || !literal(",\"dtype\":\"") || !plain(dtype) || !literal(",\"shape\":") ||
          !shape(t.shape) || !literal(",\"slices\":["))
        return false;
      t.name = name;
      t.state = state_of_word(std::string(state));
      t.dtype = dtype_of_word(std::string(dtype));
      while (!literal("]}")) {
        Manifest::Slice s;
        if ((!t.slices.empty() && !literal(",")) || !slice(s)) return false;
        t.slices.push_back(s);
      }
      out.push_back(std::move(t));
    } while (literal(","));
    return literal("]") && ends();
  }

 private:
  bool ends() { return literal("}") && (at_ == end_ || literal("\n")) && at_ == end_; }

  bool literal(std::string_view text) {
    if (!std::string_view(at_, static_cast<size_t>(end_ - at_)).starts_with(text)) return false;
    at_ += text.size();
    return true;
  }
  // Up to the quote that ends a string without escapes.
  bool plain(std::string_view& out) {
    const char* const begin = at_;
    while (at_ < end_ && *at_ != '"' && *at_ != '\\') ++at_;
    out = {begin, static_cast<size_t>(at_ - begin)};
    return literal("\"");
  }
  template <class Number>
  bool number(Number& out, int base = 10) {
    const auto [next, error] = std::from_chars(at_, end_, out, base);
    if (error != std::errc()) return false;
    at_ = next;
    return true;
  }
  bool shape(Shape& out) {
    int64_t dims[Shape::kMaxRank] = {};
    int rank = 0;
    if (!literal("[")) return false;
    do {
      if (rank == Shape::kMaxRank || !number(dims[rank++])) return false;
    } while (literal(","));
    if (!literal("]")) return false;
    out = shape_with(rank, dims);
    return true;
  }
  bool slice(Manifest::Slice& s) {
    const char* digits = nullptr;
    if (!literal("{\"file\":") || !number(s.file) || !literal(",\"offset\":") ||
        !number(s.offset) || !literal(",\"origin\":") || !shape(s.origin) ||
        !literal(",\"extent\":") || !shape(s.extent) || !literal(",\"checksum\":\""))
      return false;
    digits = at_;
    return number(s.checksum, 16) && at_ - digits == 16 && literal("\"}");
  }

  const char* at_;
  const char* const end_;
};

// With the way in which to_text() writes: false, and `m` is as it was, where it is another one.
bool scan_manifest(const std::string& text, Manifest& m, json& head) {
  const size_t files = text.find(kFilesBegin);
  const size_t tensors = files == std::string::npos ? files : text.find(kTensorsBegin, files);
  if (tensors == std::string::npos || text[tensors - 1] != ',') return false;
  head = json::parse(text.substr(0, tensors - 1) + "}", nullptr, false);
  if (head.is_discarded() || head.value("version", Manifest::kVersion + 1) > Manifest::kVersion)
    return false;
  return TensorScanner(std::string_view(text).substr(tensors + kTensorsBegin.size()))
      .scan(m.tensors);
}

std::string tensor_text(const Manifest::Tensor& t) {
  return fmt::format("{} of {}", name_of(t.state), t.name);
}

// Is each element of the whole in one of the boxes, and in one only? They are as many elements, so
// they would have to overlap for one to be missing: sorted by their first index, a box that begins
// where another one covers is found by comparing it with those that reach so far.
bool overlap(const Manifest::Tensor& t) {
  const int rank = t.shape.rank();
  std::vector<const Manifest::Slice*> open;
  std::vector<const Manifest::Slice*> sorted;
  for (const Manifest::Slice& s : t.slices) sorted.push_back(&s);
  std::sort(sorted.begin(), sorted.end(),
            [](const auto* a, const auto* b) { return a->origin[0] < b->origin[0]; });
  for (const Manifest::Slice* s : sorted) {
    std::erase_if(open, [&](const auto* o) { return o->origin[0] + o->extent[0] <= s->origin[0]; });
    for (const Manifest::Slice* o : open) {
      bool apart = false;
      for (int d = 1; d < rank; ++d)
        apart = apart || o->origin[d] + o->extent[d] <= s->origin[d] ||
                s->origin[d] + s->extent[d] <= o->origin[d];
      if (!apart) return true;
    }
    open.push_back(s);
  }
  return false;
}

}  // namespace

const char* name_of(SavedState state) {
  switch (state) {
    case SavedState::model:
      return "model";
    case SavedState::first_moment:
      return "exp_avg";
    case SavedState::second_moment:
      return "exp_avg_sq";
  }
  return "?";
}

uint64_t Manifest::Tensor::checksum() const {
  uint64_t sum = 0;
  for (const Slice& s : slices) sum += s.checksum;
  return sum;
}

bool Manifest::has(SavedState state) const {
  return std::any_of(tensors.begin(), tensors.end(),
                     [&](const Tensor& t) { return t.state == state; });
}

int64_t Manifest::bytes() const {
  int64_t sum = 0;
  for (const File& f : files) sum += f.bytes;
  return sum;
}

std::string to_text(const Manifest& m) {
  std::string out = fmt::format("{{\"format\":\"{}\",\"version\":{},\n\"run\":{},\n\"files\":[",
                                kFormat, Manifest::kVersion, m.run);
  auto to = std::back_inserter(out);
  for (size_t i = 0; i < m.files.size(); ++i)
    fmt::format_to(to, "{}{{\"name\":{},\"bytes\":{}}}", i > 0 ? ",\n" : "",
                   json(m.files[i].name).dump(), m.files[i].bytes);
  out += "],\n\"tensors\":[";
  for (size_t i = 0; i < m.tensors.size(); ++i) {
    const Manifest::Tensor& t = m.tensors[i];
    fmt::format_to(
        to, "{}\n{{\"name\":{},\"state\":\"{}\",\"dtype\":\"{}\",\"shape\":", i > 0 ? "," : "",
        json(t.name).dump(), name_of(t.state), name_of(file_dtype(t.dtype)));
    append(out, t.shape);
    out += ",\"slices\":[";
    for (size_t k = 0; k < t.slices.size(); ++k) {
      const Manifest::Slice& s = t.slices[k];
      out += k > 0 ? ",{\"file\":" : "{\"file\":";
      append(out, int64_t{s.file});
      out += ",\"offset\":";
      append(out, s.offset);
      out += ",\"origin\":";
      append(out, s.origin);
      out += ",\"extent\":";
      append(out, s.extent);
      out += ",\"checksum\":\"";
      append_hex(out, s.checksum);
      out += "\"}";
    }
    out += "]}";
  }
  return out + "]}\n";
}

Manifest parse_manifest(const std::string& text, const std::string& path) {
  Manifest m;
  try {
    json j;
    const bool scanned = scan_manifest(text, m, j);
    if (!scanned) {
      m.tensors.clear();
      j = json::parse(text);
    }
    if (j.at("format") != kFormat) throw std::runtime_error("it is of another format");
    const auto version = j.at("version").get<int64_t>();
    NEREUS_CHECK(kConfig, version <= Manifest::kVersion,
                 "{}: this checkpoint is of format version {}, and this program reads versions up "
                 "to {}: a newer program wrote it. Use that one, or a later one.",
                 path, version, Manifest::kVersion);
    m.run = j.at("run").dump();
    for (const json& f : j.at("files"))
      m.files.push_back({f.at("name").get<std::string>(), f.at("bytes").get<int64_t>()});
    if (!scanned)
      for (const json& t : j.at("tensors")) m.tensors.push_back(tensor_of(t));
  } catch (const Error&) {
    throw;
  } catch (const std::exception& e) {
    NEREUS_FAIL(kIo, "{}: it cannot be read as a checkpoint's manifest: {}", path, e.what());
  }
  return m;
}

Manifest merge(std::vector<Manifest> parts) {
  Manifest out;
  std::map<std::pair<std::string, SavedState>, size_t> places;
  for (Manifest& part : parts) {
    const auto first_file = static_cast<int32_t>(out.files.size());
    for (Manifest::File& f : part.files) out.files.push_back(std::move(f));
    for (Manifest::Tensor& t : part.tensors) {
      for (Manifest::Slice& s : t.slices) s.file += first_file;
      const auto [it, is_new] = places.try_emplace({t.name, t.state}, out.tensors.size());
      if (is_new) {
        out.tensors.push_back(std::move(t));
        continue;
      }
      Manifest::Tensor& whole = out.tensors[it->second];
      NEREUS_CHECK(kContract, whole.shape == t.shape && whole.dtype == t.dtype,
                   "{} is {} {} on one rank and {} {} on another", tensor_text(t), whole.dtype,
                   whole.shape, t.dtype, t.shape);
      whole.slices.insert(whole.slices.end(), t.slices.begin(), t.slices.end());
    }
  }
  return out;
}

void check_slices(const Manifest& m, const std::string& path) {
  std::map<std::pair<std::string, SavedState>, int> seen;
  for (const Manifest::Tensor& t : m.tensors) {
    const int times = ++seen[{t.name, t.state}];
    NEREUS_CHECK(kIo, times == 1, "{}: {} is there twice", path, tensor_text(t));
    int64_t count = 0;
    for (const Manifest::Slice& s : t.slices) {
      bool inside = s.origin.rank() == t.shape.rank() && s.extent.rank() == t.shape.rank();
      for (int d = 0; inside && d < t.shape.rank(); ++d)
        inside = s.origin[d] >= 0 && s.extent[d] > 0 && s.origin[d] + s.extent[d] <= t.shape[d];
      NEREUS_CHECK(kIo, inside, "{}: {} {} has a slice {} at {}, which is not within it", path,
                   tensor_text(t), t.shape, s.extent, s.origin);
      const bool placed = s.file >= 0 && s.file < static_cast<int32_t>(m.files.size()) &&
                          s.offset >= 0 &&
                          s.offset + s.extent.count() * size_of(t.dtype) <=
                              m.files[static_cast<size_t>(s.file)].bytes;
      NEREUS_CHECK(kIo, placed, "{}: a slice of {} lies outside of its file", path, tensor_text(t));
      count += s.extent.count();
    }
    NEREUS_CHECK(kIo, count == t.shape.count() && !overlap(t),
                 "{}: the slices of {} {} have {} elements and should be all of it, each element "
                 "once",
                 path, tensor_text(t), t.shape, count);
  }
}

void check_files(const Manifest& m, const std::string& folder) {
  for (const Manifest::File& f : m.files) {
    const std::string path = folder + "/" + f.name;
    struct stat there {};
    NEREUS_CHECK(kIo, ::stat(path.c_str(), &there) == 0, "{}: {}", path, std::strerror(errno));
    NEREUS_CHECK(kIo, there.st_size == f.bytes, "{}: it has {} bytes and should have {}", path,
                 static_cast<int64_t>(there.st_size), f.bytes);
  }
}

Manifest read_manifest(const std::string& folder) {
  const std::string path = folder + "/" + kManifestFile;
  errno = 0;
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  if (in.good()) text << in.rdbuf();
  NEREUS_CHECK(kIo, in.good() && !in.bad(), "{}: {}", path,
               errno == 0 ? "it cannot be read" : std::strerror(errno));
  Manifest m = parse_manifest(text.str(), path);
  check_slices(m, path);
  check_files(m, folder);
  return m;
}

}  // namespace nereus
