#include "data/tokenizer/tokenizer_json.h"

#include <nlohmann/json.hpp>

#include "base/check.h"

namespace nereus::data {
namespace {

using nlohmann::json;

// Takes the two large tables, model.vocab and model.merges, out of the stream of events, and builds
// an ordinary tree of the rest: a tree of all would be 20 times the file.
class Reader final : public nlohmann::json_sax<json> {
 public:
  explicit Reader(std::vector<std::pair<std::string, int64_t>>& vocab,
                  std::vector<std::pair<std::string, std::string>>& merges)
      : vocab_(vocab), merges_(merges), rest_(tree, false) {}

  json tree;
  std::string error;  // of the JSON itself

  bool null() override { return in_table() ? odd() : rest_.null(); }
  bool boolean(bool v) override { return in_table() ? odd() : rest_.boolean(v); }
  bool number_integer(number_integer_t v) override {
    return in_table() ? entry(v) : rest_.number_integer(v);
  }
  bool number_unsigned(number_unsigned_t v) override {
    return in_table() ? entry(static_cast<int64_t>(v)) : rest_.number_unsigned(v);
  }
  bool number_float(number_float_t v, const string_t& s) override {
    return in_table() ? odd() : rest_.number_float(v, s);
  }
  bool string(string_t& v) override {
    if (!in_table()) return rest_.string(v);
    if (table_ == Table::merges) return merge(v);
    return odd();
  }
  bool binary(binary_t& v) override { return rest_.binary(v); }
  bool start_object(std::size_t n) override {
    ++depth_;
    if (table_ == Table::vocab && depth_ == 3) return true;
    if (in_table()) return odd();
    return rest_.start_object(n);
  }
  bool key(string_t& k) override {
    if (table_ == Table::vocab && depth_ == 3) {
      key_ = k;
      return true;
    }
    if (depth_ == 1) section_ = k;
    if (depth_ == 2 && section_ == "model" && (k == "vocab" || k == "merges")) {
      table_ = k == "vocab" ? Table::vocab : Table::merges;
      return true;
    }
    return rest_.key(k);
  }
  bool end_object() override {
    --depth_;
    if (table_ == Table::vocab && depth_ == 2) {
      table_ = Table::none;
      return true;
    }
    return rest_.end_object();
  }
  bool start_array(std::size_t n) override {
    ++depth_;
    if (table_ == Table::merges) {
      pair_.clear();
      return depth_ <= 4 || odd();
    }
    if (in_table()) return odd();
    return rest_.start_array(n);
  }
  bool end_array() override {
    --depth_;
    if (table_ != Table::merges) return rest_.end_array();
    if (depth_ == 3) {  // of one pair
      if (pair_.size() != 2) return odd();
      merges_.emplace_back(pair_[0], pair_[1]);
    } else {
      table_ = Table::none;
    }
    return true;
  }
  bool parse_error(std::size_t position, const std::string& token,
                   const nlohmann::detail::exception& e) override {
    error = fmt::format("at byte {}, near \"{}\"", position, token.substr(0, 40));
    (void)e;
    return false;
  }

 private:
  enum class Table { none, vocab, merges };
  bool in_table() const { return table_ != Table::none; }
  bool odd() {
    error = table_ == Table::vocab
                ? "model.vocab must map token texts to ids"
                : "model.merges must be a list of \"left right\" or [left, right]";
    return false;
  }
  bool entry(int64_t id) {
    if (table_ != Table::vocab || depth_ != 3) return odd();
    vocab_.emplace_back(std::move(key_), id);
    return true;
  }
  bool merge(std::string& text) {
    if (depth_ == 4) {
      pair_.push_back(std::move(text));
      return true;
    }
    const size_t space = text.find(' ');
    if (depth_ != 3 || space == std::string::npos || space == 0 || space + 1 == text.size())
      return odd();
    merges_.emplace_back(text.substr(0, space), text.substr(space + 1));
    return true;
  }

  std::vector<std::pair<std::string, int64_t>>& vocab_;
  std::vector<std::pair<std::string, std::string>>& merges_;
  nlohmann::detail::json_sax_dom_parser<json> rest_;
  Table table_ = Table::none;
  int depth_ = 0;
  std::string section_, key_;
  std::vector<std::string> pair_;
};

// A component that is absent or null.
bool absent(const json& object, const char* name) {
  return !object.contains(name) || object.at(name).is_null();
}

std::string type_of(const json& component) {
  if (!component.is_object() || !component.contains("type") || !component["type"].is_string())
    return "?";
  return component["type"].get<std::string>();
}

bool flag(const json& object, const char* name, bool otherwise) {
  const auto found = object.find(name);
  return found != object.end() && found->is_boolean() ? found->get<bool>() : otherwise;
}

class Components {
 public:
  Components(const json& tree, const std::string& name) : tree_(tree), name_(name) {}

