// What the tests of attention share: a pool of K/V blocks full of poison but for the tokens that
// sequences have, block tables with wild entries wherever none may be read, lists of items, and
// attention in double that reads the pool's bytes as their layout says.
//
// Layers before and after the one under test are poison, too. K of the first and last key that a
// sequence's last row sees, and of the one before its window, is large along its first query head: a
// mask that is off by one shows.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "attention_cases.h"
#include "attention_shapes.h"
#include "device_array.h"
#include "product_rows.h"

namespace lh_test {

using longhaul::device::AttentionItem;
using longhaul::device::AttentionMerge;
using longhaul::device::AttentionParams;

constexpr int32_t kWildEntry = 0x7f7f7f7f;
constexpr uint8_t kPoolPoison = 0xff;   // NaN in every type but int8, whose scale it makes NaN

inline bool is_8_bit(CacheType type) { return type == CacheType::kQ8 || type == CacheType::kFp8; }

inline double fp8_number(uint8_t bits) {
  if ((bits & 0x7f) == 0x7f) return NAN;
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  const double value =
      exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return bits & 0x80 ? -value : value;
}

// An output number of any form; NaN where nothing was written.
inline double written_number(InputForm form, const uint8_t* at) {
  if (form == InputForm::kF32) {
    float value;
    std::memcpy(&value, at, 4);
    return is_poison(value) ? NAN : value;
  }
  uint16_t bits;
  std::memcpy(&bits, at, 2);
  if (is_poison(bits)) return NAN;   // as bf16 it is 3e38: no output is
  return form == InputForm::kF16 ? half_value(bits) : bfloat_value(bits);
}

// How far a kernel may be off in its output (values about 1): roundings of q and of the weights to
// 11 bits, or 8 for bf16.
inline double attention_tolerance(CacheType type) {
  return type == CacheType::kBF16 ? 3e-2 : 4e-3;
}

// A row's partial over some keys, in double, in the units of attention_params.h.
struct ExactPartial {
  double m = -INFINITY, l = 0;
  std::vector<double> o;   // not normalized
};

// Device memory that ends where its last number does: what reads beyond is told.
class ExactArray {
 public:
  explicit ExactArray(const std::vector<int32_t>& values) : upload_(values) {
    TestDevice& device = TestDevice::get();
    const auto bytes = static_cast<int64_t>(std::max<size_t>(values.size(), 1) * sizeof(int32_t));
    longhaul::Result<void*> memory = device.runtime().allocate(bytes, "exact array");
    TestDevice::check(memory.status(), "allocate");
    memory_ = memory.value();
    if (values.empty()) return;
    TestDevice::check(
        device.runtime().copy_on_device(memory_, upload_.data(), bytes, device.stream()), "copy");
  }
  ~ExactArray() {
    TestDevice::get().finish("release");
    TestDevice::get().runtime().release(memory_);
  }
  ExactArray(const ExactArray&) = delete;
  ExactArray& operator=(const ExactArray&) = delete;
  const int32_t* data() const { return static_cast<const int32_t*>(memory_); }

 private:
  DeviceArray<int32_t> upload_;
  void* memory_ = nullptr;
};

inline ExactPartial merged(const ExactPartial& a, const ExactPartial& b) {
  ExactPartial sum;
  sum.m = std::max(a.m, b.m);
  const double of_a = std::exp2(a.m - sum.m), of_b = std::exp2(b.m - sum.m);
  sum.l = of_a * a.l + of_b * b.l;
  for (size_t i = 0; i < a.o.size(); ++i) sum.o.push_back(of_a * a.o[i] + of_b * b.o[i]);
  return sum;
}

class AttentionProblem {
 public:
  AttentionProblem(const AttentionShape& shape, CacheType type, const Batch& batch, uint32_t seed)
      : shape_(shape), type_(type), batch_(batch), random_(seed) {
    group_ = shape.num_heads / shape.num_kv_heads;
    scale_ = static_cast<float>(1.5 / std::sqrt(shape.head_dim));
    place_sequences();
    make_queries();
    fill_cache();
    q_device_ = std::make_unique<DeviceArray<float>>(q_);
    pool_device_ = std::make_unique<DeviceArray<uint8_t>>(pool_);
    // The device's tables begin and end with entries that are read: none beyond is there.
    const auto removed = static_cast<size_t>(num_entries_removed());
    tables_device_ = std::make_unique<ExactArray>(
        std::vector<int32_t>(tables_.begin() + static_cast<std::ptrdiff_t>(removed), tables_.end()));
    const size_t element = shape.out == InputForm::kF32 ? 4 : 2;
    out_device_ = std::make_unique<DeviceArray<uint8_t>>(
        static_cast<size_t>(num_rows_ * out_stride()) * element);
  }

