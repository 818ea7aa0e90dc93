#include "data/tokenizer/tokenizer.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "base/check.h"
#include "base/fetched.h"
#include "data/tokenizer/merger.h"
#include "data/tokenizer/tokenizer_json.h"
#include "data/utf8.h"

namespace nereus::data {
namespace {

namespace fs = std::filesystem;

// "the folder has a, b, c", for a message.
std::string contents_of(const fs::path& folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) return "there is no such folder";
  std::vector<std::string> names;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    names.push_back(it->path().filename().string());
  if (names.empty()) return "the folder is empty";
  std::sort(names.begin(), names.end());
  constexpr size_t kMost = 20;
  const size_t more = names.size() - std::min(names.size(), kMost);
  names.resize(names.size() - more);
  return fmt::format("the folder has {}{}", fmt::join(names, ", "),
                     more > 0 ? fmt::format(" and {} more", more) : "");
}

std::vector<const AddedToken*> added_of(const TokenizerFile& file, bool normalized) {
  std::vector<const AddedToken*> out;
  for (const AddedToken& token : file.added)
    if (token.normalized == normalized) out.push_back(&token);
  return out;
}

std::vector<const AddedToken*> pointers(const std::vector<AddedToken>& tokens) {
  std::vector<const AddedToken*> out;
  for (const AddedToken& token : tokens) out.push_back(&token);
  return out;
}

}  // namespace

struct Tokenizer::Impl {
  Impl(TokenizerFile f, const std::string& name)
      : file(std::move(f)),
        normalizers(file.normal_forms.begin(), file.normal_forms.end()),
        normal_added(normal_form_of(added_of(file, true))),
        raw(added_of(file, false)),
        normalized(pointers(normal_added)) {
    splitter = are_deepseek_rules(file.rules) ? make_deepseek_splitter()
                                              : make_regex_splitter(file.rules, name);
    if (!file.after_prefix.empty()) after_prefix = make_regex_splitter(file.after_prefix, name);
    if (!file.after_bytes.empty()) after_bytes = make_regex_splitter(file.after_bytes, name);
    size = file.vocabulary.size();
    for (const AddedToken& token : file.added) size = std::max(size, token.id + 1);
    added.resize(static_cast<size_t>(size), nullptr);
    for (const AddedToken& token : file.added) added[static_cast<size_t>(token.id)] = &token;
  }

  // `text` itself, or what `buffer` holds then.
  std::string_view normalize(std::string_view text, std::string& buffer) const {
    std::string other;
    for (const Normalizer& n : normalizers) {
      const std::string_view now = n.run(text, other);
      if (now.data() != other.data()) continue;
      buffer.swap(other);
      text = buffer;
    }
    return text;
  }

  // The tokens as they are looked for in normalized text; of equal ones the first.
  std::vector<AddedToken> normal_form_of(const std::vector<const AddedToken*>& tokens) const {
    std::vector<AddedToken> out;
    std::set<std::string> seen;
    std::string buffer;
    for (const AddedToken* token : tokens) {
      out.push_back(*token);
      out.back().content = normalize(token->content, buffer);
      if (out.back().content.empty() || !seen.insert(out.back().content).second) out.pop_back();
    }
    return out;
  }

  std::optional<int32_t> id_of(const std::string& content) const {
    for (const AddedToken& token : file.added)
      if (token.content == content) return token.id;
    std::string bytes;
    const int32_t id = alphabet.append_bytes(content, bytes)
                           ? file.vocabulary.find(bytes)
                           : file.vocabulary.find_foreign(content);
    return id < 0 ? std::nullopt : std::optional(id);
  }

  const TokenizerFile file;
  const ByteAlphabet alphabet;
  const std::vector<Normalizer> normalizers;
  const std::vector<AddedToken> normal_added;
  const AddedTokenFinder raw, normalized;  // one after the other, as Hugging Face does
  std::unique_ptr<Splitter> splitter, after_prefix, after_bytes;
  std::vector<const AddedToken*> added;  // by id
  int32_t size = 0;
  std::optional<int32_t> bos, eos;
  bool adds_bos = false, adds_eos = false;
};

struct Tokenizer::Encoder::State {
  explicit State(const Impl& t) : tokenizer(t), merger(t.file.vocabulary, t.file.ignore_merges) {}

  // Text between added tokens.
  void encode_text(std::string_view text, std::vector<int32_t>& ids) {
    pieces.clear();
    tokenizer.splitter->split(text, pieces);
    if (!tokenizer.file.add_prefix_space) {
      if (tokenizer.after_bytes == nullptr) {  // most tokenizers
        for (const std::string_view piece : pieces) merger.encode(piece, ids);
      } else {
        for (const std::string_view piece : pieces) encode_piece(piece, ids);
      }
      return;
    }
    for (std::string_view piece : pieces) {
      if (!piece.starts_with(' ')) {
        prefixed.assign(1, ' ');
        prefixed += piece;
        piece = prefixed;
      }
      subpieces.assign(1, piece);
      if (tokenizer.after_prefix != nullptr) {
        subpieces.clear();
        tokenizer.after_prefix->split(piece, subpieces);
      }
      for (const std::string_view subpiece : subpieces) encode_piece(subpiece, ids);
    }
  }

