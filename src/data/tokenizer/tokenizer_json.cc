#include "data/tokenizer/tokenizer_json.h"

#include <nlohmann/json.hpp>
#include <unordered_map>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "data/tokenizer/tokenizer_tables.h"

namespace nereus::data {
namespace {

using nlohmann::json;

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

// GPT-2's pattern, which ByteLevel applies with use_regex.
constexpr const char* kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// What Rust's char::is_numeric says.
constexpr const char* kNumeric = R"(\p{N})";
// ASCII's, and what Hugging Face's tables, which are of Unicode 8, have as punctuation.
constexpr const char* kPunctuation =
    R"([!-/:-@\[-`{-~\x{166D}\x{111C9}]|(?![\x{61D}\x{9FD}-\x{A76}\x{C77}-\x{C84}\x{1B4E}-\x{1B4F}\x{1B7)"
    R"(D}-\x{1B7F}\x{2E43}-\x{2E5D}\x{10D6E}-\x{10F89}\x{113D4}-\x{1145D}\x{11660}-\x{1)"
    R"(16B9}\x{1183B}-\x{11FFF}\x{12FF1}-\x{12FF2}\x{16D6D}-\x{16FE2}\x{1E5FF}-\x{1E95F)"
    R"(}])\p{P})";

class Components {
 public:
  Components(const json& tree, const std::string& name) : tree_(tree), name_(name) {}

  void check_model() const {
    NEREUS_CHECK(kConfig, tree_.contains("model") && tree_["model"].is_object(),
                 "{}: has no model; is it a tokenizer.json?", name_);
    const json& m = tree_["model"];
    if (m.contains("type") && type_of(m) != "BPE") unsupported("model type", type_of(m), "BPE");
    if (!absent(m, "dropout") && m["dropout"] != 0)
      unsupported("model", "BPE with dropout", "BPE without it");
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (!absent(m, key) && (!m[key].is_string() || !m[key].get<std::string>().empty()))
        unsupported("model", fmt::format("BPE with {}", key), "BPE without it");
  }

  // Checks the settings for bytes that are not tokens; without them such a byte is left out.
  void check_unknown(const Vocabulary& vocabulary) const {
    const json& m = tree_["model"];
    if (vocabulary.has_all_bytes() || (absent(m, "unk_token") && !flag(m, "byte_fallback", false)))
      return;
    unsupported("model", "BPE with unk_token or byte_fallback and not all bytes in its vocab",
                "all 256 bytes in the vocab, or neither of the two");
  }

  void check_others() const {
    if (!absent(tree_, "decoder") && type_of(tree_["decoder"]) != "ByteLevel")
      unsupported("decoder type", type_of(tree_["decoder"]), "ByteLevel");
    for (const char* key : {"truncation", "padding"})
      if (!absent(tree_, key))
        log::info("{}: {} is set and not applied: documents are read whole", name_, key);
  }

  void read_normalizer(TokenizerFile& out) const {
    if (!absent(tree_, "normalizer")) read_normalizer(tree_["normalizer"], out);
  }

  void read_pre_tokenizer(TokenizerFile& out) const {
    NEREUS_CHECK(kConfig, !absent(tree_, "pre_tokenizer"),
                 "{}: has no pre_tokenizer; supported: ByteLevel, or a Sequence of {} with a "
                 "ByteLevel in it",
                 name_, kParts);
    bool byte_level = false;
    read_part(tree_["pre_tokenizer"], out, byte_level);
    if (!byte_level)
      unsupported("pre_tokenizer type", type_of(tree_["pre_tokenizer"]),
                  "ByteLevel, or a Sequence with a ByteLevel in it");
  }

  // Gives each token the id that Hugging Face gives it: the vocabulary's, or the next free one.
  void read_added_tokens(TokenizerFile& out) const {
    if (absent(tree_, "added_tokens")) return;
    NEREUS_CHECK(kConfig, tree_["added_tokens"].is_array(), "{}: added_tokens is not a list",
                 name_);
    std::unordered_map<std::string, size_t> by_content;
    auto next = static_cast<int32_t>(out.vocabulary.count());
    const ByteAlphabet alphabet;
    for (const json& t : tree_["added_tokens"]) {
      NEREUS_CHECK(kConfig,
                   t.is_object() && t.contains("id") && t["id"].is_number_integer() &&
                       t.contains("content") && t["content"].is_string(),
                   "{}: added_tokens has {}, which has no id or no content", name_, t.dump());
      AddedToken token{.content = t["content"].get<std::string>(),
                       .special = flag(t, "special", false),
                       .normalized = flag(t, "normalized", true),
                       .lstrip = flag(t, "lstrip", false),
                       .rstrip = flag(t, "rstrip", false),
                       .single_word = flag(t, "single_word", false)};
      if (token.content.empty()) continue;
      if (const auto known = by_content.find(token.content); known != by_content.end()) {
        AddedToken& before = out.added[known->second];
        token.id = before.id;
        token.special |= before.special;
        before = token;
        continue;
      }
      token.id = id_in(out.vocabulary, alphabet, token.content);
      if (token.id < 0) token.id = next++;
      const auto stated = t["id"].get<int64_t>();
      if (token.id != stated)
        log::warning(
            "{}: added token {} says id {}, but has {} by Hugging Face's rule: the vocabulary's, "
            "or the next after it",
            name_, t["content"].dump(), stated, token.id);
      by_content[token.content] = out.added.size();
      out.added.push_back(std::move(token));
    }
  }

 private:
  [[noreturn]] void unsupported(const char* what, const std::string& which,
                                const char* supported) const {
    NEREUS_FAIL(kConfig, "{}: {} {} is not supported; supported: {}", name_, what, which,
                supported);
  }

