// SPDX-License-Identifier: MIT OR Apache-2.0

#include <array>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <expected>
#include <filesystem>
#include <iostream>
#include <memory_resource>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <fcntl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "support/process.hpp"
#include "support/sandbox.hpp"
#include "support/scratch.hpp"

import fmmap.core;
import fmmap.pmr;

// The rows of docs/processes.md on persistent_heap.

using fmmap::commit_durability;
using fmmap::errc;
using fmmap::or_throw;
using fmmap::persistent_heap;

namespace {

using numbers = std::pmr::vector<std::uint64_t>;

// A heap whose last commit has the numbers 1 and 2.
auto made(std::filesystem::path const& path) -> persistent_heap {
  auto heap = or_throw(persistent_heap::create(path));
  or_throw(heap.construct<numbers>("numbers", numbers{1, 2}));
  or_throw(heap.commit());
  return heap;
}

auto contents(std::filesystem::path const& path) -> std::vector<std::uint64_t> {
  auto heap = or_throw(persistent_heap::open(path));
  auto const* const some = or_throw(heap.find<numbers const>("numbers"));
  return {some->begin(), some->end()};
}

// The same, of a process that has executed another program and may not have closed all its files yet.
auto contents_after_exec(std::filesystem::path const& path) -> std::vector<std::uint64_t> {
  constexpr int attempts = 10'000;
  for (int attempt = 0; attempt < attempts; ++attempt) {
    if (auto const opened = persistent_heap::open(path); opened || opened.error() != errc::in_use) {
      break;
    }
    ::usleep(1000);
  }
  return contents(path);
}

// Lets a process and its child wait for each other: what one lets pass at an end, the other waits for at that end.
class steps {
public:
  steps() {
    for (auto& pipe : pipes_) {
      if (::pipe2(pipe.data(), O_CLOEXEC) != 0) {
        throw std::runtime_error("pipe");
      }
    }
  }
  steps(steps const&) = delete;
  auto operator=(steps const&) -> steps& = delete;
  ~steps() {
    for (auto const& pipe : pipes_) {
      ::close(pipe[0]);
      ::close(pipe[1]);
    }
  }

  void let(std::size_t step) { (void)!::write(pipes_.at(step)[1], "x", 1); }
  void await(std::size_t step) {
    char passed = 0;
    (void)!::read(pipes_.at(step)[0], &passed, 1);
  }

private:
  std::array<std::array<int, 2>, 3> pipes_{};
};

auto is_mapped_by(pid_t process, std::string const& name) -> bool {
  return read_back("/proc/" + std::to_string(process) + "/maps").contains(name);
}

} // namespace

BOOST_AUTO_TEST_SUITE(a_heap_open_for_writing, *boost::unit_test::enable_if<!thread_sanitized>())

BOOST_AUTO_TEST_CASE(after_fork_a_child_has_a_copy_of_the_objects_and_commits_nothing) {
  scratch const folder;
  auto const path = folder / "heap";
  auto heap = made(path);
  auto* const some = or_throw(heap.find<numbers>("numbers"));
  some->push_back(3);
  auto job = or_throw(heap.stage_commit());
  some->reserve(100);
  BOOST_TEST(found_in_child([&](findings& found) {
               found.expect(*some == numbers{1, 2, 3}, "not what the parent had");
               found.expect(or_throw(heap.find<numbers>("numbers")) == some, "not found");
               some->front() = 7;
               some->push_back(4); // needs no memory
               found.expect(*some == numbers{7, 2, 3, 4}, "not changed");
               found.expect(heap.commit().error() == errc::forked, "committed");
               found.expect(heap.stage_commit().error() == errc::forked, "staged");
               found.expect(heap.rollback().error() == errc::forked, "rolled back");
               found.expect(heap.snapshot(folder / "copy").error() == errc::forked, "copied");
               found.expect(heap.construct<int>("one").error() == errc::forked, "constructed");
               found.expect(job.run().error() == errc::forked, "ran what the parent has staged");
               try {
                 some->resize(1000);
                 found.expect(false, "allocated");
               } catch (fmmap::allocation_error const& e) {
                 found.expect(e.why() == errc::forked, "another error");
               }
               or_throw(heap.destroy<numbers>("numbers"));
               or_throw(heap.close());
             }) == "");
  BOOST_TEST(*some == (numbers{1, 2, 3}), boost::test_tools::per_element());
  BOOST_TEST((persistent_heap::open(path).error() == errc::in_use));
  or_throw(job.run());
  or_throw(heap.close());
  BOOST_TEST(contents(path).size() == 3U);
  BOOST_TEST(!std::filesystem::exists(folder / "copy"));
}

