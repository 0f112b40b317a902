// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

// What the documents say about the repository is held against the repository: links, code, commands.

namespace fs = std::filesystem;

namespace {

struct numbered_line {
  std::size_t number;
  std::string text;
};

// A fenced block: what its opening fence says, and the lines between the fences.
struct code_block {
  std::string language;
  std::vector<numbered_line> lines;
};

struct document {
  std::vector<numbered_line> prose; // what is in no fence
  std::vector<code_block> blocks;
};

auto trimmed(std::string_view text) -> std::string_view {
  auto const begin = text.find_first_not_of(" \t\r");
  if (begin == std::string_view::npos) {
    return {};
  }
  return text.substr(begin, text.find_last_not_of(" \t\r") - begin + 1);
}

auto read_text(fs::path const& path) -> std::string {
  std::ifstream in{path, std::ios::binary};
  return {std::istreambuf_iterator<char>{in}, {}};
}

auto lines_of(std::string const& text) -> std::vector<numbered_line> {
  std::vector<numbered_line> lines;
  std::istringstream in{text};
  for (std::string line; std::getline(in, line);) {
    lines.push_back({.number = lines.size() + 1, .text = line});
  }
  return lines;
}

auto parse(std::string const& text) -> document {
  document parsed;
  bool fenced = false;
  for (auto& line : lines_of(text)) {
    auto const content = trimmed(line.text);
    if (content.starts_with("```")) {
      fenced = !fenced;
      if (fenced) {
        parsed.blocks.push_back({.language = std::string{trimmed(content.substr(3))}, .lines = {}});
      }
    } else if (fenced) {
      parsed.blocks.back().lines.push_back(std::move(line));
    } else {
      parsed.prose.push_back(std::move(line));
    }
  }
  return parsed;
}

// The same length without what stands in `code`: a bracket there is no link.
auto without_code_spans(std::string text) -> std::string {
  for (auto begin = text.find('`'); begin != std::string::npos; begin = text.find('`', begin)) {
    auto const end = text.find('`', begin + 1);
    if (end == std::string::npos) {
      break;
    }
    std::fill(text.begin() + static_cast<std::ptrdiff_t>(begin), text.begin() + static_cast<std::ptrdiff_t>(end) + 1,
              ' ');
  }
  return text;
}

// Where the inline links of a line lead: [text](target "title").
auto links_in(std::string const& line) -> std::vector<std::string> {
  std::vector<std::string> targets;
  auto const text = without_code_spans(line);
  for (auto at = text.find("]("); at != std::string::npos; at = text.find("](", at + 2)) {
    auto const begin = at + 2;
    auto const end = text.find_first_of(") ", begin);
    targets.push_back(line.substr(begin, end == std::string::npos ? end : end - begin));
  }
  return targets;
}

// The anchors of a document's headings, made as GitHub makes them.
auto anchors_of(document const& parsed) -> std::set<std::string> {
  std::set<std::string> anchors;
  std::map<std::string, int> seen;
  for (auto const& line : parsed.prose) {
    auto const level = line.text.find_first_not_of('#');
    if (level == 0 || level == std::string::npos || level > 6 || line.text[level] != ' ') {
      continue;
    }
    std::string slug;
    for (char const c : trimmed(std::string_view{line.text}.substr(level))) {
      auto const byte = static_cast<unsigned char>(c);
      if (std::isalnum(byte) != 0 || c == '-' || c == '_') {
        slug += static_cast<char>(std::tolower(byte));
      } else if (c == ' ') {
        slug += '-';
      }
    }
    auto const repeated = seen[slug]++;
    anchors.insert(repeated == 0 ? slug : slug + "-" + std::to_string(repeated));
  }
  return anchors;
}

// Why a link of the document at `from` leads nowhere; empty when it leads somewhere, or out of the repository.
auto broken(fs::path const& root, fs::path const& from, std::string const& target) -> std::string {
  if (target.find("://") != std::string::npos || target.starts_with("mailto:")) {
    return {};
  }
  auto const hash = target.find('#');
  auto const name = target.substr(0, hash);
  auto const file = name.empty() ? from : (from.parent_path() / name).lexically_normal();
  if (file.lexically_relative(root).string().starts_with("..")) {
    return "leads out of the repository: " + target;
  }
  if (!fs::exists(file)) {
    return "leads to no file: " + target;
  }
  if (hash == std::string::npos) {
    return {};
  }
  if (file.extension() != ".md" || !anchors_of(parse(read_text(file))).contains(target.substr(hash + 1))) {
    return "leads to no heading: " + target;
  }
  return {};
}

// The first line of the block that does not follow its predecessors in `source`; empty when all do.
auto first_stranger(code_block const& block, std::vector<numbered_line> const& source) -> std::optional<numbered_line> {
  auto at = source.begin();
  for (auto const& line : block.lines) {
    auto const wanted = trimmed(line.text);
    if (wanted.empty()) {
      continue;
    }
    at = std::find_if(at, source.end(), [&](numbered_line const& have) { return trimmed(have.text) == wanted; });
    if (at == source.end()) {
      return line;
    }
    ++at;
  }
  return std::nullopt;
}

// The line of the block where the source that goes furthest along with it stops doing so.
auto stranger_to_all(code_block const& block, std::vector<std::vector<numbered_line>> const& sources)
    -> std::optional<numbered_line> {
  std::optional<numbered_line> furthest;
  for (auto const& source : sources) {
    auto const line = first_stranger(block, source);
    if (!line) {
      return std::nullopt;
    }
    if (!furthest || line->number > furthest->number) {
      furthest = line;
    }
  }
  return furthest;
}

auto repository() -> fs::path { return fs::path{FMMAP_SOURCE_DIR}.lexically_normal(); }

// The repository's documents. Folders of other things are passed over: hidden ones, and trees that CMake has built.
auto documents() -> std::vector<fs::path> {
  std::vector<fs::path> found;
  for (auto at = fs::recursive_directory_iterator{repository()}; at != fs::recursive_directory_iterator{}; ++at) {
    if (at->is_directory() && (at->path().filename().string().starts_with('.') ||
                               fs::exists(at->path() / "CMakeCache.txt") || at->path().filename() == "build")) {
      at.disable_recursion_pending();
    } else if (at->path().extension() == ".md") {
      found.push_back(at->path());
    }
  }
  std::ranges::sort(found);
  return found;
}

// The cells of a row of a table, without the bars.
auto cells_of(std::string_view row) -> std::vector<std::string> {
  std::vector<std::string> cells;
  row = trimmed(row);
  while (row.starts_with('|') && row.size() > 1) {
    row.remove_prefix(1);
    auto const end = std::min(row.find('|'), row.size());
    cells.emplace_back(trimmed(row.substr(0, end)));
    row.remove_prefix(end);
  }
  return cells;
}

// The test cases of a source, by suite.
auto cases_by_suite(std::string const& source) -> std::map<std::string, std::vector<std::string>> {
  std::map<std::string, std::vector<std::string>> cases;
  std::string suite;
  for (auto const& line : lines_of(source)) {
    auto const argument = [&](std::string_view macro) {
      auto const text = std::string_view{line.text}.substr(macro.size());
      return std::string{text.substr(0, text.find_first_of(",)"))};
    };
    constexpr std::string_view begin = "BOOST_AUTO_TEST_SUITE(";
    constexpr std::string_view test = "BOOST_AUTO_TEST_CASE(";
    constexpr std::string_view fixture = "BOOST_FIXTURE_TEST_CASE(";
    if (line.text.starts_with(begin)) {
      suite = argument(begin);
    } else if (line.text.starts_with(test)) {
      cases[suite].push_back(argument(test));
    } else if (line.text.starts_with(fixture)) {
      cases[suite].push_back(argument(fixture));
    }
  }
  return cases;
}

// The classes that an interface unit exports.
auto exported_classes(std::string const& source) -> std::vector<std::string> {
  std::vector<std::string> names;
  auto const from = std::min(source.find("export namespace fmmap"), source.size());
  for (auto const& line : lines_of(source.substr(from))) {
    auto text = std::string_view{line.text};
    for (std::string_view const prefix : {"class ", "[[nodiscard]] "}) {
      if (text.starts_with(prefix)) {
        text.remove_prefix(prefix.size());
      } else if (prefix == "class ") {
        text = {};
      }
    }
    auto const end = text.find_first_of(" ;");
    if (end != std::string_view::npos && text[end] == ' ') { // declarations alone are of classes defined elsewhere
      names.emplace_back(text.substr(0, end));
    }
  }
  return names;
}

auto place(fs::path const& path, std::size_t line) -> std::string {
  return path.lexically_relative(repository()).string() + ":" + std::to_string(line) + ": ";
}

} // namespace

