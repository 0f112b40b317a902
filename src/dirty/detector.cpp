// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <functional>
#include <iterator>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

module fmmap.dirty;

import fmmap.core;
import fmmap.os;

namespace fmmap::dirty {

namespace {

auto number(std::byte const* address) noexcept -> std::uint64_t { return reinterpret_cast<std::uintptr_t>(address); }

// Pages between two addresses, which the system tells as numbers.
auto range_of(std::uint64_t begin, std::uint64_t end) noexcept -> page_range {
  return {.begin = reinterpret_cast<std::byte*>(begin), .length = end - begin};
}

void report(os::outcome<void> const& done, std::string_view operation) noexcept {
  if (!done) {
    report_dropped_error(error::make({done.error(), std::system_category()}, operation));
  }
}

class owned_descriptor {
public:
  explicit owned_descriptor(os::descriptor number) noexcept : number_{number} {}
  owned_descriptor(owned_descriptor&& other) noexcept : number_{std::exchange(other.number_, os::no_descriptor)} {}
  auto operator=(owned_descriptor&&) -> owned_descriptor& = delete;
  ~owned_descriptor() {
    if (number_ != os::no_descriptor) {
      report(os::close(number_), "close what tells of changed pages");
    }
  }

  [[nodiscard]] auto get() const noexcept -> os::descriptor { return number_; }

private:
  os::descriptor number_;
};

// What all methods have in common: the memory, and the process it is of.
class watching : public detector {
public:
  auto watch(page_range added) -> result<void> final {
    if (is_forked()) {
      return std::unexpected(error::make(errc::forked, "watch"));
    }
    auto const page = os::page_size();
    if (number(added.begin) % page != 0 || added.length % page != 0) {
      return std::unexpected(error::make(std::make_error_code(std::errc::invalid_argument), "watch"));
    }
    if (added.length == 0) {
      return {};
    }
    if (auto const done = begin(added); !done) {
      return std::unexpected(error::make({done.error(), std::system_category()}, "watch"));
    }
    add(added);
    return {};
  }

  auto collect(std::vector<page_range>& changed) -> result<void> final {
    if (is_forked()) {
      return std::unexpected(error::make(errc::forked, "collect"));
    }
    run_list found{changed};
    if (auto const done = list(watched_, found); !done) {
      found.drop();
      return std::unexpected(error::make({done.error(), std::system_category()}, "collect"));
    }
    return {};
  }

  // When all of it has been unmapped.
  void forget() noexcept { watched_.clear(); }

private:
  virtual auto begin(page_range /*added*/) -> os::outcome<void> { return {}; }
  virtual auto list(std::span<page_range const> watched, run_list& found) -> os::outcome<void> = 0;

  // Keeps them ascending, and those that touch as one.
  void add(page_range added) {
    auto const first = std::ranges::lower_bound(watched_, added.begin, {}, &page_range::end);
    auto const last = std::ranges::upper_bound(watched_, added.end(), {}, &page_range::begin);
    if (first == last) {
      watched_.insert(first, added);
      return;
    }
    *first = range_of(std::min(number(first->begin), number(added.begin)),
                      std::max(number(std::prev(last)->end()), number(added.end())));
    watched_.erase(std::next(first), last);
  }

  [[nodiscard]] auto is_forked() const noexcept -> bool { return os::process_id() != process_; }

