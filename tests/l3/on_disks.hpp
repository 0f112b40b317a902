// SPDX-License-Identifier: MIT OR Apache-2.0
#pragma once

#include <cstddef>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <string>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "support/process.hpp"
#include "support/seed.hpp"

import fmmap.test.l3;

// Whether to take the time for everything, minutes instead of seconds: FMMAP_THOROUGH is set.
inline auto is_thorough() -> bool { return std::getenv("FMMAP_THOROUGH") != nullptr; }

inline auto as_many_as(std::size_t quick, std::size_t thorough) -> std::size_t {
  return is_thorough() ? thorough : quick;
}

// What is needed, tried out.
inline auto problem_of(l3::file_system const& of) -> std::string {
  auto problem = l3::isolate();
  if (problem.empty()) {
    l3::disk_image const disk{of};
    problem = disk.problem();
    if (problem.empty()) {
      l3::block_device const device{l3::device_folder(), disk.bytes(), {}};
      problem = l3::mounted{device, of, l3::mount_folder()}.problem();
    }
  }
  return problem;
}

// The file systems that this machine can have. Says why not the others, and ends a test that would have none.
inline auto usable_file_systems() -> std::vector<l3::file_system> const& {
  static auto const usable = [] {
    std::vector<l3::file_system> found;
    for (auto const& one : l3::file_systems) {
      auto const problem = found_in_child([&](findings& wrong) {
        auto const reason = problem_of(one);
        wrong.expect(reason.empty(), reason);
      });
      if (problem.empty()) {
        found.push_back(one);
      } else {
        skip(std::string{one.type} + " on a recorded device: " + problem.substr(0, problem.find('\n')));
      }
    }
    if (found.empty()) {
      std::_Exit(77);
    }
    return found;
  }();
  return usable;
}

// Runs a part of a test on each of them, in a process of its own.
inline void on_each_file_system(std::function<void(findings&, l3::file_system const&)> const& body) {
  (void)seed(); // the same for all
  for (auto const& one : usable_file_systems()) {
    std::cout << std::flush;
    BOOST_TEST_CONTEXT(one.type) {
      BOOST_TEST(found_in_child([&](findings& found) {
                   auto const problem = l3::isolate();
                   found.expect(problem.empty(), problem);
                   if (problem.empty()) {
                     body(found, one);
                   }
                 }) == "");
    }
  }
}

inline auto report_of(l3::workload const& of, l3::file_system const& on, l3::effort const& spent) -> l3::report {
  auto report = l3::lose_power(of, on, spent, seed());
  std::cout << to_string(report) << std::endl;
  return report;
}

inline void expect_no_loss(findings& found, l3::workload const& of, l3::file_system const& on, std::size_t images) {
  auto const report = report_of(of, on, {.images = images});
  found.expect(report.bad == 0, report.first);
  found.expect(report.images == images, "there are other images");
  found.expect(report.skipped == 0, "there was no device for some images");
  found.expect(report.unmountable == 0, "some images could not be mounted");
  found.expect(report.states.size() > 1, "the images have one state only");
}

// Of a control: a workload that is promised too much.
inline void expect_loss(findings& found, l3::workload const& of, l3::file_system const& on) {
  auto const report = report_of(of, on, {.images = 100, .until_one_is_bad = !is_thorough()});
  found.expect(report.bad > 0, of.name + " has not been caught");
}
