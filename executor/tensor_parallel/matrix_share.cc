#include "executor/tensor_parallel/matrix_share.h"

#include <algorithm>
#include <cstring>

#include "common/check.h"
#include "common/status_macros.h"

namespace flexquant::executor {
namespace {

constexpr int64_t kCodeBytes = kPlaneWordBytes / kTileRows;  // a row has in a word

uint64_t ReferenceBytes(const NestedMatrix& w) { return w.reference_dtype == Dtype::kF32 ? 4 : 2; }

// A plane of `words` words a unit: tile after tile, unit after unit.
struct Plane {
  const uint8_t* from;
  uint8_t* to;
  int64_t words;
};

// Copies row `from` of the whole matrix to row `to` of the share; units and groups are counted from the share's first.
void CopyRow(const Plane& plane, const NestedMatrix& whole, const NestedMatrix& share, int64_t first_unit, int64_t from,
             int64_t to) {
  const int64_t words = share.units() * plane.words;
  const uint8_t* source = plane.from + (from / kTileRows * whole.units() + first_unit) * plane.words * kPlaneWordBytes +
                          from % kTileRows * kCodeBytes;
  uint8_t* target = plane.to + to / kTileRows * words * kPlaneWordBytes + to % kTileRows * kCodeBytes;
  for (int64_t word = 0; word < words; ++word) {
    std::memcpy(target + word * kPlaneWordBytes, source + word * kPlaneWordBytes, kCodeBytes);
  }
}

void CopyTile(const Plane& plane, const NestedMatrix& whole, const NestedMatrix& share, int64_t first_unit,
              int64_t from, int64_t to) {
  const int64_t words = share.units() * plane.words;
  std::memcpy(plane.to + to * words * kPlaneWordBytes,
              plane.from + (from * whole.units() + first_unit) * plane.words * kPlaneWordBytes,
              static_cast<size_t>(words * kPlaneWordBytes));
}

void CopyScales(const NestedMatrix& whole, const NestedMatrix& share, int64_t first_group, int64_t from, int64_t to,
                uint16_t* scales) {
  constexpr int64_t kTileScales = 2 * kTileRows;
  const uint16_t* source =
      whole.scales + (from / kTileRows * whole.groups() + first_group) * kTileScales + from % kTileRows;
  uint16_t* target = scales + to / kTileRows * share.groups() * kTileScales + to % kTileRows;
  for (int64_t group = 0; group < share.groups(); ++group) {
    target[group * kTileScales] = source[group * kTileScales];
    target[group * kTileScales + kTileRows] = source[group * kTileScales + kTileRows];
  }
}

}  // namespace

absl::StatusOr<MatrixShare> MatrixShare::Copy(const NestedMatrix& whole, absl::Span<const Range> rows, Range cols) {
  FQ_CHECK(cols.begin % whole.group_size == 0 && cols.end <= whole.cols);
  MatrixShare share;
  NestedMatrix& w = share.matrix_;
  for (const Range& range : rows) {
    w.rows += range.size();
  }
  w.cols = cols.size();
  w.group_size = whole.group_size;
  w.reference_dtype = whole.reference_dtype;
  if (cols.size() == 0) {
    return share;  // has no memory: products with it are 0
  }
  const auto plane_bytes = static_cast<uint64_t>(w.tiles() * w.units() * kPlaneWordBytes);
  const auto scale_bytes = static_cast<uint64_t>(w.tiles() * w.groups() * 2 * kTileRows) * sizeof(uint16_t);
  const uint64_t reference_bytes = whole.reference == nullptr ? 0 : w.num_weights() * ReferenceBytes(w);
  FQ_ASSIGN_OR_RETURN(share.memory_, LazyBuffer::Allocate(8 * plane_bytes + scale_bytes + reference_bytes, "weights"));
  share.memory_.PreferHugePages();

  auto* next = share.memory_.as<uint8_t>();
  const auto place = [&next](uint64_t bytes) {
    uint8_t* at = next;
    next += bytes;
    return at;
  };
  const Plane planes[] = {{whole.base3, place(3 * plane_bytes), 3},
                          {whole.bit4, place(plane_bytes), 1},
                          {whole.bit5, place(plane_bytes), 1},
                          {whole.bit6, place(plane_bytes), 1},
                          {whole.bits78, place(2 * plane_bytes), 2}};
  auto* scales = reinterpret_cast<uint16_t*>(place(scale_bytes));
  uint8_t* reference = place(reference_bytes);

  int64_t to = 0;
  for (const Range& range : rows) {
    for (int64_t from = range.begin; from < range.end;) {
      const bool tile = from % kTileRows == 0 && to % kTileRows == 0 && from + kTileRows <= range.end;
      const int64_t count = tile ? kTileRows : 1;
      for (const Plane& plane : planes) {
        if (tile) {
          CopyTile(plane, whole, w, cols.begin / kUnitCols, from / kTileRows, to / kTileRows);
        } else {
          CopyRow(plane, whole, w, cols.begin / kUnitCols, from, to);
        }
      }
      for (int64_t i = 0; i < count; ++i) {
        CopyScales(whole, w, cols.begin / whole.group_size, from + i, to + i, scales);
        if (reference_bytes > 0) {
          const auto bytes = static_cast<int64_t>(ReferenceBytes(w));
          std::memcpy(reference + (to + i) * w.cols * bytes,
                      static_cast<const uint8_t*>(whole.reference) + ((from + i) * whole.cols + cols.begin) * bytes,
                      static_cast<size_t>(w.cols * bytes));
        }
      }
      from += count;
      to += count;
    }
  }
  w.base3 = planes[0].to;
  w.bit4 = planes[1].to;
  w.bit5 = planes[2].to;
  w.bit6 = planes[3].to;
  w.bits78 = planes[4].to;
  w.scales = scales;
  w.reference = reference_bytes > 0 ? reference : nullptr;
  return share;
}

NestedMatrix RowsOf(const NestedMatrix& whole, Range rows) {
  FQ_CHECK(rows.begin % kTileRows == 0 && rows.end <= whole.rows);
  NestedMatrix view = whole;
  view.rows = rows.size();
  const int64_t tile = rows.begin / kTileRows;
  const int64_t word = tile * whole.units() * kPlaneWordBytes;
  view.base3 += 3 * word;
  view.bit4 += word;
  view.bit5 += word;
  view.bit6 += word;
  view.bits78 += 2 * word;
  view.scales += tile * whole.groups() * 2 * kTileRows;
  if (whole.reference != nullptr) {
    view.reference = static_cast<const uint8_t*>(whole.reference) +
                     static_cast<uint64_t>(rows.begin * whole.cols) * ReferenceBytes(whole);
  }
  return view;
}

}  // namespace flexquant::executor
