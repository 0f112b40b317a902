// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Takes its input for a sequence of operations on a heap, and holds the heap against a model: what objects hold at any
// moment, after a rollback, and after the heap has been opened again.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <expected>
#include <filesystem>
#include <map>
#include <memory_resource>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "script.hpp"
#include "support/scratch.hpp"

import fmmap.core;
import fmmap.pmr;

namespace {

using fmmap::commit_durability;
using fmmap::or_throw;
using fmmap::persistent_heap;

using text = std::pmr::vector<std::uint8_t>;

// Memory of the heap's resource, as an object has it that is no container.
struct block {
  std::uint8_t* begin;
  std::size_t size;
};
using blocks = std::pmr::vector<block>;

// What a heap holds: texts by name, and blocks.
struct state {
  std::map<std::string, std::vector<std::uint8_t>> texts;
  std::vector<std::vector<std::uint8_t>> blocks;

  auto operator==(state const&) const -> bool = default;
};

auto state_of(persistent_heap const& heap) -> state {
  state found;
  heap.for_each_object([&](fmmap::object_info const& object) {
    if (object.name != "blocks") {
      auto const& one = *or_throw(heap.find<text const>(object.name));
      found.texts[std::string{object.name}].assign(one.begin(), one.end());
    }
  });
  for (auto const& one : *or_throw(heap.find<blocks const>("blocks"))) {
    found.blocks.emplace_back(one.begin, one.begin + one.size);
  }
  return found;
}

class run {
public:
  explicit run(script input) : input_{input} {
    constexpr std::uintptr_t base = 0x7a00'0000'0000; // where sanitizers have nothing
    std::filesystem::remove(path());
    heap_.emplace(or_throw(persistent_heap::create(
        path(),
        {.reserve = std::size_t{4} << 20, .base = reinterpret_cast<std::byte*>(base), .journal_size = 64 << 10})));
    or_throw(heap_->construct<blocks>("blocks"));
    or_throw(heap_->commit());
    committed(commit_durability::power, now_);
  }

  void play() {
    for (int steps = 0; steps < 48 && !input_.done(); ++steps) {
      step();
      require(state_of(*heap_) == now_);
    }
    reopen();
  }

private:
  struct staged {
    fmmap::flush_job job;
    commit_durability level;
    state then;
  };

  static auto path() -> std::filesystem::path const& {
    static scratch const folder{memory_folder()};
    static auto const path = folder / "heap";
    return path;
  }
  static auto copy() -> std::filesystem::path { return path().string() + ".copy"; }

  void step() {
    switch (input_.byte() % 12) {
    case 0:
    case 1:
      return assign();
    case 2:
      return poke();
    case 3:
      return destroy();
    case 4:
      return allocate();
    case 5:
      return deallocate();
    case 6:
      return commit();
    case 7:
      return stage();
    case 8:
      return run_one();
    case 9:
      return drop_one();
    case 10:
      return input_.byte() % 4 == 0 ? snapshot() : roll_back();
    default:
      return input_.byte() % 4 == 0 ? reopen() : commit();
    }
  }

  // --- Objects ---

  auto name() -> std::string { return std::string(1 + (input_.byte() % 6U) * 10U, 'a'); }
  auto length() -> std::size_t { return input_.number<std::uint16_t>() * (input_.byte() % 8 == 0 ? 8U : 1U) / 4U; }
  auto level() -> commit_durability { return static_cast<commit_durability>(input_.byte() % 3U); }

  // A text of that name, new or other.
  void assign() {
    auto const of = name();
    try {
      auto made = heap_->find_or_construct<text>(of);
      if (!made) {
        require(made.error() == fmmap::errc::reservation_exceeded);
        return;
      }
      now_.texts.try_emplace(of);
      text other(length(), input_.byte(), heap_->resource());
      (*made)->swap(other);
      now_.texts[of].assign((*made)->begin(), (*made)->end());
    } catch (fmmap::allocation_error const& e) {
      require(e.why() == fmmap::errc::reservation_exceeded);
    }
  }

