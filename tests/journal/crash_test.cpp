// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <iostream>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "support/process.hpp"
#include "support/scratch.hpp"

#include "journal/journaled.hpp"

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
constexpr std::size_t content_pages = 5; // all of which the ring cannot hold

// What the content was after each transaction, from 0 on, and which of them have been promised.
struct history {
  std::vector<std::string> states;
  std::size_t survives_power = 0;
  std::size_t survives_process = 0;

  // It is what the file has, and nothing of before will be again.
  void begin_with(std::string content) {
    states.push_back(std::move(content));
    survives_power = survives_process = states.size() - 1;
  }
};

// What opening a crashed file makes of its content.
auto opened_after(crash::image const& image) -> std::string {
  static scratch const place{memory_folder()}; // for thousands of them
  auto const path = place / "data";
  crash::materialise(image, place.folder());
  journaled const opened{path};
  if (std::filesystem::file_size(path) > opened.log().spill_at()) {
    throw std::runtime_error{"recovering leaves a record behind the content"};
  }
  return opened.content();
}

// The same, once for each image: three of four come again.
auto recovered(crash::image const& image) -> std::string const& {
  static std::set<std::string> contents; // few
  static std::unordered_map<std::size_t, std::string const*> known;
  auto const key = std::hash<std::string>{}(*image.content("data"));
  if (auto const found = known.find(key); found != known.end()) {
    return *found->second;
  }
  auto const* const content = &*contents.insert(opened_after(image)).first;
  known.emplace(key, content);
  return *content;
}

