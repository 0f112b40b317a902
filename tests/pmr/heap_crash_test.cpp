// SPDX-License-Identifier: MIT OR Apache-2.0

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <iostream>
#include <list>
#include <map>
#include <memory>
#include <memory_resource>
#include <optional>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/process.hpp"
#include "support/scratch.hpp"
#include "support/seed.hpp"

import fmmap.core;
import fmmap.os;
import fmmap.pmr;
import fmmap.test.crash;
import fmmap.test.l1;
import fmmap.test.l2;

using fmmap::commit_durability;
using fmmap::or_throw;
using fmmap::persistent_heap;

namespace os = fmmap::os;
namespace seam = fmmap::os::seam;

namespace {

// Whether to take the time for everything, minutes instead of seconds: FMMAP_THOROUGH is set.
auto is_thorough() -> bool { return std::getenv("FMMAP_THOROUGH") != nullptr; }

constexpr fmmap::heap_options small{.journal_size = 64 << 10};

// That is opened again and again, which takes the longer the more addresses it has.
constexpr fmmap::heap_options confined{.reserve = 4 << 20, .journal_size = 64 << 10};

// One container of each kind, all of which are changed together.
struct containers {
  std::pmr::map<int, std::pmr::string>* map;
  std::pmr::unordered_map<int, int>* hash;
  std::pmr::list<std::pmr::string>* list;
  std::pmr::vector<std::uint64_t>* vector;
  std::pmr::string* string;

  explicit containers(persistent_heap& heap)
      : map{or_throw(heap.find_or_construct<std::pmr::map<int, std::pmr::string>>("map"))},
        hash{or_throw(heap.find_or_construct<std::pmr::unordered_map<int, int>>("hash"))},
        list{or_throw(heap.find_or_construct<std::pmr::list<std::pmr::string>>("list"))},
        vector{or_throw(heap.find_or_construct<std::pmr::vector<std::uint64_t>>("vector"))},
        string{or_throw(heap.find_or_construct<std::pmr::string>("string"))} {}

