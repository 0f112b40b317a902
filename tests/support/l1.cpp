// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "process.hpp"
#include "scratch.hpp"

module fmmap.test.l1;

import :disk;
import :record;
import fmmap.os;
import fmmap.test.crash;

namespace seam = fmmap::os::seam;

namespace l1 {

auto to_string(report const& r) -> std::string {
  return r.name + ": " + std::to_string(r.crash_points) + " crash points, " + std::to_string(r.histories) +
         " histories, " + std::to_string(r.runs) + " runs, " + std::to_string(r.bad) + " bad" +
         (r.first.empty() ? "" : "; " + r.first);
}

auto seed() -> std::uint64_t {
  constexpr std::uint64_t usual = 1;
  auto const* const text = std::getenv("FMMAP_SEED");
  return text == nullptr ? usual : std::stoull(text);
}

namespace {

// Gives the images of one moment to their oracle.
class judge {
public:
  judge(histories const& of, std::string_view scenario, crash::oracle const& allowed, std::string_view after,
        effort const& spent, std::mt19937_64& random, report& result)
      : of_{of},
        scenario_{scenario},
        allowed_{allowed},
        after_{after},
        spent_{spent},
        random_{random},
        result_{result} {}

  void run() {
    ++result_.crash_points;
    if (of_.total(spent_.all_up_to + 1) <= spent_.all_up_to) {
      all();
    } else {
      sampled();
    }
    torn();
  }

  void all() {
    auto chosen = of_.oldest();
    while (true) {
      check(chosen, {});
      auto const carried = std::ranges::find_if(of_.free(), [&](std::size_t d) {
        chosen[d] = chosen[d] + 1 == of_.count(d) ? 0 : chosen[d] + 1;
        return chosen[d] != 0;
      });
      if (carried == of_.free().end()) {
        return;
      }
    }
  }

private:
  void sampled() {
    auto const oldest = of_.oldest();
    auto const latest = of_.latest();
    auto accumulated = oldest;
    auto reversed = oldest;
    check(oldest, {});
    for (std::size_t i = 0; i < of_.free().size(); ++i) {
      auto const d = of_.free()[i];
      auto const from_behind = of_.free()[of_.free().size() - 1 - i];
      accumulated[d] = latest[d];
      reversed[from_behind] = latest[from_behind];
      if ((i + result_.crash_points) % spent_.one_in != 0) {
        continue;
      }
      check(with(oldest, d, latest[d]), {}); // singles
      check(with(latest, d, 0), {});         // all but one
      check(accumulated, {});
      check(reversed, {});
    }
    for (std::size_t i = 0; i < spent_.samples; ++i) {
      check(any_choice(), {});
    }
  }

  void torn() {
    std::vector<std::size_t> pages;
    std::ranges::copy_if(of_.free(), std::back_inserter(pages), [&](std::size_t d) { return of_.is_page(d); });
    if (pages.empty()) {
      return;
    }
    constexpr unsigned all_sectors = (1U << (page_size / sector_size)) - 1;
    for (std::size_t i = 0; i < spent_.torn_samples; ++i) {
      auto const chosen = any_choice();
      histories::tears mixed;
      auto const surely = pages[below(pages.size())];
      for (auto const d : pages) {
        if (d == surely || below(2) == 0) {
          mixed[d] = {.other = below(of_.count(d)),
                      .sectors = static_cast<unsigned>(1 + below(all_sectors)),
                      .split = below(2) == 0 ? 1 + below(sector_size) : sector_size};
        }
      }
      check(chosen, mixed);
    }
  }

  auto any_choice() -> histories::choice {
    auto chosen = of_.oldest();
    for (auto const d : of_.free()) {
      chosen[d] = below(of_.count(d));
    }
    return chosen;
  }

  auto below(std::size_t end) -> std::size_t { return static_cast<std::size_t>(random_() % end); }

  static auto with(histories::choice chosen, std::size_t dimension, std::size_t version) -> histories::choice {
    chosen[dimension] = version;
    return chosen;
  }