// The content is what it was after a transaction from `oldest` on.
auto is_one_from(std::shared_ptr<history const> of, std::size_t oldest) -> crash::oracle {
  auto const newest = of->states.size();
  return [of = std::move(of), oldest, newest](crash::image const& image) -> std::string {
    try {
      auto const& found = recovered(image);
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

// All lines, or following ones in records of up to four pages, or some here and there. The first line is always one of them,
// so that a record from before cannot be applied again unnoticed.
auto any_change(std::string content, bool is_all, std::mt19937& random) -> std::string {
  auto const all = content.size() / journal::line_bytes;
  auto const replace = [&](std::size_t line, std::size_t count) {
    auto const length = count * journal::line_bytes;
    content.replace(line * journal::line_bytes, length, pattern(length, random()));
  };
  switch (is_all ? 0 : random() % 6) {
  case 0:
    replace(0, all);
    break;
  case 1:
  case 2: {
    auto const count = 60 + (random() % 140);
    replace(random() % (all - count), count);
    break;
  }
  default:
    for (auto changes = 1 + (random() % 6); changes > 0; --changes) {
      replace(random() % all, 1);
    }
    break;
  }
  replace(0, 1);
  return content;
}

// Takes down what is promised after a call: a transaction is in place only when it survives everything.
void note_promises(history& of, journaled const& file, level reached) {
  auto const newest = of.states.size() - 1;
  auto is_in_place = true;
  file.log().for_each_unapplied([&](auto&&...) { is_in_place = false; });
  of.survives_process = is_in_place || reached >= level::process ? newest : of.survives_process;
  of.survives_power = is_in_place || reached == level::power ? newest : of.survives_power;
}

void commit_some(crash::trial& t, journaled& file, std::shared_ptr<history> const& of, std::size_t count,
                 bool all_at_first, std::mt19937& random) {
  for (auto left = count; left > 0; --left) {
    of->states.push_back(any_change(of->states.back(), all_at_first && left == count, random));
    promise(t, of);
    constexpr std::array levels{level::none, level::process, level::process, level::power};
    auto const wanted = levels.at(random() % levels.size());
    or_throw(file.commit(of->states.back(), wanted));
    note_promises(*of, file, wanted);
    promise(t, of);
    switch (random() % 6) {
    case 0:
      or_throw(file.log().checkpoint());
      note_promises(*of, file, level::power);
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

// Every other one begins with what the ring cannot hold.
auto transactions(std::uint32_t seed) -> crash::scenario {
  auto const begins_long = seed % 2 == 0;
  return {
      .name = "transactions " + std::to_string(seed),
      .operation = "journal",
      .prepare = [](auto const& folder) { (void)journaled{folder / "data", ring_pages, content_pages}; },
      .body =
          [seed, begins_long](crash::trial& t) {
            std::mt19937 random{seed};
            auto const of = std::make_shared<history>();
            of->states.emplace_back(content_pages * journal::page_bytes, '\0');
            promise(t, of);
            for (int openings = 0; openings < 3; ++openings) {
              journaled file{t / "data"};
              auto const found = file.content();
              auto const possible = std::span{of->states}.subspan(of->survives_process);
              if (std::ranges::find(possible, found) == possible.end()) {
                throw std::runtime_error{"opening loses a transaction"};
              }
              of->begin_with(found);
              promise(t, of);
              commit_some(t, file, of, 3, begins_long && openings == 0, random);
            }
          },
      .again =
          [seed, begins_long](crash::trial& t) {
            std::mt19937 random{seed};
            auto const of = std::make_shared<history>();
            t.expect(crash::anything()); // nothing happens yet
            of->begin_with(recovered(crash::image_of(t.folder())));
            promise(t, of);
            (void)journaled{t / "data"};
            journaled file{t / "data"};
            if (file.content() != of->states.back()) {
              throw std::runtime_error{"recovering twice gives two contents"};
            }
            commit_some(t, file, of, 2, begins_long, random);
          },
  };
}

// Headers one after the other, whose records lie in the ring side by side, and all change the same line.
void commit_with_checkpoints(crash::trial& t, std::shared_ptr<history> const& of, std::uint64_t count) {
  journaled file{t / "data"};
  of->begin_with(file.content());
  promise(t, of);
  for (; count > 0; --count) {
    auto next = of->states.back();
    of->states.push_back(next.replace(0, journal::line_bytes, pattern(journal::line_bytes, count)));
    promise(t, of);
    or_throw(file.commit(of->states.back(), level::power));
    note_promises(*of, file, level::power);
    promise(t, of);
    or_throw(file.log().checkpoint());
  }
}

auto checkpoints() -> crash::scenario {
  return {
      .name = "checkpoints",
      .operation = "journal",
      .prepare = [](auto const& folder) { (void)journaled{folder / "data", ring_pages, content_pages}; },
      .body =
          [](crash::trial& t) {
            auto const of = std::make_shared<history>();
            of->states.emplace_back(content_pages * journal::page_bytes, '\0');
            promise(t, of);
            commit_with_checkpoints(t, of, 40);
          },
  };
}

} // namespace

BOOST_AUTO_TEST_SUITE(a_crash_at_any_moment)

BOOST_AUTO_TEST_CASE(of_the_machine_leaves_a_transaction_that_was_promised_or_under_way) {
  constexpr std::size_t wanted = sanitized ? 20'000 : 100'000;
  std::size_t histories = 0;
  for (std::uint32_t seed = 0; histories < wanted; ++seed) {
    auto const r = l1::run(seed == 0 ? checkpoints() : transactions(seed));
    BOOST_REQUIRE_MESSAGE(r.bad == 0U && r.histories > 0, l1::to_string(r));
    std::cout << l1::to_string(r) << std::endl;
    histories += r.histories;
  }
}

BOOST_AUTO_TEST_CASE(of_the_process_leaves_the_last_transaction_or_the_one_under_way) {
  for (std::uint32_t const seed : {1U, 2U, 3U}) {
    auto const r = l2::run(transactions(seed));
    BOOST_TEST(r.bad == 0U, l2::to_string(r));
    std::cout << l2::to_string(r) << std::endl;
    BOOST_TEST(r.kills > 0U);
  }
}

BOOST_AUTO_TEST_SUITE_END()
