#include "common/tokenizer/bpe_tokenizer.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/status_macros.h"
#include "common/tokenizer/nfc.h"
#include "common/tokenizer/utf8.h"

namespace flexquant {
namespace {

constexpr char kSpaceMark[] = "\xE2\x96\x81";  // U+2581

// GPT-2's printable stand-ins for bytes: code points below 324 to bytes, -1 for none.
const std::array<int16_t, 324>& ByteLevelAlphabet() {
  static const std::array<int16_t, 324> kAlphabet = [] {
    std::array<int16_t, 324> alphabet;
    alphabet.fill(-1);
    int16_t extra = 256;
    for (int16_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
      alphabet[printable ? byte : extra++] = byte;
    }
    return alphabet;
  }();
  return kAlphabet;
}

// A text outside the alphabet (of an added token) stays as it is.
std::string BytesOfByteLevelText(const std::string& text) {
  std::string bytes;
  for (size_t i = 0; i < text.size();) {
    const Utf8Unit unit = ReadUtf8(text, i);
    const auto& alphabet = ByteLevelAlphabet();
    if (unit.kind != Utf8Kind::kValid || unit.code_point >= alphabet.size() || alphabet[unit.code_point] < 0) {
      return text;
    }
    bytes.push_back(static_cast<char>(alphabet[unit.code_point]));
    i += unit.length;
  }
  return bytes;
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

// Byte of "<0x0A>", or -1.
int ByteOfText(absl::string_view text) {
  if (text.size() != 6 || !absl::StartsWith(text, "<0x") || text[5] != '>') return -1;
  const int high = HexDigit(text[3]);
  const int low = HexDigit(text[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

bool IsHidden(TokenType type) { return type == TokenType::kControl || type == TokenType::kUnknown; }

}  // namespace

struct BpeTokenizer::EncodeState {
  struct Range {
    size_t begin;
    size_t end;
  };
  std::vector<uint32_t> out;
  std::vector<uint32_t> symbols;
  BpeMerger::Scratch scratch;
  // Words already encoded, as ranges of `out`. Valid only while the text the keys point into lives.
  absl::flat_hash_map<absl::string_view, Range> seen;
};

absl::StatusOr<std::unique_ptr<BpeTokenizer>> BpeTokenizer::Create(TokenizerSpec spec) {
  std::unique_ptr<BpeTokenizer> result(new BpeTokenizer(std::move(spec)));
  if (result->spec_.byte_level) {
    FQ_ASSIGN_OR_RETURN(result->pre_tokenizer_, PreTokenizer::Create(result->spec_.patterns));
  }
  result->IndexTokens();
  if (result->spec_.scores.empty()) {
    FQ_RETURN_IF_ERROR(result->AddListedMerges());
  } else {
    result->AddScoredMerges();
  }
  // The texts live on in bytes_ and merger_.
  result->spec_.merges = {};
  result->spec_.scores = {};
  for (TokenEntry& token : result->spec_.tokens) token.text = {};
  return result;
}

std::string BpeTokenizer::FileTextToBytes(const TokenEntry& token) const {
  switch (token.type) {
    case TokenType::kByte: {
      const int byte = ByteOfText(token.text);
      return byte < 0 ? token.text : std::string(1, static_cast<char>(byte));
    }
    case TokenType::kNormal:
    case TokenType::kUnused:
      if (spec_.byte_level) return BytesOfByteLevelText(token.text);
      return spec_.escape_space ? absl::StrReplaceAll(token.text, {{kSpaceMark, " "}}) : token.text;
    default:
      return token.text;
  }
}

void BpeTokenizer::IndexTokens() {
  bytes_.reserve(spec_.tokens.size());
  by_text_.reserve(spec_.tokens.size());
  byte_ids_.fill(kNoToken);
  words_end_at_spaces_ = true;
  for (uint32_t id = 0; id < spec_.tokens.size(); ++id) {
    TokenEntry& token = spec_.tokens[id];
    if (id == spec_.unknown_id && token.type == TokenType::kNormal && !spec_.byte_level) {
      token.type = TokenType::kUnknown;
    }
    bytes_.push_back(FileTextToBytes(token));
    const std::string& bytes = bytes_.back();
    if (token.type == TokenType::kByte) {
      if (bytes.size() == 1 && !spec_.byte_level) byte_ids_[static_cast<uint8_t>(bytes[0])] = id;
      continue;
    }
    if (token.type == TokenType::kNormal) {
      if (bytes.empty()) continue;
      by_text_.try_emplace(bytes, id);
      if (spec_.byte_level && bytes.size() == 1) byte_ids_[static_cast<uint8_t>(bytes[0])] = id;
      const size_t word = bytes.find_first_not_of(' ');
      if (word != std::string::npos && bytes.find(' ', word) != std::string::npos) words_end_at_spaces_ = false;
    } else if (token.type != TokenType::kUnused && !token.text.empty()) {
      specials_.Add(id, token);
    }
  }
}

uint32_t BpeTokenizer::Lookup(absl::string_view bytes) const {
  const auto found = by_text_.find(bytes);
  return found == by_text_.end() ? kNoToken : found->second;
}

absl::Status BpeTokenizer::AddListedMerges() {
  // Merges name tokens by the file's texts, among which added tokens count too.
  absl::flat_hash_map<absl::string_view, uint32_t> by_file_text;
  by_file_text.reserve(spec_.tokens.size());
  for (uint32_t id = 0; id < spec_.tokens.size(); ++id) by_file_text.try_emplace(spec_.tokens[id].text, id);
  merger_.Reserve(spec_.merges.size());
  for (uint32_t rank = 0; rank < spec_.merges.size(); ++rank) {
    const auto& [left, right] = spec_.merges[rank];
    const auto left_id = by_file_text.find(left);
    const auto right_id = by_file_text.find(right);
    const auto merged_id = by_file_text.find(absl::StrCat(left, right));
    const auto end = by_file_text.end();
    if (left_id == end || right_id == end || merged_id == end) {
      return absl::InvalidArgumentError(absl::StrCat("merge ", rank, " ('", left, "' and '", right,
                                                     "') is not made of the vocabulary's tokens; the file is damaged"));
    }
    // A control token must not come about by merging its letters.
    if (IsHidden(spec_.tokens[merged_id->second].type)) continue;
    merger_.Add(left_id->second, right_id->second, rank, merged_id->second);
  }
  return absl::OkStatus();
}

void BpeTokenizer::AddScoredMerges() {
  std::vector<float> levels = spec_.scores;
  std::sort(levels.begin(), levels.end(), std::greater<float>());
  levels.erase(std::unique(levels.begin(), levels.end()), levels.end());
  for (uint32_t id = 0; id < bytes_.size(); ++id) {
    if (spec_.tokens[id].type != TokenType::kNormal) continue;
    const absl::string_view text = bytes_[id];
    const auto level = std::lower_bound(levels.begin(), levels.end(), spec_.scores[id], std::greater<float>());
    const uint32_t rank = static_cast<uint32_t>(level - levels.begin());
    // Longer texts would cost the square of their length, and no vocabulary has them.
    if (text.size() > kMaxSpecialBytes || Lookup(text) != id) continue;
    for (size_t cut = 1; cut < text.size(); ++cut) {
      const uint32_t left = Lookup(text.substr(0, cut));
      const uint32_t right = Lookup(text.substr(cut));
      if (left != kNoToken && right != kNoToken) merger_.Add(left, right, rank, id);
    }
  }
}

absl::StatusOr<std::vector<uint32_t>> BpeTokenizer::Encode(absl::string_view text, const EncodeOptions& options) const {
  if (const int64_t offset = FindInvalidUtf8(text); offset >= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("text is not valid UTF-8 at byte ", offset, " of ", text.size(), "; send UTF-8"));
  }
  EncodeState state;
  state.out.reserve(text.size() / 3 + 2);
  if (options.add_special && spec_.add_bos) state.out.push_back(static_cast<uint32_t>(spec_.bos_id));
  bool at_start = !options.follows_special;
  for (const SpecialTokens::Segment& segment : specials_.Split(text, options.parse_special)) {
    if (segment.id >= 0) {
      state.out.push_back(static_cast<uint32_t>(segment.id));
    } else {
      FQ_RETURN_IF_ERROR(EncodeText(segment.text, at_start, &state));
    }
    at_start = false;
  }
  if (options.add_special && spec_.add_eos) state.out.push_back(static_cast<uint32_t>(spec_.eos_id));
  return std::move(state.out);
}

absl::Status BpeTokenizer::EncodeText(absl::string_view text, bool at_start, EncodeState* state) const {
  std::string changed;
  if (spec_.normalize_nfc && !IsSurelyNfc(text)) {
    changed = ToNfc(text);
    text = changed;
  }
  if (spec_.escape_space && absl::StrContains(text, kSpaceMark)) {
    changed = absl::StrReplaceAll(text, {{kSpaceMark, " "}});
    text = changed;
  }
  using SpacePrefix = TokenizerSpec::SpacePrefix;
  const bool has_space = absl::StartsWith(text, " ");
  const bool prefix = spec_.space_prefix == SpacePrefix::kAlways ||
                      (spec_.space_prefix == SpacePrefix::kAlwaysIfMissing && !has_space) ||
                      (spec_.space_prefix == SpacePrefix::kFirstIfMissing && at_start && !has_space);
  if (prefix) {
    changed = absl::StrCat(" ", text);
    text = changed;
  }
  std::vector<absl::string_view> words;
  if (spec_.byte_level) {
    FQ_ASSIGN_OR_RETURN(words, pre_tokenizer_->Split(text));
  } else {
    words = SplitAtSpaces(text);
  }
  state->seen.clear();
  for (const absl::string_view word : words) EncodeWord(word, state);
  return absl::OkStatus();
}

std::vector<absl::string_view> BpeTokenizer::SplitAtSpaces(absl::string_view text) const {
  if (!words_end_at_spaces_) return {text};
  std::vector<absl::string_view> words;
  size_t start = 0;
  for (size_t i = 1; i < text.size(); ++i) {
    if (text[i] == ' ' && text[i - 1] != ' ') {
      words.push_back(text.substr(start, i - start));
      start = i;
    }
  }
  words.push_back(text.substr(start));
  return words;
}

void BpeTokenizer::EncodeWord(absl::string_view word, EncodeState* state) const {
  std::vector<uint32_t>& out = state->out;
  const auto [entry, is_new] = state->seen.try_emplace(word, EncodeState::Range{out.size(), out.size()});
  if (!is_new) {
    const EncodeState::Range range = entry->second;
    for (size_t i = range.begin; i < range.end; ++i) out.push_back(out[i]);
    return;
  }
  if (spec_.ignore_merges) {
    if (const uint32_t id = Lookup(word); id != kNoToken) {
      out.push_back(id);
      entry->second.end = out.size();
      return;
    }
  }
  state->symbols.clear();
  AppendSymbols(word, &state->symbols);
  const size_t begin = out.size();
  merger_.Merge(state->symbols, &state->scratch, &out);
  // What has no token becomes the unknown token, or nothing.
  size_t kept = begin;
  for (size_t i = begin; i < out.size(); ++i) {
    const bool unknown = out[i] == kNoToken;
    if (unknown && spec_.unknown_id < 0) continue;
    const uint32_t id = unknown ? static_cast<uint32_t>(spec_.unknown_id) : out[i];
    if (unknown && spec_.fuse_unknown && kept > begin && out[kept - 1] == id) continue;
    out[kept++] = id;
  }
  out.resize(kept);
  entry->second.end = kept;
}

void BpeTokenizer::AppendSymbols(absl::string_view word, std::vector<uint32_t>* symbols) const {
  if (spec_.byte_level) {
    for (const char byte : word) symbols->push_back(byte_ids_[static_cast<uint8_t>(byte)]);
    return;
  }
  for (size_t i = 0; i < word.size();) {
    const size_t length = ReadUtf8(word, i).length;
    const absl::string_view letter = word.substr(i, length);
    i += length;
    const uint32_t id = Lookup(letter);
    const auto has_byte = [&](char c) { return byte_ids_[static_cast<uint8_t>(c)] != kNoToken; };
    if (id != kNoToken || !std::all_of(letter.begin(), letter.end(), has_byte)) {
      symbols->push_back(id);
      continue;
    }
    for (const char byte : letter) symbols->push_back(byte_ids_[static_cast<uint8_t>(byte)]);
  }
}

bool BpeTokenizer::IsSpecial(uint32_t id) const { return id < spec_.tokens.size() && IsHidden(spec_.tokens[id].type); }

std::string BpeTokenizer::TokenBytes(uint32_t id, bool render_special) const {
  if (id >= bytes_.size() || (IsSpecial(id) && !render_special)) return "";
  return bytes_[id];
}

std::string BpeTokenizer::Decode(const std::vector<uint32_t>& ids, bool render_special) const {
  std::string bytes;
  for (const uint32_t id : ids) {
    if (id >= bytes_.size() || (IsSpecial(id) && !render_special)) continue;
    bytes.append(bytes_[id]);
  }
  if (spec_.strips_first_space && absl::StartsWith(bytes, " ")) bytes.erase(0, 1);
  return ReplaceInvalidUtf8(bytes);
}

}  // namespace flexquant
