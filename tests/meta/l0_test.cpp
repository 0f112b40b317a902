// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <iostream>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "support/scratch.hpp"

// Every public function that can fail is called by a scenario of the sweep of its module, tests/<module>/l0_test.cpp. Both
// sides are read from the sources: what the interface units declare, and what the scenarios say and do.

namespace {

std::filesystem::path const sources{FMMAP_SOURCE_DIR};

// The functions of an interface unit that return a result or an operation, as "class::function" or "function". The layout that
// .clang-format keeps is relied on: what is declared at namespace scope starts its line.
void collect(std::filesystem::path const& unit, std::set<std::string>& functions) {
  static std::regex const function{R"(auto (\w+)\([^;]*\)[\w &]*-> (?:result|operation)<)"};
  static std::regex const type{R"(^(class|struct) (?:\[\[\w+\]\] )?(\w+).*\{$)"};
  static std::regex const pure{R"(= 0;$)"};
  std::istringstream text{read_back(unit)};
  std::string scope;
  std::string declaration;
  bool exported = false;
  bool is_public = true;
  for (std::string line; std::getline(text, line);) {
    if (!line.starts_with("}")) {
      line.erase(std::min(line.size(), line.find("//")));
    }
    if (line.starts_with("export namespace fmmap")) {
      exported = true;
    } else if (line.starts_with("}")) {
      exported = exported && !line.starts_with("} // namespace");
      scope.clear();
      is_public = true;
    } else if (std::smatch head; std::regex_search(line, head, type)) {
      scope = head[2].str() + "::";
      is_public = head[1] == "struct";
    } else if (line == "public:" || line == "protected:" || line == "private:") {
      is_public = line == "public:";
    }
    declaration += line + ' ';
    if (!line.ends_with(';') && !line.ends_with('{') && !line.ends_with('}') && !line.ends_with(':')) {
      continue;
    }
    declaration.erase(declaration.find_last_not_of(' ') + 1);
    if (std::smatch found; exported && is_public && std::regex_search(declaration, found, function) &&
                           !std::regex_search(declaration, pure)) {
      functions.insert(scope + found[1].str());
    }
    declaration.clear();
  }
}

// The folders of modules/, each of which is one.
auto modules() -> std::vector<std::string> {
  std::vector<std::string> found;
  for (auto const& entry : std::filesystem::directory_iterator{sources / "modules"}) {
    if (entry.is_directory()) {
      found.push_back(entry.path().filename().string());
    }
  }
  return found;
}

auto public_functions() -> std::set<std::string> {
  std::set<std::string> functions;
  for (auto const& module : modules()) {
    for (auto const& entry : std::filesystem::directory_iterator{sources / "modules" / module}) {
      collect(entry.path(), functions);
    }
  }
  return functions;
}

// What each scenario says it calls, and the rest of its text.
struct declared {
  std::string scenario;
  std::set<std::string> calls;
  std::string text;
};

void collect_scenarios(std::string const& text, std::vector<declared>& found) {
  static std::regex const head{R"(\.name = "([^"]+)\",\s+\.calls = \{([^}]*)\})"};
  static std::regex const name{R"re("([\w:]+)")re"};
  for (std::sregex_iterator at{text.begin(), text.end(), head}, end; at != end; ++at) {
    auto const rest = static_cast<std::size_t>(at->position() + at->length());
    declared one{
        .scenario = (*at)[1].str(), .calls = {}, .text = text.substr(rest, text.find(".name = ", rest) - rest)};
    auto const list = (*at)[2].str();
    for (std::sregex_iterator call{list.begin(), list.end(), name}; call != end; ++call) {
      one.calls.insert((*call)[1].str());
    }
    found.push_back(std::move(one));
  }
}

auto scenarios() -> std::vector<declared> {
  std::vector<declared> found;
  for (auto const& module : modules()) { // adapters have sweeps of their own beside that of their module
    for (auto const& entry : std::filesystem::directory_iterator{sources / "tests" / module}) {
      if (entry.path().filename().string().ends_with("l0_test.cpp")) {
        collect_scenarios(read_back(entry.path()), found);
      }
    }
  }
  return found;
}

auto last_component(std::string_view name) -> std::string {
  auto const colon = name.rfind(':');
  return std::string{colon == std::string_view::npos ? name : name.substr(colon + 1)};
}

} // namespace

BOOST_AUTO_TEST_SUITE(the_sweep)

BOOST_AUTO_TEST_CASE(calls_every_public_function_that_can_fail) {
  auto const functions = public_functions();
  BOOST_TEST(functions.contains("file::open"));
  BOOST_TEST(functions.contains("mapping::lock_memory"));
  BOOST_TEST(functions.contains("mutable_mapped_file::resize"));
  BOOST_TEST(functions.contains("replace_file"));
  BOOST_TEST(functions.contains("file_lock::acquire_until"));
  BOOST_TEST(!functions.contains("mapping::prepare_flush")); // private
  std::set<std::string> called;
  for (auto const& scenario : scenarios()) {
    called.insert(scenario.calls.begin(), scenario.calls.end());
  }
  std::size_t covered = 0;
  for (auto const& function : functions) {
    BOOST_TEST(called.contains(function), function << " is called by no scenario");
    covered += called.contains(function) ? 1U : 0U;
  }
  std::cout << covered << " of " << functions.size() << " public functions that can fail are called by a scenario\n";
}

BOOST_AUTO_TEST_CASE(calls_what_its_scenarios_say) {
  auto const functions = public_functions();
  auto const all = scenarios();
  BOOST_TEST(all.size() > 40U);
  for (auto const& scenario : all) {
    for (auto const& call : scenario.calls) {
      BOOST_TEST(functions.contains(call), scenario.scenario << " is about " << call << ", which does not exist");
      auto const name = last_component(call);
      auto const use = name == "await_resume" ? "co_await " : R"((\.|::))" + name + R"((<[^(]*>)?\()";
      BOOST_TEST(std::regex_search(scenario.text, std::regex{use}), scenario.scenario << " does not call " << call);
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
