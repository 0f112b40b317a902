// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <iostream>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "support/process.hpp"
#include "support/scratch.hpp"

import fmmap.core;
import fmmap.os;
import fmmap.test.crash;
import fmmap.test.crash_scenarios;
import fmmap.test.l1;

namespace os = fmmap::os;
namespace seam = fmmap::os::seam;

namespace {

constexpr std::size_t page = 4096;

// The contents that "data" can have after a power failure at the end of `body`; nothing where it can be missing.
auto contents_after(std::optional<std::string> const& before, std::function<void(crash::trial&)> const& body)
    -> std::set<std::optional<std::string>> {
  std::set<std::optional<std::string>> found;
  crash::scenario const of{.name = "a rule",
                           .operation = "",
                           .prepare =
                               [&](std::filesystem::path const& folder) {
                                 if (before) {
                                   crash::write_file(folder / "data", *before);
                                 }
                               },
                           .body =
                               [&](crash::trial& t) {
                                 t.expect(crash::anything());
                                 body(t);
                               }};
  for (auto const& image : l1::final_images(of)) {
    auto const* const content = image.content("data");
    found.insert(content == nullptr ? std::nullopt : std::optional{*content});
  }
  return found;
}

using contents = std::set<std::optional<std::string>>;

auto open_data(crash::trial const& t) -> os::descriptor {
  return os::open(os::working_directory, (t / "data").c_str(), {.write = true, .create = true}, 0600).value();
}

void sync_folder(crash::trial const& t) {
  auto const folder = os::open(os::working_directory, t.folder().c_str(), {.directory = true}, 0).value();
  BOOST_TEST(os::sync(folder).has_value());
  BOOST_TEST(os::close(folder).has_value());
}

void put(os::descriptor to, std::uint64_t offset, std::string_view bytes) {
  BOOST_REQUIRE(os::write_at(to, offset, bytes_of(bytes)).value() == bytes.size());
}

auto const a = std::string(page, 'a');
auto const b = std::string(page, 'b');
auto const c = std::string(page, 'c');

} // namespace

BOOST_AUTO_TEST_SUITE(the_model_of_power_loss)

BOOST_AUTO_TEST_CASE(a_page_has_any_version_since_its_last_durable_one) {
  auto const found = contents_after(a, [](crash::trial& t) {
    auto const file = open_data(t);
    put(file, 0, b);
    put(file, 0, c);
    BOOST_TEST(os::close(file).has_value());
  });
  BOOST_TEST((found == contents{a, b, c}));
}

BOOST_AUTO_TEST_CASE(pages_reach_the_disk_independently) {
  auto const found = contents_after(a + a, [](crash::trial& t) {
    auto const file = open_data(t);
    put(file, 0, b + b);
    BOOST_TEST(os::close(file).has_value());
  });
  BOOST_TEST((found == contents{a + a, a + b, b + a, b + b}));
}

BOOST_AUTO_TEST_CASE(a_sync_makes_durable_what_was_stored_before_it) {
  for (auto* const sync : {os::sync, os::sync_data}) {
    auto const found = contents_after(a, [&](crash::trial& t) {
      auto const file = open_data(t);
      put(file, 0, b);
      BOOST_TEST(sync(file).has_value());
      put(file, 0, c);
      BOOST_TEST(os::close(file).has_value());
    });
    BOOST_TEST((found == contents{b, c}));
  }
}

BOOST_AUTO_TEST_CASE(stores_through_a_mapping_are_seen_and_msync_covers_its_range_only) {
  auto const found = contents_after(a + a, [](crash::trial& t) {
    auto const file = open_data(t);
    auto* const view = os::map(nullptr, 2 * page, {.read = true, .write = true}, {.shared = true}, file, 0).value();
    std::ranges::fill(std::span{view, 2 * page}, std::byte{'b'});
    BOOST_TEST(os::sync_memory(view + page, page).has_value());
    BOOST_TEST(os::unmap(view, 2 * page).has_value());
    BOOST_TEST(os::close(file).has_value());
  });
  BOOST_TEST((found == contents{a + b, b + b}));
}

BOOST_AUTO_TEST_CASE(a_durable_write_covers_what_it_writes_only) {
  auto const found = contents_after(a + a, [](crash::trial& t) {
    auto const file = open_data(t);
    put(file, page, c);
    BOOST_TEST(os::write_durably_at(file, 0, bytes_of(b)).value() == page);
    BOOST_TEST(os::close(file).has_value());
  });
  BOOST_TEST((found == contents{b + a, b + c}));
}

BOOST_AUTO_TEST_CASE(sync_file_range_makes_nothing_durable) {
  auto const found = contents_after(a, [](crash::trial& t) {
    auto const file = open_data(t);
    put(file, 0, b);
    BOOST_TEST(os::sync_range(file, 0, page, true).has_value());
    BOOST_TEST(os::close(file).has_value());
  });
  BOOST_TEST((found == contents{a, b}));
}

BOOST_AUTO_TEST_CASE(after_a_failed_sync_no_other_covers_the_same_stores) {
  auto const found = contents_after(a, [](crash::trial& t) {
    auto const file = open_data(t);
    put(file, 0, b);
    seam::fail(os::call::fsync, EIO, 1);
    BOOST_TEST(os::sync(file).error() == EIO);
    BOOST_TEST(os::sync(file).has_value());
    BOOST_TEST(os::close(file).has_value());
  });
  BOOST_TEST((found == contents{a, b}));
}