BOOST_AUTO_TEST_CASE(after_fork_a_child_sees_later_commits_where_neither_had_changed_a_page) {
  scratch const folder;
  constexpr std::size_t page = 4096;
  constexpr std::size_t middle = 8 * page / sizeof(std::uint64_t);
  auto heap = or_throw(persistent_heap::create(folder / "heap"));
  auto* const some = or_throw(heap.construct<numbers>("numbers", 2 * middle, 1U));
  or_throw(heap.commit());
  or_throw(heap.close()); // and with it what is changed of pages
  heap = or_throw(persistent_heap::open(folder / "heap"));
  some->front() = 2;
  steps step;
  auto const child = start_child([&] {
    step.await(0);
    return some->front() == 2 && some->at(middle) == 3 ? 0 : 1;
  });
  some->front() = 3;
  some->at(middle) = 3;
  or_throw(heap.commit());
  or_throw(heap.snapshot(folder / "copy")); // all of it is in place
  step.let(0);
  BOOST_TEST(end_of(child) == 0);
}

BOOST_AUTO_TEST_CASE(after_fork_the_lock_ends_with_the_parent) {
  scratch const folder;
  auto const path = folder / "heap";
  steps step;
  auto const parent = start_child([&]() -> int {
    auto const heap = made(path);
    start_child([&] {
      step.let(0);
      step.await(1);
      return 0;
    });
    step.await(0);
    ::_exit(0);
  });
  BOOST_TEST(end_of(parent) == 0);
  BOOST_TEST(contents(path).size() == 2U); // while the child has its copy
  step.let(1);
}

BOOST_AUTO_TEST_CASE(after_exec_nothing_is_left_but_what_was_committed) {
  scratch const folder;
  auto const path = folder / "heap";
  steps step;
  auto const child = start_child([&] {
    auto heap = made(path);
    or_throw(heap.find<numbers>("numbers"))->push_back(3);
    step.let(0);
    step.await(1);
    ::execl("/bin/sleep", "sleep", "100", nullptr);
    return 127;
  });
  step.await(0);
  BOOST_TEST(is_mapped_by(child, folder.folder().filename().string()));
  BOOST_TEST((persistent_heap::open(path).error() == errc::in_use));
  step.let(1);
  BOOST_TEST(contents_after_exec(path).size() == 2U); // while the process goes on
  BOOST_TEST(!is_mapped_by(child, folder.folder().filename().string()));
  ::kill(child, SIGKILL);
  BOOST_TEST(end_of(child) == -SIGKILL);
}

BOOST_AUTO_TEST_CASE(can_be_open_while_another_process_has_a_copy_of_its_file) {
  scratch const folder;
  auto const path = folder / "heap";
  or_throw(made(path).close());
  std::filesystem::copy_file(path, folder / "copy");
  steps step;
  auto const child = start_child([&] {
    auto heap = or_throw(persistent_heap::open(folder / "copy"));
    step.let(0);
    step.await(1);
    or_throw(heap.find<numbers>("numbers"))->push_back(4);
    or_throw(heap.commit());
    return 0;
  });
  step.await(0);
  {
    auto heap = or_throw(persistent_heap::open(path));
    or_throw(heap.find<numbers>("numbers"))->push_back(3);
    or_throw(heap.commit());
    step.let(1);
    BOOST_TEST(end_of(child) == 0);
  }
  BOOST_TEST((contents(path) == std::vector<std::uint64_t>{1, 2, 3}));
  BOOST_TEST((contents(folder / "copy") == std::vector<std::uint64_t>{1, 2, 4}));
}