  const AttentionShape& shape() const { return shape_; }
  const Batch& batch() const { return batch_; }
  CacheType type() const { return type_; }
  int32_t group() const { return group_; }
  int32_t num_rows() const { return num_rows_; }
  int32_t first_row(size_t sequence) const { return first_rows_[sequence]; }
  int32_t packed_rows(size_t sequence) const { return batch_[sequence].num_rows * group_; }
  // Where the sequence's table begins in the tables of the whole batch on the device.
  int32_t table_offset(size_t sequence) const {
    return table_offsets_[sequence] - num_entries_removed();
  }
  // The table, `num_table_entries` of them good.
  const int32_t* table(size_t sequence) const { return tables_.data() + table_offsets_[sequence]; }
  int32_t num_table_entries(size_t sequence) const {
    return (context(sequence) + shape_.block_size - 1) / shape_.block_size;
  }
  int32_t first_key(size_t sequence, int32_t row) const {
    const int32_t position = batch_[sequence].first_position + row;
    return shape_.window > 0 ? std::max(0, position - shape_.window + 1) : 0;
  }

  // Everything but lists, grids and partials.
  AttentionParams params() {
    AttentionParams p;
    p.q = q_device_->data();
    p.q_stride = q_stride();
    p.out.form = shape_.out;
    p.out.data = out_device_->data();
    p.out.stride = out_stride();
    p.cache.blocks = reinterpret_cast<std::byte*>(pool_device_->data()) + kLayer * layer_bytes();
    p.cache.block_bytes = block_bytes();
    p.cache.head_bytes = head_bytes();
    p.cache.block_size = shape_.block_size;
    p.cache.num_kv_heads = shape_.num_kv_heads;
    p.cache.head_dim = shape_.head_dim;
    p.cache.type = type_;
    p.num_heads = shape_.num_heads;
    p.window = shape_.window;
    p.scale = scale_;
    p.softcap = shape_.softcap;
    p.lists.block_tables = tables_device_->data();
    return p;
  }

  // All keys that the packed rows [begin, begin + count) of a kv head see, into one item.
  AttentionItem item(size_t sequence, int32_t kv_head, int32_t begin, int32_t count) const {
    AttentionItem item;
    item.first_row = first_rows_[sequence];
    item.first_position = batch_[sequence].first_position;
    item.packed_begin = begin;
    item.packed_count = count;
    item.kv_head = kv_head;
    item.key_begin = first_key(sequence, begin / group_);
    item.key_end = batch_[sequence].first_position + (begin + count - 1) / group_ + 1;
    item.table_offset = table_offset(sequence);
    return item;
  }

  // ---- in double

  ExactPartial exact(size_t sequence, int32_t kv_head, int32_t packed, int32_t key_begin,
                     int32_t key_end) const {
    const int32_t row = packed / group_, head = kv_head * group_ + packed % group_;
    const int32_t position = batch_[sequence].first_position + row;
    const int32_t begin = std::max(key_begin, first_key(sequence, row));
    const int32_t end = std::min(key_end, position + 1);
    const float* q = &q_[static_cast<size_t>((first_rows_[sequence] + row) * q_stride() +
                                             head * shape_.head_dim)];
    ExactPartial partial;
    partial.o.assign(static_cast<size_t>(shape_.head_dim), 0);
    std::vector<double> logits;
    for (int32_t key = begin; key < end; ++key) {
      double dot = 0;
      for (int32_t i = 0; i < shape_.head_dim; ++i) {
        dot += q[i] * number(sequence, key, kv_head, false, i);
      }
      double logit = dot * scale_;
      if (shape_.softcap > 0) logit = shape_.softcap * std::tanh(logit / shape_.softcap);
      logits.push_back(logit * std::log2(std::exp(1.0)));
      partial.m = std::max(partial.m, logits.back());
    }
    for (int32_t key = begin; key < end; ++key) {
      const double weight = std::exp2(logits[static_cast<size_t>(key - begin)] - partial.m);
      partial.l += weight;
      for (int32_t i = 0; i < shape_.head_dim; ++i) {
        partial.o[static_cast<size_t>(i)] += weight * number(sequence, key, kv_head, true, i);
      }
    }
    return partial;
  }

