// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <csignal>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <sys/mman.h>

#include "process.hpp"
#include "scratch.hpp"

// The sweep over all kills: a scenario runs once to count its system calls, and then for every one of them twice more, in a
// process that kills itself before the call or after it. The parent looks at what is left.
export module fmmap.test.l2;

import fmmap.os;
import fmmap.test.crash;

namespace seam = fmmap::os::seam;

export namespace l2 {

struct report {
  std::string name;
  std::size_t calls = 0; // system calls of an undisturbed run
  std::size_t kills = 0;
  std::size_t bad = 0;
  std::string first = {}; // of what is bad
};

[[nodiscard]] auto to_string(report const& r) -> std::string {
  return r.name + ": " + std::to_string(r.calls) + " calls, " + std::to_string(r.kills) + " kills, " +
         std::to_string(r.bad) + " bad" + (r.first.empty() ? "" : "; " + r.first);
}

} // namespace l2

namespace l2 {

// A number that a child counts up and its parent reads when the child is gone.
class shared_counter {
public:
  shared_counter() {
    auto* const place = ::mmap(nullptr, sizeof(std::size_t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (place == MAP_FAILED) {
      throw std::bad_alloc{};
    }
    value_ = ::new (place) std::size_t{0};
  }
  shared_counter(shared_counter const&) = delete;
  auto operator=(shared_counter const&) -> shared_counter& = delete;
  ~shared_counter() { ::munmap(value_, sizeof(std::size_t)); }

  void increment() { ++*value_; }
  [[nodiscard]] auto value() const -> std::size_t { return *value_; }

private:
  std::size_t* value_;
};

class sweep {
public:
  explicit sweep(crash::scenario const& of) : of_{of}, result_{.name = of.name} {}

  auto run() -> report {
    count();
    for (std::size_t nth = 1; nth <= result_.calls; ++nth) {
      kill_at(nth, false);
      if (!sanitized || nth == result_.calls) { // where a fork takes 40 ms: only stores lie between this and the next
        kill_at(nth, true);
      }
    }
    return result_;
  }

private:
  void count() {
    scratch const place;
    prepare(place);
    seam::armed const table;
    auto const wrong =
        crash::run(of_.body, place.folder(), [&](crash::expectation const& e) { expectations_.push_back(e); });
    result_.calls = seam::calls().size();
    if (!wrong.empty()) {
      fault(wrong + " at the end of " + of_.name);
    }
  }

  void prepare(scratch const& place) {
    if (of_.prepare) {
      of_.prepare(place.folder());
    }
  }

  void kill_at(std::size_t nth, bool after) {
    scratch const place;
    prepare(place);
    shared_counter begun; // how many expectations have come into force
    auto const child = start_child([&] {
      seam::arm();
      seam::kill_at(nth, after);
      return crash::run(of_.body, place.folder(), [&](crash::expectation const&) { begun.increment(); }).empty() ? 0
                                                                                                                 : 1;
    });
    auto const end = end_of(child);
    ++result_.kills;
    auto const where =
        " when killed " + std::string{after ? "after" : "before"} + " call " + std::to_string(nth) + " of " + of_.name;
    if (end != -SIGKILL) {
      fault("the child ended with " + std::to_string(end) + where);
      return;
    }
    if (begun.value() == 0) {
      throw std::logic_error{"the scenario does something before it expects anything"};
    }
    if (auto const wrong = expectations_[begun.value() - 1].after_kill(crash::image_of(place.folder()));
        !wrong.empty()) {
      fault(wrong + where);
    }
    if (of_.again) {
      seam::armed const table;
      if (auto const wrong = crash::run(of_.again, place.folder(), [](crash::expectation const&) {}); !wrong.empty()) {
        fault("run again: " + wrong + where);
      }
    }
  }

  void fault(std::string const& what) {
    ++result_.bad;
    if (result_.first.empty()) {
      result_.first = what;
    }
  }

  crash::scenario const& of_;
  report result_;
  std::vector<crash::expectation> expectations_;
};

} // namespace l2

export namespace l2 {

// Kills the scenario before and after each of its system calls and judges what is left.
[[nodiscard]] auto run(crash::scenario const& of) -> report { return sweep{of}.run(); }

} // namespace l2