BOOST_AUTO_TEST_CASE(what_is_stored_after_a_failed_sync_is_covered_by_the_next) {
  auto const found = contents_after(a, [](crash::trial& t) {
    auto const file = open_data(t);
    put(file, 0, b);
    seam::fail(os::call::fsync, EIO, 1);
    BOOST_TEST(os::sync(file).error() == EIO);
    put(file, 0, c);
    BOOST_TEST(os::sync(file).has_value());
    BOOST_TEST(os::close(file).has_value());
  });
  BOOST_TEST((found == contents{c}));
}

BOOST_AUTO_TEST_CASE(a_size_and_the_bytes_reach_the_disk_independently) {
  auto const found = contents_after("", [](crash::trial& t) {
    auto const file = open_data(t);
    put(file, 0, a);
    BOOST_TEST(os::close(file).has_value());
  });
  BOOST_TEST((found == contents{"", std::string(page, '\0'), a}));
}

BOOST_AUTO_TEST_CASE(what_is_cut_off_does_not_come_back_with_a_later_size) {
  auto const found = contents_after(a + a, [](crash::trial& t) {
    auto const file = open_data(t);
    BOOST_TEST(os::set_size(file, page).has_value());
    BOOST_TEST(os::set_size(file, 2 * page + 1).has_value());
    BOOST_TEST(os::close(file).has_value());
  });
  auto const zeros = std::string(page, '\0');
  BOOST_TEST((found == contents{a + a, a + zeros, a, a + zeros + '\0'}));
}

BOOST_AUTO_TEST_CASE(a_name_is_durable_after_a_sync_of_its_directory_only) {
  auto const create = [](crash::trial& t) {
    auto const file = open_data(t);
    put(file, 0, a);
    BOOST_TEST(os::sync(file).has_value());
    BOOST_TEST(os::close(file).has_value());
  };
  BOOST_TEST((contents_after(std::nullopt, create) == contents{std::nullopt, a}));
  auto const found = contents_after(std::nullopt, [&](crash::trial& t) {
    create(t);
    sync_folder(t);
  });
  BOOST_TEST((found == contents{a}));
}

BOOST_AUTO_TEST_CASE(a_rename_may_be_found_without_the_content_of_the_file) {
  auto const found = contents_after(b, [](crash::trial& t) {
    auto const file =
        os::open(os::working_directory, (t / "new").c_str(), {.write = true, .create = true}, 0600).value();
    put(file, 0, a);
    BOOST_TEST(os::close(file).has_value());
    BOOST_TEST(os::rename(os::working_directory, (t / "new").c_str(), (t / "data").c_str()).has_value());
  });
  BOOST_TEST((found == contents{b, "", std::string(page, '\0'), a}));
}

BOOST_AUTO_TEST_CASE(a_fault_is_told_with_the_losses_it_needs) {
  crash::scenario const of{.name = "a seeded fault",
                           .operation = "",
                           .prepare = [](auto const& folder) { crash::write_file(folder / "data", a + a + a); },
                           .body =
                               [](crash::trial& t) {
                                 t.expect(crash::oracle{[](crash::image const& found) {
                                   return found.content("data")->substr(page, page) == a &&
                                                  found.content("data")->substr(2 * page, page) == b
                                              ? std::string{"page 2 without page 1"}
                                              : std::string{};
                                 }});
                                 auto const file = open_data(t);
                                 put(file, 0, b + b + b);
                                 BOOST_TEST(os::close(file).has_value());
                               }};
  auto const r = l1::run(of);
  BOOST_TEST(r.bad > 0U);
  BOOST_TEST(r.first == "page 2 without page 1, in a seeded fault after pwrite (crash point 2, seed " +
                            std::to_string(l1::seed()) + "), where page 1 of data is version 1 of 2");
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(power_loss)

BOOST_AUTO_TEST_CASE(every_history_of_every_scenario_is_one_that_is_promised) {
  std::cout << "seed " << l1::seed() << '\n';
  std::size_t scenarios = 0;
  std::size_t histories = 0;
  std::size_t bad = 0;
  for (auto const* const list : {&crash::scenarios(), &crash::variations()}) {
    for (auto const& scenario : *list) {
      auto const r = l1::run(scenario);
      BOOST_TEST(r.bad == 0U, l1::to_string(r));
      BOOST_TEST_MESSAGE(l1::to_string(r));
      ++scenarios;
      histories += r.histories;
      bad += r.bad;
    }
  }
  std::cout << "scenarios " << scenarios << ", histories " << histories << ", bad " << bad << std::endl;
  BOOST_TEST(histories >= (sanitized ? 20'000U : 100'000U));
}

BOOST_AUTO_TEST_CASE(every_barrier_that_is_taken_away_is_caught) {
  for (auto const& control : crash::removed_barriers()) {
    std::size_t bad = 0;
    for (auto const& scenario : crash::scenarios()) {
      bad += scenario.operation == control.operation ? l1::run(scenario, control.remove).bad : 0;
    }
    std::cout << crash::control_row(control.name, control.operation, "L1", bad, true) << std::endl;
    BOOST_TEST(bad > 0U, control.name);
  }
}

BOOST_AUTO_TEST_CASE(mistakes_that_power_loss_can_show_are_caught) {
  for (auto const& mistake : crash::mistakes()) {
    auto const r = l1::run(mistake.with);
    std::cout << crash::control_row(r.name, mistake.with.operation, "L1", r.bad, mistake.after_power_loss) << std::endl;
    BOOST_TEST((r.bad > 0) == mistake.after_power_loss, l1::to_string(r));
  }
}

BOOST_AUTO_TEST_SUITE_END()