  std::vector<page_range> watched_;
  int process_ = os::process_id();
};

auto open_pagemap() noexcept -> os::outcome<os::descriptor> {
  return os::retry([] { return os::open(os::working_directory, "/proc/self/pagemap", {}, 0); });
}

// Scans a range to its end, and calls `visit` with each part of it that has been scanned and the runs that were found there.
template <class Visit>
auto scan(os::descriptor pagemap, page_range in, os::page_scan const& wanted, Visit visit) -> os::outcome<void> {
  std::array<os::page_run, 512> runs; // NOLINT(cppcoreguidelines-pro-type-member-init): the system writes them
  for (auto at = number(in.begin); at < number(in.end());) {
    // That a signal interrupts it is said only when the signal ends the process.
    auto const scanned = os::retry([&] { return os::scan_pages(pagemap, at, number(in.end()), wanted, runs); });
    if (!scanned) {
      return std::unexpected(scanned.error());
    }
    if (auto done = visit(std::span{runs}.first(scanned->runs)); !done) {
      return done;
    }
    at = scanned->end;
  }
  return {};
}

auto length(os::page_run const& run) noexcept -> std::uint64_t { return run.end - run.begin; }

// Returns how many bytes were found.
auto append_scanned(os::descriptor pagemap, page_range in, os::page_scan const& wanted, run_list& found)
    -> os::outcome<std::uint64_t> {
  std::uint64_t bytes = 0;
  auto const done = scan(pagemap, in, wanted, [&](std::span<os::page_run const> runs) -> os::outcome<void> {
    for (auto const& run : runs) {
      found.append(range_of(run.begin, run.end));
      bytes += length(run);
    }
    return {};
  });
  return done ? os::outcome<std::uint64_t>{bytes} : std::unexpected(done.error());
}

auto append_scanned(os::descriptor pagemap, std::span<page_range const> in, os::page_scan const& wanted,
                    run_list& found) -> os::outcome<void> {
  for (auto const& range : in) {
    if (auto const done = append_scanned(pagemap, range, wanted, found); !done) {
      return std::unexpected(done.error());
    }
  }
  return {};
}

// The bits of an entry, as proc_pid_pagemap(5) has them.
namespace listed {

constexpr auto present = std::uint64_t{1} << 63U;
constexpr auto swapped = std::uint64_t{1} << 62U;
constexpr auto of_file = std::uint64_t{1} << 61U;

constexpr auto is_private_in_memory(std::uint64_t entry) noexcept -> bool {
  return (entry & (present | of_file)) == present;
}

} // namespace listed

// Without the help of a scan: reads the entry of each page.
template <class IsWanted>
auto append_listed(os::descriptor pagemap, std::span<page_range const> in, run_list& found, IsWanted is_wanted)
    -> os::outcome<void> {
  auto const page = os::page_size();
  std::vector<std::uint64_t> entries(8192); // 32 MiB of memory at a time
  for (auto rest : in) {
    while (rest.length > 0) {
      auto const wanted = std::span{entries}.first(std::min(entries.size(), rest.length / page));
      auto const offset = number(rest.begin) / page * sizeof(std::uint64_t);
      auto const got = os::retry([&] { return os::read_at(pagemap, offset, std::as_writable_bytes(wanted)); });
      if (!got || *got < sizeof(std::uint64_t)) {
        return std::unexpected(got ? EIO : got.error());
      }
      for (auto const entry : wanted.first(*got / sizeof(std::uint64_t))) {
        if (is_wanted(entry)) {
          found.append({.begin = rest.begin, .length = page});
        }
        rest.begin += page;
        rest.length -= page;
      }
    }
  }
  return {};
}

constexpr os::page_scan private_pages_in_memory{
    .inverted = os::page_category::of_file,
    .all = os::page_category::of_file | os::page_category::present,
};

constexpr os::page_scan private_pages{
    .inverted = os::page_category::of_file,
    .all = os::page_category::of_file,
    .any = os::page_category::present | os::page_category::swapped,
};

constexpr os::page_scan written_pages{
    .all = os::page_category::written,
    .any = os::page_category::present | os::page_category::swapped,
    .only_tracked = true,
    .protect = true,
};

constexpr os::page_scan unprotected_pages{
    .all = os::page_category::written,
    .reported = os::page_category::written,
    .only_tracked = true,
};

constexpr os::page_scan to_be_protected{
    .all = os::page_category::written,
    .only_tracked = true,
    .protect = true,
};

// Before 6.8.10 Linux took some pages that are swapped out for protected ones, if it was asked for nothing else. Scans that
// ask for more were right from the beginning.
auto finds_unprotected_pages() noexcept -> bool {
  auto const version = os::kernel_version();
  return version && *version >= os::system_version{.major = 6, .minor = 9};
}

class by_userfaultfd final : public watching {
public:
  static auto make() -> std::unique_ptr<watching> {
    auto const tracker = os::retry([] { return os::open_fault_tracker(); });
    if (!tracker) {
      return nullptr;
    }
    owned_descriptor owned{*tracker};
    if (!os::retry([&] { return os::enable_write_tracking(owned.get()); })) {
      return nullptr;
    }
    auto const pagemap = open_pagemap();
    return pagemap ? std::make_unique<by_userfaultfd>(std::move(owned), owned_descriptor{*pagemap}) : nullptr;
  }

  by_userfaultfd(owned_descriptor tracker, owned_descriptor pagemap) noexcept
      : tracker_{std::move(tracker)}, pagemap_{std::move(pagemap)} {}