  // A key's NaN scale (8-bit types): rows that see the key must be NaN.
  void spoil_key(size_t sequence, int32_t key, int32_t kv_head) {
    const float nan = NAN;
    std::memcpy(scale_at(sequence, key, kv_head, false), &nan, 4);
    pool_device_ = std::make_unique<DeviceArray<uint8_t>>(pool_);
  }
  // Values' scales of one token times `factor`.
  void scale_value(size_t sequence, int32_t key, int32_t kv_head, float factor) {
    float scale;
    std::memcpy(&scale, scale_at(sequence, key, kv_head, true), 4);
    scale *= factor;
    std::memcpy(scale_at(sequence, key, kv_head, true), &scale, 4);
  }
  void upload_cache() { pool_device_ = std::make_unique<DeviceArray<uint8_t>>(pool_); }

  // ---- what the kernels wrote

  // [num_rows, out_stride]; NaN where nothing was written. Guard bands are checked.
  std::vector<double> output() {
    const std::vector<uint8_t> bytes = out_device_->download();
    const size_t element = shape_.out == InputForm::kF32 ? 4 : 2;
    std::vector<double> values(bytes.size() / element);
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = written_number(shape_.out, &bytes[i * element]);
    }
    return values;
  }

  // Every row of every sequence, and nothing else, is attention over all its keys. `others`, if any,
  // gives what another segment adds to (sequence, kv head, packed row).
  using Others = std::function<std::vector<ExactPartial>(size_t, int32_t, int32_t)>;
  void expect_output(const std::string& what, const Others& others = {}) {
    const std::vector<double> found = output();
    std::vector<double> wanted(found.size(), NAN);
    for (size_t s = 0; s < batch_.size(); ++s) {
      for (int32_t head = 0; head < shape_.num_kv_heads; ++head) {
        for (int32_t packed = 0; packed < packed_rows(s); ++packed) {
          ExactPartial row = exact(s, head, packed, 0, context(s));
          if (others) {
            for (const ExactPartial& other : others(s, head, packed)) row = merged(row, other);
          }
          const int64_t at = (first_rows_[s] + packed / group_) * out_stride() +
                             (head * group_ + packed % group_) * shape_.head_dim;
          for (int32_t i = 0; i < shape_.head_dim; ++i) {
            wanted[static_cast<size_t>(at + i)] = row.o[static_cast<size_t>(i)] / row.l;
          }
        }
      }
    }
    const double step = shape_.out == InputForm::kBF16 ? 0x1p-8 : 0x1p-11;
    int wrong = 0;
    for (size_t i = 0; i < found.size(); ++i) {
      const double off = attention_tolerance(type_) + step * std::fabs(wanted[i]);
      if (std::isnan(wanted[i]) ? std::isnan(found[i]) : std::fabs(found[i] - wanted[i]) <= off) {
        continue;
      }
      if (++wrong > 3) continue;
      fail(__FILE__, __LINE__,
           what + ": row " + std::to_string(static_cast<int64_t>(i) / out_stride()) + ", column " +
               std::to_string(static_cast<int64_t>(i) % out_stride()) + ": expected " +
               std::to_string(wanted[i]) + ", found " + std::to_string(found[i]));
    }
    if (wrong > 3) fail(__FILE__, __LINE__, what + ": " + std::to_string(wrong) + " differ in all");
  }

  int64_t out_stride() const { return int64_t{shape_.num_heads} * shape_.head_dim + 8; }

 private:
  static constexpr int32_t kLayers = 3, kLayer = 1, kSpareBlocks = 3, kSpareEntries = 2;
  static constexpr int32_t kSpareRows = 1;   // before each sequence: padding of a captured graph

