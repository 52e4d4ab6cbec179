// llama2.c's vocabulary, by way of the GGUF that a converted model keeps.

#include "common/model_source.h"
#include "common/tokenizer/chat_template.h"
#include "common/tokenizer/tokenizer.h"
#include "tests/tokenizer/test_data.h"

namespace flexquant {
namespace {

using testing::ElementsAre;

TEST(Stories260kTest, TokenizesLikeLlama2c) {
  const auto model = test::DataDir() / ".." / "models" / "stories260K" / "stories260K.bin";
  FQ_SKIP_WITHOUT(model);
  const auto source = OpenModelSource(model.string());
  ASSERT_TRUE(source.ok()) << source.status();
  const test::TemporaryFolder folder;
  ASSERT_TRUE((*source)->SaveTokenizer(folder.path()).ok());
  const auto tokenizer = Tokenizer::Load(folder.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const Tokenizer::EncodeOptions with_bos{.add_special = true};
  // Ids by llama2.c's rule: the adjacent pair of best score merges, again and again.
  EXPECT_THAT(*(*tokenizer)->Encode("Once upon a time", with_bos), ElementsAre(1, 403, 407, 261, 378));
  const std::string text = "Lily and Tom's dog 🙂 ran.\nThe end.";
  const auto ids = (*tokenizer)->Encode(text, with_bos);
  ASSERT_TRUE(ids.ok());
  EXPECT_THAT(*ids, ElementsAre(1, 317, 269, 274, 287, 439, 419, 400, 428, 410, 243, 162, 156, 133, 352, 303, 426, 13,
                                434, 260, 344, 264, 426));
  EXPECT_EQ((*tokenizer)->Decode(*ids), text);
  EXPECT_EQ(ChatTemplate::Recognize(**tokenizer).status().code(), absl::StatusCode::kUnimplemented)
      << "a base model has no template";
}

}  // namespace
}  // namespace flexquant
