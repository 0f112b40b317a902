// SPDX-License-Identifier: MIT OR Apache-2.0

#include <cstddef>
#include <iostream>

#include <boost/test/unit_test.hpp>

import fmmap.test.crash;
import fmmap.test.crash_scenarios;
import fmmap.test.l2;

BOOST_AUTO_TEST_SUITE(a_kill_at_every_system_call)

BOOST_AUTO_TEST_CASE(leaves_what_was_returned_or_was_under_way) {
  std::size_t scenarios = 0;
  std::size_t kills = 0;
  std::size_t bad = 0;
  for (auto const* const list : {&crash::scenarios(), &crash::variations()}) {
    for (auto const& scenario : *list) {
      auto const r = l2::run(scenario);
      BOOST_TEST(r.bad == 0U, l2::to_string(r));
      BOOST_TEST_MESSAGE(l2::to_string(r));
      ++scenarios;
      kills += r.kills;
      bad += r.bad;
    }
  }
  std::cout << "scenarios " << scenarios << ", kills " << kills << ", bad " << bad << std::endl;
  BOOST_TEST(kills > 0U);
}

BOOST_AUTO_TEST_CASE(shows_the_mistakes_that_do_not_need_power_loss) {
  for (auto const& mistake : crash::mistakes()) {
    auto const r = l2::run(mistake.with);
    std::cout << crash::control_row(r.name, mistake.with.operation, "L2", r.bad, mistake.after_kill) << std::endl;
    BOOST_TEST((r.bad > 0) == mistake.after_kill, l2::to_string(r));
  }
}

BOOST_AUTO_TEST_SUITE_END()