  int32_t num_entries_removed() const { return first_key(0, 0) / shape_.block_size; }
  int32_t context(size_t sequence) const {
    return batch_[sequence].first_position + batch_[sequence].num_rows;
  }
  int64_t q_stride() const { return int64_t{shape_.num_heads} * shape_.head_dim + 4; }
  int64_t element_bytes() const { return is_8_bit(type_) ? 1 : 2; }
  int64_t channel_bytes() const {
    return int64_t{shape_.block_size} * shape_.head_dim * element_bytes();
  }
  int64_t head_bytes() const {
    return channel_bytes() + (is_8_bit(type_) ? 4 * shape_.block_size : 0);
  }
  int64_t layer_bytes() const { return 2 * head_bytes() * shape_.num_kv_heads; }
  int64_t block_bytes() const { return kLayers * layer_bytes(); }

  void place_sequences() {
    int32_t num_blocks = kSpareBlocks;
    for (size_t s = 0; s < batch_.size(); ++s) {
      num_rows_ += kSpareRows;
      first_rows_.push_back(num_rows_);
      num_rows_ += batch_[s].num_rows;
      num_blocks += num_table_entries(s);
    }
    num_rows_ += kSpareRows;
    std::vector<int32_t> ids(static_cast<size_t>(num_blocks));
    std::iota(ids.begin(), ids.end(), 0);
    std::shuffle(ids.begin(), ids.end(), random_);
    pool_.assign(static_cast<size_t>(num_blocks * block_bytes()), kPoolPoison);
    for (size_t s = 0; s < batch_.size(); ++s) {
      table_offsets_.push_back(static_cast<int32_t>(tables_.size()));
      for (int32_t entry = 0; entry < num_table_entries(s); ++entry) {
        int32_t id = ids.back();
        if (entry < batch_[s].shared_blocks) {
          id = table(static_cast<size_t>(batch_[s].shared_with))[entry];
        } else {
          ids.pop_back();
        }
        tables_.push_back(id);
      }
      if (s + 1 < batch_.size()) tables_.insert(tables_.end(), kSpareEntries, kWildEntry);
    }
  }
  void make_queries() {
    q_.resize(static_cast<size_t>(num_rows_ * q_stride()));
    std::memset(q_.data(), kPoisonByte, q_.size() * sizeof(float));
    std::normal_distribution<float> normal(0, 1);
    for (size_t s = 0; s < batch_.size(); ++s) {
      for (int32_t row = 0; row < batch_[s].num_rows; ++row) {
        const size_t at = static_cast<size_t>((first_rows_[s] + row) * q_stride());
        for (int32_t i = 0; i < shape_.num_heads * shape_.head_dim; ++i) {
          q_[at + static_cast<size_t>(i)] = normal(random_);
        }
      }
    }
  }

  uint8_t* head_at(size_t sequence, int32_t key, int32_t kv_head, bool is_value) {
    return const_cast<uint8_t*>(std::as_const(*this).head_at(sequence, key, kv_head, is_value));
  }
  const uint8_t* head_at(size_t sequence, int32_t key, int32_t kv_head, bool is_value) const {
    const int64_t id = table(sequence)[key / shape_.block_size];
    const int64_t head = (is_value ? shape_.num_kv_heads : 0) + kv_head;
    return &pool_[static_cast<size_t>(id * block_bytes() + kLayer * layer_bytes() +
                                      head * head_bytes())];
  }
  uint8_t* scale_at(size_t sequence, int32_t key, int32_t kv_head, bool is_value) {
    return head_at(sequence, key, kv_head, is_value) + channel_bytes() + key % shape_.block_size * 4;
  }

  double number(size_t sequence, int32_t key, int32_t kv_head, bool is_value, int32_t i) const {
    const uint8_t* head = head_at(sequence, key, kv_head, is_value);
    const int64_t slot = key % shape_.block_size;
    const uint8_t* at = head + (slot * shape_.head_dim + i) * element_bytes();
    if (!is_8_bit(type_)) {
      uint16_t bits;
      std::memcpy(&bits, at, 2);
      return type_ == CacheType::kF16 ? half_value(bits) : bfloat_value(bits);
    }
    float scale;
    std::memcpy(&scale, head + channel_bytes() + slot * 4, 4);
    return scale * (type_ == CacheType::kQ8 ? static_cast<double>(static_cast<int8_t>(*at))
                                            : fp8_number(*at));
  }

