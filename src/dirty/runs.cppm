// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <span>
#include <vector>

export module fmmap.dirty:runs;

export namespace fmmap::dirty {

// Whole pages of the system's size, in bytes.
struct page_range {
  std::byte* begin;
  std::size_t length;

  [[nodiscard]] inline auto end() const noexcept -> std::byte* { return begin + length; }
  auto operator==(page_range const&) const -> bool = default;
};

[[nodiscard]] inline auto length_of(std::span<page_range const> runs) noexcept -> std::size_t {
  std::size_t length = 0;
  for (auto const& run : runs) {
    length += run.length;
  }
  return length;
}

// What is appended to a list: runs of pages, those that touch as one.
class run_list {
public:
  inline explicit run_list(std::vector<page_range>& to) noexcept : all_{&to}, first_{to.size()} {}

  // None that is appended begins before one that was; else `merge` comes last.
  inline void append(page_range run) {
    if (all_->size() > first_ && all_->back().end() == run.begin) {
      all_->back().length += run.length;
    } else {
      all_->push_back(run);
    }
  }

  // Puts into order what was appended in any, also what overlaps.
  inline void merge() noexcept {
    auto const runs = appended();
    std::ranges::sort(runs, {}, &page_range::begin);
    auto last = runs.begin(); // of those that are done
    for (auto const& run : runs) {
      if (run.begin > last->end()) {
        *++last = run;
      } else if (run.end() > last->end()) {
        last->length = static_cast<std::size_t>(run.end() - last->begin);
      }
    }
    if (!runs.empty()) {
      auto const kept = static_cast<std::size_t>(std::distance(runs.begin(), last)) + 1;
      all_->erase(all_->begin() + static_cast<std::ptrdiff_t>(first_ + kept), all_->end());
    }
  }

  inline void drop() noexcept { all_->erase(all_->begin() + static_cast<std::ptrdiff_t>(first_), all_->end()); }

private:
  [[nodiscard]] inline auto appended() const noexcept -> std::span<page_range> {
    return std::span{*all_}.subspan(first_);
  }

  std::vector<page_range>* all_;
  std::size_t first_;
};

} // namespace fmmap::dirty
