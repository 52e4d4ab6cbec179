// Attention of a step: who computes what, the same in every layer, and doing it.

#include <algorithm>
#include <cstdint>

#include "executor/cpu_model_runner.h"
#include "executor/for_rows.h"

namespace flexquant::executor {
namespace {

// Query tokens an attention task takes.
constexpr int64_t kAttentionTokens = 32;
// So many items a thread are enough to keep all busy.
constexpr int64_t kItemsPerThread = 4;

uint16_t* Halves(uint8_t* at) { return reinterpret_cast<uint16_t*>(at); }

}  // namespace

uint64_t CpuModelRunner::SplitTasks() const {
  // fp16: nothing won at 1,024 tokens, 2 to 4 % at 4,096 (docs/performance-cpu.md).
  if (cache_.shape().bits != 8) {
    return 0;
  }
  const int64_t few = kItemsPerThread * pool_.num_threads() / config_.num_kv_heads + 1;
  return static_cast<uint64_t>(std::min<int64_t>(few, info_.max_sequences));
}

uint64_t CpuModelRunner::AttentionRecordsBytes(int64_t parts) const {
  return static_cast<uint64_t>(config_.num_heads * parts) * AttentionRecordBytes(config_.head_dim);
}

void CpuModelRunner::PlanAttention(const StepBatch& batch) {
  attention_tasks_.clear();
  attention_items_.clear();
  for (size_t s = 0; s < batch.sequences.size(); ++s) {
    const SequenceInput& sequence = batch.sequences[s];
    const auto count = static_cast<int64_t>(sequence.tokens.size());
    // A task's rows lie side by side in the products, so they are of one kind.
    const int64_t coarse = CoarseTokens(sequence);
    for (int64_t first = 0; first < count;) {
      const int64_t end = std::min(first < coarse ? coarse : count, first + kAttentionTokens);
      attention_tasks_.push_back({s, first, end - first});
      first = end;
    }
  }
  SplitContexts(batch);
  int64_t units = 0;
  for (const AttentionTask& task : attention_tasks_) {
    units += task.parts * config_.num_kv_heads;
  }
  // Heads that share keys share their conversion, unless that leaves threads without work.
  const int64_t heads = units >= pool_.num_threads() ? config_.num_heads / config_.num_kv_heads : 1;
  for (size_t task = 0; task < attention_tasks_.size(); ++task) {
    for (int64_t head = 0; head < config_.num_heads; head += heads) {
      for (int64_t part = 0; part < attention_tasks_[task].parts; ++part) {
        attention_items_.push_back({task, head, head + heads, part});
      }
    }
  }
}

void CpuModelRunner::SplitContexts(const StepBatch& batch) {
  split_tasks_.clear();
  const size_t tasks = attention_tasks_.size();
  if (tasks > SplitTasks() ||
      static_cast<int64_t>(tasks) * config_.num_kv_heads >= kItemsPerThread * pool_.num_threads()) {
    return;
  }
  uint64_t at = 0;
  for (size_t i = 0; i < tasks; ++i) {
    AttentionTask& task = attention_tasks_[i];
    const int64_t position = batch.sequences[task.sequence].start + task.first;
    const int64_t first = FirstVisible(position);
    const int64_t parts = position / kAttentionPartKeys - first / kAttentionPartKeys + 1;
    if (task.count == 1 && parts > 1) {
      task.parts = parts;
      task.first_part = first / kAttentionPartKeys;
      task.records = records_.as<float>() + at / sizeof(float);
      at += AttentionRecordsBytes(parts);
      split_tasks_.push_back(i);
    }
  }
}

int64_t CpuModelRunner::FirstVisible(int64_t position) const {
  const int64_t window = attention_shape_.sliding_window;
  return window > 0 ? std::max<int64_t>(0, position + 1 - window) : 0;
}

void CpuModelRunner::PlanFetches(const StepBatch& batch) {
  ahead_.ClearRanges(cache_.shape().PartBytes());
  const auto items = static_cast<int64_t>(attention_items_.size());
  for (int thread = 0; thread < pool_.num_threads(); ++thread) {
    const int64_t end = pool_.ShareBegin(items, 1, thread + 1);
    bool room = true;
    for (int64_t i = pool_.ShareBegin(items, 1, thread); i < end && room; ++i) {
      room = AddRanges(batch, attention_items_[static_cast<size_t>(i)], thread);
    }
  }
}

bool CpuModelRunner::AddRanges(const StepBatch& batch, const AttentionItem& item, int thread) {
  const AttentionTask& task = attention_tasks_[item.task];
  const SequenceInput& sequence = batch.sequences[task.sequence];
  const int64_t query = sequence.start + task.first;
  const int64_t part = (task.first_part + item.part) * kAttentionPartKeys;
  const int64_t first = std::max(FirstVisible(query), part);
  const int64_t last = task.parts > 1 ? std::min(query, part + kAttentionPartKeys - 1) : query;
  const int64_t head = item.head_begin / (config_.num_heads / config_.num_kv_heads) * cache_.head_stride();
  const int64_t block_tokens = info_.kv_block_tokens;
  bool room = true;
  for (int64_t i = first / block_tokens; i <= last / block_tokens && room; ++i) {
    const int64_t offset = head + cache_.PartOffset(sequence.block_table[static_cast<size_t>(i)]);
    room = ahead_.AddRange(thread, offset) && ahead_.AddRange(thread, offset + (cache_.values(0) - cache_.keys(0)));
  }
  return room;
}

CpuModelRunner::StoredPlace CpuModelRunner::PlaceOf(const StepBatch& batch, const Row& row) const {
  const auto& table = batch.sequences[static_cast<size_t>(row.sequence)].block_table;
  const int64_t part = cache_.PartOffset(table[static_cast<size_t>(row.position) / info_.kv_block_tokens]);
  const int64_t in_block = row.position % info_.kv_block_tokens;
  if (cache_.shape().bits == 8) {
    const int64_t slab = part + in_block / kKv8SlabTokens * static_cast<int64_t>(Kv8SlabBytes(config_.head_dim));
    return {slab, slab, in_block % kKv8SlabTokens};
  }
  const auto half = static_cast<int64_t>(sizeof(uint16_t));
  return {part + in_block * half, part + in_block * config_.head_dim * half, 0};
}

void CpuModelRunner::FetchStored(const StepBatch& batch, int64_t layer) {
  constexpr size_t kFewRows = 4;
  if (rows_.size() > kFewRows) {
    return;
  }
  const bool bytes = cache_.shape().bits == 8;
  const auto slab = static_cast<int64_t>(Kv8SlabBytes(config_.head_dim));
  const auto row_bytes = config_.head_dim * static_cast<int64_t>(sizeof(uint16_t));
  for (const Row& row : rows_) {
    const StoredPlace place = PlaceOf(batch, row);
    for (int64_t head = 0; head < config_.num_kv_heads; ++head) {
      uint8_t* const keys = cache_.keys(layer) + place.keys + head * cache_.head_stride();
      uint8_t* const values = cache_.values(layer) + place.values + head * cache_.head_stride();
      FetchLinesToWrite(values, bytes ? slab : row_bytes);
      if (bytes) {
        FetchLinesToWrite(keys, slab);
        continue;
      }
      for (int64_t d = 0; d < config_.head_dim; ++d) {
        FetchLinesToWrite(keys + d * info_.kv_block_tokens * static_cast<int64_t>(sizeof(uint16_t)), 1);
      }
    }
  }
}

void CpuModelRunner::RotateAndStore(const StepBatch& batch, int64_t layer) {
  const BlockWeights& block = store_.block(layer);
  const int64_t head_dim = config_.head_dim;
  const auto eps = static_cast<float>(config_.rms_norm_eps);
  ForRows(pool_, static_cast<int64_t>(rows_.size()), attention_shape_.q_stride, [&](int64_t row) {
    float* q = outputs_.as<float>() + qkv_order_.slot(row) * attention_shape_.q_stride;
    float* k = q + config_.q_size();
    if (config_.qk_norm) {
      kernels_.rms_norm(q, head_dim, block.q_norm.data(), config_.num_heads, head_dim, eps, q, head_dim);
      kernels_.rms_norm(k, head_dim, block.k_norm.data(), config_.num_kv_heads, head_dim, eps, k, head_dim);
    }
    const float* cos = cos_.as<float>() + row * (head_dim / 2);
    const float* sin = sin_.as<float>() + row * (head_dim / 2);
    kernels_.rope(q, config_.num_heads, head_dim, cos, sin);
    kernels_.rope(k, config_.num_kv_heads, head_dim, cos, sin);
    const float* v = k + config_.kv_size();
    const StoredPlace place = PlaceOf(batch, rows_[static_cast<size_t>(row)]);
    uint8_t* const keys = cache_.keys(layer) + place.keys;
    uint8_t* const values = cache_.values(layer) + place.values;
    if (cache_.shape().bits == 8) {
      kernels_.store_kv_8(k, v, config_.num_kv_heads, head_dim, keys, values, cache_.head_stride(), place.slot);
      return;
    }
    const int64_t head_stride = cache_.head_stride() / static_cast<int64_t>(sizeof(uint16_t));
    kernels_.store_keys(k, config_.num_kv_heads, head_dim, Halves(keys), head_stride, info_.kv_block_tokens);
    kernels_.store_values(v, config_.num_kv_heads, head_dim, Halves(values), head_stride);
  });
}

void CpuModelRunner::Attend(const StepBatch& batch, int64_t layer) {
  const auto items = static_cast<int64_t>(attention_items_.size());
  const auto attend = [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i) {
      AttendItem(batch, layer, attention_items_[static_cast<size_t>(i)],
                 workspace_.as<uint8_t>() + static_cast<size_t>(thread) * workspace_stride_);
    }
    if (end == pool_.ShareBegin(items, 1, thread + 1)) {
      ahead_.FetchFirst(thread);
    }
  };
  pool_.ParallelChunks(items, 1, attend);