  void poke() {
    auto const of = name();
    auto const found = heap_->find<text>(of);
    require(found.has_value() == now_.texts.contains(of));
    if (!found || (*found)->empty()) {
      return;
    }
    auto const at = input_.number<std::uint16_t>() % (*found)->size();
    (**found)[at] = now_.texts[of][at] = input_.byte();
  }

  void destroy() {
    auto const of = name();
    require(heap_->destroy<text>(of).has_value() == (now_.texts.erase(of) == 1));
  }

  void allocate() {
    auto& all = *or_throw(heap_->find<blocks>("blocks"));
    auto const size = length();
    try {
      all.reserve(all.size() + 1);
      auto* const begin = static_cast<std::uint8_t*>(heap_->resource()->allocate(size));
      std::memset(begin, input_.byte(), size);
      all.push_back({.begin = begin, .size = size});
      now_.blocks.emplace_back(begin, begin + size);
    } catch (fmmap::allocation_error const& e) {
      require(e.why() == fmmap::errc::reservation_exceeded);
    }
  }

  void deallocate() {
    auto& all = *or_throw(heap_->find<blocks>("blocks"));
    if (all.empty()) {
      return;
    }
    auto const which = input_.byte() % all.size();
    auto const [begin, size] = all[which];
    heap_->resource()->deallocate(begin, size);
    all.erase(all.begin() + static_cast<std::ptrdiff_t>(which));
    now_.blocks.erase(now_.blocks.begin() + static_cast<std::ptrdiff_t>(which));
  }

  // --- Commits ---

  // Of those that are there after closing the heap: all from the last on that survives that.
  void committed(commit_durability level, state const& what) {
    if (level != commit_durability::none) {
      history_.clear();
    }
    history_.push_back(what);
  }

  void commit() {
    auto const how = level();
    or_throw(heap_->commit(how));
    follow_jobs(jobs_.size());
    committed(how, now_);
  }

  void stage() {
    auto const how = level();
    jobs_.push_back({.job = or_throw(heap_->stage_commit(how)), .level = how, .then = now_});
  }

  // The first `count` staged commits have run.
  void follow_jobs(std::size_t count) {
    for (; count > 0; --count) {
      committed(jobs_.front().level, jobs_.front().then);
      jobs_.pop_front();
    }
  }

  void run_one() {
    if (jobs_.empty()) {
      return;
    }
    auto const which = input_.byte() % jobs_.size();
    or_throw(jobs_[which].job.run());
    follow_jobs(which + 1);
  }

  void drop_one() {
    if (!jobs_.empty()) {
      jobs_.erase(jobs_.begin() + static_cast<std::ptrdiff_t>(input_.byte() % jobs_.size()));
    }
  }

  void roll_back() {
    auto const done = heap_->rollback();
    require(done.has_value() == jobs_.empty());
    if (done) {
      now_ = history_.back();
    }
  }

  // --- The file ---

  void snapshot() {
    std::filesystem::remove(copy());
    or_throw(heap_->snapshot(copy()));
    history_.erase(history_.begin(), history_.end() - 1); // all are durable then
    copied_ = history_.back();
  }

  void reopen() {
    jobs_.clear();
    or_throw(heap_->close());
    if (copied_) {
      require(state_of(or_throw(persistent_heap::open_read_only(copy()))) == *copied_);
      copied_.reset();
    }
    now_ = state_of(or_throw(persistent_heap::open_read_only(path())));
    require(std::ranges::find(history_, now_) != history_.end());
    heap_.emplace(or_throw(persistent_heap::open(path())));
    require(state_of(*heap_) == now_ && or_throw(heap_->check()).problems.empty());
    history_.assign(1, now_);
  }

  script input_;
  std::optional<persistent_heap> heap_;
  state now_;
  std::vector<state> history_; // of commits
  std::deque<staged> jobs_;
  std::optional<state> copied_;
};

} // namespace

extern "C" auto LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) -> int {
  run{script{{data, size}}}.play();
  return 0;
}