  auto kind() const noexcept -> method override { return method::userfaultfd; }
  auto is_incremental() const noexcept -> bool override { return true; }

private:
  auto begin(page_range added) -> os::outcome<void> override {
    return os::retry([&] { return os::track_writes(tracker_.get(), added.begin, added.length); });
  }

  auto list(std::span<page_range const> watched, run_list& found) -> os::outcome<void> override {
    // A scan that fails, or a list that cannot be made longer, may have protected pages that nobody was told of.
    auto const some_are_lost = std::exchange(some_are_lost_, true);
    for (auto const& range : watched) {
      if (auto done = append_written(range, found); !done) {
        return done;
      }
    }
    if (some_are_lost) {
      if (auto done = append_scanned(pagemap_.get(), watched, private_pages, found); !done) {
        return done;
      }
      found.merge();
    }
    some_are_lost_ = false;
    return {};
  }

  // Looks for pages that are not protected first, which is quick because pages that are are passed over without a look at
  // anything else. But to some versions of Linux a page that is not there is one of them, and would be given a page table to
  // be protected in. So what was found is looked at again, where it is little.
  auto append_written(page_range in, run_list& found) -> os::outcome<void> {
    if (!may_look_first_) {
      return append_scanned(pagemap_.get(), {&in, 1}, written_pages, found);
    }
    std::array<os::page_run, 64> runs; // NOLINT(cppcoreguidelines-pro-type-member-init): the system writes them
    auto const looked = os::retry(
        [&] { return os::scan_pages(pagemap_.get(), number(in.begin), number(in.end()), unprotected_pages, runs); });
    if (!looked) {
      return std::unexpected(looked.error());
    }
    auto const unprotected = std::span{runs}.first(looked->runs);
    if (looked->end == number(in.end())) {
      return append_written_of(unprotected, in, found);
    }
    // There are many, which are found in one go. Where of these first ones all are there, the others are taken to be, too.
    auto const all = range_of(unprotected.front().begin, looked->end);
    auto const there = append_scanned(pagemap_.get(), all, written_pages, found);
    if (!there) {
      return std::unexpected(there.error());
    }
    auto const rest = range_of(looked->end, number(in.end()));
    if (auto const done = append_scanned(pagemap_.get(), rest, written_pages, found); !done) {
      return std::unexpected(done.error());
    }
    if (*there ==
        std::transform_reduce(unprotected.begin(), unprotected.end(), std::uint64_t{0}, std::plus{}, length)) {
      return {};
    }
    auto protected_to = number(in.begin);
    return scan(pagemap_.get(), range_of(number(all.begin), number(in.end())), unprotected_pages,
                [&](std::span<os::page_run const> missing) { return protect_missing(missing, in, protected_to); });
  }

  auto append_written_of(std::span<os::page_run> runs, page_range in, run_list& found) -> os::outcome<void> {
    std::size_t with_missing = 0;
    for (auto const& run : runs) {
      auto const there = append_scanned(pagemap_.get(), range_of(run.begin, run.end), written_pages, found);
      if (!there) {
        return std::unexpected(there.error());
      }
      if (*there != length(run)) {
        runs[with_missing++] = run;
      }
    }
    auto protected_to = number(in.begin);
    return protect_missing(runs.first(with_missing), in, protected_to);
  }

  // Protects pages that are not there in the page tables that there are, so that the next look passes over them as over the
  // others. All that is written in those has to be found before. Runs ascend, from one call to the next too.
  auto protect_missing(std::span<os::page_run const> runs, page_range in, std::uint64_t& protected_to)
      -> os::outcome<void> {
    auto const table = std::uint64_t{os::page_size()} * os::page_size() / sizeof(std::uint64_t);
    for (auto const& run : runs) {
      for (auto const address : {run.begin, run.end - 1}) {
        auto const begin = std::max(os::round_down(address, table), number(in.begin));
        auto const end = std::min(os::round_down(address, table) + table, number(in.end()));
        auto const has_no_table = run.begin <= begin && end <= run.end; // so it seems: nothing in it is protected
        if (has_no_table || end <= protected_to) {
          continue;
        }
        auto const done = os::retry([&] { return os::scan_pages(pagemap_.get(), begin, end, to_be_protected, {}); });
        if (!done) {
          return std::unexpected(done.error());
        }
        protected_to = end;
      }
    }
    return {};
  }

