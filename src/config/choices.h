// The keys that choose behaviour have an enum each, and this is the one table of their words. The
// rows of keys.cc name values, in the order in which messages and docs/configuration.md list them;
// reading, checking, printing and the text that ranks compare go through the words. Whoever acts on
// a key compares enums.
//
//   word(DType::bf16)              "bfloat16"
//   value_of<Offload>("moments")   Offload::moments; none for a word that the enum does not have
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "tensor/dtype.h"

namespace nereus {

// What of the optimizer's states is kept in host memory: nothing, the moments, or the moments and
// what of the masters no kernel of a pass reads.
enum class Offload : uint8_t { none, moments, states };
enum class MasterType : uint8_t { float32, split };  // split: bf16 copies and what those lack
enum class OptimizerName : uint8_t { adam, adamw };
enum class LrDecay : uint8_t { linear, sqrt, cosine };
// Which rows make a batch: independent of the ranks, or TorchTitan's split and packing.
enum class DataOrder : uint8_t { global, torchtitan };
// A shard that breaks while it is read: ends the run, or the rest of it is passed over.
enum class BrokenShard : uint8_t { stop, skip };
enum class DeviceChoice : uint8_t { automatic, cpu, cuda };
enum class AttentionChoice : uint8_t { own, cudnn };  // whose kernels, on a GPU that has both
enum class ReshardPolicy : uint8_t { automatic, always, never };
enum class ExpertDispatcher : uint8_t { automatic, device, host_counts };
enum class RecomputeMode : uint8_t { selective, full, none, memory_budget };
enum class RecomputePart : uint8_t { norms, mla_up, assembly, swiglu, dispatch, gate_up };

// Of the model.
enum class NumericsFamily : uint8_t { torchtitan, huggingface };  // whose arithmetic is followed
enum class ScoreFunction : uint8_t { softmax, sigmoid };
enum class MaskType : uint8_t { causal, block_causal };  // block_causal: causal within documents

template <class E>
struct Word {
  E value;
  const char* text;
};

template <class E>
inline constexpr std::array<Word<E>, 0> kWords{};

template <>
inline constexpr auto kWords<DType> = std::to_array<Word<DType>>({{DType::f32, "float32"},
                                                                  {DType::bf16, "bfloat16"},
                                                                  {DType::f16, "float16"}});
template <>
inline constexpr auto kWords<Offload> = std::to_array<Word<Offload>>({{Offload::none, "none"},
                                                                      {Offload::moments, "moments"},
                                                                      {Offload::states, "states"}});
template <>
inline constexpr auto kWords<MasterType> = std::to_array<Word<MasterType>>(
    {{MasterType::float32, "float32"}, {MasterType::split, "split"}});
template <>
inline constexpr auto kWords<OptimizerName> = std::to_array<Word<OptimizerName>>(
    {{OptimizerName::adam, "Adam"}, {OptimizerName::adamw, "AdamW"}});
template <>
inline constexpr auto kWords<LrDecay> = std::to_array<Word<LrDecay>>({{LrDecay::linear, "linear"},
                                                                      {LrDecay::sqrt, "sqrt"},
                                                                      {LrDecay::cosine, "cosine"}});
template <>
inline constexpr auto kWords<DataOrder> = std::to_array<Word<DataOrder>>(
    {{DataOrder::global, "global"}, {DataOrder::torchtitan, "torchtitan"}});
template <>
inline constexpr auto kWords<BrokenShard> =
    std::to_array<Word<BrokenShard>>({{BrokenShard::stop, "stop"}, {BrokenShard::skip, "skip"}});
template <>
inline constexpr auto kWords<DeviceChoice> = std::to_array<Word<DeviceChoice>>(
    {{DeviceChoice::automatic, "auto"}, {DeviceChoice::cpu, "cpu"}, {DeviceChoice::cuda, "cuda"}});
template <>
inline constexpr auto kWords<AttentionChoice> = std::to_array<Word<AttentionChoice>>(
    {{AttentionChoice::own, "own"}, {AttentionChoice::cudnn, "cudnn"}});
template <>
inline constexpr auto kWords<ReshardPolicy> =
    std::to_array<Word<ReshardPolicy>>({{ReshardPolicy::automatic, "default"},
                                        {ReshardPolicy::always, "always"},
                                        {ReshardPolicy::never, "never"}});
template <>
inline constexpr auto kWords<ExpertDispatcher> =
    std::to_array<Word<ExpertDispatcher>>({{ExpertDispatcher::automatic, "auto"},
                                           {ExpertDispatcher::device, "device"},
                                           {ExpertDispatcher::host_counts, "host_counts"}});
template <>
inline constexpr auto kWords<RecomputeMode> =
    std::to_array<Word<RecomputeMode>>({{RecomputeMode::selective, "selective"},
                                        {RecomputeMode::full, "full"},
                                        {RecomputeMode::none, "none"},
                                        {RecomputeMode::memory_budget, "memory_budget"}});
template <>
inline constexpr auto kWords<RecomputePart> =
    std::to_array<Word<RecomputePart>>({{RecomputePart::norms, "norms"},
                                        {RecomputePart::mla_up, "mla_up"},
                                        {RecomputePart::assembly, "assembly"},
                                        {RecomputePart::swiglu, "swiglu"},
                                        {RecomputePart::dispatch, "dispatch"},
                                        {RecomputePart::gate_up, "gate_up"}});
template <>
inline constexpr auto kWords<NumericsFamily> = std::to_array<Word<NumericsFamily>>(
    {{NumericsFamily::torchtitan, "torchtitan"}, {NumericsFamily::huggingface, "huggingface"}});
template <>
inline constexpr auto kWords<ScoreFunction> = std::to_array<Word<ScoreFunction>>(
    {{ScoreFunction::softmax, "softmax"}, {ScoreFunction::sigmoid, "sigmoid"}});
template <>
inline constexpr auto kWords<MaskType> = std::to_array<Word<MaskType>>(
    {{MaskType::causal, "causal"}, {MaskType::block_causal, "block_causal"}});

template <class E>
constexpr const char* word(E value) {
  static_assert(!kWords<E>.empty());
  for (const Word<E>& w : kWords<E>)
    if (w.value == value) return w.text;
  return "?";
}

template <class E>
constexpr std::optional<E> value_of(std::string_view text) {
  static_assert(!kWords<E>.empty());
  for (const Word<E>& w : kWords<E>)
    if (w.text == text) return w.value;
  return std::nullopt;
}

}  // namespace nereus
