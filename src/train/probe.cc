#include "train/probe.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>

#include "base/check.h"
#include "base/files.h"
#include "base/log.h"
#include "checkpoint/hf_names.h"
#include "engine/engine.h"
#include "engine/step_runner.h"
#include "tensor/convert.h"
#include "tensor/safetensors.h"
#include "train/saved_model.h"

namespace nereus {
namespace {

// Host copies of what a file will hold, in order.
class Collection {
 public:
  struct Entry {
    SafetensorsWriter::Tensor tensor;
    std::vector<std::byte> data;
  };

  template <class E>
  void add(const std::string& name, FileDType dtype, std::vector<int64_t> shape,
           const std::vector<E>& values) {
    Entry& e = entries_.emplace_back(Entry{{name, dtype, std::move(shape)}, {}});
    e.data.resize(values.size() * sizeof(E));
    std::memcpy(e.data.data(), values.data(), e.data.size());
  }

  void write(const std::string& path) const {
    std::vector<SafetensorsWriter::Tensor> tensors;
    for (const Entry& e : entries_) tensors.push_back(e.tensor);
    SafetensorsWriter writer(path, tensors);
    for (size_t i = 0; i < entries_.size(); ++i) writer.append(i, entries_[i].data);
    writer.finish();
  }

 private:
  std::vector<Entry> entries_;
};

std::vector<float> host_floats(Stream& stream, ConstTensorView view) {
  std::vector<std::byte> raw(static_cast<size_t>(view.bytes()));
  copy_to_host(stream, raw.data(), view);
  stream.synchronize();
  std::vector<float> out(static_cast<size_t>(view.count()));
  convert_to_f32(view.dtype, raw.data(), view.count(), out.data());
  return out;
}

// Keeps what the layers show, under the names of the golden data.
class Recorder final : public Observer {
 public:
  Recorder(Collection& out, const ModelArgs& args, int64_t B, int64_t S)
      : out_(out), args_(args), B_(B), S_(S) {
    logits_.resize(static_cast<size_t>(B * S * args.vocab_size));
  }

  void see(Stream& stream, const char* what, int64_t layer, ConstTensorView view) override {
    const std::string name(what);
    if (name == "router.topk_ids") {
      ids_.resize(static_cast<size_t>(view.count()));
      copy_to_host(stream, ids_.data(), view);
      return stream.synchronize();
    }
    const std::vector<float> values = host_floats(stream, view);
    if (name == "logits") {
      std::copy(values.begin(), values.end(), logits_.begin() + layer * args_.vocab_size);
    } else if (name == "router.logits") {
      out_.add("router.layer." + std::to_string(layer) + ".logits", FileDType::f32,
               {view.dim(0), view.dim(1)}, values);
    } else if (name == "router.topk_weights") {
      add_choice(layer, view.dim(0), view.dim(1), values);
    } else {
      const std::string suffix = layer >= 0 ? ".layer." + std::to_string(layer) : "";
      out_.add(name + suffix, FileDType::f32, {B_, S_, view.dim(1)}, values);
    }
  }

  void finish(double loss) {
    out_.add("logits", FileDType::f32, {B_, S_, args_.vocab_size}, logits_);
    out_.add("loss", FileDType::f32, {1}, std::vector<float>{static_cast<float>(loss)});
  }

 private:
  // Expert ids ascending, weights in that order.
  void add_choice(int64_t layer, int64_t T, int64_t K, const std::vector<float>& weights) {
    std::vector<int64_t> ids(weights.size());
    std::vector<int64_t> counts(static_cast<size_t>(args_.moe.num_experts));
    std::vector<float> sorted(weights.size());
    std::vector<int64_t> order(static_cast<size_t>(K));
    for (int64_t t = 0; t < T; ++t) {
      std::iota(order.begin(), order.end(), t * K);
      std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
        return ids_[static_cast<size_t>(a)] < ids_[static_cast<size_t>(b)];
      });
      for (int64_t k = 0; k < K; ++k) {
        const auto to = static_cast<size_t>(t * K + k);
        const auto from = static_cast<size_t>(order[static_cast<size_t>(k)]);
        ids[to] = ids_[from];
        sorted[to] = weights[from];
        ++counts[static_cast<size_t>(ids_[from])];
      }
    }
    const std::string prefix = "router.layer." + std::to_string(layer) + ".";
    out_.add(prefix + "topk_ids", FileDType::i64, {T, K}, ids);
    out_.add(prefix + "topk_weights", FileDType::f32, {T, K}, sorted);
    out_.add(prefix + "counts", FileDType::i64, {args_.moe.num_experts}, counts);
  }

  Collection& out_;
  const ModelArgs& args_;
  int64_t B_, S_;
  std::vector<float> logits_;
  std::vector<int32_t> ids_;
};

struct Tokens {
  bool shifted = false;  // input_ids: labels are the ids one to the left
  int64_t B = 0, S = 0;
  std::vector<int32_t> ids, labels;
};

std::vector<int32_t> token_ids(const SafetensorsFile& file, const std::string& name,
                               int64_t vocabulary, int64_t& B, int64_t& S) {
  const SafetensorsEntry& e = file.require(name);
  NEREUS_CHECK(kConfig, e.dtype == FileDType::i64 || e.dtype == FileDType::i32,
               "{}: {} is {}; token ids must be I64 or I32", file.path(), name, e.to_string());
  NEREUS_CHECK(kConfig, e.shape.size() == 2 && e.count() > 0,
               "{}: {} is {}; it must be [B, S], sequences of tokens, and not empty", file.path(),
               name, e.to_string());
  B = e.shape[0];
  S = e.shape[1];
  std::vector<int32_t> out(static_cast<size_t>(e.count()));
  const auto convert = [&](const auto& values) {
    for (size_t i = 0; i < values.size(); ++i) {
      const auto id = static_cast<int64_t>(values[i]);
      NEREUS_CHECK(
          kConfig, id >= 0 && id < vocabulary,
          "{}: {}[{}, {}] = {} is not a token of the model: its vocabulary has {} ids, from "
          "0 to {}",
          file.path(), name, static_cast<int64_t>(i) / S, static_cast<int64_t>(i) % S, id,
          vocabulary, vocabulary - 1);
      out[i] = static_cast<int32_t>(id);
    }
  };
  if (e.dtype == FileDType::i64) {
    convert(e.values<int64_t>());
  } else {
    convert(e.values<int32_t>());
  }
  return out;
}

