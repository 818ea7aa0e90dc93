#include "recipe/yaml.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <set>

namespace nereus::recipe {
namespace {

std::string named(const std::string& where, const std::string& key) {
  return where.empty() ? key : where + "." + key;
}

}  // namespace

YamlFile::YamlFile(const std::string& path, const std::string& what) : path_(path) {
  try {
    root_ = YAML::LoadFile(path);
  } catch (const YAML::BadFile&) {
    NEREUS_FAIL(kConfig, "{}: the {} cannot be read: {}.", path, what, std::strerror(errno));
  } catch (const YAML::ParserException& e) {
    NEREUS_FAIL(kConfig, "{}:{}: the {} is no YAML: {}.", path, e.mark.line + 1, what, e.msg);
  }
  if (!root_.IsMap())
    fail(root_, "the " + what + " must be a map of keys (\"schema_version: 2\" and so on).");
  check_keys(root_);
}

void YamlFile::fail(const YAML::Node& at, const std::string& message) const {
  const int line = at.IsDefined() ? at.Mark().line : -1;
  NEREUS_FAIL(kConfig, "{}:{} {}", path_, line < 0 ? "" : fmt::format("{}:", line + 1), message);
}

void YamlFile::check_keys(const YAML::Node& node) const {
  std::set<std::string> seen;
  for (const auto& item : node) {
    if (node.IsMap()) {
      if (!item.first.IsScalar()) fail(item.first, "a key must be a plain word.");
      if (!seen.insert(item.first.Scalar()).second)
        fail(item.first, fmt::format("{} is there twice: remove one.", item.first.Scalar()));
      check_keys(item.second);
    } else {
      check_keys(item);
    }
  }
}

YAML::Node YamlFile::map(const YAML::Node& parent, const std::string& where,
                         const std::string& key) const {
  const YAML::Node node = parent[key];
  if (!node.IsDefined() || node.IsNull()) return YAML::Node(YAML::NodeType::Map);
  if (!node.IsMap()) fail(node, fmt::format("{} must be a map of keys.", named(where, key)));
  return node;
}

std::string YamlFile::text(const YAML::Node& parent, const std::string& where,
                           const std::string& key) const {
  const YAML::Node node = parent[key];
  if (!node.IsDefined() || node.IsNull()) return "";
  if (!node.IsScalar())
    fail(node, fmt::format("{} must be one value, not a list or a map.", named(where, key)));
  return node.Scalar();
}

std::string YamlFile::required_text(const YAML::Node& parent, const std::string& where,
                                    const std::string& key) const {
  const std::string value = text(parent, where, key);
  if (value.find_first_not_of(" \t") == std::string::npos)
    fail(parent[key].IsDefined() ? parent[key] : parent,
         fmt::format("Missing required '{}' field.", named(where, key)));
  return value;
}

std::vector<std::string> YamlFile::texts(const YAML::Node& parent, const std::string& where,
                                         const std::string& key) const {
  const YAML::Node node = parent[key];
  std::vector<std::string> out;
  if (!node.IsDefined() || node.IsNull()) return out;
  if (node.IsScalar()) return {node.Scalar()};
  if (!node.IsSequence()) fail(node, fmt::format("{} must be a list.", named(where, key)));
  for (const YAML::Node& item : node) {
    if (!item.IsScalar())
      fail(item, fmt::format("{} must be a list of plain values.", named(where, key)));
    out.push_back(item.Scalar());
  }
  return out;
}

std::map<std::string, std::string> YamlFile::strings(const YAML::Node& parent,
                                                     const std::string& where,
                                                     const std::string& key) const {
  std::map<std::string, std::string> out;
  const YAML::Node node = map(parent, where, key);
  for (const auto& item : node)
    out[item.first.Scalar()] = text(node, named(where, key), item.first.Scalar());
  return out;
}

void write_file(const std::string& path, const std::string& content, Readers readers) {
  const std::string beside = fmt::format("{}.{}.new", path, ::getpid());
  const auto refuse = [&] {
    const int why = errno;
    ::unlink(beside.c_str());
    NEREUS_FAIL(kConfig, "{}: cannot be written: {}. Its folder must exist and be writable.", path,
                std::strerror(why));
  };
  ::unlink(beside.c_str());  // an old one may have other readers
  const int fd = ::open(beside.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC,
                        readers == Readers::owner ? 0600 : 0644);
  if (fd < 0) refuse();
  for (size_t at = 0; at < content.size();) {
    const ssize_t n = ::write(fd, content.data() + at, content.size() - at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      const int why = errno;
      ::close(fd);
      errno = why;
      refuse();
    }
    at += static_cast<size_t>(n);
  }
  if (::close(fd) != 0 || ::rename(beside.c_str(), path.c_str()) != 0) refuse();
}

}  // namespace nereus::recipe
