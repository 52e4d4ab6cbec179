#ifndef FLEXQUANT_COMMON_TOKENIZER_TOKENIZER_H_
#define FLEXQUANT_COMMON_TOKENIZER_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace flexquant {

// Text <-> token ids: byte-level BPE and SentencePiece BPE. Immutable and thread-safe after loading.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Loads from a folder (tokenizer.gguf, or tokenizer.json with tokenizer_config.json) or from a file (*.gguf metadata
  // or tokenizer.json). INVALID_ARGUMENT, DATA_LOSS or UNIMPLEMENTED (unknown model or pre-tokenizer) name what and the
  // remedy.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& path);

  struct EncodeOptions {
    bool add_special = false;      // begin-of-sequence (and end, where the model adds one) as the model's metadata says
    bool parse_special = false;    // written-out special tokens become their ids
    bool follows_special = false;  // the text stands behind a special token, not at the sequence's start
  };
  // INVALID_ARGUMENT with the byte offset if `text` is not valid UTF-8.
  virtual absl::StatusOr<std::vector<uint32_t>> Encode(absl::string_view text, const EncodeOptions& options) const = 0;

  // Raw bytes of one token as they stand in a text's middle (may be part of a code point). Special (control) tokens
  // give "" unless `render_special`. An id >= vocab_size gives "".
  virtual std::string TokenBytes(uint32_t id, bool render_special = false) const = 0;

  // Text of a sequence; invalid UTF-8 becomes U+FFFD. SentencePiece's leading space of the first piece is dropped when
  // the model does so.
  virtual std::string Decode(const std::vector<uint32_t>& ids, bool render_special = false) const = 0;

  virtual uint32_t vocab_size() const = 0;
  virtual bool adds_bos() const = 0;
  virtual int64_t bos_id() const = 0;                        // -1 = none
  virtual const std::vector<uint32_t>& eos_ids() const = 0;  // end-of-sequence, end-of-turn
  virtual bool IsSpecial(uint32_t id) const = 0;
  // Id of a special token by its text, or -1.
  virtual int64_t SpecialId(absl::string_view text) const = 0;
  // Jinja chat template from the metadata; empty if there is none.
  virtual const std::string& chat_template() const = 0;
};

// Turns a stream of tokens into text that never splits a code point. One per answer; not thread-safe.
class IncrementalDetokenizer {
 public:
  // `tokenizer` must outlive this. `continues_text`: the answer follows a prompt, so a leading space of the first piece
  // is kept.
  explicit IncrementalDetokenizer(const Tokenizer& tokenizer, bool continues_text = true);
  // Text that became complete with this token; bytes that can never become valid are replaced by U+FFFD.
  std::string Append(uint32_t id);
  // What is left at the end (incomplete bytes as U+FFFD).
  std::string Finish();

 private:
  const Tokenizer* tokenizer_;
  bool drop_leading_space_;
  std::string pending_;
};

// Offset of the first byte that is not valid UTF-8, or -1.
int64_t FindInvalidUtf8(absl::string_view text);

}  // namespace flexquant

#endif  // FLEXQUANT_COMMON_TOKENIZER_TOKENIZER_H_
