// SPDX-License-Identifier: MIT OR Apache-2.0

#include <atomic>
#include <barrier>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <list>
#include <memory>
#include <memory_resource>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <boost/test/unit_test.hpp>

#include <unistd.h>

#include "support/process.hpp"
#include "support/scratch.hpp"

import fmmap.core;
import fmmap.pmr;

using fmmap::errc;
using fmmap::mapped_resource;
using fmmap::or_throw;

namespace {

auto in_memory() -> std::unique_ptr<mapped_resource> { return or_throw(mapped_resource::anonymous()); }

// Leaves the calling thread with blocks of several classes to hand out again.
void warm_up(mapped_resource& resource) {
  for (std::size_t size = 16; size <= 2048; size *= 2) {
    std::vector<void*> blocks(20);
    for (auto& block : blocks) {
      block = resource.allocate(size);
    }
    for (auto* const block : blocks) {
      resource.deallocate(block, size);
    }
  }
}

auto is_all_returned(mapped_resource& resource) -> bool {
  or_throw(resource.trim());
  return resource.stats().used_bytes == 0;
}

// Why an allocation fails.
auto refusal_of(std::pmr::memory_resource& resource) -> std::optional<fmmap::error> {
  try {
    resource.deallocate(resource.allocate(100), 100);
  } catch (fmmap::allocation_error const& refused) {
    return refused.why();
  }
  return {};
}

} // namespace

BOOST_AUTO_TEST_SUITE(a_resource)

BOOST_AUTO_TEST_CASE(may_end_while_threads_have_blocks_of_it) {
  constexpr int threads = 4;
  constexpr int rounds = 50;
  std::unique_ptr<mapped_resource> resource;
  std::barrier together{threads + 1};
  std::vector<std::jthread> others;
  for (int i = 0; i < threads; ++i) {
    others.emplace_back([&] {
      for (int round = 0; round < rounds; ++round) {
        together.arrive_and_wait(); // it is there
        warm_up(*resource);
        together.arrive_and_wait(); // nobody uses it any more
      }
    });
  }
  for (int round = 0; round < rounds; ++round) {
    resource = in_memory();
    together.arrive_and_wait();
    together.arrive_and_wait();
    resource.reset();
  }
}

// Each thread ends as the resource that it has blocks of does.
BOOST_AUTO_TEST_CASE(may_end_at_the_same_time_as_threads_do) {
  for (int round = 0; round < (sanitized ? 50 : 500); ++round) {
    auto resource = in_memory();
    std::barrier together{3};
    auto const use_and_end = [&] {
      warm_up(*resource);
      together.arrive_and_wait();
    };
    std::jthread const a{use_and_end};
    std::jthread const b{use_and_end};
    together.arrive_and_wait();
    resource.reset();
  }
}

BOOST_AUTO_TEST_CASE(gets_the_blocks_of_threads_that_end) {
  auto const resource = in_memory();
  for (int i = 0; i < 20; ++i) {
    std::jthread{[&] { warm_up(*resource); }}.join();
  }
  BOOST_TEST(is_all_returned(*resource));
}

BOOST_AUTO_TEST_CASE(gets_what_one_thread_has_allocated_from_another_that_ends) {
  auto const resource = in_memory();
  std::pmr::list<std::pmr::string> words{resource.get()};
  words.resize(5000, std::pmr::string{"a word that is too long to be kept in the object"});
  std::jthread{[&] { words.clear(); }}.join();
  BOOST_TEST(is_all_returned(*resource));
}

BOOST_AUTO_TEST_CASE(serves_more_others_than_a_thread_knows_at_once) {
  std::vector<std::unique_ptr<mapped_resource>> resources(200);
  for (auto& each : resources) {
    each = or_throw(mapped_resource::anonymous({.reserve = std::size_t{1} << 24}));
  }
  for (int round = 0; round < 3; ++round) {
    for (auto const& each : resources) {
      warm_up(*each);
    }
  }
  for (auto const& each : resources) {
    BOOST_TEST_REQUIRE(is_all_returned(*each));
  }
}

BOOST_AUTO_TEST_CASE(of_ten_thousand_one_after_the_other_leaves_nothing) {
  (void)in_memory();
  auto const before = maps_count();
  for (int i = 0; i < 10'000; ++i) {
    auto const resource = or_throw(mapped_resource::anonymous({.reserve = std::size_t{1} << 22}));
    resource->deallocate(resource->allocate(100), 100);
  }
  BOOST_TEST(maps_count() <= before + 4);
}

namespace {

// Destroyed after the magazines of its thread, as it is made before them.
struct late {
  explicit late(mapped_resource& resource) : words{&resource} {}
  std::pmr::list<std::pmr::string> words;
};

} // namespace

BOOST_AUTO_TEST_CASE(takes_back_what_objects_of_a_thread_release_after_its_magazines) {
  auto const resource = in_memory();
  std::jthread{[&] {
    thread_local std::optional<late> made;
    made.emplace(*resource);
    for (int i = 0; i < 100; ++i) {
      made->words.emplace_back("a word that is too long to be kept in the object");
    }
  }}.join();
  BOOST_TEST(is_all_returned(*resource));
}

