#include "data/tokenizer/tokenizer.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <queue>
#include <sstream>
#include <unordered_map>

#include "base/check.h"
#include "data/tokenizer/tokenizer_json.h"
#include "data/utf8.h"

namespace nereus::data {
namespace {

// Finds added tokens in text: the leftmost, of several there the longest.
class AddedMatcher {
 public:
  void add(const AddedToken& token) {
    by_first_byte_[static_cast<unsigned char>(token.content[0])].push_back(&token);
  }
  void finish() {
    for (auto& candidates : by_first_byte_)
      std::stable_sort(candidates.begin(), candidates.end(),
                       [](const AddedToken* a, const AddedToken* b) {
                         return a->content.size() > b->content.size();
                       });
  }
  // on_text(part) for what lies between, on_token(token) for each found.
  template <class OnText, class OnToken>
  void cut(std::string_view text, OnText on_text, OnToken on_token) const {
    size_t begin = 0;
    for (size_t at = 0; at < text.size();) {
      const AddedToken* found = nullptr;
      for (const AddedToken* t : by_first_byte_[static_cast<unsigned char>(text[at])]) {
        if (text.substr(at).starts_with(t->content)) {
          found = t;
          break;
        }
      }
      if (found == nullptr) {
        ++at;
        continue;
      }
      if (at > begin) on_text(text.substr(begin, at - begin));
      on_token(*found);
      at += found->content.size();
      begin = at;
    }
    if (begin < text.size()) on_text(text.substr(begin));
  }

 private:
  std::array<std::vector<const AddedToken*>, 256> by_first_byte_;
};

std::string read_all(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  NEREUS_CHECK(kConfig, in.good(), "{}: cannot be read", path);
  std::stringstream text;
  text << in.rdbuf();
  return std::move(text).str();
}

}  // namespace

struct Tokenizer::Impl {
  TokenizerFile file;
  std::unique_ptr<Splitter> splitter;
  AddedMatcher raw, normalized;  // matched one after the other, as Hugging Face does
  std::unordered_map<int32_t, const AddedToken*> added_by_id;
  std::optional<int32_t> bos, eos;
  int32_t size = 0;
};

struct Tokenizer::Encoder::State {
  explicit State(const Tokenizer::Impl& t) : tokenizer(t), slots(kSlots, Slot{}) {}

  // Pieces seen before, in an open hash table; emptied when full.
  struct Slot {
    uint64_t hash = 0;
    uint32_t text = 0, length = 0;  // length 0: free
    uint32_t ids = 0, count = 0;
  };
  static constexpr size_t kSlots = size_t{1} << 16;
  static constexpr size_t kLongest = 64;  // bytes of a piece worth remembering

  void encode_piece(std::string_view piece, std::vector<int32_t>& out);
  void merge_short(std::string_view piece, std::vector<int32_t>& out);
  void merge_long(std::string_view piece, std::vector<int32_t>& out);
  void encode_text(std::string_view text, std::vector<int32_t>& out) {
    pieces.clear();
    std::string prefixed;
    if (tokenizer.file.add_prefix_space && !text.starts_with(' ')) {
      prefixed = " " + std::string(text);
      text = prefixed;
    }
    tokenizer.splitter->split(text, pieces);
    for (const std::string_view piece : pieces) encode_piece(piece, out);
  }

