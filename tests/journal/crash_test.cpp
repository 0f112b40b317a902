// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <iostream>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "journal/journaled.hpp"
#include "support/process.hpp"
#include "support/scratch.hpp"

import fmmap.core;
import fmmap.journal;
import fmmap.test.crash;
import fmmap.test.l1;
import fmmap.test.l2;

namespace journal = fmmap::journal;

using fmmap::or_throw;
using journal::level;

namespace {

constexpr std::size_t ring_pages = 4;
constexpr std::size_t content_pages = 5;

// What the content was after each transaction, from 0 on, and which of them have been promised.
struct history {
  std::vector<std::string> states;
  std::size_t survives_power = 0;
  std::size_t survives_process = 0;
};

// What opening a crashed file makes of its content.
auto recovered(crash::image const& image) -> std::string {
  scratch const place{memory_folder()};
  crash::materialise(image, place.folder());
  auto const path = place / "data";
  auto content = std::string{};
  {
    journaled const opened{path};
    content = opened.content();
  }
  journaled const again{path};
  return again.content() == content ? content : throw std::runtime_error{"recovering twice gives two contents"};
}

// The content is what it was after a transaction from `oldest` on.
auto is_one_from(std::shared_ptr<history const> of, std::size_t oldest) -> crash::oracle {
  auto const newest = of->states.size();
  return [of = std::move(of), oldest, newest](crash::image const& image) -> std::string {
    try {
      auto const found = recovered(image);
      auto const states = std::span{of->states}.subspan(oldest, newest - oldest);
      return std::ranges::find(states, found) != states.end()
                 ? ""
                 : "the content is of no transaction that was promised or under way";
    } catch (std::exception const& e) {
      return std::string{"does not open: "} + e.what();
    }
  };
}

void promise(crash::trial& t, std::shared_ptr<history const> const& of) {
  t.expect(
      {.after_power_loss = is_one_from(of, of->survives_power), .after_kill = is_one_from(of, of->survives_process)});
}

// Some lines of some pages, different ones each time.
auto any_change(std::string content, std::mt19937& random) -> std::string {
  for (auto changes = 1 + random() % 12; changes > 0; --changes) {
    auto const line = random() % (content.size() / journal::line_bytes);
    content.replace(line * journal::line_bytes, journal::line_bytes, pattern(journal::line_bytes, random()));
  }
  return content;
}

void commit_some(crash::trial& t, journaled& file, std::shared_ptr<history> const& of, std::size_t count,
                 std::mt19937& random) {
  for (; count > 0; --count) {
    of->states.push_back(any_change(of->states.back(), random));
    promise(t, of);
    auto const wanted = random() % 2 == 0 ? level::power : level::process;
    or_throw(file.commit(of->states.back(), wanted));
    of->survives_process = of->states.size() - 1;
    of->survives_power = wanted == level::power ? of->survives_process : of->survives_power;
    promise(t, of);
    switch (random() % 6) {
    case 0:
      or_throw(file.log().checkpoint());
      of->survives_power = of->survives_process;
      promise(t, of);
      break;
    case 1:
    case 2:
      or_throw(file.log().apply());
      break;
    default:
      break;
    }
  }
}

auto transactions(std::uint32_t seed) -> crash::scenario {
  return {
      .name = "transactions " + std::to_string(seed),
      .operation = "journal",
      .prepare = [](auto const& folder) { (void)journaled{folder / "data", ring_pages, content_pages}; },
      .body =
          [seed](crash::trial& t) {
            std::mt19937 random{seed};
            auto const of = std::make_shared<history>();
            of->states.emplace_back(content_pages * journal::page_bytes, '\0');
            promise(t, of);
            for (int openings = 0; openings < 3; ++openings) {
              journaled file{t / "data"};
              of->survives_power = of->survives_process;
              promise(t, of);
              commit_some(t, file, of, 4, random);
            }
          },
      .again =
          [seed](crash::trial& t) {
            std::mt19937 random{seed};
            auto const of = std::make_shared<history>();
            t.expect(crash::oracle{[](crash::image const&) { return std::string{}; }}); // nothing happens yet
            of->states.push_back(recovered(crash::image_of(t.folder())));
            promise(t, of);
            journaled file{t / "data"};
            commit_some(t, file, of, 2, random);
          },
  };
}

} // namespace

BOOST_AUTO_TEST_SUITE(a_crash_at_any_moment)

BOOST_AUTO_TEST_CASE(of_the_machine_leaves_a_transaction_that_was_promised_or_under_way) {
  constexpr std::size_t wanted = sanitized ? 20'000 : 100'000;
  std::size_t histories = 0;
  for (std::uint32_t seed = 1; histories < wanted; ++seed) {
    auto const r = l1::run(transactions(seed));
    BOOST_REQUIRE_MESSAGE(r.bad == 0U && r.histories > 0, l1::to_string(r));
    std::cout << l1::to_string(r) << std::endl;
    histories += r.histories;
  }
}

BOOST_AUTO_TEST_CASE(of_the_process_leaves_the_last_transaction_or_the_one_under_way) {
  for (std::uint32_t const seed : {1U, 2U}) {
    auto const r = l2::run(transactions(seed));
    BOOST_TEST(r.bad == 0U, l2::to_string(r));
    std::cout << l2::to_string(r) << std::endl;
    BOOST_TEST(r.kills > 0U);
  }
}

BOOST_AUTO_TEST_SUITE_END()
