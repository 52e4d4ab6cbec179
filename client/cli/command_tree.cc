#include "client/cli/command_tree.h"

#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace flexquant::cli {
namespace {

// CLI11 has types as "TEXT:{a,b}" and "INT:INT in [0 - 1]".
void DescribeType(const std::string& type, OptionNode& node) {
  const std::pair<std::string, std::string> parts = absl::StrSplit(type, absl::MaxSplits(':', 1));
  if (node.placeholder.empty()) {
    node.placeholder = parts.first;
  }
  absl::string_view limits = parts.second;
  if (absl::ConsumePrefix(&limits, "{") && absl::ConsumeSuffix(&limits, "}")) {
    node.choices = absl::StrSplit(limits, ',');
  } else {
    node.range = parts.second;
  }
}

OptionNode DescribeOption(const CLI::Option& option, const std::string& group) {
  OptionNode node;
  for (const std::string& name : option.get_snames()) {
    node.names.push_back("-" + name);
  }
  for (const std::string& name : option.get_lnames()) {
    node.names.push_back("--" + name);
  }
  if (option.get_items_expected_max() > 0) {
    node.placeholder = node.names.empty() ? option.get_name(/*positional=*/true) : "";
    DescribeType(option.get_type_name(), node);
  }
  node.default_value = option.get_default_str();
  node.description = option.get_description();
  node.group = group.empty() ? option.get_group() : group;
  node.required = option.get_required();
  return node;
}

// Option groups are nameless subcommands to CLI11.
void Describe(const CLI::App& app, const std::string& group, CommandNode& node) {
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_group().empty()) {
      continue;  // hidden
    }
    OptionNode described = DescribeOption(*option, group);
    (described.names.empty() ? node.positionals : node.options).push_back(std::move(described));
  }
  for (const CLI::App* below : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (below->get_name().empty()) {
      Describe(*below, below->get_group(), node);
      continue;
    }
    CommandNode child;
    child.path = node.path;
    child.path.push_back(below->get_name());
    child.description = below->get_description();
    child.footer = below->get_footer();
    Describe(*below, "", child);
    node.subcommands.push_back(std::move(child));
  }
}

void Collect(const CommandNode& node, std::vector<const CommandNode*>& all) {
  all.push_back(&node);
  for (const CommandNode& below : node.subcommands) {
    Collect(below, all);
  }
}

}  // namespace

CommandNode DescribeCommands(const CLI::App& app) {
  CommandNode root;
  root.path = {app.get_name()};
  root.description = app.get_description();
  root.footer = app.get_footer();
  Describe(app, "", root);
  return root;
}

std::vector<const CommandNode*> AllCommands(const CommandNode& root) {
  std::vector<const CommandNode*> all;
  Collect(root, all);
  return all;
}

}  // namespace flexquant::cli