BOOST_AUTO_TEST_SUITE(documents_of_the_repository)

BOOST_AUTO_TEST_CASE(link_to_files_and_headings_that_exist) {
  std::size_t links = 0;
  for (auto const& path : documents()) {
    for (auto const& line : parse(read_text(path)).prose) {
      for (auto const& target : links_in(line.text)) {
        ++links;
        if (auto const why = broken(repository(), path, target); !why.empty()) {
          BOOST_ERROR(place(path, line.number) << why);
        }
      }
    }
  }
  BOOST_TEST_MESSAGE(links << " links");
  BOOST_TEST(links > 0U);
}

BOOST_AUTO_TEST_CASE(show_cpp_that_is_lines_of_an_example) {
  std::vector<std::vector<numbered_line>> examples;
  for (auto const& entry : fs::directory_iterator{repository() / "examples"}) {
    if (entry.path().extension() == ".cpp") {
      examples.push_back(lines_of(read_text(entry.path())));
    }
  }
  std::size_t blocks = 0;
  for (auto const& path : documents()) {
    for (auto const& block : parse(read_text(path)).blocks) {
      if (block.language != "cpp") {
        continue;
      }
      ++blocks;
      if (auto const line = stranger_to_all(block, examples)) {
        BOOST_ERROR(place(path, line->number) << "is in no example, or not in this order: " << line->text);
      }
    }
  }
  BOOST_TEST(blocks > 0U);
}

