// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <filesystem>
#include <memory>
#include <memory_resource>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

module fmmap.pmr;

import fmmap.core;
import fmmap.alloc;
import fmmap.os;
import :state;

namespace fmmap {

namespace {

constexpr auto refuse(std::string_view path, std::string_view hint) -> std::unexpected<error> {
  return std::unexpected(error::make(errc::invalid_options, "make a resource over", path, {}, hint));
}

auto check(resource_options const& options, std::string_view path) -> result<void> {
  if (options.reserve < alloc::page_bytes) {
    return refuse(path, "the reserve is all that can ever be allocated, and has to be a page at least");
  }
  if (options.size > options.reserve) {
    return refuse(path, "the size at the start is larger than the reserve");
  }
  return {};
}

// Where the address space does not suffice, the reserve is what can be changed.
auto explain(error why, std::string_view path, std::size_t reserve) -> std::unexpected<error> {
  if (why != std::errc::not_enough_memory) {
    return std::unexpected(std::move(why));
  }
  return std::unexpected(
      error::make(why.code(), "map", path, {},
                  "a reserve of " + std::to_string(reserve) + " bytes of address space was asked for"));
}

// How long a file of `size` bytes becomes as storage; empty when no file can be that long.
auto size_over(std::uint64_t size, resource_options const& options) -> std::optional<std::uint64_t> {
  return os::round_up(std::max<std::uint64_t>(size, options.size), alloc::page_bytes);
}

// Over a file that holds `size` bytes at least, all with blocks behind them. A call that fails leaves it to the caller.
auto over_file(file& backing, std::uint64_t size, resource_options const& options)
    -> result<std::unique_ptr<mapped_resource>> {
  auto const limit = options.reserve;
  auto const grown = size_over(size, options);
  if (!grown || *grown > os::round_down(limit, alloc::page_bytes)) {
    return refuse(backing.path(), "the file is larger than the reserve");
  }
  if (auto const allocated = backing.allocate({.offset = 0, .length = *grown}); !allocated) {
    return std::unexpected(allocated.error());
  }
  auto memory = mapping::map(backing, {.access = access::read_write, .reserve = limit, .page_size = options.page_size});
  if (!memory) {
    return explain(std::move(memory).error(), backing.path(), limit);
  }
  return resource_state::make(backing, std::move(*memory), limit, options);
}

// Takes back what a failed call has added to a file, unless somebody else has added to it too.
void restore_size(file& target, std::uint64_t size, resource_options const& options) {
  auto const now = target.size();
  if (now && *now > size && *now == size_over(size, options)) {
    if (auto const restored = target.resize(size); !restored) {
      report_dropped_error(restored.error());
    }
  }
}

} // namespace

auto mapped_resource::temporary(std::filesystem::path const& directory, resource_options options)
    -> result<std::unique_ptr<mapped_resource>> {
  if (auto const sound = check(options, directory.native()); !sound) {
    return std::unexpected(sound.error());
  }
  auto backing = file::temporary(directory);
  if (!backing) {
    return std::unexpected(std::move(backing).error());
  }
  return over_file(*backing, 0, options);
}

auto mapped_resource::create(std::filesystem::path const& path, resource_options options)
    -> result<std::unique_ptr<mapped_resource>> {
  if (auto const sound = check(options, path.native()); !sound) {
    return std::unexpected(sound.error());
  }
  auto backing = file::create_new(path, {.permissions = options.permissions});
  if (!backing) {
    return std::unexpected(std::move(backing).error());
  }
  auto made = over_file(*backing, 0, options);
  if (!made) {
    // By its path, as it was created: with the handle, nothing can be had that may fail again.
    if (auto const removed = os::unlink(os::working_directory, path.c_str()); !removed) {
      report_dropped_error(error::make({removed.error(), std::system_category()}, "remove the new", path.native()));
    }
  }
  return made;
}

auto mapped_resource::open(std::filesystem::path const& path, resource_options options)
    -> result<std::unique_ptr<mapped_resource>> {
  if (auto const sound = check(options, path.native()); !sound) {
    return std::unexpected(sound.error());
  }
  auto backing = file::open(path, {.access = access::read_write});
  if (!backing) {
    return std::unexpected(std::move(backing).error());
  }
  auto const size = backing->size();
  if (!size) {
    return std::unexpected(size.error());
  }
  auto made = over_file(*backing, *size, options);
  if (!made) {
    restore_size(*backing, *size, options);
  }
  return made;
}

auto mapped_resource::anonymous(resource_options options) -> result<std::unique_ptr<mapped_resource>> {
  if (auto const sound = check(options, {}); !sound) {
    return std::unexpected(sound.error());
  }
  auto memory = mapping::anonymous(options.size, {.reserve = options.reserve, .page_size = options.page_size});
  if (!memory) {
    return explain(std::move(memory).error(), {}, options.reserve);
  }
  file none;
  return resource_state::make(none, std::move(*memory), options.reserve, options);
}

auto mapped_resource::over(mapping memory, resource_options options) -> result<std::unique_ptr<mapped_resource>> {
  auto const fail = [](errc code) {
    return std::unexpected(error::make(code, "make a resource over", {}, {}, "it needs a mapping that can be written"));
  };
  if (!memory.is_open()) {
    return fail(errc::closed);
  }
  if (memory.access() == access::read_only) {
    return fail(errc::read_only);
  }
  auto const limit = memory.is_anonymous() ? memory.capacity() : memory.size();
  file none;
  return resource_state::make(none, std::move(memory), limit, options);
}

mapped_resource::mapped_resource(std::unique_ptr<resource_state> state) noexcept : state_{std::move(state)} {}

mapped_resource::~mapped_resource() = default;

auto mapped_resource::do_allocate(std::size_t size, std::size_t alignment) -> void* {
  return state_->allocate(size, alignment);
}

void mapped_resource::do_deallocate(void* pointer, std::size_t size, std::size_t alignment) {
  state_->deallocate(pointer, size, alignment);
}

auto mapped_resource::do_is_equal(std::pmr::memory_resource const& other) const noexcept -> bool {
  return this == &other;
}

auto mapped_resource::flush(durability level) -> result<durability> {
  auto job = state_->stage_flush(whole, level);
  return job ? job->run() : std::unexpected(std::move(job).error());
}

auto mapped_resource::flush(void const* pointer, std::size_t size, durability level) -> result<durability> {
  auto const range = state_->range_of(pointer, size);
  if (!range) {
    return std::unexpected(range.error());
  }
  auto job = state_->stage_flush(*range, level);
  return job ? job->run() : std::unexpected(std::move(job).error());
}

auto mapped_resource::stage_flush(durability level) -> result<flush_job> { return state_->stage_flush(whole, level); }

auto mapped_resource::storage() const noexcept -> std::span<std::byte const> { return state_->storage(); }

auto mapped_resource::stats() const -> resource_stats {
  if (state_->allocator().refusal() == errc::closed) {
    return {};
  }
  auto const now = state_->allocator().in_use();
  return {.used_bytes = now.used,
          .free_bytes = now.free,
          .largest_free = now.longest_free,
          .reserved_bytes = state_->limit(),
          .peak_bytes = now.peak};
}

auto mapped_resource::trim() -> result<std::size_t> { return state_->allocator().trim(); }

void mapped_resource::release() noexcept { state_->release(); }

auto mapped_resource::rewrite() -> result<durability> { return state_->rewrite(); }

auto mapped_resource::path() const noexcept -> std::string_view { return state_->path(); }

auto mapped_resource::close() -> result<void> { return state_->close(); }

} // namespace fmmap
