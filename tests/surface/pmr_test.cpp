// SPDX-License-Identifier: MIT OR Apache-2.0

#include <cstddef>
#include <expected>
#include <filesystem>
#include <memory>
#include <memory_resource>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "support/process.hpp"
#include "support/scratch.hpp"

import fmmap.core;
import fmmap.pmr;

BOOST_AUTO_TEST_SUITE(the_contract_of_pmr)

// The contract in use, pmr.cpp as it stands, is a program of its own.
BOOST_AUTO_TEST_CASE(runs_and_leaves_no_file) {
  scratch const folder;
  BOOST_TEST(end_of_program(FMMAP_SURFACE_PROGRAM, folder.folder()) == 0);
  BOOST_TEST(std::filesystem::is_empty(folder.folder()));
}

BOOST_AUTO_TEST_CASE(flushes_reach_what_they_say) {
  scratch const folder;
  auto const spill = fmmap::or_throw(fmmap::mapped_resource::temporary(folder.folder()));
  std::pmr::vector<int> numbers{{1, 2, 3}, spill.get()};
  BOOST_CHECK(fmmap::or_throw(spill->flush()) == fmmap::durability::all);
  BOOST_CHECK(fmmap::or_throw(spill->flush(numbers.data(), numbers.size() * sizeof(int))) == fmmap::durability::data);
}

BOOST_AUTO_TEST_CASE(a_resource_over_a_mapping_has_its_size) {
  auto const over = fmmap::or_throw(fmmap::mapped_resource::over(fmmap::or_throw(fmmap::mapping::anonymous(1 << 20))));
  auto const stats = over->stats();
  BOOST_TEST(stats.free_bytes == 1U << 20);
  BOOST_TEST(stats.largest_free == 1U << 20);
  BOOST_TEST(stats.reserved_bytes == 1U << 20);
  BOOST_TEST(stats.used_bytes == 0U);
}

BOOST_AUTO_TEST_SUITE_END()