BOOST_AUTO_TEST_CASE(name_tools_and_presets_that_exist) {
  auto const presets = read_text(repository() / "CMakePresets.json");
  std::size_t commands = 0;
  for (auto const& path : documents()) {
    for (auto const& block : parse(read_text(path)).blocks) {
      if (block.language != "sh") {
        continue;
      }
      for (auto const& line : block.lines) {
        ++commands;
        std::istringstream words{line.text};
        std::string previous;
        for (std::string word; words >> word; previous = word) {
          if ((word.starts_with("./tools/") || word.starts_with("tools/")) && !fs::exists(repository() / word)) {
            BOOST_ERROR(place(path, line.number) << "there is no " << word);
          }
          if (previous == "--preset" && presets.find("\"name\": \"" + word + "\"") == std::string::npos) {
            BOOST_ERROR(place(path, line.number) << "there is no preset " << word);
          }
        }
      }
    }
  }
  BOOST_TEST(commands > 0U);
}

// docs/processes.md: the last column is a suite, and each other column but the first has a case there. Where it is a link, to
// tests that are not named after the columns, that leads somewhere.
BOOST_AUTO_TEST_CASE(show_each_cell_of_the_table_of_fork_exec_and_exit_by_a_test) {
  auto const path = repository() / "docs" / "processes.md";
  auto const cases = cases_by_suite(read_text(repository() / "tests" / "core" / "processes_test.cpp"));
  std::set<std::string> shown;
  for (auto const& line : parse(read_text(path)).prose) {
    auto const cells = cells_of(line.text);
    if (cells.size() != 5 || cells[4] == "suite" || cells[4].starts_with("---") || cells[4].starts_with('[')) {
      continue;
    }
    auto const suite = cells[4].size() > 2 ? cells[4].substr(1, cells[4].size() - 2) : std::string{};
    auto const found = cases.find(suite);
    if (found == cases.end()) {
      BOOST_ERROR(place(path, line.number) << "there is no suite " << cells[4]);
      continue;
    }
    shown.insert(suite);
    for (std::string_view const column : {"after_fork_", "after_exec_", "at_exit_"}) {
      if (std::ranges::none_of(found->second, [&](std::string const& name) { return name.starts_with(column); })) {
        BOOST_ERROR(place(path, line.number) << suite << " has no case that begins with " << column);
      }
    }
  }
  BOOST_TEST(shown.size() >= 20U);
  for (auto const& [suite, names] : cases) {
    if (names.front().starts_with("after_fork_") && !shown.contains(suite)) {
      BOOST_ERROR("no row of docs/processes.md names the suite " << suite);
    }
  }
}

// docs/containers.md: the last column of the table of copies and moves is a case.
BOOST_AUTO_TEST_CASE(show_each_row_of_what_containers_do_across_resources_by_a_test) {
  auto const path = repository() / "docs" / "containers.md";
  auto const cases =
      cases_by_suite(read_text(repository() / "tests" / "pmr" / "container_rules_test.cpp")).at("across_resources");
  std::size_t rows = 0;
  for (auto const& line : parse(read_text(path)).prose) {
    auto const cells = cells_of(line.text);
    if (cells.size() != 3 || cells[2] == "case" || cells[2].starts_with("---")) {
      continue;
    }
    ++rows;
    if (std::ranges::none_of(cases, [&](std::string const& name) { return cells[2] == '`' + name + '`'; })) {
      BOOST_ERROR(place(path, line.number) << "there is no case " << cells[2]);
    }
  }
  BOOST_TEST(rows >= 15U);
}