Tokens read_tokens(const SafetensorsFile& file, int64_t vocabulary) {
  Tokens t;
  t.shifted = file.find("input_ids") != nullptr;
  if (t.shifted) {
    t.ids = token_ids(file, "input_ids", vocabulary, t.B, t.S);
    NEREUS_CHECK(kConfig, t.S >= 2,
                 "{}: input_ids has sequences of {} token; the shifted loss needs at least 2",
                 file.path(), t.S);
    t.labels = t.ids;
    std::rotate(t.labels.begin(), t.labels.begin() + 1, t.labels.end());
    for (int64_t b = 0; b < t.B; ++b) t.labels[static_cast<size_t>((b + 1) * t.S - 1)] = -100;
    return t;
  }
  NEREUS_CHECK(kConfig, file.find("inputs") != nullptr,
               "{}: has neither `input_ids` (Hugging Face's loss) nor `inputs` and `labels` "
               "(TorchTitan's)",
               file.path());
  int64_t B = 0, S = 0;
  t.ids = token_ids(file, "inputs", vocabulary, t.B, t.S);
  t.labels = token_ids(file, "labels", vocabulary, B, S);
  NEREUS_CHECK(kConfig, B == t.B && S == t.S,
               "{}: inputs is [{}, {}] and labels [{}, {}]; they must "
               "have the same shape",
               file.path(), t.B, t.S, B, S);
  return t;
}

// The model's arguments: config.json of the folder, or TorchTitan's, as docs/numerics.md says.
ModelArgs probe_args(const ProbeOptions& o, const SavedModel& model, bool shifted) {
  std::string arguments = o.args.value_or("");
  const std::string beside = model.folder() + "/torchtitan_args.json", config = model.config();
  if (arguments.empty() && !shifted && is_there(beside)) arguments = beside;
  ModelArgs args = arguments.empty() ? model.args() : model_args_from_torchtitan_json(arguments);
  if (arguments.empty() && !shifted) set_family(args, NumericsFamily::torchtitan);
  if (!arguments.empty() && is_there(config)) args.eos_id = hf_config_eos_id(config).value_or(-1);
  if (o.eos_id) args.eos_id = *o.eos_id;
  NEREUS_CHECK(kConfig, !args.block_causal() || args.eos_id >= 0,
               "attn_mask_type is block_causal, and nothing says which token ends a document: give "
               "--eos-id, or eos_token_id in {}",
               config);
  return args;
}

// Gradients of fused tensors under Hugging Face's names, an expert at a time.
void collect_gradients(Stream& stream, const std::vector<NamedView>& gradients, Collection& out) {
  for (const NamedView& g : gradients) {
    const std::vector<std::string> names = hf_names_of(g.name, g.view);
    for (size_t i = 0; i < names.size(); ++i) {
      const TensorView part =
          names.size() > 1 || g.view.rank() == 3 ? g.view[static_cast<int64_t>(i)] : g.view;
      std::vector<int64_t> shape;
      for (int d = 0; d < part.rank(); ++d) shape.push_back(part.dim(d));
      out.add(names[i], FileDType::f32, shape, host_floats(stream, part));
    }
  }
}

}  // namespace

void probe(Stream& stream, const ProbeOptions& o) {
  const SafetensorsFile file = SafetensorsFile::open(o.tokens);
  const SavedModel model(o.model, "--hf");
  ModelArgs args = probe_args(o, model, file.find("input_ids") != nullptr);
  const Tokens tokens = read_tokens(file, args.vocab_size);
  args.max_seq_len = tokens.S;
  check(args);

  Engine engine(args, stream,
                {.compute = o.compute,
                 .rows = tokens.B,
                 .sequence = tokens.S,
                 .eos_id = static_cast<int32_t>(args.eos_id),
                 .gradients = o.grads.has_value(),
                 .moments = false});
  model.load(engine, stream);

  const int64_t counted = tokens.shifted ? tokens.B * (tokens.S - 1) : tokens.B * tokens.S;
  const HostMicrobatch microbatch{.ids = tokens.ids, .labels = tokens.labels};
  StepRunner runner(stream, engine, {.tokens = static_cast<double>(counted)});
  Collection out;
  Recorder recorder(out, args, tokens.B, tokens.S);
  if (o.grads) {
    engine.executor().set_observer(&recorder);
    runner.compute_gradients(std::span(&microbatch, 1));
  } else {
    engine.executor().evaluate(microbatch, static_cast<float>(1.0 / static_cast<double>(counted)),
                               runner.loss(), &recorder);
  }
  recorder.finish(static_cast<double>(host_floats(stream, runner.loss())[0]));
  out.write(o.output);
  log::info("Wrote logits, loss and hidden states of {} x {} tokens to {}", tokens.B, tokens.S,
            o.output);
  if (!o.grads) return;
  Collection gradients;
  collect_gradients(stream, engine.store().gradient_views(), gradients);
  gradients.write(*o.grads);
  log::info("Wrote gradients to {}", *o.grads);
}

}  // namespace nereus
