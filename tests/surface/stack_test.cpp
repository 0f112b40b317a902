// SPDX-License-Identifier: MIT OR Apache-2.0

#include <filesystem>

#include <boost/test/unit_test.hpp>

#include "support/process.hpp"
#include "support/scratch.hpp"

BOOST_AUTO_TEST_SUITE(the_contract_of_stack)

// The contract in use, stack.cpp as it stands, is a program of its own. What its lines do is in stack.stack_pool and
// stack.stack_resource.
BOOST_AUTO_TEST_CASE(runs_and_leaves_no_file) {
  scratch const folder;
  BOOST_TEST(end_of_program(FMMAP_SURFACE_PROGRAM, folder.folder()) == 0);
  BOOST_TEST(std::filesystem::is_empty(folder.folder()));
}

BOOST_AUTO_TEST_SUITE_END()
