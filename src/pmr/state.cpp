// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <utility>

module fmmap.pmr;

import fmmap.core;
import fmmap.alloc;
import :state;

namespace fmmap {

namespace {

constexpr auto whole_pages(std::size_t size) noexcept -> std::size_t {
  return size / alloc::page_bytes * alloc::page_bytes;
}

} // namespace

resource_state::resource_state(mapping memory) : memory_{std::move(memory)} {}

auto resource_state::make(file& backing, mapping memory, std::size_t limit, resource_options const& options)
    -> result<std::unique_ptr<mapped_resource>> {
  auto state = std::make_unique<resource_state>(std::move(memory));
  auto const bytes = state->memory_.writable_bytes();
  auto const before_page = reinterpret_cast<std::uintptr_t>(bytes.data()) % alloc::page_bytes;
  state->skipped_ = before_page == 0 ? 0 : std::min(alloc::page_bytes - before_page, std::max(limit, bytes.size()));
  state->origin_ = bytes.data() + state->skipped_;
  state->size_ = whole_pages(bytes.size() - std::min(bytes.size(), state->skipped_));
  state->limit_ = std::max<std::size_t>(state->size_, whole_pages(limit - std::min(limit, state->skipped_)));
  if (state->limit_ == 0) {
    return std::unexpected(error::make(errc::invalid_options, "make a resource over", backing.path(), {},
                                       "there is no whole page of 4096 bytes in the mapping"));
  }
  // A file that somebody else has mapped may have holes, and storing into one on a full disk would be SIGBUS.
  auto const is_provided = backing.is_open() || state->memory_.is_anonymous() || state->memory_.is_private();
  auto made = alloc::allocator::make(*state, {.origin = state->origin_,
                                              .size = state->size_,
                                              .limit = state->limit_,
                                              .is_provided = is_provided,
                                              .withdraw_from = options.discard_from,
                                              .shared_with_children = !state->memory_.is_private(),
                                              .checked = options.checked,
                                              .path = std::string{backing.path()}});
  if (!made) {
    return std::unexpected(std::move(made).error());
  }
  state->allocator_ = std::move(*made);
  state->file_ = std::move(backing);
  state->is_watched_ = state->allocator_->is_checked() || watches_addresses();
  poison(state->storage());
  return std::unique_ptr<mapped_resource>{new mapped_resource{std::move(state)}};
}

resource_state::~resource_state() { unpoison(storage()); }

// --- The space --------------------------------------------------------------------------------------------------------

auto resource_state::grow_to(std::size_t size) -> result<void> {
  std::scoped_lock const lock{mutex_};
  auto const before = size_.load(std::memory_order_relaxed);
  if (file_.is_open()) {
    auto const missing = byte_range{.offset = skipped_ + before, .length = size - before};
    if (auto const allocated = file_.allocate(missing); !allocated) {
      return allocated;
    }
  }
  if (auto const resized = memory_.resize(skipped_ + size); !resized) {
    return resized;
  }
  size_.store(size, std::memory_order_release);
  poison(storage().subspan(before));
  return {};
}

auto resource_state::provide(std::size_t offset, std::size_t length) -> result<void> {
  std::scoped_lock const lock{mutex_};
  byte_range const range{.offset = skipped_ + offset, .length = length};
  if (file_.is_open()) {
    return file_.allocate(range);
  }
  if (memory_.is_anonymous() || memory_.is_private()) {
    return {};
  }
  auto provided = memory_.advise(advice::populate_write, range);
  if (!provided && provided.error() == std::errc::invalid_argument) { // before Linux 5.14: nothing can be done
    return {};
  }
  if (!provided && provided.error() == std::errc::bad_address) { // where a store would be SIGBUS
    return std::unexpected(error::make(std::make_error_code(std::errc::no_space_on_device), "allocate", {},
                                       byte_range{.offset = skipped_ + offset, .length = length},
                                       "there is no space for it, or the file has become shorter"));
  }
  return provided;
}

auto resource_state::withdraw(std::size_t offset, std::size_t length) -> result<void> {
  std::scoped_lock const lock{mutex_};
  return memory_.discard({.offset = skipped_ + offset, .length = length});
}

// --- What is slow about allocating ------------------------------------------------------------------------------------

auto resource_state::finish_allocation(result<std::size_t> const& offset, std::size_t size, std::size_t alignment)
    -> void* {
  if (!offset) {
    throw allocation_error{offset.error()};
  }
  if (allocator_->is_checked()) {
    try {
      allocator_->note_allocated(*offset, size, alignment);
    } catch (std::bad_alloc const&) {
      allocator_->deallocate(*offset, size, alignment);
      throw allocation_error{
          error::make(std::make_error_code(std::errc::not_enough_memory), "note what is allocated from", path())};
    }
  }
  unpoison({origin_ + *offset, size});
  return origin_ + *offset;
}

void resource_state::watch_deallocation(std::size_t offset, std::size_t size, std::size_t alignment) noexcept {
  if (allocator_->refusal()) {
    return;
  }
  if (allocator_->is_checked()) {
    allocator_->check_deallocated(offset, size, alignment);
  }
  if (offset < size_.load(std::memory_order_acquire)) {
    poison({origin_ + offset, size});
  }
}

void resource_state::release() noexcept {
  if (allocator_->refusal()) {
    return;
  }
  allocator_->clear();
  poison(storage());
}

// --- Flushing and closing ---------------------------------------------------------------------------------------------

auto resource_state::stage_flush(byte_range range, durability level) -> result<flush_job> {
  std::scoped_lock const lock{mutex_};
  return memory_.stage_flush(range, level);
}

auto resource_state::range_of(void const* pointer, std::size_t size) const -> result<byte_range> {
  auto const all = storage();
  auto const offset = reinterpret_cast<std::uintptr_t>(pointer) - reinterpret_cast<std::uintptr_t>(origin_);
  if (allocator_->refusal() == errc::closed) {
    return std::unexpected(error::make(errc::closed, "flush", path()));
  }
  if (size == 0) { // none of any bytes, wherever they would be
    return byte_range{.offset = skipped_, .length = 0};
  }
  if (offset > all.size() || size > all.size() - offset) {
    return std::unexpected(error::make(errc::out_of_range, "flush", path(), {}, "the bytes are not of this resource"));
  }
  return byte_range{.offset = skipped_ + offset, .length = size};
}

auto resource_state::rewrite() -> result<durability> {
  std::scoped_lock const lock{mutex_};
  if (file_.is_open()) {
    return file_.rewrite();
  }
  unpoison(storage()); // it is going to touch them all
  return memory_.rewrite();
}

auto resource_state::close() -> result<void> {
  std::scoped_lock const lock{mutex_};
  unpoison(storage());
  allocator_->refuse(errc::closed);
  size_.store(0, std::memory_order_release);
  auto unmapped = memory_.close();
  auto closed = file_.is_open() ? file_.close() : result<void>{};
  if (unmapped) {
    return closed;
  }
  if (!closed) {
    report_dropped_error(closed.error());
  }
  return unmapped;
}

} // namespace fmmap
