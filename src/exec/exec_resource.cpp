// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <functional>
#include <map>
#include <memory>
#include <memory_resource>
#include <mutex>
#include <new>
#include <span>
#include <string_view>
#include <system_error>
#include <utility>

module fmmap.exec;

import fmmap.core;
import fmmap.pmr;
import :arena_state;
import :machine;

namespace fmmap {

// The objects of an exec_resource, and where the code of each lies.
class staged_code {
public:
  staged_code(std::shared_ptr<arena_state> arena, std::pmr::memory_resource* staging) noexcept
      : arena_{std::move(arena)}, staging_{staging} {}
  staged_code(staged_code const&) = delete;
  auto operator=(staged_code const&) -> staged_code& = delete;

  // Whatever is left goes with the resource.
  ~staged_code() {
    if (arena_->is_forked()) { // goes with the process
      return;
    }
    for (auto const& [begin, one] : objects_) {
      give_up(one);
      staging_->deallocate(begin, one.size, one.alignment);
    }
  }

  auto allocate(std::size_t size, std::size_t alignment) -> void* {
    if (size > code_index::largest || alignment > largest_alignment) { // no flush could publish it
      throw allocation_error{error::make(errc::invalid_options, "allocate code", {}, {},
                                         "objects have up to 256 MiB, and alignments up to 4096")};
    }
    auto* const begin = static_cast<std::byte*>(staging_->allocate(size, alignment));
    std::ranges::fill(std::span{begin, size}, machine::trap);
    if (arena_->is_forked()) { // the lock may belong to a thread that is not there
      return begin;
    }
    try {
      std::scoped_lock const lock{mutex_};
      objects_.emplace(begin, object{.size = size, .alignment = alignment, .code = {}});
    } catch (...) {
      staging_->deallocate(begin, size, alignment);
      throw;
    }
    return begin;
  }

  void deallocate(void* pointer, std::size_t size, std::size_t alignment) noexcept {
    if (auto const lock = lock_objects(); lock) {
      auto const found = objects_.find(static_cast<std::byte*>(pointer));
      if (found != objects_.end()) {
        give_up(found->second);
        objects_.erase(found);
      }
    }
    staging_->deallocate(pointer, size, alignment);
  }

  auto flush(std::string_view name) -> result<void> {
    if (arena_->is_forked() || arena_->is_closed()) {
      return std::unexpected(error::make(arena_->is_forked() ? errc::forked : errc::closed, "flush code"));
    }
    std::scoped_lock const lock{mutex_};
    result<void> all;
    for (auto& [begin, one] : objects_) { // where one fails, the others are published all the same
      if (one.size == 0) {
        continue;
      }
      std::span<std::byte const> const bytes{begin, one.size};
      auto done = one.code.empty() ? add(one, bytes, name) : bring_up_to_date(one, bytes, name);
      if (!done && all) {
        all = std::move(done);
      }
    }
    if (auto done = arena_->publish(); !done) {
      return done;
    }
    for (auto& [begin, one] : objects_) {
      one.is_published = one.is_written;
    }
    return all;
  }

  auto address_of(std::byte const* pointer) const noexcept -> std::byte const* {
    auto const lock = lock_objects();
    if (!lock || arena_->is_closed()) {
      return nullptr;
    }
    auto const behind = objects_.upper_bound(const_cast<std::byte*>(pointer));
    if (behind == objects_.begin()) {
      return nullptr;
    }
    auto const& [begin, one] = *std::prev(behind);
    auto const offset = static_cast<std::size_t>(pointer - begin);
    return one.is_published && offset < one.size ? one.code.address() + offset : nullptr;
  }

private:
  struct object {
    std::size_t size;
    std::size_t alignment;
    code_span code;          // empty before its first flush
    bool is_written = false; // there, once at least
    bool is_published = false;
  };

  // In a child it may belong to a thread that is not there.
  [[nodiscard]] auto lock_objects() const -> std::unique_lock<std::mutex> {
    return arena_->is_forked() ? std::unique_lock{mutex_, std::try_to_lock} : std::unique_lock{mutex_};
  }

  auto add(object& one, std::span<std::byte const> bytes, std::string_view name) -> result<void> {
    auto const code = arena_->allocate(one.size, one.alignment, true);
    if (!code) {
      return std::unexpected(code.error());
    }
    one.code = *code;
    auto written = arena_->write(*code, bytes, name);
    one.is_written = written.has_value();
    return written;
  }

  // Writes the bytes from the first to the last that differ.
  auto bring_up_to_date(object& one, std::span<std::byte const> bytes, std::string_view name) -> result<void> {
    if (!one.is_published) {
      auto written = arena_->write(one.code, bytes, name);
      if (written || written.error() != errc::already_published) {
        one.is_written = one.is_written || written.has_value();
        return written;
      }
      one.is_published = true; // by somebody else's call of `publish`
    }
    auto const there = one.code.bytes();
    auto const first = std::ranges::mismatch(bytes, there).in1;
    if (first == bytes.end()) {
      return {};
    }
    auto const same_at_end = std::mismatch(bytes.rbegin(), bytes.rend(), there.rbegin()).first - bytes.rbegin();
    auto const offset = static_cast<std::size_t>(first - bytes.begin());
    auto const length = bytes.size() - offset - static_cast<std::size_t>(same_at_end);
    return arena_->change(one.code, offset, bytes.subspan(offset, length));
  }

  void give_up(object const& one) noexcept {
    if (one.code.empty()) {
      return;
    }
    // Sealed code stays; in a child, and of an arena that is closed, there is nothing to give up.
    if (auto const done = arena_->retire(one.code, true);
        !done && done.error() != errc::sealed && done.error() != errc::forked && done.error() != errc::closed) {
      report_dropped_error(done.error());
    }
  }

  std::shared_ptr<arena_state> arena_;
  std::pmr::memory_resource* staging_;
  mutable std::mutex mutex_;
  std::map<std::byte*, object, std::less<>> objects_;
};

auto exec_resource::create(code_arena& arena, std::pmr::memory_resource* staging)
    -> result<std::unique_ptr<exec_resource>> {
  if (!arena.is_open() || staging == nullptr) {
    return std::unexpected(
        error::make(arena.is_open() ? errc::invalid_options : errc::closed, "make a resource for code"));
  }
  return std::unique_ptr<exec_resource>{new exec_resource{std::make_unique<staged_code>(arena.state_, staging)}};
}

exec_resource::exec_resource(std::unique_ptr<staged_code> code) noexcept : code_{std::move(code)} {}
exec_resource::~exec_resource() = default;

auto exec_resource::flush(std::string_view name) -> result<void> { return code_->flush(name); }

auto exec_resource::address_of(void const* pointer) const noexcept -> std::byte const* {
  return code_->address_of(static_cast<std::byte const*>(pointer));
}

auto exec_resource::do_allocate(std::size_t size, std::size_t alignment) -> void* {
  return code_->allocate(size, alignment);
}

void exec_resource::do_deallocate(void* pointer, std::size_t size, std::size_t alignment) {
  code_->deallocate(pointer, size, alignment);
}

auto exec_resource::do_is_equal(std::pmr::memory_resource const& other) const noexcept -> bool {
  return this == &other;
}

} // namespace fmmap