  void check(histories::choice const& chosen, histories::tears const& mixed) {
    ++result_.histories;
    if (allowed_(of_.image(chosen, mixed)).empty()) {
      return;
    }
    ++result_.bad;
    if (result_.first.empty()) {
      result_.first = explain(chosen, mixed);
    }
  }

  // Takes back, one after the other, the losses that the fault does not need.
  auto explain(histories::choice chosen, histories::tears mixed) -> std::string {
    auto const latest = of_.latest();
    for (auto const d : of_.free()) {
      auto fewer = mixed;
      fewer.erase(d);
      if (!allowed_(of_.image(with(chosen, d, latest[d]), fewer)).empty()) {
        chosen[d] = latest[d];
        mixed = fewer;
      } else if (!allowed_(of_.image(chosen, fewer)).empty()) {
        mixed = fewer;
      }
    }
    return allowed_(of_.image(chosen, mixed)) + ", in " + std::string{scenario_} + " after " + std::string{after_} +
           " (crash point " + std::to_string(result_.crash_points) + ", seed " + std::to_string(seed()) + "), where " +
           of_.describe(chosen, mixed);
  }

  histories const& of_;
  std::string_view scenario_;
  crash::oracle const& allowed_;
  std::string_view after_;
  effort const& spent_;
  std::mt19937_64& random_;
  report& result_;
};

// What a scenario has done, and what was wrong at its end.
struct recorded_run {
  record written;
  std::string wrong;
};

auto record_run(crash::scenario const& of, std::function<void()> const& sabotage) -> recorded_run {
  scratch const place;
  if (of.prepare) {
    of.prepare(place.folder());
  }
  recorder watching{place.folder()};
  seam::armed const table;
  seam::observe([&](seam::observation const& seen) { watching.observe(seen); });
  if (sabotage) {
    sabotage();
  }
  auto wrong = crash::run(of.body, place.folder(), [&](crash::expectation const& e) { watching.expect(e); });
  seam::observe({});
  return {.written = std::move(watching).finish(), .wrong = std::move(wrong)};
}

// The operation, run again in what a crash has left.
auto again_in(crash::image const& left, crash::scenario const& of) -> crash::scenario {
  return {.name = of.name + ", again",
          .operation = of.operation,
          .prepare = [left](std::filesystem::path const& folder) { crash::materialise(left, folder); },
          .body = of.again};
}

void examine(crash::scenario const& of, std::function<void()> const& sabotage, effort const& spent, report& result) {
  auto const [written, wrong] = record_run(of, sabotage);
  ++result.runs;
  if (!wrong.empty()) {
    ++result.bad;
    result.first = result.first.empty() ? wrong + " at the end of " + of.name : result.first;
  }
  std::mt19937_64 random{seed()};
  std::set<crash::image> left;
  disk_state state;
  for (auto const& step : written.steps) {
    for (auto const& change : step.changes) {
      state.apply(change);
    }
    histories const moment{state};
    auto const& allowed = written.expectations[step.expectation].after_power_loss;
    judge{moment, of.name, allowed, step.after, spent, random, result}.run();
    for (auto const& chosen : {moment.oldest(), moment.latest()}) {
      auto image = moment.image(chosen);
      if (of.again && !sabotage && left.size() < spent.runs_again && allowed(image).empty()) {
        left.insert(std::move(image));
      }
    }
  }
  for (auto const& image : left) {
    examine(again_in(image, of), sabotage, spent, result);
  }
}

} // namespace

auto run(crash::scenario const& of, std::function<void()> const& sabotage, effort const& spent) -> report {
  report result{.name = of.name};
  examine(of, sabotage, spent, result);
  return result;
}

auto final_images(crash::scenario const& of) -> std::set<crash::image> {
  auto const written = record_run(of, {}).written;
  disk_state state;
  for (auto const& step : written.steps) {
    for (auto const& change : step.changes) {
      state.apply(change);
    }
  }
  report unused{.name = of.name};
  std::set<crash::image> found;
  std::mt19937_64 random{seed()};
  histories const moment{state};
  crash::oracle const collect = [&](crash::image const& image) {
    found.insert(image);
    return std::string{};
  };
  judge{moment, of.name, collect, {}, {}, random, unused}.all();
  return found;
}

} // namespace l1
