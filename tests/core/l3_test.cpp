// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <fcntl.h>
#include <unistd.h>

#include "support/process.hpp"
#include "support/scratch.hpp"

#include "l3/on_disks.hpp"

import fmmap.os;
import fmmap.test.crash;
import fmmap.test.crash_scenarios;
import fmmap.test.l3;

namespace os = fmmap::os;
namespace seam = fmmap::os::seam;

namespace {

// What a scenario expects from some moment on, in a folder of its own. All of them in a row, over all scenarios, are the states
// of the workload.
struct promise {
  std::string folder;
  std::string scenario;
  crash::oracle holds;
};

void make_durable(std::filesystem::path const& folder) {
  auto const opened = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  ::syncfs(opened);
  ::close(opened);
}

// Runs scenarios one after the other, each in a new folder, and tells of what they expect.
void run_in(std::filesystem::path const& place, std::vector<crash::scenario> const& scenarios,
            std::function<void()> const& sabotage, std::function<void(promise const&)> const& told) {
  for (std::size_t i = 0; i < scenarios.size(); ++i) {
    auto const& scenario = scenarios[i];
    auto const name = std::to_string(i);
    std::filesystem::create_directory(place / name);
    if (scenario.prepare) {
      scenario.prepare(place / name);
    }
    make_durable(place);
    seam::armed const table;
    sabotage();
    auto const wrong = crash::run(scenario.body, place / name, [&](crash::expectation const& from_now_on) {
      told({.folder = name, .scenario = scenario.name, .holds = from_now_on.after_power_loss});
    });
    if (!wrong.empty()) {
      throw std::runtime_error{scenario.name + ": " + wrong};
    }
  }
}

void leave_as_it_is() {}

auto promises_of(std::vector<crash::scenario> const& scenarios) -> std::vector<promise> {
  scratch const place{memory_folder()};
  std::vector<promise> all;
  run_in(place.folder(), scenarios, leave_as_it_is, [&](promise const& one) { all.push_back(one); });
  return all;
}

// Of a text that says all about an image, for its state has to have a short one.
auto hash_of(crash::image const& found) -> std::string {
  std::string all;
  for (auto const& [name, content] : found.files) {
    all.append(name).append(1, '\0').append(content).append(1, '\0');
  }
  return std::to_string(std::hash<std::string>{}(all));
}

auto all_of(std::vector<crash::scenario> const& scenarios, std::string const& name,
            std::function<void()> const& sabotage = leave_as_it_is) -> l3::workload {
  return {.name = name,
          .body =
              [=](std::filesystem::path const& place, l3::marks const& says) {
                std::uint64_t next = 0;
                run_in(place, scenarios, sabotage, [&](promise const&) { says.acknowledged(next++); });
              },
          .state =
              [promises = promises_of(scenarios)](std::filesystem::path const& place, l3::progress const& reached) {
                auto const& [folder, scenario, holds] = promises.at(static_cast<std::size_t>(reached.acknowledged));
                auto const found = crash::image_of(place / folder);
                if (auto const wrong = holds(found); !wrong.empty()) {
                  throw std::runtime_error{scenario + ": " + wrong};
                }
                return folder + ' ' + hash_of(found);
              }};
}

void skip_all_syncs() {
  for (auto const which : {os::call::fsync, os::call::fdatasync, os::call::msync, os::call::syncfs}) {
    seam::skip(which);
  }
}

} // namespace

BOOST_AUTO_TEST_SUITE(files_on_a_disk_that_loses_power)

BOOST_AUTO_TEST_CASE(have_what_was_promised_by_replace_file_remove_append_and_resize) {
  on_each_file_system([](findings& found, l3::file_system const& on) {
    expect_no_loss(found, all_of(crash::scenarios(), "all scenarios"), on, as_many_as(20, 400));
  });
}

BOOST_AUTO_TEST_CASE(would_be_seen_to_lose_it_if_nothing_was_synced) {
  on_each_file_system([](findings& found, l3::file_system const& on) {
    expect_loss(found, all_of(crash::scenarios(), "control: all scenarios without a sync", skip_all_syncs), on);
  });
}

BOOST_AUTO_TEST_SUITE_END()
