#include "recipe/yaml.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <set>

#include "base/atomic_file.h"

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
  const mode_t mode = readers == Readers::owner ? 0600 : 0644;
  const std::error_code error =
      replace_file(path, content, {.suffix = suffix_of_process(), .mode = mode});
  NEREUS_CHECK(kConfig, !error, "{}: cannot be written: {}. Its folder must exist and be writable.",
               path, error.message());
}

}  // namespace nereus::recipe
