// SPDX-License-Identifier: MIT OR Apache-2.0

#include <filesystem>
#include <set>
#include <string>

#include <boost/test/unit_test.hpp>

#include "support/process.hpp"
#include "support/scratch.hpp"

BOOST_AUTO_TEST_SUITE(the_contract_of_engines)

// The contract in use, async.cpp as it stands, is a program of its own. What its lines do is in async.
BOOST_AUTO_TEST_CASE(runs_and_leaves_a_heap_and_the_file_that_was_there) {
  scratch const folder;
  (void)folder.file("big.bin", std::string(4096, 'b'));
  BOOST_TEST(end_of_program(FMMAP_SURFACE_PROGRAM, folder.folder()) == 0);
  std::set<std::string> names;
  for (auto const& entry : std::filesystem::directory_iterator{folder.folder()}) {
    names.insert(entry.path().filename().string());
  }
  BOOST_TEST((names == std::set<std::string>{"big.bin", "state.heap"}));
}

BOOST_AUTO_TEST_SUITE_END()
