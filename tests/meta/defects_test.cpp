// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "support/scratch.hpp"

// docs/defects.md is held against the tests: every defect has a row, and a row that names a test names one that exists.

namespace fs = std::filesystem;

namespace {

fs::path const sources{FMMAP_SOURCE_DIR};

// Every defect that has to have a row, by its id without the letter of a part: each part has a row of its own.
struct family {
  std::string_view name;
  std::size_t count;
  std::map<std::size_t, std::string_view> parts; // the letters of those that have some
};

auto wanted_ids() -> std::set<std::string> {
  static std::vector<family> const families{
      {"fmmap", 29, {{11, "ab"}, {12, "ab"}, {15, "ab"}, {23, "ab"}, {24, "abc"}, {29, "ab"}}},
      {"memmap2", 6, {}},
      {"llfio", 8, {{4, "ab"}, {6, "ab"}, {8, "abcdefghi"}}},
      {"mio", 5, {{3, "abcd"}, {5, "abcdefgh"}}},
      {"interprocess", 6, {{1, "ab"}, {5, "abcdefg"}}},
      {"iostreams", 2, {{1, "abcdef"}, {2, "abc"}}},
      {"folly", 1, {{1, "abc"}}},
      {"llvm", 3, {}},
      {"decodeless", 2, {{2, "abcd"}}},
      {"programs", 3, {{1, "ab"}, {3, "ab"}}},
  };
  std::set<std::string> ids;
  for (auto const& one : families) {
    for (std::size_t number = 1; number <= one.count; ++number) {
      auto const id = std::string{one.name} + '-' + std::to_string(number);
      auto const parts = one.parts.find(number);
      if (parts == one.parts.end()) {
        ids.insert(id);
        continue;
      }
      for (char const part : parts->second) {
        ids.insert(id + part);
      }
    }
  }
  return ids;
}

struct defect {
  std::string id;
  std::string what;
  std::string here;
};

auto defects_of(std::string const& page) -> std::vector<defect> {
  static std::regex const line_of_three{R"(\| ([\w-]+) \| (.+) \| (.+) \|)"};
  std::vector<defect> found;
  bool in_table = false;
  std::istringstream text{page};
  for (std::string line; std::getline(text, line);) {
    if (line.starts_with("| id |")) {
      in_table = true;
    } else if (!line.starts_with("|")) {
      in_table = false;
    } else if (std::smatch cells; in_table && std::regex_match(line, cells, line_of_three)) {
      found.push_back({.id = cells[1].str(), .what = cells[2].str(), .here = cells[3].str()});
    }
  }
  return found;
}

// The cases of a test file, as "suite/case".
auto cases_in(std::string const& text) -> std::set<std::string> {
  static std::regex const macro{R"(^BOOST_AUTO_TEST_(SUITE|CASE|SUITE_END)\((\w*))"};
  std::set<std::string> found;
  std::string suite;
  std::istringstream lines{text};
  for (std::string line; std::getline(lines, line);) {
    if (std::smatch part; line.starts_with("BOOST_") && std::regex_search(line, part, macro)) {
      if (part[1] == "CASE") {
        found.insert(suite + part[2].str());
      } else {
        suite = part[1] == "SUITE" ? part[2].str() + '/' : std::string{};
      }
    }
  }
  return found;
}

// What is wrong with the rows, and how many there are of each kind.
struct verdict {
  std::vector<std::string> wrong;
  std::size_t tests = 0;
  std::size_t cannot_occur = 0;
  std::size_t not_built = 0;
};

// `read` gives the text of a file of the repository, or nothing.
auto judge(std::vector<defect> const& rows, std::set<std::string> const& wanted, auto const& read) -> verdict {
  static std::regex const test{R"(`(tests/\w+/\w+_test\.cpp): (\w+/\w+)`)"};
  static std::regex const reason{"cannot occur: .+"};
  static std::regex const later{"belongs to (fmmap\\.async|the persistent heap), not built yet"};
  verdict found;
  std::set<std::string> seen;
  std::map<std::string, std::set<std::string>> cases; // by file
  for (auto const& row : rows) {
    if (!seen.insert(row.id).second) {
      found.wrong.push_back("two rows for " + row.id);
    }
    if (!wanted.contains(row.id)) {
      found.wrong.push_back("a row for " + row.id + ", which is not known");
    }
    if (std::smatch named; std::regex_match(row.here, named, test)) {
      ++found.tests;
      auto const [file, is_new] = cases.try_emplace(named[1].str());
      if (is_new) {
        file->second = cases_in(read(file->first));
      }
      if (!file->second.contains(named[2].str())) {
        found.wrong.push_back(row.id + ": there is no " + named[2].str() + " in " + named[1].str());
      }
    } else if (std::regex_match(row.here, reason)) {
      ++found.cannot_occur;
    } else if (std::regex_match(row.here, later)) {
      ++found.not_built;
    } else {
      found.wrong.push_back(row.id + ": neither a test, nor a reason, nor a module to come");
    }
  }
  for (auto const& id : wanted) {
    if (!seen.contains(id)) {
      found.wrong.push_back("no row for " + id);
    }
  }
  return found;
}

} // namespace