  owned_descriptor tracker_;
  owned_descriptor pagemap_;
  bool may_look_first_ = finds_unprotected_pages();
  bool some_are_lost_ = false;
};

class by_pagemap_scan final : public watching {
public:
  static auto make() -> std::unique_ptr<watching> {
    auto const pagemap = open_pagemap();
    return pagemap ? std::make_unique<by_pagemap_scan>(owned_descriptor{*pagemap}) : nullptr;
  }

  explicit by_pagemap_scan(owned_descriptor pagemap) noexcept : pagemap_{std::move(pagemap)} {}

  auto kind() const noexcept -> method override { return method::pagemap_scan; }
  auto is_incremental() const noexcept -> bool override { return false; }

private:
  auto list(std::span<page_range const> watched, run_list& found) -> os::outcome<void> override {
    return append_scanned(pagemap_.get(), watched, private_pages, found);
  }

  owned_descriptor pagemap_;
};

class by_pagemap final : public watching {
public:
  static auto make() -> std::unique_ptr<watching> {
    auto const pagemap = open_pagemap();
    return pagemap ? std::make_unique<by_pagemap>(owned_descriptor{*pagemap}) : nullptr;
  }

  explicit by_pagemap(owned_descriptor pagemap) noexcept : pagemap_{std::move(pagemap)} {}

  auto kind() const noexcept -> method override { return method::pagemap; }
  auto is_incremental() const noexcept -> bool override { return false; }

private:
  auto list(std::span<page_range const> watched, run_list& found) -> os::outcome<void> override {
    // A page that is swapped out is its own, for the file's pages are not swapped.
    return append_listed(pagemap_.get(), watched, found, [](std::uint64_t entry) {
      return (entry & listed::swapped) != 0 || listed::is_private_in_memory(entry);
    });
  }

  owned_descriptor pagemap_;
};

class by_comparison final : public watching {
public:
  static auto make() -> std::unique_ptr<watching> { return std::make_unique<by_comparison>(); }

  auto kind() const noexcept -> method override { return method::compare; }
  auto is_incremental() const noexcept -> bool override { return false; }

private:
  auto list(std::span<page_range const> watched, run_list& found) -> os::outcome<void> override {
    std::ranges::for_each(watched, [&](page_range one) { found.append(one); });
    return {};
  }
};

auto lists_what_is_written(detector& one, page_range page) -> bool {
  if (!one.watch(page)) {
    return false;
  }
  for (int round = 0; round < 2; ++round) { // what is written again has to be found too
    auto volatile& byte = *page.begin;
    byte = std::byte{1};
    std::vector<page_range> found;
    if (!one.collect(found) || found != std::vector{page}) {
      return false;
    }
  }
  return true;
}

auto works(watching& one) -> bool {
  auto const length = os::page_size();
  auto const page = os::map(nullptr, length, {.read = true, .write = true}, {.shared = false, .anonymous = true},
                            os::no_descriptor, 0);
  if (!page) {
    return false;
  }
  auto const holds = lists_what_is_written(one, {.begin = *page, .length = length});
  report(os::unmap(*page, length), "unmap a page of its own");
  one.forget();
  return holds;
}

} // namespace

auto to_string(method one) noexcept -> std::string_view {
  constexpr std::array<std::string_view, 4> names{"userfaultfd", "pagemap_scan", "pagemap", "compare"};
  return names[static_cast<std::size_t>(one)];
}

auto detector::make(method best) -> std::unique_ptr<detector> {
  constexpr std::array makers{by_userfaultfd::make, by_pagemap_scan::make, by_pagemap::make};
  for (auto const maker : std::span{makers}.subspan(std::min(static_cast<std::size_t>(best), makers.size()))) {
    if (auto made = maker(); made && works(*made)) {
      return made;
    }
  }
  return by_comparison::make();
}

auto find_private_pages(page_range in) -> std::optional<std::vector<page_range>> {
  auto const opened = open_pagemap();
  if (!opened) {
    return {};
  }
  owned_descriptor const pagemap{*opened};
  std::vector<page_range> all;
  run_list found{all};
  auto done = append_scanned(pagemap.get(), {&in, 1}, private_pages_in_memory, found);
  if (!done) {
    found.drop();
    done = append_listed(pagemap.get(), {&in, 1}, found, listed::is_private_in_memory);
  }
  return done ? std::optional{std::move(all)} : std::nullopt;
}

} // namespace fmmap::dirty
