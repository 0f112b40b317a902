// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <mutex>
#include <ranges>
#include <shared_mutex>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

module fmmap.pmr;

import fmmap.alloc;
import fmmap.core;
import fmmap.dirty;
import fmmap.journal;
import fmmap.os;
import :heap_format;
import :heap_memory;
import :heap_state;
import :heap_store;
import :persistent_heap;

// Gives back what a heap does not need: blocks of the file behind what is free, and memory that has what the file has.

namespace fmmap {

namespace {

constexpr std::size_t least_freed = std::size_t{64} << 20; // for which a commit stops to give it back

} // namespace

auto heap_state::trim() -> result<std::size_t> {
  if (auto sound = check_usable("trim", true); !sound) {
    return std::unexpected(std::move(sound).error());
  }
  std::scoped_lock const gate{gate_}; // first: who comes now waits
  std::scoped_lock const quiet{updating_};
  if (store_->has_staged()) {
    return fail(errc::in_use, "trim", "a staged commit has neither run nor been dropped");
  }
  auto trimmed = trim_file();
  if (!trimmed) {
    return trimmed;
  }
  if (auto done = trim_memory(0); !done) {
    return std::unexpected(std::move(done).error());
  }
  return trimmed;
}

// What fails here is no reason not to commit; where it is one, as a failed sync, the journal says so again.
void heap_state::give_back_what_pays() {
  auto const drop = [](error const& why) {
    if (why != std::errc::operation_not_supported) { // a file system that makes no holes
      report_dropped_error(why);
    }
  };
  if (private_bytes_ > private_budget_) {
    if (auto const done = trim_memory(private_budget_ / 2); !done) { // less, so that it is not tried at once again
      drop(done.error());
    }
  }
  if (freed_bytes_ < untrimmed_bytes_ + least_freed || store_->has_staged()) {
    return;
  }
  auto const trimmed = trim_file();
  untrimmed_bytes_ = freed_bytes_ - std::min(freed_bytes_, trimmed.value_or(0));
  if (!trimmed) {
    drop(trimmed.error());
  }
}

// What is free has to be so in the last commit too, and no record may be in the journal that opening would write there.
auto heap_state::trim_file() -> result<std::size_t> {
  if (auto done = store_->checkpoint(); !done) {
    return std::unexpected(std::move(done).error());
  }
  auto trimmed = allocator_->trim_chunks([is_free = tell_free_pages()](std::size_t chunk) mutable {
    return std::ranges::all_of(std::views::iota(std::size_t{0}, alloc::chunk_pages), [&](std::size_t page) {
      return is_free((chunk * alloc::chunk_bytes) + (page * journal::page_bytes));
    });
  });
  // Else the next commit would be of lines that differ from zeros, and a power failure could bring back what was there.
  if (auto done = store_->sync(); !done) {
    return std::unexpected(std::move(done).error());
  }
  return trimmed;
}

auto heap_state::provide(std::size_t offset, std::size_t length) -> result<void> {
  return store_->provide(offset, offset + length);
}

auto heap_state::withdraw(std::size_t offset, std::size_t length) -> result<void> {
  if (auto done = store_->withdraw(offset, offset + length); !done) {
    return done;
  }
  // Nobody needs what memory has of it. Where that stays, as locked memory does, it is found there by nobody.
  (void)os::advise(memory_.content() + offset, length, os::advice_value::dont_need);
  return {};
}

auto heap_state::private_pages() const -> std::vector<dirty::page_range> {
  return dirty::find_private_pages({.begin = memory_.content(), .length = memory_.size()})
      .value_or(std::vector<dirty::page_range>{});
}

auto heap_state::private_bytes() const -> std::uint64_t { return dirty::length_of(private_pages()); }

auto heap_state::trim_memory(std::size_t budget) -> result<void> {
  auto const own = private_pages();
  private_bytes_ = dirty::length_of(own);
  if (private_bytes_ <= budget) {
    return {};
  }
  if (auto done = store_->apply(); !done) { // what is in the journal only has to stay
    return done;
  }
  staging const now{.made = {}, .follows_the_last_commit = false, .staged_before = store_->staged_lines()};
  std::vector<dirty::page_range> same;
  dirty::run_list runs{same};
  for (auto const& run : own) {
    for (auto* at = run.begin; at != run.end(); at += journal::page_bytes) {
      if (differing_lines(now, file_page_of(at),
                          std::span<std::byte const, journal::page_bytes>{at, journal::page_bytes}, all_lines) == 0) {
        runs.append({.begin = at, .length = journal::page_bytes});
      }
    }
  }
  for (auto const& run : same) {
    if (private_bytes_ <= budget) {
      break;
    }
    if (os::advise(run.begin, run.length, os::advice_value::dont_need)) { // not of locked memory
      private_bytes_ -= run.length;
    }
  }
  return {};
}

} // namespace fmmap