  // What is done in a round depends on its number alone.
  void change(std::uint64_t round) const {
    std::mt19937_64 random{round};
    for (auto changes = 1 + random() % 8; changes > 0; --changes) {
      auto const key = static_cast<int>(random() % 40);
      auto const text = std::string(random() % 100, static_cast<char>('a' + key % 26));
      switch (random() % 6) {
      case 0:
        (*map)[key] = text;
        break;
      case 1:
        map->erase(key);
        hash->erase(key);
        break;
      case 2:
        (*hash)[key] = static_cast<int>(round);
        break;
      case 3:
        list->emplace_back(text);
        if (list->size() > 20) {
          list->pop_front();
        }
        break;
      case 4:
        vector->resize(random() % 2000, round);
        break;
      default:
        *string = text;
        break;
      }
    }
    if (round % 3 == 2) { // more than a small journal holds, in pages that are free before
      vector->resize(9'000 + (random() % 2000), round);
    } else if (round % 6 == 4) { // where that was, and zeros, as after a hole has been made there
      vector->assign(5'000 + (random() % 500), 0);
    } else {
      vector->resize(std::min<std::size_t>(vector->size(), 2000));
      vector->shrink_to_fit();
    }
    vector->insert(vector->begin(), round); // so that every round differs
  }

  [[nodiscard]] auto text() const -> std::string {
    std::string all;
    for (auto const& [key, value] : *map) {
      all.append(std::to_string(key)).append("=").append(value).append(";");
    }
    std::map<int, int> const sorted{hash->begin(), hash->end()};
    for (auto const& [key, value] : sorted) {
      all.append(std::to_string(key)).append(":").append(std::to_string(value)).append(";");
    }
    for (auto const& value : *list) {
      all.append(value).append(",");
    }
    for (auto const value : *vector) {
      all.append(std::to_string(value)).append(" ");
    }
    return all.append(*string);
  }
};

// What a program without crashes has after each round, from none on.
class expected_states {
public:
  expected_states() : heap_{or_throw(persistent_heap::create(folder_ / "model"))}, all_{heap_} {
    states_.push_back(all_.text());
  }

  auto after(std::uint64_t round) -> std::string const& {
    while (states_.size() <= round) {
      all_.change(states_.size());
      states_.push_back(all_.text());
    }
    return states_[static_cast<std::size_t>(round)];
  }

private:
  scratch folder_{memory_folder()};
  persistent_heap heap_;
  containers all_;
  std::vector<std::string> states_;
};

// What is allocated by a heap whose objects are destroyed is a page: nothing leaks, whatever it has been through.
auto leak_of(persistent_heap& heap) -> std::string {
  or_throw(heap.destroy<std::pmr::map<int, std::pmr::string>>("map"));
  or_throw(heap.destroy<std::pmr::unordered_map<int, int>>("hash"));
  or_throw(heap.destroy<std::pmr::list<std::pmr::string>>("list"));
  or_throw(heap.destroy<std::pmr::vector<std::uint64_t>>("vector"));
  or_throw(heap.destroy<std::pmr::string>("string"));
  auto const left = or_throw(heap.check()).allocated_bytes;
  return left == 4096 ? "" : std::to_string(left) + " bytes are allocated by nobody";
}

// A number in a file, that a program and its parent share.
class shared_number {
public:
  explicit shared_number(std::filesystem::path const& path) {
    auto const file = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    auto* const mapped = ::ftruncate(file, sizeof(std::uint64_t)) != 0
                             ? MAP_FAILED
                             : ::mmap(nullptr, sizeof(std::uint64_t), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    ::close(file);
    if (mapped == MAP_FAILED) {
      throw std::runtime_error{"a shared number"};
    }
    value_ = static_cast<std::uint64_t*>(mapped);
  }
  shared_number(shared_number const&) = delete;
  auto operator=(shared_number const&) -> shared_number& = delete;
  ~shared_number() { ::munmap(value_, sizeof(std::uint64_t)); }

  void set(std::uint64_t value) { __atomic_store_n(value_, value, __ATOMIC_SEQ_CST); }
  [[nodiscard]] auto get() const -> std::uint64_t { return __atomic_load_n(value_, __ATOMIC_SEQ_CST); }

private:
  std::uint64_t* value_ = nullptr;
};

auto level_of(std::uint64_t round) -> commit_durability {
  return round % 3 == 0 ? commit_durability::power : commit_durability::process;
}

// Gives back what the round before needed.
void trim_after(std::uint64_t round, persistent_heap& heap) {
  if (round % 3 == 0) {
    (void)or_throw(heap.trim());
  }
}

// Goes on from the round the heap is at, for ever, and tells which are committed.
[[noreturn]] void work(std::filesystem::path const& folder) {
  shared_number committed{folder / "committed"};
  auto heap = or_throw(persistent_heap::open(folder / "heap"));
  containers const all{heap};
  for (auto round = all.vector->empty() ? 1 : all.vector->front() + 1;; ++round) {
    all.change(round);
    if (round % 5 == 0) {
      auto job = or_throw(heap.stage_commit(level_of(round)));
      all.string->append("what comes after staging is not in it");
      or_throw(job.run());
      or_throw(heap.rollback());
    } else {
      or_throw(heap.commit(level_of(round)));
    }
    committed.set(round);
    trim_after(round, heap);
  }
}

auto has_ended(pid_t child) -> bool {
  siginfo_t ended{};
  return ::waitid(P_PID, static_cast<id_t>(child), &ended, WEXITED | WNOHANG | WNOWAIT) == 0 && ended.si_pid == child;
}

constexpr auto work_folder = "FMMAP_WORK_FOLDER";

// This program once more, at the addresses that the system gives every program anew.
auto execute_worker(std::filesystem::path const& folder) -> pid_t {
  return start_child([&] {
    ::setenv(work_folder, folder.c_str(), 1);
    ::execl("/proc/self/exe", "worker", "--run_test=what_other_tests_execute/works_on_a_heap", nullptr);
    return 127;
  });
}

} // namespace

BOOST_AUTO_TEST_SUITE(what_other_tests_execute, *boost::unit_test::disabled())

BOOST_AUTO_TEST_CASE(works_on_a_heap) { work(std::getenv(work_folder)); }

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_heap_whose_program_is_killed)

BOOST_AUTO_TEST_CASE(has_the_last_commit_or_the_one_under_way, *boost::unit_test::enable_if<!thread_sanitized>()) {
  int const kills = is_thorough() ? 1000 : 100;
  scratch const folder;
  auto const path = folder / "heap";
  expected_states states;
  std::mt19937 random{seed()};
  {
    auto heap = or_throw(persistent_heap::create(path, small));
    containers const all{heap};
    or_throw(heap.commit());
  }
  shared_number committed{folder / "committed"};
  std::uint64_t reached = 0;
  int under_way = 0;
  for (int kill = 0; kill < kills; ++kill) {
    auto const child = execute_worker(folder.folder());
    while (committed.get() == reached && !has_ended(child)) {
      std::this_thread::yield();
    }
    std::this_thread::sleep_for(std::chrono::microseconds{random() % 3000});
    ::kill(child, SIGKILL);
    BOOST_REQUIRE(end_of(child) == -SIGKILL);
    auto heap = or_throw(persistent_heap::open(path));
    containers const all{heap};
    auto const round = all.vector->front();
    BOOST_REQUIRE((round == committed.get() || round == committed.get() + 1));
    BOOST_REQUIRE(all.text() == states.after(round));
    BOOST_REQUIRE(or_throw(heap.check()).problems.empty());
    under_way += round == committed.get() ? 0 : 1;
    reached = round;
    committed.set(round);
  }
  auto heap = or_throw(persistent_heap::open(path));
  BOOST_TEST(leak_of(heap) == "");
  std::cout << kills << " kills, " << reached << " commits, " << under_way << " of them under way and there\n";
}

BOOST_AUTO_TEST_SUITE_END()

namespace {

struct heap_history {
  std::uint64_t oldest = 0; // round that may be found
  std::uint64_t newest = 0;
};

auto is_one_of(heap_history const& of, expected_states& states) -> crash::oracle {
  return [of, &states](crash::image const& image) -> std::string {
    static scratch const place{memory_folder()};
    auto const path = place / "heap";
    std::filesystem::remove(path); // of the image before
    try {
      crash::materialise(image, place.folder());
      auto heap = or_throw(persistent_heap::open(path));
      if (auto const report = or_throw(heap.check()); !report.problems.empty()) {
        return report.problems.front();
      }
      containers const all{heap};
      auto const round = all.vector->empty() ? 0 : all.vector->front();
      if (round < of.oldest || round > of.newest) {
        return "round " + std::to_string(round) + " is found, and not one of " + std::to_string(of.oldest) + " to " +
               std::to_string(of.newest);
      }
      if (all.text() != states.after(round)) {
        return "round " + std::to_string(round) + " is not as it was committed";
      }
      return leak_of(heap);
    } catch (std::exception const& e) {
      return std::string{"does not open: "} + e.what();
    }
  };
}

// Opens the heap several times, and commits some rounds each time.
void commit_rounds(crash::trial& t, expected_states& states, std::uint64_t rounds, int openings) {
  for (int opening = 0; opening < openings; ++opening) {
    auto heap = or_throw(persistent_heap::open(t / "heap"));
    containers const all{heap};
    auto round = all.vector->empty() ? 0 : all.vector->front();
    if (all.text() != states.after(round)) {
      throw std::runtime_error{"opening finds what was not committed"};
    }
    auto durable = round; // opening has made it so
    for (auto const last = round + rounds; round < last; ++round) {
      t.expect({.after_power_loss = is_one_of({.oldest = durable, .newest = round + 1}, states),
                .after_kill = is_one_of({.oldest = round, .newest = round + 1}, states)});
      all.change(round + 1);
      auto const level = level_of(round);
      or_throw(heap.commit(level));
      durable = level == commit_durability::power ? round + 1 : durable;
      t.expect({.after_power_loss = is_one_of({.oldest = durable, .newest = round + 1}, states),
                .after_kill = is_one_of({.oldest = round + 1, .newest = round + 1}, states)});
      trim_after(round + 1, heap);
    }
  }
}

// What opens a heap that has been made and then crashed, several times.
auto rounds_of_a_heap(expected_states& states, std::uint64_t rounds, int openings) -> crash::scenario {
  return {.name = "rounds of a heap",
          .operation = "persistent_heap",
          .prepare =
              [](std::filesystem::path const& folder) {
                auto heap = or_throw(persistent_heap::create(folder / "heap", confined));
                containers const all{heap};
                or_throw(heap.commit());
              },
          .body =
              [&states, rounds, openings](crash::trial& t) {
                t.expect(is_one_of({.oldest = 0, .newest = 0}, states));
                commit_rounds(t, states, rounds, openings);
              },
          .again =
              [&states](crash::trial& t) {
                t.expect(crash::anything());
                commit_rounds(t, states, 2, 2);
              }};
}

// What is there is a heap, or nothing.
auto making_a_heap(expected_states& states) -> crash::scenario {
  auto const whole = is_one_of({.oldest = 0, .newest = 0}, states);
  auto const make = [](crash::trial& t) { or_throw(persistent_heap::open_or_create(t / "heap", confined)); };
  return {.name = "making a heap",
          .operation = "persistent_heap::create",
          .prepare = [](std::filesystem::path const&) {},
          .body =
              [=](crash::trial& t) {
                t.expect(crash::oracle{
                    [whole](crash::image const& image) { return image.files.empty() ? std::string{} : whole(image); }});
                make(t);
                t.expect(whole);
              },
          .again =
              [=](crash::trial& t) {
                t.expect(crash::anything());
                make(t);
              }};
}

auto effort() -> l1::effort {
  return is_thorough() ? l1::effort{.all_up_to = 256, .samples = 130, .torn_samples = 60, .runs_again = 4}
                       : l1::effort{.all_up_to = 8, .one_in = 8, .samples = 4, .torn_samples = 2, .runs_again = 1};
}

} // namespace

BOOST_AUTO_TEST_SUITE(a_heap_whose_program_is_killed_at_every_system_call)

BOOST_AUTO_TEST_CASE(has_the_last_commit_or_the_one_under_way, *boost::unit_test::enable_if<!thread_sanitized>()) {
  static expected_states states;
  auto const report = l2::run(rounds_of_a_heap(states, is_thorough() ? 5 : 1, is_thorough() ? 4 : 2));
  std::cout << to_string(report) << '\n';
  BOOST_TEST(report.bad == 0U, report.first);
  BOOST_TEST(report.calls >= (is_thorough() ? 400U : 100U));
}

BOOST_AUTO_TEST_CASE(is_made_whole_or_not_at_all, *boost::unit_test::enable_if<!thread_sanitized>()) {
  static expected_states states;
  auto const report = l2::run(making_a_heap(states));
  std::cout << to_string(report) << '\n';
  BOOST_TEST(report.bad == 0U, report.first);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_heap_whose_machine_loses_power)

BOOST_AUTO_TEST_CASE(is_made_whole_or_not_at_all, *boost::unit_test::enable_if<!sanitized>()) {
  static expected_states states;
  auto const report = l1::run(making_a_heap(states), {}, effort());
  std::cout << to_string(report) << '\n';
  BOOST_TEST(report.bad == 0U, report.first);
  BOOST_TEST(report.histories > 0U);
}

BOOST_AUTO_TEST_CASE(has_a_commit_not_older_than_the_last_of_level_power, *boost::unit_test::enable_if<!sanitized>()) {
  static expected_states states;
  auto const report = l1::run(rounds_of_a_heap(states, is_thorough() ? 4 : 2, 2), {}, effort());
  std::cout << to_string(report) << '\n';
  BOOST_TEST(report.bad == 0U, report.first);
  BOOST_TEST(report.histories > 0U);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_heap_whose_file_cannot_be_written)

// Each write and each sync fails once, from the first on.
BOOST_AUTO_TEST_CASE(commits_nothing_more_until_it_is_opened_again) {
  expected_states states;
  for (auto const which : {os::call::pwrite, os::call::pwritev2, os::call::fdatasync}) {
    std::uint64_t spared = 0;
    for (auto has_failed = true; has_failed; spared += is_thorough() ? 1 : 31) {
      scratch const folder{memory_folder()};
      auto const path = folder / "heap";
      std::uint64_t done = 0;
      has_failed = false;
      {
        auto heap = or_throw(persistent_heap::create(path, small));
        containers const all{heap};
        or_throw(heap.commit());
        seam::armed const table;
        seam::fail(which, EIO, 1, spared);
        for (std::uint64_t round = 1; round <= 40; ++round) {
          all.change(round);
          auto const committed = heap.commit(level_of(round));
          if (has_failed) {
            BOOST_TEST((committed.error() == std::errc::io_error), "a failure is forgotten");
          } else if (!committed) {
            BOOST_TEST((committed.error() == std::errc::io_error));
            BOOST_TEST(committed.error().path() == path.native());
            has_failed = true;
          } else {
            done = round;
          }
        }
      }
      auto heap = or_throw(persistent_heap::open(path));
      containers const all{heap};
      auto const round = all.vector->empty() ? 0 : all.vector->front();
      BOOST_TEST((round == done || (has_failed && round == done + 1)),
                 "round " << round << " is found, and " << done << " were committed");
      BOOST_TEST((all.text() == states.after(round)));
      BOOST_TEST(leak_of(heap) == "");
    }
    std::cout << os::name_of(which) << " failed up to the " << spared << "th\n";
    BOOST_TEST(spared > 1U);
  }
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(however_changes_are_found)

namespace {

// Stores here and there, allocates and deallocates, grows.
void change_any(persistent_heap& heap, std::vector<std::span<std::byte>>& blocks, std::mt19937& random) {
  for (auto changes = random() % 30; changes > 0; --changes) {
    if (blocks.empty() || random() % 4 == 0) {
      auto const size = 1 + (random() % 8 == 0 ? random() % 100'000 : random() % 500);
      blocks.emplace_back(static_cast<std::byte*>(heap.resource()->allocate(size)), size);
      std::memset(blocks.back().data(), 0x80, size); // what nobody has stored may be anything in the file
    }
    auto const chosen = random() % blocks.size();
    auto& block = blocks[chosen];
    if (random() % 8 == 0) {
      heap.resource()->deallocate(block.data(), block.size());
      std::swap(block, blocks.back());
      blocks.pop_back();
    } else {
      auto const at = random() % block.size();
      std::memset(block.data() + at, static_cast<int>(random() | 0x80), // which no address begins with

                  1 + random() % std::min<std::size_t>(block.size() - at, 300));
    }
  }
}

// Whether the file has what the blocks have, byte for byte.
auto has_all(std::filesystem::path const& path, persistent_heap const& heap,
             std::span<std::span<std::byte> const> blocks) -> bool {
  auto const file = or_throw(fmmap::mapped_file::open(path));
  auto const content = heap.resource()->storage();
  auto const copy = file.bytes().last(content.size());
  return std::ranges::all_of(blocks, [&](std::span<std::byte> block) {
    auto const offset = static_cast<std::size_t>(block.data() - content.data());
    return std::ranges::equal(block, copy.subspan(offset, block.size()));
  });
}

} // namespace

BOOST_AUTO_TEST_CASE(the_file_is_what_the_heap_is) {
  struct rung {
    std::string_view name;
    std::vector<std::pair<os::call, int>> missing;
  };
  std::vector<rung> const ladder{
      {.name = "userfaultfd", .missing = {}},
      {.name = "pagemap_scan", .missing = {{os::call::userfaultfd, EPERM}}},
      {.name = "pagemap", .missing = {{os::call::userfaultfd, ENOSYS}, {os::call::ioctl, ENOTTY}}},
      {.name = "compare",
       .missing = {{os::call::userfaultfd, ENOSYS}, {os::call::ioctl, ENOTTY}, {os::call::pread, EPERM}}},
  };
  auto const first = seed();
  for (auto const& [name, missing] : ladder) {
    scratch const folder{memory_folder()};
    std::optional<persistent_heap> heap;
    {
      seam::armed const table;
      for (auto const& [which, error] : missing) {
        seam::fail(which, error);
      }
      heap.emplace(or_throw(persistent_heap::create(folder / "heap", small)));
    }
    BOOST_TEST(heap->stats().dirty_detector == name);
    std::mt19937 random{first};
    std::vector<std::span<std::byte>> blocks;
    for (int round = 0; round < (is_thorough() ? 1000 : 100); ++round) {
      change_any(*heap, blocks, random);
      auto const what = random() % 10;
      if (what == 0) {
        {
          auto const dropped = or_throw(heap->stage_commit());
        }
        change_any(*heap, blocks, random);
      }
      if (what == 1) {
        (void)or_throw(heap->trim());
      }
      or_throw(heap->commit(what < 5 ? commit_durability::process : commit_durability::power));
      std::filesystem::remove(folder / "copy");
      or_throw(heap->snapshot(folder / "copy"));
      BOOST_REQUIRE(has_all(folder / "copy", *heap, blocks));
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
