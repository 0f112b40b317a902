// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <expected>
#include <filesystem>
#include <functional>
#include <memory>
#include <string_view>
#include <utility>

module fmmap.pmr;

import fmmap.core;
import :heap_state;
import :heap_store;

namespace fmmap {

namespace {

auto closed(std::string_view operation) -> std::unexpected<error> {
  return std::unexpected(error::make(errc::closed, operation));
}

} // namespace

void heap_state_deleter::operator()(heap_state* state) const noexcept { delete state; }

persistent_heap::persistent_heap(owned_state state) noexcept : state_{std::move(state)} {}

auto persistent_heap::create(std::filesystem::path const& path, heap_options options) -> result<persistent_heap> {
  auto made = heap_state::create(path, options);
  return made ? result<persistent_heap>{persistent_heap{std::move(*made)}} : std::unexpected(std::move(made).error());
}

auto persistent_heap::open(std::filesystem::path const& path, heap_options options) -> result<persistent_heap> {
  auto made = heap_state::open(path, options, false);
  return made ? result<persistent_heap>{persistent_heap{std::move(*made)}} : std::unexpected(std::move(made).error());
}

auto persistent_heap::open_or_create(std::filesystem::path const& path, heap_options options)
    -> result<persistent_heap> {
  auto opened = open(path, options);
  if (opened || opened.error() != std::errc::no_such_file_or_directory) {
    return opened;
  }
  auto made = create(path, options);
  return !made && made.error() == std::errc::file_exists ? open(path, options) : std::move(made);
}

auto persistent_heap::open_read_only(std::filesystem::path const& path, heap_options options)
    -> result<persistent_heap> {
  auto made = heap_state::open(path, options, true);
  return made ? result<persistent_heap>{persistent_heap{std::move(*made)}} : std::unexpected(std::move(made).error());
}

auto persistent_heap::resize_journal(std::filesystem::path const& path, std::size_t bytes) -> result<void> {
  if (auto sound = heap_store::check_journal_size(bytes, "resize the journal of", path.native()); !sound) {
    return sound;
  }
  auto store = heap_store::open(path, false);
  if (!store) {
    return std::unexpected(std::move(store).error());
  }
  first_error outcome;
  outcome.note((*store)->resize_journal(path, bytes));
  outcome.note((*store)->close());
  return outcome.result();
}

auto persistent_heap::allocate_object(std::string_view name, object_type const& type) -> result<void*> {
  return state_ ? state_->allocate_object(name, type) : closed("construct an object");
}

void persistent_heap::deallocate_object(void* object, object_type const& type) noexcept {
  state_->deallocate(object, type.size, type.alignment);
}

auto persistent_heap::name_object(std::string_view name, object_type const& type, void* object) -> result<void> {
  return state_->name_object(name, type, object);
}

auto persistent_heap::unname_object(std::string_view name, object_type const& type) -> result<void*> {
  return state_ ? state_->unname_object(name, type) : closed("destroy an object");
}

auto persistent_heap::find_object(std::string_view name, object_type const& type, bool to_write) const
    -> result<void*> {
  return state_ ? state_->find_object(name, type, to_write) : closed("find an object");
}

void persistent_heap::for_each_object(std::function<void(object_info const& object)> const& visit) const {
  if (state_) {
    state_->for_each_object(visit);
  }
}

auto persistent_heap::commit(commit_durability level) -> result<void> {
  return state_ ? state_->commit(level) : closed("commit");
}

auto persistent_heap::stage_commit(commit_durability level) -> result<flush_job> {
  return state_ ? state_->stage_commit(level) : closed("commit");
}

auto persistent_heap::rollback() -> result<void> { return state_ ? state_->rollback() : closed("roll back"); }

auto persistent_heap::trim() -> result<std::size_t> { return state_ ? state_->trim() : closed("trim"); }

persistent_heap::update_scope::update_scope(persistent_heap& heap) : state_{heap.state_.get()} {
  if (state_ != nullptr) {
    state_->begin_update();
  }
}

persistent_heap::update_scope::~update_scope() {
  if (state_ != nullptr) {
    state_->end_update();
  }
}

auto persistent_heap::resource() const noexcept -> flushable_resource* { return state_ ? state_->resource() : nullptr; }

auto persistent_heap::stats() const -> heap_stats { return state_ ? state_->stats() : heap_stats{}; }

auto persistent_heap::check() const -> result<check_report> { return state_ ? state_->check() : closed("check"); }

auto persistent_heap::snapshot(std::filesystem::path const& path) const -> result<void> {
  return state_ ? state_->snapshot(path) : closed("take a snapshot");
}

auto persistent_heap::path() const noexcept -> std::string_view { return state_ ? state_->path() : std::string_view{}; }

auto persistent_heap::close() -> result<void> {
  auto const state = std::move(state_);
  return state ? state->close() : result<void>{};
}

} // namespace fmmap