  // Tokens of every sequence; those of a shared prefix once, those before its window not at all.
  // Random bits with exponents about 1.
  void fill_cache() {
    for (size_t s = 0; s < batch_.size(); ++s) {
      for (int32_t key = first_key(s, 0); key < context(s); ++key) {
        if (key / shape_.block_size < batch_[s].shared_blocks) continue;
        for (int32_t head = 0; head < shape_.num_kv_heads; ++head) {
          for (const bool is_value : {false, true}) fill_token(s, key, head, is_value);
        }
      }
    }
    for (size_t s = 0; s < batch_.size(); ++s) {
      if (batch_[s].num_rows == 0) continue;
      const int32_t last = batch_[s].num_rows - 1;
      for (int32_t head = 0; head < shape_.num_kv_heads; ++head) {
        align_key(s, batch_[s].first_position + last, head);
        const int32_t first = first_key(s, last);
        if (first / shape_.block_size >= batch_[s].shared_blocks) align_key(s, first, head);
        // Out of the last row's window, but not of an earlier row's.
        if (first > first_key(s, 0)) align_key(s, first - 1, head);
      }
    }
    // Blocks wholly before a window are given back: their entries may be anything.
    for (size_t s = 0; s < batch_.size(); ++s) {
      if (shape_.window == 0 || batch_[s].num_rows == 0) continue;
      for (int32_t entry = 0; entry < first_key(s, 0) / shape_.block_size; ++entry) {
        tables_[static_cast<size_t>(table_offsets_[s] + entry)] = kWildEntry;
      }
    }
  }

  void fill_token(size_t s, int32_t key, int32_t kv_head, bool is_value) {
    uint8_t* at = head_at(s, key, kv_head, is_value) +
                  key % shape_.block_size * shape_.head_dim * element_bytes();
    std::uniform_int_distribution<int> sign(0, 1), mantissa(0, 1023), exponent(12, 15),
        narrow(-127, 127), narrow_exponent(4, 7);
    for (int32_t i = 0; i < shape_.head_dim; ++i) {
      uint16_t bits = 0;
      switch (type_) {
        case CacheType::kF16:
          bits = static_cast<uint16_t>(sign(random_) << 15 | exponent(random_) << 10 |
                                       mantissa(random_));
          break;
        case CacheType::kBF16:
          bits = static_cast<uint16_t>(sign(random_) << 15 | (112 + exponent(random_)) << 7 |
                                       mantissa(random_) >> 3);
          break;
        case CacheType::kQ8: bits = static_cast<uint8_t>(narrow(random_)); break;
        case CacheType::kFp8:
          bits = static_cast<uint16_t>(sign(random_) << 7 | narrow_exponent(random_) << 3 |
                                       mantissa(random_) >> 7);
          break;
      }
      std::memcpy(at + i * element_bytes(), &bits, static_cast<size_t>(element_bytes()));
    }
    if (!is_8_bit(type_)) return;
    std::uniform_real_distribution<float> factor(0.5f, 1.5f);
    const float scale = factor(random_) / (type_ == CacheType::kQ8 ? 64.0f : 1.0f);
    std::memcpy(scale_at(s, key, kv_head, is_value), &scale, 4);
  }

  // K of a token becomes the signs of the last row's first query head.
  void align_key(size_t s, int32_t key, int32_t kv_head) {
    const int32_t row = first_rows_[s] + batch_[s].num_rows - 1;
    const float* q = &q_[static_cast<size_t>(row * q_stride() + kv_head * group_ * shape_.head_dim)];
    uint8_t* at = head_at(s, key, kv_head, false) +
                  key % shape_.block_size * shape_.head_dim * element_bytes();
    for (int32_t i = 0; i < shape_.head_dim; ++i) {
      const bool negative = q[i] < 0;
      uint16_t bits = 0;
      switch (type_) {
        case CacheType::kF16: bits = negative ? 0xb800 : 0x3800; break;    // 0.5
        case CacheType::kBF16: bits = negative ? 0xbf00 : 0x3f00; break;   // 0.5
        case CacheType::kQ8: bits = negative ? 0xc0 : 0x40; break;         // 64
        case CacheType::kFp8: bits = negative ? 0xb0 : 0x30; break;        // 0.5
      }
      std::memcpy(at + i * element_bytes(), &bits, static_cast<size_t>(element_bytes()));
    }
  }