  void check_normalizer() const {
    if (absent(tree_, "normalizer")) return;
    const json& n = tree_["normalizer"];
    const bool empty =
        type_of(n) == "Sequence" && n.contains("normalizers") && n["normalizers"].empty();
    if (!empty) unsupported("normalizer", type_of(n), "none, or an empty Sequence");
  }

  void check_model() const {
    NEREUS_CHECK(kConfig,
                 tree_.is_object() && tree_.contains("model") && tree_["model"].is_object(),
                 "{}: has no model; is it a tokenizer.json?", name_);
    const json& m = tree_["model"];
    if (m.contains("type") && type_of(m) != "BPE") unsupported("model", type_of(m), "BPE");
    for (const char* key : {"dropout", "unk_token"})
      if (!absent(m, key)) unsupported("model", fmt::format("BPE with {}", key), "BPE without it");
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (!absent(m, key) && m[key] != "")
        unsupported("model", fmt::format("BPE with {}", key), "BPE without it");
    for (const char* key : {"byte_fallback", "ignore_merges"})
      if (flag(m, key, false))
        unsupported("model", fmt::format("BPE with {}", key), "BPE without it");
  }

  void check_decoder() const {
    if (absent(tree_, "decoder")) return;
    if (type_of(tree_["decoder"]) != "ByteLevel")
      unsupported("decoder", type_of(tree_["decoder"]), "ByteLevel");
  }

  void read_pre_tokenizer(TokenizerFile& out) const {
    NEREUS_CHECK(kConfig, !absent(tree_, "pre_tokenizer"),
                 "{}: has no pre_tokenizer; a byte-level one is needed", name_);
    const json& p = tree_["pre_tokenizer"];
    bool byte_level = false;
    if (type_of(p) == "Sequence") {
      NEREUS_CHECK(kConfig, p.contains("pretokenizers") && p["pretokenizers"].is_array(),
                   "{}: pre_tokenizer Sequence has no pretokenizers", name_);
      for (const json& part : p["pretokenizers"]) read_part(part, out, byte_level);
    } else {
      read_part(p, out, byte_level);
    }
    if (!byte_level) unsupported("pre_tokenizer", type_of(p), "a Sequence that ends in ByteLevel");
  }

  void read_added_tokens(TokenizerFile& out) const {
    if (absent(tree_, "added_tokens")) return;
    NEREUS_CHECK(kConfig, tree_["added_tokens"].is_array(), "{}: added_tokens is not a list",
                 name_);
    for (const json& t : tree_["added_tokens"]) {
      NEREUS_CHECK(kConfig,
                   t.is_object() && t.contains("id") && t["id"].is_number_integer() &&
                       t.contains("content") && t["content"].is_string() && t["content"] != "",
                   "{}: added token {} has no id or no content", name_, t.dump());
      for (const char* key : {"lstrip", "rstrip", "single_word"})
        NEREUS_CHECK(kConfig, !flag(t, key, false), "{}: added token {} with {} is not supported",
                     name_, t["content"].dump(), key);
      const int64_t id = t["id"].get<int64_t>();
      NEREUS_CHECK(kConfig, id >= 0 && id < (int64_t{1} << 24), "{}: added token {} has id {}",
                   name_, t["content"].dump(), id);
      out.added.push_back({.id = static_cast<int32_t>(id),
                           .content = t["content"].get<std::string>(),
                           .special = flag(t, "special", false),
                           .normalized = flag(t, "normalized", true)});
    }
  }

 private:
  [[noreturn]] void unsupported(const char* what, const std::string& type,
                                const char* supported) const {
    NEREUS_FAIL(kConfig, "{}: {} {} is not supported; supported: {}", name_, what, type, supported);
  }