BOOST_AUTO_TEST_SUITE(docs_defects_md)

BOOST_AUTO_TEST_CASE(has_a_row_for_every_defect_and_names_tests_that_exist) {
  auto const rows = defects_of(read_back(sources / "docs/defects.md"));
  auto const found = judge(rows, wanted_ids(), [](std::string const& file) { return read_back(sources / file); });
  for (auto const& wrong : found.wrong) {
    BOOST_ERROR("docs/defects.md: " << wrong);
  }
  BOOST_TEST(found.tests > 50U);
  std::cout << "rows " << rows.size() << ", tests " << found.tests << ", cannot occur " << found.cannot_occur
            << ", not built yet " << found.not_built << '\n';
}

BOOST_AUTO_TEST_CASE(uses_every_test_that_was_written_for_it) {
  auto const page = read_back(sources / "docs/defects.md");
  for (std::string const file :
       {"tests/core/defects_test.cpp", "tests/lock/defects_test.cpp", "tests/pmr/defects_test.cpp"}) {
    for (auto const& name : cases_in(read_back(sources / file))) {
      BOOST_TEST(page.contains(file + ": " + name), "docs/defects.md has no row for " << name);
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()

// The check has to find what it is for.
BOOST_AUTO_TEST_SUITE(the_check_of_docs_defects_md)

namespace {

auto judged(std::string const& rows, std::set<std::string> const& wanted) -> std::string {
  auto const found =
      judge(defects_of("| id | what | here |\n|---|---|---|\n" + rows), wanted, [](std::string const& file) {
        return file == "tests/a/b_test.cpp" ? std::string{"BOOST_AUTO_TEST_SUITE(s)\nBOOST_AUTO_TEST_CASE(c) {\n}\n"
                                                          "BOOST_AUTO_TEST_SUITE_END()\nBOOST_AUTO_TEST_CASE(d) {\n}\n"}
                                            : std::string{};
      });
  return found.wrong.empty() ? "" : found.wrong.front();
}

} // namespace

BOOST_AUTO_TEST_CASE(is_content_with_tests_reasons_and_modules_to_come) {
  BOOST_TEST(judged("| x-1 | w | `tests/a/b_test.cpp: s/c` |\n| x-2 | w | cannot occur: a reason |\n"
                    "| x-3 | w | belongs to fmmap.async, not built yet |\n",
                    {"x-1", "x-2", "x-3"}) == "");
}

BOOST_AUTO_TEST_CASE(finds_missing_rows_and_missing_tests) {
  BOOST_TEST(judged("| x-1 | w | cannot occur: a reason |\n", {"x-1", "x-2"}) == "no row for x-2");
  BOOST_TEST(judged("| x-1 | w | cannot occur: a reason |\n", {}) == "a row for x-1, which is not known");
  BOOST_TEST(judged("| x-1 | w | cannot occur: a |\n| x-1 | w | cannot occur: b |\n", {"x-1"}) == "two rows for x-1");
  BOOST_TEST(judged("| x-1 | w | cannot occur:  |\n", {"x-1"}) ==
             "x-1: neither a test, nor a reason, nor a module to come");
  BOOST_TEST(judged("| x-1 | w | later |\n", {"x-1"}) == "x-1: neither a test, nor a reason, nor a module to come");
  BOOST_TEST(judged("| x-1 | w | `tests/a/b_test.cpp: s/d` |\n", {"x-1"}) ==
             "x-1: there is no s/d in tests/a/b_test.cpp");
  BOOST_TEST(judged("| x-1 | w | `tests/a/c_test.cpp: s/c` |\n", {"x-1"}) ==
             "x-1: there is no s/c in tests/a/c_test.cpp");
}

BOOST_AUTO_TEST_SUITE_END()