  void encode_piece(std::string_view piece, std::vector<int32_t>& ids) {
    if (tokenizer.after_bytes == nullptr) {
      merger.encode(piece, ids);
      return;
    }
    alphabet_text.clear();
    tokenizer.alphabet.append_text(piece, alphabet_text);
    alphabet_pieces.clear();
    tokenizer.after_bytes->split(alphabet_text, alphabet_pieces);
    for (const std::string_view part : alphabet_pieces) {
      bytes.clear();
      tokenizer.alphabet.append_bytes(part, bytes);
      merger.encode(bytes, ids);
    }
  }

  const Impl& tokenizer;
  Merger merger;
  std::vector<AddedTokenFinder::Part> parts, subparts;
  std::vector<std::string_view> pieces, subpieces, alphabet_pieces;
  std::string prefixed, normal, alphabet_text, bytes;
};

Tokenizer::Encoder::Encoder(const Tokenizer& tokenizer)
    : state_(std::make_unique<State>(*tokenizer.impl_)) {}
Tokenizer::Encoder::~Encoder() = default;
Tokenizer::Encoder::Encoder(Encoder&&) noexcept = default;

void Tokenizer::Encoder::encode(std::string_view text, std::vector<int32_t>& ids) {
  std::string mended;
  if (!is_valid_utf8(text)) {
    mended = replace_invalid_utf8(text);
    text = mended;
  }
  State& s = *state_;
  s.parts.clear();
  s.tokenizer.raw.cut(text, s.parts);
  for (const auto& part : s.parts) {
    if (part.token != nullptr) {
      ids.push_back(part.token->id);
      continue;
    }
    s.subparts.clear();
    s.tokenizer.normalized.cut(s.tokenizer.normalize(part.text, s.normal), s.subparts);
    for (const auto& subpart : s.subparts) {
      if (subpart.token != nullptr) {
        ids.push_back(subpart.token->id);
      } else {
        s.encode_text(subpart.text, ids);
      }
    }
  }
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

std::shared_ptr<const Tokenizer> Tokenizer::parse(std::string_view tokenizer_json,
                                                  std::string_view config_json,
                                                  const std::string& name,
                                                  const std::string& config_name) {
  auto impl = std::make_unique<Impl>(read_tokenizer_json(tokenizer_json, name), name);
  if (!config_json.empty()) {
    const TokenizerConfig config = read_tokenizer_config(config_json, config_name);
    const auto id_of = [&](const char* key, const std::optional<std::string>& content) {
      const std::optional<int32_t> id = content ? impl->id_of(*content) : std::nullopt;
      NEREUS_CHECK(kConfig, id || !content,
                   "{}: {} is \"{}\", which is no token of {}\n  Name a token that is there, or "
                   "set it to null.",
                   config_name, key, content.value_or(""), name);
      return id;
    };
    impl->bos = id_of("bos_token", config.bos);
    impl->eos = id_of("eos_token", config.eos);
    impl->adds_bos = config.add_bos;
    impl->adds_eos = config.add_eos;
  }
  return std::shared_ptr<const Tokenizer>(new Tokenizer(std::move(impl)));
}

std::shared_ptr<const Tokenizer> Tokenizer::load(const std::string& path) {
  std::error_code error;
  const bool folder = fs::is_directory(path, error);
  const fs::path file = folder ? fs::path(path) / "tokenizer.json" : fs::path(path);
  if (!fs::exists(file, error)) {
    const bool named = file.extension() == ".json";
    NEREUS_FAIL(kConfig,
                "{}: there is no tokenizer.json; {}\n  Set model.hf_assets_path (or --tokenizer) "
                "to a folder that has one; assets/tokenizer is DeepSeek-V3's, and `nereus download "
                "tokenizer --dir {}` fetches DeepSeek-V3.1's.",
                path, contents_of(named ? file.parent_path() : file),
                (named ? file.parent_path().string() : path));
  }
  const fs::path config = file.parent_path() / "tokenizer_config.json";
  const bool has_config = fs::exists(config, error);
  return parse(read_fetched(file.string()), has_config ? read_fetched(config.string()) : "",
               file.string(), config.string());
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string bytes;
  for (const int32_t id : ids) append_bytes(id, skip_special, bytes);
  return replace_invalid_utf8(bytes);
}

void Tokenizer::append_bytes(int32_t id, bool skip_special, std::string& bytes) const {
  NEREUS_CHECK(kConfig, has(id), "token id {} is not in the vocabulary, which has ids from 0 to {}",
               id, impl_->size - 1);
  if (const AddedToken* added = impl_->added[static_cast<size_t>(id)]) {
    if (!skip_special || !added->special) bytes += impl_->alphabet.bytes_of(added->content);
  } else {
    bytes += impl_->file.vocabulary.token(id);
  }
}

bool Tokenizer::has(int64_t id) const {
  return id >= 0 && id < impl_->size &&
         (impl_->added[static_cast<size_t>(id)] != nullptr ||
          impl_->file.vocabulary.has(static_cast<int32_t>(id)));
}

int64_t Tokenizer::vocab_size() const { return impl_->size; }
std::optional<int32_t> Tokenizer::bos_id() const { return impl_->bos; }
std::optional<int32_t> Tokenizer::eos_id() const { return impl_->eos; }
bool Tokenizer::adds_bos() const { return impl_->adds_bos; }
bool Tokenizer::adds_eos() const { return impl_->adds_eos; }

}  // namespace nereus::data