  void read_part(const json& part, TokenizerFile& out, bool& byte_level) const {
    if (byte_level)
      unsupported("pre_tokenizer", type_of(part) + " after ByteLevel", "ByteLevel last");
    if (type_of(part) == "Split") {
      out.rules.push_back(read_split(part));
    } else if (type_of(part) == "ByteLevel") {
      byte_level = true;
      out.add_prefix_space = flag(part, "add_prefix_space", true);
      if (flag(part, "use_regex", true))
        out.rules.push_back(
            {.pattern =
                 R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"});
    } else {
      unsupported("pre_tokenizer", type_of(part), "Sequence, Split, ByteLevel");
    }
  }

  SplitRule read_split(const json& part) const {
    SplitRule rule;
    const json pattern = part.value("pattern", json());
    if (pattern.is_object() && pattern.contains("Regex") && pattern["Regex"].is_string()) {
      rule.pattern = pattern["Regex"].get<std::string>();
    } else if (pattern.is_object() && pattern.contains("String") && pattern["String"].is_string()) {
      rule.pattern = pattern["String"].get<std::string>();
      rule.literal = true;
    } else {
      NEREUS_FAIL(kConfig,
                  "{}: pre_tokenizer Split has the pattern {}; it must be a Regex or a String",
                  name_, pattern.dump());
    }
    const std::string behavior = part.contains("behavior") && part["behavior"].is_string()
                                     ? part["behavior"].get<std::string>()
                                     : "Isolated";
    if (behavior == "Removed") {
      rule.behavior = SplitRule::Behavior::removed;
    } else if (behavior != "Isolated") {
      unsupported("pre_tokenizer", "Split with behavior " + behavior, "Isolated, Removed");
    }
    rule.invert = flag(part, "invert", false);
    return rule;
  }

  const json& tree_;
  const std::string& name_;
};

}  // namespace

TokenizerFile read_tokenizer_json(std::string_view text, const std::string& name) {
  std::vector<std::pair<std::string, int64_t>> vocab;
  std::vector<std::pair<std::string, std::string>> merges;
  Reader reader(vocab, merges);
  const bool parsed = json::sax_parse(text, &reader);
  NEREUS_CHECK(kConfig, parsed, "{}: is not a tokenizer.json: {}", name,
               reader.error.empty() ? "invalid JSON" : reader.error);
  TokenizerFile out;
  const Components components(reader.tree, name);
  components.check_model();
  components.check_normalizer();
  components.check_decoder();
  components.read_pre_tokenizer(out);
  components.read_added_tokens(out);

  NEREUS_CHECK(kConfig, !vocab.empty(), "{}: model.vocab is empty", name);
  const ByteAlphabet alphabet;
  out.vocabulary.reserve(vocab.size(), merges.size());
  for (const auto& [token, id] : vocab) {
    NEREUS_CHECK(kConfig, id >= 0 && id < (int64_t{1} << 24), "{}: token \"{}\" has id {}", name,
                 token, id);
    NEREUS_CHECK(kConfig,
                 out.vocabulary.add_token(alphabet.bytes_of(token), static_cast<int32_t>(id)),
                 "{}: token \"{}\" or its id {} is there twice", name, token, id);
  }
  for (const auto& [left, right] : merges)
    NEREUS_CHECK(
        kConfig, out.vocabulary.add_merge(alphabet.bytes_of(left), alphabet.bytes_of(right)),
        "{}: merge \"{} {}\": it, or a part of it, is no token of model.vocab", name, left, right);
  out.vocabulary.finish();
  for (int b = 0; b < 256; ++b)
    NEREUS_CHECK(kConfig, out.vocabulary.byte_token(static_cast<unsigned char>(b)) >= 0,
                 "{}: byte 0x{:02x} is no token; a byte-level vocabulary has all 256", name, b);
  return out;
}

SpecialNames read_tokenizer_config(std::string_view text, const std::string& name) {
  const json config = json::parse(text, nullptr, /*allow_exceptions=*/false);
  NEREUS_CHECK(kConfig, config.is_object(), "{}: is not a JSON object", name);
  const auto content = [&](const char* key) -> std::optional<std::string> {
    if (absent(config, key)) return std::nullopt;
    const json& token = config[key];
    if (token.is_string()) return token.get<std::string>();
    if (token.is_object() && token.contains("content") && token["content"].is_string())
      return token["content"].get<std::string>();
    NEREUS_FAIL(kConfig, "{}: {} = {}: it must be a string or a token with content", name, key,
                token.dump());
  };
  return {.bos = content("bos_token"), .eos = content("eos_token")};
}

}  // namespace nereus::data