  static int32_t id_in(const Vocabulary& vocabulary, const ByteAlphabet& alphabet,
                       const std::string& content) {
    std::string bytes;
    return alphabet.append_bytes(content, bytes) ? vocabulary.find(bytes)
                                                 : vocabulary.find_foreign(content);
  }

  static constexpr const char* kParts = "Sequence, Split, Digits, Punctuation, ByteLevel";

  // The list of a Sequence.
  const json& parts_of(const json& sequence, const char* what, const char* key) const {
    NEREUS_CHECK(kConfig, sequence.contains(key) && sequence[key].is_array(),
                 "{}: {} Sequence has no {}", name_, what, key);
    return sequence[key];
  }

  void read_normalizer(const json& part, TokenizerFile& out) const {
    static constexpr std::pair<const char*, NormalForm> kForms[] = {{"NFC", NormalForm::nfc},
                                                                    {"NFD", NormalForm::nfd},
                                                                    {"NFKC", NormalForm::nfkc},
                                                                    {"NFKD", NormalForm::nfkd}};
    const std::string type = type_of(part);
    if (type == "Sequence") {
      for (const json& one : parts_of(part, "normalizer", "normalizers")) read_normalizer(one, out);
      return;
    }
    for (const auto& [text, form] : kForms) {
      if (type != text) continue;
      out.normal_forms.push_back(form);
      return;
    }
    unsupported("normalizer type", type, "Sequence, NFC, NFD, NFKC, NFKD, or none");
  }

  void read_part(const json& part, TokenizerFile& out, bool& byte_level) const {
    const std::string type = type_of(part);
    if (type == "Sequence") {
      for (const json& one : parts_of(part, "pre_tokenizer", "pretokenizers"))
        read_part(one, out, byte_level);
      return;
    }
    std::vector<SplitRule>& rules = byte_level ? out.after_bytes : out.rules;
    if (type == "Split") {
      rules.push_back(read_split(part));
    } else if (type == "Digits") {
      rules.push_back({.pattern = kNumeric,
                       .behavior = flag(part, "individual_digits", false)
                                       ? SplitRule::Behavior::isolated
                                       : SplitRule::Behavior::contiguous});
    } else if (type == "Punctuation") {
      rules.push_back({.pattern = kPunctuation, .behavior = behavior_of(part, "Isolated")});
    } else if (type == "ByteLevel") {
      if (byte_level) unsupported("pre_tokenizer", "ByteLevel after ByteLevel", "one of them");
      byte_level = true;
      out.add_prefix_space = flag(part, "add_prefix_space", true);
      if (flag(part, "use_regex", true))
        (out.add_prefix_space ? out.after_prefix : out.rules)
            .push_back({.pattern = kByteLevelPattern});
    } else {
      unsupported("pre_tokenizer type", type, kParts);
    }
  }

  SplitRule::Behavior behavior_of(const json& part, const json& otherwise) const {
    using Behavior = SplitRule::Behavior;
    static constexpr std::pair<const char*, Behavior> kBehaviors[] = {
        {"Isolated", Behavior::isolated},
        {"Removed", Behavior::removed},
        {"MergedWithPrevious", Behavior::merged_with_previous},
        {"MergedWithNext", Behavior::merged_with_next},
        {"Contiguous", Behavior::contiguous}};
    const json behavior = part.value("behavior", otherwise);
    for (const auto& [text, value] : kBehaviors)
      if (behavior == text) return value;
    unsupported("pre_tokenizer Split or Punctuation with behavior", behavior.dump(),
                "Isolated, Removed, MergedWithPrevious, MergedWithNext, Contiguous");
  }

  SplitRule read_split(const json& part) const {
    SplitRule rule;
    rule.invert = flag(part, "invert", false);
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
    rule.behavior = behavior_of(part, json());
    return rule;
  }

  const json& tree_;
  const std::string& name_;
};

}  // namespace

TokenizerFile read_tokenizer_json(std::string_view text, const std::string& name) {
  const TokenizerTables tables(text, name);
  json tree;
  try {
    tree = json::parse(tables.rest());
  } catch (const json::parse_error& e) {
    NEREUS_FAIL(kConfig, "{}: is not a tokenizer.json: line {}: invalid JSON", name,
                tables.line_of(e.byte));
  }
  TokenizerFile out;
  const Components components(tree, name);
  components.check_model();
  components.check_others();
  components.read_normalizer(out);
  components.read_pre_tokenizer(out);
  out.ignore_merges = flag(tree["model"], "ignore_merges", false);
  out.vocabulary = tables.read();
  components.check_unknown(out.vocabulary);
  components.read_added_tokens(out);
  return out;
}

TokenizerConfig read_tokenizer_config(std::string_view text, const std::string& name) {
  const json config = json::parse(text, nullptr, /*allow_exceptions=*/false);
  NEREUS_CHECK(kConfig, config.is_object(), "{}: is not a JSON object", name);
  const auto content = [&](const char* key) -> std::optional<std::string> {
    if (absent(config, key)) return std::nullopt;
    const json& token = config[key];
    if (token.is_string()) return token.get<std::string>();
    if (token.is_object() && token.contains("content") && token["content"].is_string())
      return token["content"].get<std::string>();
    NEREUS_FAIL(kConfig, "{}: {} = {}: it must be a string, or an object with content", name, key,
                token.dump());
  };
  return {.bos = content("bos_token"),
          .eos = content("eos_token"),
          .add_bos = flag(config, "add_bos_token", false),
          .add_eos = flag(config, "add_eos_token", false)};
}

}  // namespace nereus::data
