// SPDX-License-Identifier: MIT OR Apache-2.0

#include <cerrno>
#include <cstddef>
#include <expected>
#include <filesystem>
#include <memory_resource>
#include <string_view>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include "support/process.hpp"

#include "pmr/allocating.hpp"

import fmmap.core;
import fmmap.os;
import fmmap.pmr;
import fmmap.test.l0;

using fmmap::or_throw;
using fmmap::os::call;
using l0::scenario;
using l0::trial;

namespace {

constexpr std::size_t mib = std::size_t{1} << 20;

// A heap falls back: from direct I/O, from what finds its changes.
std::vector<l0::tolerance> const opening_a_heap = [] {
  auto all = growing;
  for (auto const each :
       {call::userfaultfd, call::ioctl, call::openat, call::mmap, call::munmap, call::pread, call::uname}) {
    all.push_back({each});
  }
  // Closing lets go of a lock, whatever becomes of the call before. A snapshot is copied where it cannot be cloned. A new file
  // on tmpfs is taken for one that is in memory only where its name cannot be read, and works.
  for (auto const each : {call::fcntl, call::copy_file_range, call::fstatat, call::flock, call::readlinkat}) {
    all.push_back({each});
  }
  all.push_back({call::pwritev2, EINVAL});
  all.push_back({call::pwrite, EINVAL});
  return all;
}();

// When the file was made is not told.
std::vector<l0::tolerance> const looking_at_a_heap = [] {
  auto all = opening_a_heap;
  all.push_back({call::statx, ENOSYS});
  all.push_back({call::statx, EPERM});
  return all;
}();

// What is advised about memory is no more than that.
std::vector<l0::tolerance> const creating_a_heap = [] {
  auto all = opening_a_heap;
  all.push_back({call::madvise});
  return all;
}();

constexpr fmmap::heap_options small_heap{.reserve = 64 * mib, .journal_size = 64 << 10};

using numbers = std::pmr::vector<int>;

void with_a_heap(trial& t) {
  t.has("heap");
  auto heap = or_throw(fmmap::persistent_heap::create(t / "heap", small_heap));
  or_throw(heap.construct<int>("one", 1));
  or_throw(heap.commit());
}

std::vector<scenario> const scenarios{
    {.name = "a heap in a new file",
     .calls = {"persistent_heap::create", "persistent_heap::close", "persistent_heap::open"},
     .body =
         [](trial& t) {
           auto heap = or_throw(fmmap::persistent_heap::create(t / "heap", small_heap));
           t.has("heap");
           or_throw(heap.close());
           auto again = or_throw(fmmap::persistent_heap::open(t / "heap"));
           or_throw(again.close());
         },
     .tolerated = creating_a_heap,
     .errors = {fmmap::errc::in_use}},
    {.name = "a heap that is there",
     .calls = {"persistent_heap::open_or_create", "persistent_heap::construct", "persistent_heap::find_or_construct",
               "persistent_heap::commit", "persistent_heap::stage_commit", "persistent_heap::rollback",
               "persistent_heap::destroy", "persistent_heap::check", "persistent_heap::trim",
               "persistent_heap::snapshot"},
     .prepare = with_a_heap,
     .body =
         [](trial& t) {
           auto heap = or_throw(fmmap::persistent_heap::open_or_create(t / "heap"));
           as_result([&] {
             auto* const all = or_throw(heap.find_or_construct<numbers>("numbers"));
             or_throw(heap.construct<int>("two", 2));
             or_throw(heap.destroy<int>("two"));
             all->assign(2000, 5);
             or_throw(heap.commit(fmmap::commit_durability::process));
             all->back() = 6;
             auto job = or_throw(heap.stage_commit());
             or_throw(job.run());
             all->clear();
             or_throw(heap.rollback());
             t.expect(all->size() == 2000 && all->back() == 6, "it does not return to what was committed");
           });
           (void)or_throw(heap.trim());
           t.expect(or_throw(heap.check()).problems.empty(), "it is not sound");
           or_throw(heap.snapshot(t / "copy"));
           t.has("copy");
           or_throw(heap.close());
         },
     .tolerated = creating_a_heap,
     .errors = {fmmap::errc::in_use}},
    {.name = "a heap with another journal",
     .calls = {"persistent_heap::resize_journal"},
     .prepare = with_a_heap,
     .body =
         [](trial& t) {
           or_throw(fmmap::persistent_heap::resize_journal(t / "heap", 128 << 10));
           auto const heap = or_throw(fmmap::persistent_heap::open_read_only(t / "heap"));
           t.expect(*or_throw(heap.find<int const>("one")) == 1, "it has not what was committed");
         },
     .tolerated = opening_a_heap,
     .errors = {fmmap::errc::in_use}},
    {.name = "a heap that is looked at",
     .calls = {"inspect_heap"},
     .prepare = with_a_heap,
     .body =
         [](trial& t) {
           auto const found = or_throw(fmmap::inspect_heap(t / "heap"));
           t.expect(found.problems.empty() && found.objects.size() == 1, "it is not seen as it is");
         },
     .tolerated = looking_at_a_heap,
     .errors = {fmmap::errc::in_use}},
    {.name = "a heap for reading",
     .calls = {"persistent_heap::open_read_only", "persistent_heap::find"},
     .prepare = with_a_heap,
     .body =
         [](trial& t) {
           auto heap = or_throw(fmmap::persistent_heap::open_read_only(t / "heap"));
           t.expect(*or_throw(heap.find<int const>("one")) == 1, "it has not what was committed");
         },
     .tolerated = opening_a_heap,
     .errors = {fmmap::errc::in_use}},
};

} // namespace

BOOST_AUTO_TEST_SUITE(whatever_call_fails)

BOOST_AUTO_TEST_CASE(no_heap_leaks_and_none_is_claimed_that_does_not_work) {
  // Under sanitizers a look for leaks takes fifty times as long: so many ranges are mapped.
  auto const some = sanitized ? std::vector{scenarios.back()} : scenarios;
  for (auto const& fault : l0::sweep_all(some).faults) {
    BOOST_ERROR(fault);
  }
}

BOOST_AUTO_TEST_SUITE_END()