  const Tokenizer::Impl& tokenizer;
  std::vector<std::string_view> pieces;
  std::vector<Slot> slots;
  size_t used = 0;
  std::string texts;
  std::vector<int32_t> ids;
  // Work space of merging.
  struct Symbol {
    int32_t id, previous, next;
  };
  std::vector<Symbol> symbols;
  std::vector<uint32_t> ranks;
};

// Ranks of neighbours in an array, the lowest looked for anew after each merge: quadratic, and the
// fastest for words.
void Tokenizer::Encoder::State::merge_short(std::string_view piece, std::vector<int32_t>& out) {
  const Vocabulary& v = tokenizer.file.vocabulary;
  const size_t first = out.size();
  for (const char c : piece) out.push_back(v.byte_token(static_cast<unsigned char>(c)));
  constexpr uint32_t kNone = ~uint32_t{0};
  const auto rank = [&](size_t i) {
    const Vocabulary::Merge* m = v.merge(out[i], out[i + 1]);
    return m == nullptr ? kNone : m->rank;
  };
  ranks.clear();
  for (size_t i = first; i + 1 < out.size(); ++i) ranks.push_back(rank(i));
  while (!ranks.empty()) {
    const auto lowest = std::min_element(ranks.begin(), ranks.end());
    if (*lowest == kNone) return;
    const size_t i = static_cast<size_t>(lowest - ranks.begin());
    out[first + i] = static_cast<int32_t>(v.merge(out[first + i], out[first + i + 1])->id);
    out.erase(out.begin() + static_cast<std::ptrdiff_t>(first + i + 1));
    ranks.erase(lowest);
    if (i > 0) ranks[i - 1] = rank(first + i - 1);
    if (i < ranks.size()) ranks[i] = rank(first + i);
  }
}

// A heap of pairs by (rank, place) over a linked list: n log n.
void Tokenizer::Encoder::State::merge_long(std::string_view piece, std::vector<int32_t>& out) {
  const Vocabulary& v = tokenizer.file.vocabulary;
  struct Pair {
    uint32_t rank;
    int32_t left, left_id, right_id;
    bool operator>(const Pair& o) const { return rank != o.rank ? rank > o.rank : left > o.left; }
  };
  std::priority_queue<Pair, std::vector<Pair>, std::greater<>> heap;
  symbols.clear();
  const auto n = static_cast<int32_t>(piece.size());
  for (int32_t i = 0; i < n; ++i)
    symbols.push_back({v.byte_token(static_cast<unsigned char>(piece[static_cast<size_t>(i)])),
                       i - 1, i + 1 < n ? i + 1 : -1});
  const auto push = [&](int32_t left) {
    if (left < 0) return;
    const Symbol& a = symbols[static_cast<size_t>(left)];
    if (a.next < 0) return;
    const int32_t right_id = symbols[static_cast<size_t>(a.next)].id;
    if (const Vocabulary::Merge* m = v.merge(a.id, right_id))
      heap.push({m->rank, left, a.id, right_id});
  };
  for (int32_t i = 0; i + 1 < n; ++i) push(i);
  while (!heap.empty()) {
    const Pair p = heap.top();
    heap.pop();
    Symbol& a = symbols[static_cast<size_t>(p.left)];
    if (a.id != p.left_id || a.next < 0) continue;  // merged away since
    Symbol& b = symbols[static_cast<size_t>(a.next)];
    if (b.id != p.right_id) continue;
    a.id = static_cast<int32_t>(v.merge(a.id, b.id)->id);
    b.id = -1;
    a.next = b.next;
    if (b.next >= 0) symbols[static_cast<size_t>(b.next)].previous = p.left;
    push(a.previous);
    push(p.left);
  }
  for (int32_t i = 0; i >= 0; i = symbols[static_cast<size_t>(i)].next)
    out.push_back(symbols[static_cast<size_t>(i)].id);
}

void Tokenizer::Encoder::State::encode_piece(std::string_view piece, std::vector<int32_t>& out) {
  if (piece.size() > kLongest) return merge_long(piece, out);
  const uint64_t hash = Vocabulary::hash_bytes(piece);
  size_t at = hash & (kSlots - 1);
  for (; slots[at].length > 0; at = (at + 1) & (kSlots - 1)) {
    const Slot& s = slots[at];
    if (s.hash == hash && s.length == piece.size() &&
        std::string_view(texts).substr(s.text, s.length) == piece) {
      out.insert(out.end(), ids.begin() + s.ids, ids.begin() + s.ids + s.count);
      return;
    }
  }
  const size_t first = out.size();
  merge_short(piece, out);
  if (used > kSlots / 2) {
    std::fill(slots.begin(), slots.end(), Slot{});
    used = 0;
    texts.clear();
    ids.clear();
    at = hash & (kSlots - 1);
  }
  slots[at] = {hash, static_cast<uint32_t>(texts.size()), static_cast<uint32_t>(piece.size()),
               static_cast<uint32_t>(ids.size()), static_cast<uint32_t>(out.size() - first)};
  ++used;
  texts += piece;
  ids.insert(ids.end(), out.begin() + static_cast<std::ptrdiff_t>(first), out.end());
}

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
  const Impl& t = state_->tokenizer;
  const auto found = [&](const AddedToken& token) { ids.push_back(token.id); };
  t.raw.cut(
      text,
      [&](std::string_view part) {
        t.normalized.cut(
            part, [&](std::string_view rest) { state_->encode_text(rest, ids); }, found);
      },
      found);
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

std::shared_ptr<const Tokenizer> Tokenizer::parse(std::string_view tokenizer_json,
                                                  std::string_view config_json,
                                                  const std::string& name) {
  auto impl = std::make_unique<Impl>();
  impl->file = read_tokenizer_json(tokenizer_json, name);
  impl->splitter = are_deepseek_rules(impl->file.rules) ? make_deepseek_splitter()
                                                        : make_regex_splitter(impl->file.rules);
  impl->size = impl->file.vocabulary.size();
  for (const AddedToken& token : impl->file.added) {
    (token.normalized ? impl->normalized : impl->raw).add(token);
    impl->added_by_id[token.id] = &token;
    impl->size = std::max(impl->size, token.id + 1);
  }
  impl->raw.finish();
  impl->normalized.finish();
  if (!config_json.empty()) {
    const SpecialNames names = read_tokenizer_config(config_json, name);
    const auto id_of = [&](const std::optional<std::string>& content) -> std::optional<int32_t> {
      if (!content) return std::nullopt;
      for (const AddedToken& token : impl->file.added)
        if (token.content == *content) return token.id;
      const int32_t id = impl->file.vocabulary.find(*content);
      return id < 0 ? std::nullopt : std::optional(id);
    };
    impl->bos = id_of(names.bos);
    impl->eos = id_of(names.eos);
  }
  return std::shared_ptr<const Tokenizer>(new Tokenizer(std::move(impl)));
}

std::shared_ptr<const Tokenizer> Tokenizer::load(const std::string& path) {
  namespace fs = std::filesystem;
  const bool folder = fs::is_directory(path);
  const fs::path file = folder ? fs::path(path) / "tokenizer.json" : fs::path(path);
  if (!fs::exists(file)) {
    std::string there;
    if (folder)
      for (const auto& entry : fs::directory_iterator(path))
        there += (there.empty() ? "" : ", ") + entry.path().filename().string();
    NEREUS_FAIL(
        kConfig,
        "{}: there is no tokenizer.json{}\n  Set model.hf_assets_path (or --tokenizer) to a "
        "folder that has one; assets/tokenizer is DeepSeek-V3's.",
        path,
        !folder         ? "; there is no such folder"
        : there.empty() ? "; the folder is empty"
                        : "; the folder has " + there);
  }
  const fs::path config = file.parent_path() / "tokenizer_config.json";
  return parse(read_all(file.string()), fs::exists(config) ? read_all(config.string()) : "",
               file.string());
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  static const ByteAlphabet alphabet;
  std::string bytes;
  for (const int32_t id : ids) {
    const auto added = impl_->added_by_id.find(id);
    if (added != impl_->added_by_id.end()) {
      if (!skip_special || !added->second->special)
        bytes += alphabet.bytes_of(added->second->content);
      continue;
    }
    NEREUS_CHECK(kConfig, impl_->file.vocabulary.has(id),
                 "token id {} is not in the vocabulary, which has ids from 0 to {}", id,
                 impl_->size - 1);
    bytes += impl_->file.vocabulary.token(id);
  }
  return replace_invalid_utf8(bytes);
}

int64_t Tokenizer::vocab_size() const { return impl_->size; }
std::optional<int32_t> Tokenizer::bos_id() const { return impl_->bos; }
std::optional<int32_t> Tokenizer::eos_id() const { return impl_->eos; }

}  // namespace nereus::data