BOOST_AUTO_TEST_CASE(say_of_each_class_what_becomes_of_it_by_fork_exec_and_exit) {
  auto const text = read_text(repository() / "docs" / "processes.md");
  std::size_t classes = 0;
  for (std::string_view const module : {"core", "lock", "pmr"}) {
    for (auto const& entry : fs::directory_iterator{repository() / "modules" / module}) {
      for (auto const& name : exported_classes(read_text(entry.path()))) {
        ++classes;
        if (text.find('`' + name + '`') == std::string::npos) {
          BOOST_ERROR("docs/processes.md says nothing of " << name);
        }
      }
    }
  }
  BOOST_TEST(classes >= 15U);
}

BOOST_AUTO_TEST_SUITE_END()

// The checks above have to find what they are for.
BOOST_AUTO_TEST_SUITE(the_check_of_documents)

BOOST_AUTO_TEST_CASE(finds_links_outside_of_code_only) {
  BOOST_TEST(
      (links_in("see [a](a.md), [b](b.md#c \"title\") and `[x](y)`") == std::vector<std::string>{"a.md", "b.md#c"}));
  BOOST_TEST(parse("text\n```cpp\n[a](b)\n```\nend\n").prose.size() == 2U);
}

BOOST_AUTO_TEST_CASE(finds_broken_links) {
  auto const readme = repository() / "README.md";
  BOOST_TEST(broken(repository(), readme, "LICENSE-MIT").empty());
  BOOST_TEST(broken(repository(), readme, "https://example.org/x").empty());
  BOOST_TEST(!broken(repository(), readme, "no-such-file.md").empty());
  BOOST_TEST(!broken(repository(), readme, "README.md#no-such-heading").empty());
  BOOST_TEST(!broken(repository(), readme, "#no-such-heading").empty());
  BOOST_TEST(!broken(repository(), readme, "../outside.md").empty());
}

BOOST_AUTO_TEST_CASE(makes_anchors_as_github_does) {
  auto const anchors = anchors_of(parse("# One `two`, three!\n## Same\n## Same\n```\n# not this\n```\n#nor this\n"));
  BOOST_TEST((anchors == std::set<std::string>{"one-two-three", "same", "same-1"}));
}

BOOST_AUTO_TEST_CASE(finds_lines_that_no_source_has_in_that_order) {
  auto const source = lines_of("a;\n  b;\n\nc;\n");
  auto const block = [](std::string const& text) { return code_block{.language = "cpp", .lines = lines_of(text)}; };
  BOOST_TEST(!first_stranger(block("a;\nc;\n"), source).has_value());
  BOOST_TEST(!first_stranger(block("    b;\n\n  c;\n"), source).has_value());
  BOOST_TEST(first_stranger(block("a;\nc;\nb;\n"), source)->number == 3U);
  BOOST_TEST(stranger_to_all(block("a;\nx;\n"), {source, lines_of("y;\n")})->text == "x;");
}

BOOST_AUTO_TEST_CASE(finds_the_cells_of_a_table_and_the_cases_of_a_suite) {
  BOOST_TEST((cells_of("| a | `b` c ||") == std::vector<std::string>{"a", "`b` c", ""}));
  BOOST_TEST(cells_of("no table").empty());
  auto const cases = cases_by_suite("BOOST_AUTO_TEST_SUITE(one, *x())\nBOOST_AUTO_TEST_CASE(first) {\n}\n"
                                    "BOOST_AUTO_TEST_SUITE(two)\nBOOST_AUTO_TEST_CASE(second) {\n");
  BOOST_TEST((cases.at("one") == std::vector<std::string>{"first"}));
  BOOST_TEST((cases.at("two") == std::vector<std::string>{"second"}));
}

BOOST_AUTO_TEST_CASE(finds_the_classes_that_are_exported) {
  auto const names = exported_classes("class hidden {\nexport namespace fmmap {\nclass later;\nclass one {\n"
                                      "class [[nodiscard]] two {\nclass three : public one {\n// class four {\n");
  BOOST_TEST((names == std::vector<std::string>{"one", "two", "three"}));
}

BOOST_AUTO_TEST_SUITE_END()
