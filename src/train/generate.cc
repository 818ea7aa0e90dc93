#include "train/generate.h"

#include <algorithm>
#include <memory>

#include "base/check.h"
#include "base/files.h"
#include "base/log.h"
#include "data/tokenizer/tokenizer.h"
#include "data/utf8.h"
#include "ops/elementwise.h"
#include "tensor/convert.h"
#include "train/saved_model.h"

namespace nereus {
namespace {

using data::Tokenizer;

// One row of the logits, of those that the head makes chunk by chunk.
class LogitsOf final : public Observer {
 public:
  void look_at(int64_t row) { row_ = row; }
  const std::vector<float>& values() const { return values_; }

  void see(Stream& stream, const char* what, int64_t first, ConstTensorView view) override {
    if (std::string_view(what) != "logits" || row_ < first || row_ >= first + view.dim(0)) return;
    const ConstTensorView mine = view.rows(row_ - first, row_ - first + 1);
    std::vector<std::byte> raw(static_cast<size_t>(mine.bytes()));
    copy_to_host(stream, raw.data(), mine);
    stream.synchronize();
    values_.resize(static_cast<size_t>(mine.count()));
    convert_to_f32(mine.dtype, raw.data(), mine.count(), values_.data());
  }

 private:
  int64_t row_ = 0;
  std::vector<float> values_;
};

std::shared_ptr<const Tokenizer> tokenizer_of(const GenerateOptions& o, const SavedModel& model) {
  if (!o.prompt && !o.text) return nullptr;
  const std::string folder = o.tokenizer.value_or(model.folder());
  NEREUS_CHECK(
      kConfig, o.tokenizer || is_there(folder + "/tokenizer.json"),
      "--checkpoint {}: it has no tokenizer.json, which text needs: name a folder that has "
      "one with --tokenizer, or give the prompt as --prompt-ids 1,2,3 and ask for the new "
      "tokens' ids with --ids.",
      o.checkpoint);
  return Tokenizer::load(folder);
}

std::vector<int32_t> prompt_of(const GenerateOptions& o, const Tokenizer* tokenizer,
                               int64_t vocabulary) {
  std::vector<int32_t> ids;
  if (o.prompt) {
    if (tokenizer->adds_bos() && tokenizer->bos_id()) ids.push_back(*tokenizer->bos_id());
    Tokenizer::Encoder(*tokenizer).encode(*o.prompt, ids);
    for (const int32_t id : ids)
      NEREUS_CHECK(
          kConfig, id < vocabulary,
          "--prompt: the tokenizer makes token {} of it, and the model's vocabulary has {} "
          "ids, from 0 to {}: it is another model's tokenizer; name this one's with "
          "--tokenizer.",
          id, vocabulary, vocabulary - 1);
  } else {
    for (const int64_t id : *o.prompt_ids) {
      NEREUS_CHECK(
          kConfig, id >= 0 && id < vocabulary,
          "--prompt-ids: {} is not a token of the model: its vocabulary has {} ids, from 0 to {}",
          id, vocabulary, vocabulary - 1);
      ids.push_back(static_cast<int32_t>(id));
    }
  }
  NEREUS_CHECK(kConfig, !ids.empty(),
               "--prompt: no token comes of it, and the tokenizer has none to begin a text with: a "
               "text cannot go on from nothing; give a character or more.");
  return ids;
}

// The text of tokens as they come.
class TextOf {
 public:
  TextOf(const Tokenizer* tokenizer, const std::function<void(std::string_view)>& show)
      : tokenizer_(tokenizer), show_(show) {}

  void add(int32_t id) {
    if (tokenizer_ == nullptr) return;
    std::string bytes;
    if (tokenizer_->has(id)) {
      tokenizer_->append_bytes(id, true, bytes);
    } else if (!warned_) {
      warned_ = true;
      log::warning(
          "Token {} is none of the tokenizer's, and has no text: was this model trained "
          "with another tokenizer, or at all?",
          id);
    }
    show(pieces_.add(bytes));
  }
  void finish() {
    if (tokenizer_ != nullptr) show(pieces_.finish());
  }

 private:
  void show(const std::string& text) {
    if (!text.empty()) show_(text);
  }
  const Tokenizer* tokenizer_;
  const std::function<void(std::string_view)>& show_;
  data::Utf8Pieces pieces_;
  bool warned_ = false;
};

}  // namespace

std::vector<int32_t> generate(Stream& stream, const GenerateOptions& o,
                              const std::function<void(std::string_view)>& show) {
  const SavedModel model(o.checkpoint, "--checkpoint");
  ModelArgs args = model.args();
  const std::shared_ptr<const Tokenizer> tokenizer = tokenizer_of(o, model);
  std::vector<int32_t> ids = prompt_of(o, tokenizer.get(), args.vocab_size);
  std::vector<int64_t> ends = model.end_tokens();
  if (ends.empty() && tokenizer && tokenizer->eos_id()) ends = {*tokenizer->eos_id()};

  // The last token is not read. What stands behind a token does not change its logits.
  const auto length = static_cast<int64_t>(ids.size()) + o.max_tokens - 1;
  args.max_seq_len = length;
  check(args);
  Engine engine(args, stream,
                {.compute = o.compute,
                 .rows = 1,
                 .sequence = length,
                 .eos_id = static_cast<int32_t>(args.eos_id),
                 .gradients = false,
                 .moments = false});
  log::info("Loading the checkpoint from {}.", o.checkpoint);
  model.load(engine, stream);

  const Buffer buffer(stream.device(), size_of(DType::f32), "loss");
  const TensorView loss(buffer.data(), DType::f32, {1});
  ops::fill(stream, {.out = loss, .value = 0});
  std::vector<int32_t> text(static_cast<size_t>(length), ids[0]);
  const std::vector<int32_t> labels(text.size(), -100);
  LogitsOf logits;
  TextOf shown(o.text ? tokenizer.get() : nullptr, show);
  std::vector<int32_t> made;
  while (static_cast<int64_t>(made.size()) < o.max_tokens) {
    std::copy(ids.begin(), ids.end(), text.begin());
    const auto place = static_cast<int64_t>(ids.size());
    logits.look_at(place - 1);
    engine.executor().evaluate({.ids = text, .labels = labels}, 1, loss, &logits);
    const int32_t next = choose_token(logits.values(), o.sampling, place);
    made.push_back(next);
    ids.push_back(next);
    shown.add(next);
    if (std::find(ends.begin(), ends.end(), next) != ends.end()) break;
  }
  shown.finish();
  return made;
}

}  // namespace nereus