  const auto record_floats = static_cast<int64_t>(AttentionRecordBytes(config_.head_dim) / sizeof(float));
  for (const size_t i : split_tasks_) {
    const AttentionTask& task = attention_tasks_[i];
    float* const out = AttendedRow(first_row_[task.sequence] + task.first);
    ForRows(pool_, config_.num_heads, task.parts * record_floats, [&](int64_t head) {
      kernels_.merge_attention_8(task.records + head * task.parts * record_floats, task.parts, config_.head_dim,
                                 out + head * config_.head_dim);
    });
  }
}

void CpuModelRunner::AttendItem(const StepBatch& batch, int64_t layer, const AttentionItem& item, void* workspace) {
  const AttentionTask& task = attention_tasks_[item.task];
  const int64_t row = first_row_[task.sequence] + task.first;
  AttentionSequence sequence;
  sequence.q = outputs_.as<float>() + qkv_order_.slot(row) * attention_shape_.q_stride;
  sequence.out = AttendedRow(row);
  sequence.num_tokens = task.count;
  sequence.start = batch.sequences[task.sequence].start + task.first;
  sequence.block_table = batch.sequences[task.sequence].block_table.data();
  if (cache_.shape().bits != 8) {
    kernels_.attention(attention_shape_, sequence, Halves(cache_.keys(layer)), Halves(cache_.values(layer)),
                       item.head_begin, item.head_end, workspace);
  } else if (task.parts == 1) {
    kernels_.attention_8(attention_shape_, sequence, cache_.keys(layer), cache_.values(layer), item.head_begin,
                         item.head_end, workspace);
  } else {
    const auto record_floats = static_cast<int64_t>(AttentionRecordBytes(config_.head_dim) / sizeof(float));
    kernels_.attention_8_part(attention_shape_, sequence, cache_.keys(layer), cache_.values(layer), item.head_begin,
                              item.head_end, task.first_part + item.part, task.records + item.part * record_floats,
                              task.parts * record_floats, workspace);
  }
}

float* CpuModelRunner::AttendedRow(int64_t row) const {
  float* const first =
      rank_.shard.share_attended ? rank_.attended + rank_.shard.heads.begin * config_.head_dim : attended_.as<float>();
  return first + row * attention_shape_.out_stride;
}

}  // namespace flexquant::executor
