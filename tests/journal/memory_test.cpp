// SPDX-License-Identifier: MIT OR Apache-2.0

#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <new>
#include <string>
#include <utility>

#include <boost/test/unit_test.hpp>

#include "support/outcome.hpp"
#include "support/scratch.hpp"

#include "journal/journaled.hpp"

import fmmap.core;
import fmmap.journal;

namespace {

constexpr std::size_t never = std::numeric_limits<std::size_t>::max();
constinit thread_local std::size_t allocations_left = never; // until one of this thread's fails

auto allocate(std::size_t size, std::size_t alignment) -> void* {
  if (allocations_left != never && allocations_left-- == 0) {
    allocations_left = never;
    throw std::bad_alloc{};
  }
  auto* const block = std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  return block != nullptr ? block : throw std::bad_alloc{};
}

} // namespace

auto operator new(std::size_t size) -> void* { return allocate(size, alignof(std::max_align_t)); }
auto operator new(std::size_t size, std::align_val_t alignment) -> void* {
  return allocate(size, static_cast<std::size_t>(alignment));
}
void operator delete(void* block) noexcept { std::free(block); }
void operator delete(void* block, std::size_t /*size*/) noexcept { std::free(block); }
void operator delete(void* block, std::align_val_t /*alignment*/) noexcept { std::free(block); }
void operator delete(void* block, std::size_t /*size*/, std::align_val_t /*alignment*/) noexcept { std::free(block); }

namespace {

namespace journal = fmmap::journal;

constexpr std::size_t content_pages = 3;

// Whether all is done before so many allocations.
class allocations {
public:
  explicit allocations(std::size_t before_one_fails) { allocations_left = before_one_fails; }
  allocations(allocations const&) = delete;
  auto operator=(allocations const&) -> allocations& = delete;
  ~allocations() { allocations_left = never; }

  [[nodiscard]] static auto has_one_failed() -> bool { return allocations_left == never; }
};

// Of the transactions with these numbers the one has this failure, the others none. Returns whether there was one.
auto commits_whole_transactions(std::filesystem::path const& path, std::size_t ring_pages, int failing,
                                std::size_t before_it_fails) -> bool {
  (void)journaled{path, ring_pages, content_pages};
  std::string acknowledged(content_pages * journal::page_bytes, '\0');
  std::string attempted = acknowledged;
  bool has_failed = false;
  {
    journaled file{path};
    for (int i = 0; i < 20; ++i) {
      auto next = acknowledged;
      // The one that fails may be longer than the ring, the others never.
      auto const length = i == failing ? next.size() : journal::line_bytes;
      auto const at = i == failing ? 0 : static_cast<std::size_t>(i) * 5 * journal::line_bytes;
      next.replace(at, length, pattern(length, static_cast<std::uint64_t>(i) + 1));
      auto changes = file.changes_to(next);
      allocations const few{i == failing ? before_it_fails : never};
      auto const done = file.log().commit(std::move(changes), journal::level::power, file.log().file_bytes());
      has_failed = has_failed || (i == failing && few.has_one_failed());
      attempted = next;
      if (!done) { // it may be there or not
        BOOST_TEST((done.error() == std::errc::not_enough_memory));
        if (!file.commit(next, journal::level::power)) { // and then no other one is
          break;
        }
      }
      acknowledged = next;
    }
  }
  auto const found = journaled{path}.content();
  BOOST_TEST((found == acknowledged || found == attempted));
  return has_failed;
}

} // namespace

BOOST_AUTO_TEST_SUITE(whichever_allocation_fails)

BOOST_AUTO_TEST_CASE(what_was_committed_is_there) {
  for (auto const ring_pages : {std::size_t{40}, std::size_t{2}}) { // that holds all, and none of the one that fails
    std::size_t failed = 0;
    for (int failing = 0; failing < 12; ++failing) {
      bool fails = true;
      for (std::size_t allowed = 0; fails; ++allowed) {
        scratch const s{memory_folder()};
        fails = commits_whole_transactions(s / "data", ring_pages, failing, allowed);
        failed += fails ? 1 : 0;
      }
    }
    BOOST_TEST(failed > 2U); // not every one of them needs memory
  }
}

BOOST_AUTO_TEST_SUITE_END()
