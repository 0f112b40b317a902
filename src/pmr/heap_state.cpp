// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <filesystem>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <memory_resource>
#include <mutex>
#include <new>
#include <optional>
#include <shared_mutex>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

module fmmap.pmr;

import fmmap.alloc;
import fmmap.core;
import fmmap.dirty;
import fmmap.journal;
import fmmap.lock;
import fmmap.os;
import :allocation_error;
import :heap_format;
import :heap_memory;
import :heap_objects;
import :heap_state;
import :heap_store;
import :new_heap_file;

namespace fmmap {

namespace {

using journal::line_bytes;
using journal::page_bytes;

constexpr std::size_t first_content = std::size_t{1} << 20;
auto refuse(std::filesystem::path const& path, std::string_view hint) -> std::unexpected<error> {
  return std::unexpected(error::make(errc::invalid_options, "create", path.native(), {}, hint));
}

auto check(heap_options const& options, std::filesystem::path const& path) -> result<void> {
  if (options.reserve % alloc::chunk_bytes != 0 || options.reserve < first_content ||
      options.reserve > std::size_t{1} << 45) {
    return refuse(path, "the reserve has to be a multiple of 64 KiB, from 1 MiB to 32 TiB");
  }
  if (reinterpret_cast<std::uintptr_t>(options.base) % heap_format::huge_page != 0) {
    return refuse(path, "the base has to be a multiple of 2 MiB");
  }
  return heap_store::check_journal_size(options.journal_size, "create", path.native());
}

auto new_header(heap_options const& options, std::uint64_t slot) -> heap_format::heap_header {
  heap_format::heap_header header{.magic = heap_format::magic,
                                  .version = heap_format::version,
                                  .identity = {journal::random_number(), journal::random_number()},
                                  .slot = slot,
                                  .reserve = options.reserve,
                                  .traits = {}};
  std::ranges::transform(heap_format::traits(), header.traits.begin(), &heap_format::trait::value);
  return header;
}

// An operation on the object of that name, for errors.
auto named(std::string_view verb, std::string_view name) -> std::string {
  return std::string{verb} + " \"" + std::string{name} + "\" in";
}

// The lines in which two pages differ. Most blocks of four lines do not, and the system's memcmp reads those fastest.
auto changed_lines(std::byte const* now, std::byte const* before) noexcept -> std::uint64_t {
  constexpr std::size_t block_lines = 4;
  auto const differ = [&](std::size_t line, std::size_t count) {
    return std::memcmp(now + (line * line_bytes), before + (line * line_bytes), count * line_bytes) != 0;
  };
  std::uint64_t lines = 0;
  for (std::size_t block = 0; block < page_bytes / line_bytes; block += block_lines) {
    for (auto line = block; line < block + block_lines && differ(line, block + block_lines - line); ++line) {
      lines |= std::uint64_t{differ(line, 1)} << line;
    }
  }
  return lines;
}

// Fetches what a page begins with. The processor fetches the rest once that is read, but begins anew with each page.
void prefetch_page(std::byte const* page) noexcept {
  for (std::size_t line = 0; line < 4; ++line) {
    __builtin_prefetch(page + (line * line_bytes));
  }
}

// The lines in which pages differ, asked for in their order. Comparing takes as long as memory does, and another processor has its
// own way to it: where there are many pages, a second thread compares them from the end on, in blocks, until the two meet.
template <class Compare>
class page_comparison {
public:
  // `compare` tells the lines of the page with a number; it does not throw, and may be called by two threads.
  page_comparison(std::size_t pages, Compare compare) : compare_{std::move(compare)}, pages_{pages}, mine_{pages} {
    if (pages < worth_a_thread) {
      return;
    }
    found_.resize(pages);
    blocks_ = (pages + block - 1) / block;
    mine_ = 0;
    os::no_handlers const meanwhile; // of the program's are to run on that thread
    try {
      helper_ = std::jthread{[this] { compare_from_the_end(); }};
    } catch (std::system_error const&) { // there can be no more threads
      mine_ = pages;
    }
  }
  page_comparison(page_comparison const&) = delete;
  auto operator=(page_comparison const&) -> page_comparison& = delete;
  ~page_comparison() = default;

  [[nodiscard]] auto lines_of(std::size_t page) -> std::uint64_t {
    if (page == mine_ && helper_.joinable()) [[unlikely]] {
      if (claim_block()) {
        mine_ = std::min(pages_, mine_ + block);
      } else {
        helper_.join();
      }
    }
    return page < mine_ ? compare_(page) : found_[page];
  }

private:
  static constexpr std::size_t block = 256;
  static constexpr std::size_t worth_a_thread = 4096; // starting one takes as long as comparing 200