  AttentionShape shape_;
  CacheType type_;
  Batch batch_;
  std::mt19937 random_;
  int32_t group_ = 1, num_rows_ = 0;
  float scale_ = 1;
  std::vector<int32_t> first_rows_, table_offsets_, tables_;
  std::vector<float> q_;
  std::vector<uint8_t> pool_;
  std::unique_ptr<DeviceArray<float>> q_device_;
  std::unique_ptr<DeviceArray<uint8_t>> pool_device_, out_device_;
  std::unique_ptr<ExactArray> tables_device_;
};

// Partial rows in device memory, poison until written.
class PartialRows {
 public:
  PartialRows(int32_t rows, int32_t head_dim)
      : head_dim_(head_dim),
        o_(static_cast<size_t>(rows) * static_cast<size_t>(head_dim)),
        ml_(static_cast<size_t>(rows) * 2) {}

  void use_in(AttentionParams& p) {
    p.partial_o = o_.data();
    p.partial_ml = ml_.data();
  }
  void download() {
    host_o_ = o_.download();
    host_ml_ = ml_.download();
  }
  // Against the row in double; only what was downloaded.
  void expect(int32_t row, const ExactPartial& exact, double tolerance, const std::string& what) {
    const auto at = static_cast<size_t>(row);
    const double m = host_ml_[2 * at], l = host_ml_[2 * at + 1];
    const std::string where = what + ", partial row " + std::to_string(row);
    if (exact.l == 0) {
      if (!(m == -INFINITY && l == 0)) fail(__FILE__, __LINE__, where + " should be empty");
    } else {
      if (!(std::fabs(m - exact.m) <= 8 * tolerance)) {
        fail(__FILE__, __LINE__, where + ": m " + std::to_string(m) + ", not " + std::to_string(exact.m));
      }
      const double sums = m + std::log2(l) - exact.m - std::log2(exact.l);
      if (!(std::fabs(sums) <= 4 * tolerance)) {
        fail(__FILE__, __LINE__, where + ": log-sum-exp off by " + std::to_string(sums));
      }
    }
    for (int32_t i = 0; i < head_dim_; ++i) {
      const double found = host_o_[at * static_cast<size_t>(head_dim_) + static_cast<size_t>(i)];
      const double wanted = exact.l == 0 ? 0 : exact.o[static_cast<size_t>(i)] / exact.l;
      const double off = std::fabs((exact.l == 0 ? found : found / l) - wanted);
      if (off <= tolerance) continue;
      fail(__FILE__, __LINE__, where + ", channel " + std::to_string(i) + " off by " +
                                   std::to_string(off));
      return;
    }
  }
  bool is_untouched(int32_t row) const {
    return is_poison(host_ml_[2 * static_cast<size_t>(row)]) &&
           is_poison(host_o_[static_cast<size_t>(row) * static_cast<size_t>(head_dim_)]);
  }

 private:
  int32_t head_dim_;
  DeviceArray<float> o_, ml_;
  std::vector<float> host_o_, host_ml_;
};

// Items on the device, dealt to blocks in turn; the last block gets none.
class ItemLists {
 public:
  ItemLists(const std::vector<AttentionItem>& items, int32_t blocks)
      : blocks_(blocks), items_(ordered(items)), offsets_(host_offsets_) {}

  int32_t blocks() const { return blocks_; }
  const AttentionItem* items() { return items_.data(); }
  const int32_t* offsets() { return offsets_.data(); }

 private:
  std::vector<AttentionItem> ordered(const std::vector<AttentionItem>& items) {
    std::vector<AttentionItem> all;
    host_offsets_.assign(1, 0);
    for (int32_t b = 0; b < blocks_; ++b) {
      const size_t workers = static_cast<size_t>(std::max(blocks_ - 1, 1));
      for (size_t i = static_cast<size_t>(b); i < items.size() && b < static_cast<int32_t>(workers);
           i += workers) {
        all.push_back(items[i]);
      }
      host_offsets_.push_back(static_cast<int32_t>(all.size()));
    }
    return all;
  }
  int32_t blocks_;
  std::vector<int32_t> host_offsets_;
  DeviceArray<AttentionItem> items_;
  DeviceArray<int32_t> offsets_;
};

}  // namespace lh_test
