#include "common/tokenizer/nfc.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/tokenizer/nfc_tables.h"
#include "common/tokenizer/utf8.h"

namespace flexquant {
namespace {

// Hangul syllables (de)compose by arithmetic.
constexpr uint32_t kSyllableBase = 0xAC00;
constexpr uint32_t kLeadBase = 0x1100;
constexpr uint32_t kVowelBase = 0x1161;
constexpr uint32_t kTailBase = 0x11A7;
constexpr uint32_t kLeads = 19;
constexpr uint32_t kVowels = 21;
constexpr uint32_t kTails = 28;
constexpr uint32_t kSyllables = kLeads * kVowels * kTails;

constexpr uint32_t kFirstThatMayChange = 0x300;

uint8_t CombiningClass(uint32_t code_point) {
  const auto* end = kCombiningRanges + kNumCombiningRanges;
  const auto* range = std::lower_bound(kCombiningRanges, end, code_point,
                                       [](const CombiningRange& r, uint32_t c) { return r.last < c; });
  return range != end && range->first <= code_point ? range->combining_class : 0;
}

struct Mark {
  uint32_t code_point;
  uint8_t combining_class;
};

void Decompose(uint32_t code_point, std::vector<Mark>* out) {
  if (code_point - kSyllableBase < kSyllables) {
    const uint32_t index = code_point - kSyllableBase;
    out->push_back({kLeadBase + index / (kVowels * kTails), 0});
    out->push_back({kVowelBase + index % (kVowels * kTails) / kTails, 0});
    if (index % kTails != 0) out->push_back({kTailBase + index % kTails, 0});
    return;
  }
  const auto* end = kDecompositions + kNumDecompositions;
  const auto* found = std::lower_bound(kDecompositions, end, code_point,
                                       [](const Decomposition& d, uint32_t c) { return d.code_point < c; });
  if (found == end || found->code_point != code_point) {
    out->push_back({code_point, CombiningClass(code_point)});
    return;
  }
  Decompose(found->first, out);
  if (found->second != 0) Decompose(found->second, out);
}

// 0 if the two do not compose.
uint32_t Compose(uint32_t first, uint32_t second) {
  if (first - kLeadBase < kLeads && second - kVowelBase < kVowels) {
    return kSyllableBase + ((first - kLeadBase) * kVowels + (second - kVowelBase)) * kTails;
  }
  if (first - kSyllableBase < kSyllables && (first - kSyllableBase) % kTails == 0 && second > kTailBase &&
      second < kTailBase + kTails) {
    return first + (second - kTailBase);
  }
  static const auto* const kPairs = [] {
    auto* pairs = new absl::flat_hash_map<uint64_t, uint32_t>;
    for (size_t i = 0; i < kNumDecompositions; ++i) {
      const Decomposition& d = kDecompositions[i];
      if (d.composes) pairs->emplace((static_cast<uint64_t>(d.first) << 32) | d.second, d.code_point);
    }
    return pairs;
  }();
  const auto found = kPairs->find((static_cast<uint64_t>(first) << 32) | second);
  return found == kPairs->end() ? 0 : found->second;
}

// Marks after one starter, in canonical order.
void SortMarks(std::vector<Mark>* marks) {
  auto run = marks->begin();
  while (run != marks->end()) {
    if (run->combining_class == 0) {
      ++run;
      continue;
    }
    const auto end = std::find_if(run, marks->end(), [](const Mark& m) { return m.combining_class == 0; });
    std::stable_sort(run, end, [](const Mark& a, const Mark& b) { return a.combining_class < b.combining_class; });
    run = end;
  }
}

}  // namespace

bool IsSurelyNfc(absl::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const Utf8Unit unit = ReadUtf8(text, i);
    if (unit.code_point >= kFirstThatMayChange) return false;
    i += unit.length;
  }
  return true;
}

std::string ToNfc(absl::string_view text) {
  std::vector<Mark> marks;
  marks.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const Utf8Unit unit = ReadUtf8(text, i);
    Decompose(unit.code_point, &marks);
    i += unit.length;
  }
  SortMarks(&marks);
  size_t kept = 0;
  size_t starter = marks.size();  // none yet
  int last_class = -1;            // of what was kept since the starter; -1 = nothing
  for (const Mark mark : marks) {
    if (starter < marks.size() && last_class < static_cast<int>(mark.combining_class)) {
      if (const uint32_t composed = Compose(marks[starter].code_point, mark.code_point); composed != 0) {
        marks[starter].code_point = composed;
        continue;
      }
    }
    if (mark.combining_class == 0) {
      starter = kept;
      last_class = -1;
    } else {
      last_class = mark.combining_class;
    }
    marks[kept++] = mark;
  }
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < kept; ++i) AppendUtf8(marks[i].code_point, &out);
  return out;
}

}  // namespace flexquant