  // Whether there is one left. Both ends have the same number of them, so whose is whose needs no saying.
  auto claim_block() noexcept -> bool { return claimed_.fetch_add(1, std::memory_order_relaxed) < blocks_; }

  void compare_from_the_end() {
    for (auto last = blocks_; claim_block(); --last) {
      auto const end = std::min(pages_, last * block);
      for (auto page = (last - 1) * block; page < end; ++page) {
        found_[page] = compare_(page);
      }
    }
  }

  Compare compare_;
  std::size_t pages_;
  std::size_t mine_; // those before it are compared when they are asked for
  std::size_t blocks_ = 0;
  std::atomic<std::size_t> claimed_{0};
  std::vector<std::uint64_t> found_;
  std::jthread helper_;
};

// The work of a staged commit. Keeps the file of the heap.
class commit_work final : public flush_work {
public:
  explicit commit_work(std::shared_ptr<heap_store> store) : store_{std::move(store)} {}
  commit_work(commit_work const&) = delete;
  auto operator=(commit_work const&) -> commit_work& = delete;
  ~commit_work() override {
    if (what_) {
      store_->drop(*what_);
    }
  }

  void take(std::shared_ptr<staged_commit> what) noexcept { what_ = std::move(what); }

  [[nodiscard]] auto run() -> result<durability> override {
    if (auto done = store_->run(*what_); !done) {
      return std::unexpected(std::move(done).error());
    }
    return what_->level == commit_durability::power ? durability::all : durability::none;
  }

private:
  std::shared_ptr<heap_store> store_;
  std::shared_ptr<staged_commit> what_;
};

} // namespace

// --- The resource -----------------------------------------------------------------------------------------------------

auto heap_resource::flush(durability /*level*/) -> result<durability> {
  auto done = state_.commit(commit_durability::power);
  return done ? result<durability>{durability::all} : std::unexpected(std::move(done).error());
}

auto heap_resource::flush(void const* /*pointer*/, std::size_t /*size*/, durability /*level*/) -> result<durability> {
  return std::unexpected(error::make(std::make_error_code(std::errc::operation_not_supported), "flush a part of",
                                     state_.path(), {}, "a heap is committed as a whole"));
}

auto heap_resource::stage_flush(durability /*level*/) -> result<flush_job> {
  return state_.stage_commit(commit_durability::power);
}

auto heap_resource::storage() const noexcept -> std::span<std::byte const> { return state_.storage(); }

auto heap_resource::stats() const -> resource_stats {
  auto const now = state_.books().in_use();
  return {.used_bytes = now.used,
          .free_bytes = now.free,
          .largest_free = now.longest_free,
          .reserved_bytes = state_.limit(),
          .peak_bytes = now.peak};
}

auto heap_resource::do_allocate(std::size_t size, std::size_t alignment) -> void* {
  return state_.allocate(size, alignment);
}

void heap_resource::do_deallocate(void* pointer, std::size_t size, std::size_t alignment) {
  state_.deallocate(pointer, size, alignment);
}

auto heap_resource::do_is_equal(std::pmr::memory_resource const& other) const noexcept -> bool {
  return this == &other;
}

// --- Beginning and ending ---------------------------------------------------------------------------------------------

heap_state::heap_state(std::shared_ptr<heap_store> store, heap_memory memory, heap_options const& options,
                       bool read_only)
    : store_{std::move(store)},
      memory_{std::move(memory)},
      read_only_{read_only},
      checks_pointers_{options.check_pointers || alloc::debug_build},
      checks_races_{options.check_races || alloc::debug_build},
      process_{os::process_id()},
      private_budget_{options.private_budget == 0 ? static_cast<std::size_t>(os::physical_memory() / 4)
                                                  : options.private_budget},
      objects_{memory_.content()} {}

heap_state::~heap_state() {
  if (auto const closed = close(); !closed) {
    report_dropped_error(closed.error());
  }
}

auto heap_state::create(std::filesystem::path const& path, heap_options const& options) -> result<owned> {
  if (auto sound = fmmap::check(options, path); !sound) {
    return std::unexpected(std::move(sound).error());
  }
  auto memory = options.base == nullptr
                    ? heap_memory::take_any(options.reserve, path.native())
                    : heap_memory::take(reinterpret_cast<std::uintptr_t>(options.base), options.reserve, path.native());
  if (!memory) {
    return std::unexpected(std::move(memory).error());
  }
  auto fresh = new_heap_file::create(path, options.permissions);
  if (!fresh) {
    return std::unexpected(std::move(fresh).error());
  }
  auto made = create_in(fresh->take(), std::move(*memory), options);
  if (made) {
    if (auto done = fresh->give_name((*made)->store_->descriptor()); !done) {
      made = std::unexpected(std::move(done).error());
    }
  }
  if (!made) {
    fresh->remove();
  }
  return made;
}

auto heap_state::create_in(file backing, heap_memory memory, heap_options const& options) -> result<owned> {
  auto store =
      heap_store::create(std::move(backing), new_header(options, memory.slot()), options.journal_size, first_content);
  if (!store) {
    return std::unexpected(std::move(store).error());
  }
  owned made{new heap_state{std::move(*store), std::move(memory), options, false}};
  if (auto done = made->begin(first_content); !done) {
    return std::unexpected(std::move(done).error());
  }
  made->memory_.disable_readahead(made->memory_.content());
  if (auto done = made->format(); !done) {
    return std::unexpected(std::move(done).error());
  }
  return made;
}

auto heap_state::open(std::filesystem::path const& path, heap_options const& options, bool read_only) -> result<owned> {
  auto store = heap_store::open(path, read_only);
  if (!store) {
    return std::unexpected(std::move(store).error());
  }
  auto const& header = (*store)->header();
  auto memory = heap_memory::take(header.slot, header.reserve, path.native());
  if (!memory) {
    return std::unexpected(std::move(memory).error());
  }
  auto const content = (*store)->committed_content();
  if (!read_only) {
    if (auto done = make_name_durable(path, (*store)->descriptor());
        !done) { // its creator may have been killed before that
      return std::unexpected(std::move(done).error());
    }
  }
  owned made{new heap_state{std::move(*store), std::move(*memory), options, read_only}};
  if (auto done = made->begin(content); !done) {
    return std::unexpected(std::move(done).error());
  }
  if (auto done = made->load(); !done) {
    return std::unexpected(std::move(done).error());
  }
  return made;
}

// Maps what there is.
auto heap_state::begin(std::uint64_t content) -> result<void> {
  auto const size = static_cast<std::size_t>(content);
  auto const& where = store_->where();
  auto view = mapping::map(store_->backing(),
                           {.range = {.offset = 0, .length = static_cast<std::size_t>(where.file_bytes(size))},
                            .reserve = static_cast<std::size_t>(where.file_bytes(limit()))});
  if (!view) {
    return std::unexpected(std::move(view).error());
  }
  view_ = std::move(*view);
  // What is looked at is mostly in memory, for the content has been changed there. Reading ahead would put it into large
  // pieces of the cache, and writing a line into one of those takes ten times as long.
  if (auto done = view_.advise(advice::random); !done) {
    return done;
  }
  if (auto const mapped = memory_.extend(store_->descriptor(), where, size); !mapped) {
    return fail(mapped.error(), "map");
  }
  if (!read_only_) {
    detector_ = dirty::detector::make();
    if (auto done = watch(); !done) {
      return done;
    }
  }
  resource_ = new (memory_.overlay()) heap_resource{*this};
  return {};
}

// Makes the first commit, of a heap without objects.
auto heap_state::format() -> result<void> {
  auto made = make_allocator(memory_.size(), true);
  if (!made) {
    return std::unexpected(std::move(made).error());
  }
  allocator_ = std::move(*made);
  auto const root = allocator_->allocate(page_bytes, heap_format::root_alignment);
  if (!root) {
    return std::unexpected(root.error());
  }
  objects_.format();
  return commit(commit_durability::power);
}

auto heap_state::load() -> result<void> {
  dirty::page_range const all{.begin = memory_.content(), .length = memory_.size()};
  auto const unapplied = replay({&all, 1}, store_->pause());
  auto made = make_allocator(memory_.size(), false);
  if (!made) {
    return std::unexpected(std::move(made).error());
  }
  std::vector<dirty::page_range> used; // as chunks
  dirty::run_list runs{used};
  auto const read = [&](std::size_t chunk) {
    auto state = read_record(chunk, unapplied);
    if (!std::ranges::all_of(state.pages, [](std::uint8_t page) { return page == alloc::chunk_state::free; })) {
      runs.append({.begin = memory_.content() + (chunk * alloc::chunk_bytes), .length = alloc::chunk_bytes});
    }
    return state;
  };
  if (auto const wrong = (*made)->import(read); wrong) {
    return fail(errc::damaged, "open", "the books of chunk " + std::to_string(*wrong) + " can be none");
  }
  if (auto const wrong = objects_.load(object_table::allocations_of(**made), memory_.size()); wrong) {
    return fail(errc::damaged, "open", *wrong);
  }
  allocator_ = std::move(*made);
  return read_only_ ? refuse_changes() : put_blocks_behind(used);
}

// A copy of the file may have holes, and changes are written there where a full disk is found too late.
auto heap_state::put_blocks_behind(std::span<dirty::page_range const> used) -> result<void> {
  for (auto const& run : used) {
    auto const begin = static_cast<std::uint64_t>(run.begin - memory_.content());
    if (auto done = store_->fill_holes(begin, std::min<std::uint64_t>(begin + run.length, memory_.size())); !done) {
      return done;
    }
  }
  return {};
}

auto heap_state::refuse_changes() -> result<void> {
  allocator_->refuse(errc::read_only);
  if (auto const done = memory_.protect(); !done) {
    return fail(done.error(), "protect");
  }
  return {};
}

auto heap_state::make_allocator(std::size_t size, bool is_provided) -> result<std::unique_ptr<alloc::allocator>> {
  return alloc::allocator::make(*this, {.origin = memory_.content(),
                                        .size = size,
                                        .limit = limit(),
                                        .is_provided = is_provided,
                                        .shared_with_children = true,
                                        .checked = false,
                                        .path = std::string{path()}});
}

auto heap_state::replay(std::span<dirty::page_range const> where, std::unique_lock<std::mutex> const& paused)
    -> line_map {
  line_map books;
  store_->for_each_unapplied(paused, [&](std::uint64_t page, std::uint64_t lines, std::span<std::byte const> bytes) {
    auto const content = store_->where().content_at(page * page_bytes);
    auto* const to = content && *content < memory_.size() ? memory_.content() + *content : nullptr;
    auto const run = std::ranges::upper_bound(where, to, {}, &dirty::page_range::end);
    auto const wanted = to != nullptr && run != where.end() && run->begin <= to;
    journal::for_each_line(lines, bytes, [&](std::size_t line, std::span<std::byte const> now) {
      if (!content) {
        std::ranges::copy(now, books[(page * (page_bytes / line_bytes)) + line].begin());
      } else if (wanted) {
        std::ranges::copy(now, to + (line * line_bytes));
      }
    });
  });
  return books;
}

auto heap_state::read_record(std::size_t chunk, line_map const& unapplied) const -> alloc::chunk_state {
  heap_format::chunk_record record;
  auto const at = store_->where().record_of(chunk);
  std::memcpy(&record, view_.bytes().data() + at, sizeof record);
  if (!unapplied.empty()) {
    auto* const lines = reinterpret_cast<std::byte*>(&record);
    for (std::size_t i = 0; i < heap_format::lines_per_record; ++i) {
      if (auto const found = unapplied.find((at / line_bytes) + i); found != unapplied.end()) {
        std::memcpy(lines + (i * line_bytes), found->second.data(), line_bytes);
      }
    }
  }
  return {.pages = record.pages, .free_blocks = record.free_blocks};
}

auto heap_state::close() -> result<void> {
  if (resource_ == nullptr && !view_.is_open()) {
    return {};
  }
  if (allocator_) {
    allocator_->refuse(errc::closed);
  }
  resource_ = nullptr;
  first_error outcome;
  if (auto const unmapped = memory_.unmap(); !unmapped) {
    outcome.note(fail(unmapped.error(), "unmap"));
  }
  outcome.note(view_.close());
  if (store_.use_count() == 1) {
    outcome.note(store_->close());
  }
  return outcome.result();
}

auto heap_state::fail(errc code, std::string_view operation, std::string_view hint) const -> std::unexpected<error> {
  return std::unexpected(error::make(code, operation, path(), {}, hint));
}

auto heap_state::fail(int code, std::string_view operation) const -> std::unexpected<error> {
  return std::unexpected(error::make({code, std::system_category()}, operation, path()));
}

auto heap_state::check_usable(std::string_view operation, bool to_write) const -> result<void> {
  if (os::process_id() != process_) {
    return fail(errc::forked, operation);
  }
  if (to_write && read_only_) {
    return fail(errc::read_only, operation);
  }
  if (broken_) {
    return std::unexpected(*broken_);
  }
  return {};
}

// --- The space of the allocator ---------------------------------------------------------------------------------------

auto heap_state::grow_to(std::size_t size) -> result<void> {
  if (auto done = store_->allocate(memory_.size(), size); !done) {
    return done;
  }
  auto const& where = store_->where();
  if (auto done = view_.resize(static_cast<std::size_t>(where.file_bytes(size))); !done) {
    return done;
  }
  if (auto const mapped = memory_.extend(store_->descriptor(), where, size); !mapped) {
    return fail(mapped.error(), "map");
  }
  memory_.disable_readahead(memory_.content() + watched_);
  return watch();
}

// All that is mapped and is not watched yet, as after a growth that has failed on the way.
auto heap_state::watch() -> result<void> {
  if (watched_ == memory_.size()) {
    return {};
  }
  auto done = detector_->watch({.begin = memory_.content() + watched_, .length = memory_.size() - watched_});
  watched_ = done ? memory_.size() : watched_;
  return done;
}

auto heap_state::allocate(std::size_t size, std::size_t alignment) -> void* {
  auto const offset = allocator_->allocate(size, alignment);
  if (!offset) [[unlikely]] {
    throw allocation_error{offset.error()};
  }
  return memory_.content() + *offset;
}

void heap_state::deallocate(void* pointer, std::size_t size, std::size_t alignment) noexcept {
  auto const offset = reinterpret_cast<std::uintptr_t>(pointer) - reinterpret_cast<std::uintptr_t>(memory_.content());
  allocator_->deallocate(offset, size, alignment);
}

// --- Objects ----------------------------------------------------------------------------------------------------------

auto heap_state::allocate_object(std::string_view name, object_type const& type) -> result<void*> {
  if (auto sound = check_usable("construct an object in", true); !sound) {
    return std::unexpected(std::move(sound).error());
  }
  {
    std::scoped_lock const lock{objects_mutex_};
    if (objects_.find(name) != nullptr) {
      return fail(errc::already_exists, named("construct", name));
    }
  }
  try {
    return allocate(type.size, type.alignment);
  } catch (allocation_error const& failed) {
    return std::unexpected(failed.why());
  }
}

auto heap_state::name_object(std::string_view name, object_type const& type, void* object) -> result<void> {
  auto const length = object_table::node_bytes(name, type);
  auto const node = allocator_->allocate(length, alignof(heap_format::object_node));
  if (!node) {
    return std::unexpected(node.error());
  }
  std::scoped_lock const lock{objects_mutex_};
  if (objects_.find(name) != nullptr) {
    allocator_->deallocate(*node, length, alignof(heap_format::object_node));
    return fail(errc::already_exists, named("construct", name));
  }
  auto const offset = static_cast<std::uint64_t>(static_cast<std::byte*>(object) - memory_.content());
  objects_.add(*node, name, type, offset);
  return {};
}

auto heap_state::unname_object(std::string_view name, object_type const& type) -> result<void*> {
  if (read_only_) {
    return fail(errc::read_only, named("destroy", name));
  }
  std::scoped_lock const lock{objects_mutex_};
  auto found = look_up("destroy", name, type);
  if (found) {
    auto const freed = objects_.remove(name);
    allocator_->deallocate(freed.node, freed.length, alignof(heap_format::object_node));
  }
  return found;
}

auto heap_state::find_object(std::string_view name, object_type const& type, bool to_write) const -> result<void*> {
  if (to_write && read_only_) {
    return fail(errc::read_only, named("find", name), "one that is const can be had");
  }
  std::scoped_lock const lock{objects_mutex_};
  return look_up("find", name, type);
}

auto heap_state::look_up(std::string_view verb, std::string_view name, object_type const& type) const -> result<void*> {
  auto const* const found = objects_.find(name);
  if (found == nullptr) {
    return fail(errc::not_found, named(verb, name));
  }
  if (found->type != type.name || found->size != type.size || found->alignment != type.alignment) {
    return fail(errc::type_mismatch, named(verb, name),
                "it is " + found->type_text + " of " + std::to_string(found->size) + " bytes, and " +
                    demangle(type.name) + " of " + std::to_string(type.size) + " is asked for");
  }
  return memory_.content() + found->object;
}

void heap_state::for_each_object(std::function<void(object_info const& object)> const& visit) const {
  std::vector<object_info> all; // visited without the lock, for the visitor may look for objects
  {
    std::scoped_lock const lock{objects_mutex_};
    for (auto const& [name, one] : objects_.entries()) {
      all.push_back({.name = name,
                     .type = one.type_text,
                     .size = static_cast<std::size_t>(one.size),
                     .address = memory_.content() + one.object});
    }
  }
  std::ranges::for_each(all, visit);
}

// --- Commits ----------------------------------------------------------------------------------------------------------

void heap_state::begin_update() {
  std::unique_lock gate{gate_};
  updating_.lock_shared();
}

void heap_state::end_update() noexcept { updating_.unlock_shared(); }

auto heap_state::stage(commit_durability level) -> result<std::shared_ptr<staged_commit>> {
  if (auto sound = check_usable("commit", true); !sound) {
    return std::unexpected(std::move(sound).error());
  }
  std::scoped_lock const gate{gate_}; // first: who comes now waits
  std::scoped_lock const quiet{updating_};
  give_back_what_pays();
  if (!detector_->is_incremental()) { // what is in place need not be committed once more
    if (auto done = store_->apply(); !done) {
      return std::unexpected(std::move(done).error());
    }
  }
  return stage_quietly(level);
}

auto heap_state::stage_quietly(commit_durability level) -> result<std::shared_ptr<staged_commit>> {
  while (true) {
    auto gathered = gather_changes(level);
    if (!gathered) {
      return std::unexpected(std::move(gathered).error());
    }
    auto& made = gathered->made;
    auto sound = check_gathered(*gathered);
    auto const is_staged = sound && store_->enqueue(made);
    if (!is_staged) {
      store_->drop(*made);
    }
    has_lost_track_ = !sound && sound.error() == errc::data_race; // then it had been lost before
    if (!sound) {
      return std::unexpected(std::move(sound).error());
    }
    if (is_staged) {
      return std::move(made);
    }
  }
}

auto heap_state::check_gathered(staging const& gathered) -> result<void> {
  if (checks_pointers_) {
    if (auto sound = check_pointers(*gathered.made); !sound) {
      return sound;
    }
  }
  return checks_races_ ? check_races(gathered) : result<void>{};
}

auto heap_state::gather_changes(commit_durability level) -> result<staging> {
  staging now{.made = std::make_shared<staged_commit>(),
              .follows_the_last_commit = !store_->has_staged(),
              .staged_before = store_->staged_lines()};
  auto const all = std::exchange(has_lost_track_, true) || store_->has_lost_track(); // until all is done
  auto const changed = collect_changed(all);
  if (!changed) {
    return std::unexpected(changed.error());
  }
  now.made->level = level;
  now.made->file_bytes = store_->where().file_bytes(memory_.size());
  freed_bytes_ = allocator_->in_use().backed_free;
  untrimmed_bytes_ = std::min(untrimmed_bytes_, freed_bytes_);
  add_books(now, all);
  add_content(now, *changed);
  return now;
}

auto heap_state::file_page_of(std::byte const* content) const noexcept -> std::uint64_t {
  return store_->where().offset_of(static_cast<std::uint64_t>(content - memory_.content())) / page_bytes;
}

auto heap_state::in_place(std::uint64_t page) const noexcept -> std::byte const* {
  return view_.bytes().data() + (page * page_bytes);
}

auto heap_state::collect_changed(bool all_of_it) -> result<std::vector<dirty::page_range>> {
  if (auto done = watch(); !done) {
    return std::unexpected(std::move(done).error());
  }
  std::vector<dirty::page_range> changed;
  dirty::run_list runs{changed};
  if (auto done = detector_->collect(changed); !done) {
    return std::unexpected(std::move(done).error());
  }
  if (all_of_it) {
    runs.append({.begin = memory_.content(), .length = memory_.size()});
  }
  for (auto const page : store_->take_returned_pages()) {
    if (auto const content = store_->where().content_at(page * page_bytes); content) {
      runs.append({.begin = memory_.content() + *content, .length = page_bytes});
    }
  }
  runs.merge();
  return changed;
}

auto heap_state::differing_lines(staging const& from, std::uint64_t page,
                                 std::span<std::byte const, journal::page_bytes> now, std::uint64_t lines) const
    -> std::uint64_t {
  // Asked before the file is looked at: what leaves the journal meanwhile is in the file then.
  auto const unapplied = from.staged_before.of(page) | store_->unapplied_lines(page);
  return (unapplied | changed_lines(now.data(), in_place(page))) & lines;
}

// The books of an allocator are not in the content, but beside it.
void heap_state::add_books(staging& to, bool all) {
  for (std::size_t chunk = 0; all && chunk * alloc::chunk_bytes < memory_.size(); ++chunk) {
    exported_.erase(chunk);
    allocator_->export_again(chunk);
  }
  for (auto const chunk : store_->take_returned_chunks()) {
    exported_.erase(chunk);
    allocator_->export_again(chunk);
  }
  decltype(exported_) exported;
  allocator_->export_dirty([&](std::size_t chunk, alloc::chunk_state const& state) {
    heap_format::chunk_record const record{.pages = state.pages, .unused = {}, .free_blocks = state.free_blocks};
    exported.emplace(chunk, record);
    if (auto const latest = exported_.find(chunk); latest != exported_.end() && latest->second == record) {
      return; // as with blocks that a thread keeps to itself
    }
    to.made->chunks.push_back(chunk);
    add_record(to, chunk, record);
  });
  exported_ = std::move(exported);
}

void heap_state::add_record(staging& to, std::size_t chunk, heap_format::chunk_record const& record) {
  auto const* from = reinterpret_cast<std::byte const*>(&record);
  constexpr auto in_page = page_bytes / line_bytes;
  auto const first = store_->where().record_of(chunk) / line_bytes;
  for (std::size_t i = 0; i < heap_format::lines_per_record;) { // of one page, or of two
    auto const line = (first + i) % in_page;
    auto const count = std::min<std::size_t>(heap_format::lines_per_record - i, in_page - line);
    std::array<std::byte, page_bytes> now{};
    std::memcpy(now.data() + (line * line_bytes), from, count * line_bytes);
    auto const page = (first + i) / in_page;
    to.made->changes.change(page, differing_lines(to, page, now, (all_lines >> (in_page - count)) << line), now);
    from += count * line_bytes;
    i += count;
  }
}

auto heap_state::tell_free_pages() -> std::function<bool(std::size_t offset)> {
  struct last_look {
    std::size_t chunk;
    alloc::chunk_state state;
  };
  return [this, content = store_->committed_content(), books = replay({}, store_->pause()),
          last = std::optional<last_look>{}](std::size_t offset) mutable {
    auto const chunk = offset / alloc::chunk_bytes;
    if (offset < content && (!last || last->chunk != chunk)) {
      last = {.chunk = chunk, .state = read_record(chunk, books)};
    }
    auto const page = offset % alloc::chunk_bytes / page_bytes;
    return offset >= content || last->state.pages[page] == alloc::chunk_state::free;
  };
}

// Adds what a page has and the last staged commit does not, in these lines. Returns whether there is any.
auto heap_state::add_page(staging& to, std::byte const* at, std::uint64_t differing,
                          std::function<bool(std::size_t offset)> const& is_fresh) -> bool {
  auto const page = file_page_of(at);
  auto const offset = static_cast<std::size_t>(at - memory_.content());
  if (differing == 0) {
    if (allocator_->is_free(offset)) { // nobody looks for it there, until a commit comes to nothing in which it is free
      to.made->pages.push_back(page);
    }
    return false;
  }
  std::span<std::byte const, page_bytes> const now{at, page_bytes};
  to.made->pages.push_back(page);
  if (is_fresh(offset)) {
    to.made->fresh.change(page, all_lines, now);
  } else {
    to.made->changes.change(page, differing, now);
  }
  return true;
}

void heap_state::add_content(staging& to, std::span<dirty::page_range const> changed) {
  auto const bytes = dirty::length_of(changed);
  private_bytes_ += bytes; // or less, for some were its own before
  auto const is_large = bytes > store_->ring_bytes() && to.follows_the_last_commit;
  auto const is_fresh = is_large ? tell_free_pages() : [](std::size_t /*offset*/) { return false; };
  std::vector<dirty::page_range> same;
  dirty::run_list runs{same};
  std::vector<std::byte*> pages;
  pages.reserve(bytes / page_bytes);
  for (auto const& run : changed) {
    for (auto* at = run.begin; at != run.end(); at += page_bytes) {
      pages.push_back(at);
    }
  }
  page_comparison compared{pages.size(), [&](std::size_t i) {
                             if (i + 1 < pages.size()) {
                               prefetch_page(pages[i + 1]);
                               prefetch_page(in_place(file_page_of(pages[i + 1])));
                             }
                             // Nobody looks at what is free.
                             std::span<std::byte const, page_bytes> const now{pages[i], page_bytes};
                             return allocator_->is_free(static_cast<std::size_t>(pages[i] - memory_.content()))
                                        ? 0
                                        : differing_lines(to, file_page_of(pages[i]), now, all_lines);
                           }};
  for (std::size_t i = 0; i < pages.size(); ++i) {
    if (!add_page(to, pages[i], compared.lines_of(i), is_fresh)) {
      runs.append({.begin = pages[i], .length = page_bytes});
    }
  }
  if (to.made->changes.size_in_ring() + to.made->fresh.size_in_ring() <= store_->ring_bytes()) {
    to.made->give_fresh_ones_a_record();
  }
  // Pages that are the process's own are found again and again until they are the file's. Where that cannot be had, as
  // where memory is locked, they are only looked at once more than needed.
  if (!detector_->is_incremental() && detector_->kind() != dirty::method::compare) {
    for (auto const& run : same) {
      (void)os::advise(run.begin, run.length, os::advice_value::dont_need);
    }
  }
}

auto heap_state::commit(commit_durability level) -> result<void> {
  auto staged = stage(level);
  return staged ? store_->run(**staged) : std::unexpected(std::move(staged).error());
}

auto heap_state::stage_commit(commit_durability level) -> result<flush_job> {
  auto work = std::make_unique<commit_work>(store_); // first, for what is staged has to have an owner
  auto staged = stage(level);
  if (!staged) {
    return std::unexpected(std::move(staged).error());
  }
  work->take(std::move(*staged));
  return flush_job{std::move(work)};
}

auto heap_state::rollback() -> result<void> {
  if (auto sound = check_usable("roll back", true); !sound) {
    return sound;
  }
  std::scoped_lock const gate{gate_}; // first: who comes now waits
  std::scoped_lock const quiet{updating_};
  if (store_->has_staged()) {
    return fail(errc::in_use, "roll back", "a staged commit has neither run nor been dropped");
  }
  if (auto failed = store_->failure(); failed) { // it may have been committed what is to be dropped
    return std::unexpected(*std::move(failed));
  }
  try {
    return return_to_last_commit();
  } catch (std::bad_alloc const&) {
    return end_half_way(std::make_error_code(std::errc::not_enough_memory), "the heap has to be opened anew");
  }
}

// Memory is that of the last commit in part, and what is known of it is not: nothing of it may be committed.
auto heap_state::end_half_way(std::error_code code, std::string_view hint) -> std::unexpected<error> {
  broken_ = error::make(code, "roll back", path(), {}, hint);
  return std::unexpected(*broken_);
}

auto heap_state::return_to_last_commit() -> result<void> {
  auto made = make_allocator(memory_.size(), false);
  if (!made) {
    return std::unexpected(std::move(made).error());
  }
  auto const changed = collect_changed(std::exchange(has_lost_track_, true) || store_->has_lost_track());
  if (!changed) {
    return std::unexpected(changed.error());
  }
  auto const paused = store_->pause(); // what is not in place now has to come from the journal
  for (auto const& run : *changed) {
    for (auto* at = run.begin; at != run.end(); at += page_bytes) {
      auto const* const before = in_place(file_page_of(at));
      if (changed_lines(at, before) != 0) {
        std::memcpy(at, before, page_bytes);
      }
    }
  }
  auto const unapplied = replay(*changed, paused);
  if (auto const wrong = (*made)->import([&](std::size_t chunk) { return read_record(chunk, unapplied); }); wrong) {
    return end_half_way(errc::damaged, "the books of chunk " + std::to_string(*wrong) + " can be none");
  }
  std::scoped_lock const lock{objects_mutex_};
  if (auto const wrong = objects_.load(object_table::allocations_of(**made), memory_.size()); wrong) {
    return end_half_way(errc::damaged, *wrong);
  }
  allocator_ = std::move(*made);
  exported_.clear();
  has_lost_track_ = false;
  return {};
}

// --- Looking at it ----------------------------------------------------------------------------------------------------

auto heap_state::snapshot(std::filesystem::path const& path) const -> result<void> {
  if (auto sound = check_usable("take a snapshot of", false); !sound) {
    return sound;
  }
  return store_->snapshot(path, read_only_);
}

auto heap_state::check() const -> result<check_report> {
  check_report report;
  object_table table{memory_.content()};
  if (auto wrong = table.load(object_table::allocations_of(*allocator_), memory_.size()); wrong) {
    report.problems.push_back(std::move(*wrong));
  }
  report.allocated_bytes = allocator_->live_bytes();
  return report;
}

auto heap_state::stats() const -> heap_stats {
  auto const journal = store_->stats();
  auto const now = allocator_->in_use();
  auto const own = private_bytes(); // takes milliseconds for each GiB, so before the lock
  std::scoped_lock const lock{objects_mutex_};
  return {.commits = journal.commits,
          .journal_bytes = journal.journal_bytes,
          .checkpoints = journal.checkpoints,
          .private_bytes = own,
          .dirty_detector = detector_ ? dirty::to_string(detector_->kind()) : std::string_view{},
          .objects = objects_.entries().size(),
          .used_bytes = now.used,
          .free_bytes = now.free,
          .reserved_bytes = limit()};
}

} // namespace fmmap