BOOST_AUTO_TEST_CASE(at_exit_without_destruction_what_was_not_committed_is_gone) {
  scratch const folder;
  std::cout << std::flush; // exit would print what is left
  for (auto const end : {0, 1, 2}) {
    auto const path = folder / ("heap " + std::to_string(end));
    auto const child = start_child([&]() -> int {
      auto heap = made(path);
      or_throw(heap.find<numbers>("numbers"))->push_back(3);
      if (end == 0) {
        std::exit(0);
      }
      if (end == 1) {
        ::raise(SIGKILL);
      }
      ::_exit(0);
    });
    BOOST_TEST(end_of(child) == (end == 1 ? -SIGKILL : 0));
    BOOST_TEST(contents(path).size() == 2U);
  }
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(a_heap_open_for_reading, *boost::unit_test::enable_if<!thread_sanitized>())

BOOST_AUTO_TEST_CASE(after_fork_a_child_reads_the_objects_and_keeps_no_writer_away) {
  scratch const folder;
  auto const path = folder / "heap";
  or_throw(made(path).close());
  auto reader = or_throw(persistent_heap::open_read_only(path));
  auto const* const some = or_throw(reader.find<numbers const>("numbers"));
  steps step;
  auto const child = start_child([&] {
    auto const same = *some == numbers{1, 2};
    step.let(0);
    step.await(1);
    return same && or_throw(reader.find<numbers const>("numbers")) == some && reader.close() ? 0 : 1;
  });
  step.await(0);
  or_throw(reader.close());
  BOOST_TEST(contents(path).size() == 2U);
  step.let(1);
  BOOST_TEST(end_of(child) == 0);
}

BOOST_AUTO_TEST_CASE(after_exec_and_at_exit_a_writer_can_have_it) {
  scratch const folder;
  auto const path = folder / "heap";
  or_throw(made(path).close());
  for (bool const executes : {false, true}) {
    auto const child = start_child([&]() -> int {
      auto const reader = or_throw(persistent_heap::open_read_only(path));
      if (executes) {
        ::execl("/bin/sleep", "sleep", "100", nullptr);
      }
      ::_exit(or_throw(reader.find<numbers const>("numbers"))->size() == 2 ? 0 : 1);
    });
    if (executes) {
      while (!read_back("/proc/" + std::to_string(child) + "/cmdline").starts_with("sleep")) {
        ::usleep(1000);
      }
      BOOST_TEST(contents_after_exec(path).size() == 2U);
      ::kill(child, SIGKILL);
    }
    BOOST_TEST(end_of(child) == (executes ? -SIGKILL : 0));
    BOOST_TEST(contents(path).size() == 2U);
  }
}

BOOST_AUTO_TEST_SUITE_END()

namespace {

// Whatever a heap does, from its creation on. Returns how it found out what has changed.
auto use_heap(std::filesystem::path const& path, findings& found) -> std::string_view {
  std::string_view detector;
  {
    auto heap = or_throw(persistent_heap::create(path, {.journal_size = 64 << 10}));
    detector = heap.stats().dirty_detector;
    auto* const some = or_throw(heap.construct<numbers>("numbers"));
    for (std::uint64_t round = 1; round <= 20; ++round) {
      some->resize(round % 7 == 0 ? 200'000 : 1000, round);
      some->back() = round;
      if (round % 5 == 0) {
        auto job = or_throw(heap.stage_commit());
        some->back() = 0;
        or_throw(job.run());
        or_throw(heap.rollback());
      } else {
        or_throw(heap.commit(round % 2 == 0 ? commit_durability::process : commit_durability::power));
      }
    }
    some->clear();
  }
  auto const left = contents(path);
  found.expect(left.size() == 1000 && left.front() == 1 && left.back() == 20, "what it finds when it is opened again");
  return detector;
}

} // namespace

BOOST_AUTO_TEST_SUITE(a_process_with_fewer_rights, *boost::unit_test::enable_if<!thread_sanitized>())

BOOST_AUTO_TEST_CASE(has_whole_heaps_where_a_filter_forbids_userfaultfd) {
  scratch const folder;
  BOOST_TEST(found_in_child([&](findings& found) {
               forbid_userfaultfd();
               auto const detector = use_heap(folder / "heap", found);
               found.expect(detector != "userfaultfd", detector);
             }) == "");
}

BOOST_AUTO_TEST_CASE(has_whole_heaps_where_a_filter_forbids_scans_too) {
  scratch const folder;
  BOOST_TEST(found_in_child([&](findings& found) {
               forbid_userfaultfd_and_scans();
               auto const detector = use_heap(folder / "heap", found);
               found.expect(detector == "pagemap" || detector == "compare", detector);
             }) == "");
}

BOOST_AUTO_TEST_CASE(has_whole_heaps_as_an_ordinary_user) {
  if (!is_root()) {
    return skip("all of this runs as an ordinary user");
  }
  scratch const folder{memory_folder()};
  std::filesystem::permissions(folder.folder(), std::filesystem::perms::all);
  for (bool const dumpable : {true, false}) {
    BOOST_TEST(found_in_child([&](findings& found) {
                 auto const best = or_throw(persistent_heap::create(folder / "first")).stats().dirty_detector;
                 found.expect(become_ordinary_user(), "cannot become an ordinary user");
                 ::prctl(PR_SET_DUMPABLE, dumpable ? 1 : 0); // one that is not may not open its own pagemap
                 auto const detector = use_heap(folder / (dumpable ? "heap" : "other"), found);
                 found.expect(detector == (dumpable ? best : "compare"), detector);
               }) == "");
    std::filesystem::remove(folder / "first");
  }
}

BOOST_AUTO_TEST_SUITE_END()