// And what they allocate then.
BOOST_AUTO_TEST_CASE(serves_a_thread_that_has_no_magazines_any_more) {
  auto const resource = in_memory();
  struct allocates_at_the_end {
    mapped_resource* from = nullptr;
    ~allocates_at_the_end() {
      if (from != nullptr) {
        std::pmr::list<int> numbers{{1, 2, 3}, from};
        numbers.resize(1000);
      }
    }
  };
  std::jthread{[&] {
    thread_local allocates_at_the_end last;
    last.from = resource.get();
    warm_up(*resource);
  }}.join();
  BOOST_TEST(is_all_returned(*resource));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(after_a_fork)

BOOST_AUTO_TEST_CASE(a_child_goes_on_with_memory_of_its_own) {
  auto const resource = in_memory();
  std::pmr::vector<int> numbers{{1, 2, 3}, resource.get()};
  auto const used = resource->stats().used_bytes;
  BOOST_TEST(found_in_child([&](findings& found) {
               numbers.resize(100'000, 4);
               found.expect(numbers[99'999] == 4, "it cannot be used");
               found.expect(!refusal_of(*resource), "it cannot allocate");
             }) == "");
  BOOST_TEST(numbers.size() == 3U);
  BOOST_TEST(resource->stats().used_bytes == used);
}

BOOST_AUTO_TEST_CASE(a_child_has_what_the_magazines_of_other_threads_had) {
  if (thread_sanitized) {
    skip("the thread sanitizer wants no fork of a process with threads");
    return;
  }
  auto const resource = in_memory();
  std::barrier together{2};
  std::jthread const other{[&] {
    warm_up(*resource);
    together.arrive_and_wait();
    together.arrive_and_wait();
  }};
  together.arrive_and_wait();
  BOOST_TEST(found_in_child([&](findings& found) {
               found.expect(is_all_returned(*resource), "blocks are lost");
               found.expect(!refusal_of(*resource), "it cannot allocate");
             }) == "");
  together.arrive_and_wait();
}

// While other threads are in the middle of it.
BOOST_AUTO_TEST_CASE(a_child_finds_no_lock_held) {
  if (thread_sanitized) {
    skip("the thread sanitizer wants no fork of a process with threads");
    return;
  }
  auto const resource = in_memory();
  std::atomic<bool> over{false};
  std::vector<std::jthread> others;
  for (int i = 0; i < 3; ++i) {
    others.emplace_back([&] {
      while (!over) {
        std::pmr::list<int> numbers{resource.get()};
        numbers.resize(500);
        resource->deallocate(resource->allocate(100'000), 100'000);
      }
    });
  }
  for (int i = 0; i < 100; ++i) {
    BOOST_TEST_REQUIRE(found_in_child([&](findings& found) {
                         for (int round = 0; round < 10; ++round) {
                           found.expect(!refusal_of(*resource), "it cannot allocate");
                           std::pmr::list<int> numbers{resource.get()};
                           numbers.resize(500);
                         }
                         or_throw(resource->trim());
                       }) == "");
  }
  over = true;
}

BOOST_AUTO_TEST_CASE(a_child_of_shared_memory_reads_and_does_not_allocate) {
  scratch const folder;
  auto const resource = or_throw(mapped_resource::temporary(folder.folder()));
  std::pmr::vector<int> numbers{{1, 2, 3}, resource.get()};
  warm_up(*resource);
  BOOST_TEST(found_in_child([&](findings& found) {
               auto const refusal = refusal_of(*resource);
               found.expect(refusal && *refusal == errc::forked, "it allocates");
               found.expect(numbers[1] == 2, "it cannot read");
               numbers.clear();
               numbers.shrink_to_fit(); // deallocates, which only the parent does
               (void)resource->stats();
             }) == "");
  auto* const next = resource->allocate(12, 4);
  BOOST_TEST(next != static_cast<void*>(numbers.data()));
  resource->deallocate(next, 12, 4);
  BOOST_TEST(numbers[2] == 3);
}

// By books that are the parent's no more, it would throw away what the parent has allocated since.
BOOST_AUTO_TEST_CASE(a_child_of_shared_memory_gives_nothing_back) {
  scratch const folder;
  auto const resource = or_throw(mapped_resource::temporary(folder.folder()));
  {
    std::pmr::vector<char> const grows(std::size_t{8} << 20, 'a', resource.get());
  }
  int pipe[2];
  BOOST_TEST_REQUIRE(::pipe(pipe) == 0);
  auto const child = start_child([&] {
    char token = 0;
    if (::read(pipe[0], &token, 1) != 1) {
      return 1;
    }
    auto const trimmed = resource->trim();
    resource->release();
    return !trimmed && trimmed.error() == errc::forked ? 0 : 2;
  });
  std::pmr::vector<char> const mine(std::size_t{4} << 20, 'b', resource.get());
  BOOST_TEST_REQUIRE(::write(pipe[1], "x", 1) == 1);
  BOOST_TEST(end_of(child) == 0);
  BOOST_TEST(mine[std::size_t{2} << 20] == 'b');
  ::close(pipe[0]);
  ::close(pipe[1]);
}

BOOST_AUTO_TEST_CASE(a_child_may_destroy_its_copy) {
  scratch const folder;
  auto resource = or_throw(mapped_resource::create(folder / "data"));
  auto anonymous = in_memory();
  std::pmr::vector<int> numbers{{1, 2, 3}, resource.get()};
  warm_up(*anonymous);
  BOOST_TEST(found_in_child([&](findings&) {
               resource.reset();
               anonymous.reset();
             }) == "");
  BOOST_TEST(numbers[2] == 3);
  numbers.resize(100'000);
  warm_up(*anonymous);
}

BOOST_AUTO_TEST_SUITE_END()
