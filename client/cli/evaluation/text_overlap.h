#ifndef FLEXQUANT_CLIENT_CLI_EVALUATION_TEXT_OVERLAP_H_
#define FLEXQUANT_CLIENT_CLI_EVALUATION_TEXT_OVERLAP_H_

#include <string>
#include <vector>

namespace flexquant::cli {

// Runs of ASCII letters and digits, in lower case, and of bytes beyond ASCII.
std::vector<std::string> Words(const std::string& text);

// ROUGE-L: F1 of the longest common subsequence. 1 if both are empty.
double RougeL(const std::vector<std::string>& words, const std::vector<std::string>& reference);

// Part of the runs of four words that occurred before; 0 if there is none.
double RepeatedShare(const std::vector<std::string>& words);

}  // namespace flexquant::cli

#endif  // FLEXQUANT_CLIENT_CLI_EVALUATION_TEXT_OVERLAP_H_
