// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <array>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <filesystem>
#include <functional>
#include <memory>
#include <memory_resource>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <unordered_map>
#include <vector>

// A persistent_heap that is open. Implementation units only.
module fmmap.pmr:heap_state;

import fmmap.alloc;
import fmmap.core;
import fmmap.dirty;
import fmmap.journal;
import fmmap.os;
import :flushable_resource;
import :heap_format;
import :heap_memory;
import :heap_objects;
import :heap_store;
import :persistent_heap;

namespace fmmap {

inline constexpr std::uint64_t all_lines = ~std::uint64_t{0}; // of a page

// What everything in a heap points to. It lies in the overlay, so that its address is the same in every process.
class heap_resource final : public flushable_resource {
public:
  inline explicit heap_resource(heap_state& of) noexcept : state_{of} {}

  [[nodiscard]] auto flush(durability level) -> result<durability> override;
  [[nodiscard]] auto flush(void const* pointer, std::size_t size, durability level) -> result<durability> override;
  [[nodiscard]] auto stage_flush(durability level) -> result<flush_job> override;
  [[nodiscard]] auto storage() const noexcept -> std::span<std::byte const> override;
  [[nodiscard]] auto stats() const -> resource_stats override;

private:
  auto do_allocate(std::size_t size, std::size_t alignment) -> void* override;
  void do_deallocate(void* pointer, std::size_t size, std::size_t alignment) override;
  [[nodiscard]] auto do_is_equal(std::pmr::memory_resource const& other) const noexcept -> bool override;

  heap_state& state_;
};

class heap_state final : public alloc::space {
public:
  using owned = std::unique_ptr<heap_state, heap_state_deleter>;

  [[nodiscard]] static auto create(std::filesystem::path const& path, heap_options const& options) -> result<owned>;
  [[nodiscard]] static auto open(std::filesystem::path const& path, heap_options const& options, bool read_only)
      -> result<owned>;

  heap_state(std::shared_ptr<heap_store> store, heap_memory memory, heap_options const& options, bool read_only);
  ~heap_state() override;

  [[nodiscard]] auto allocate(std::size_t size, std::size_t alignment) -> void*;
  void deallocate(void* pointer, std::size_t size, std::size_t alignment) noexcept;

  [[nodiscard]] auto allocate_object(std::string_view name, object_type const& type) -> result<void*>;
  [[nodiscard]] auto name_object(std::string_view name, object_type const& type, void* object) -> result<void>;
  [[nodiscard]] auto unname_object(std::string_view name, object_type const& type) -> result<void*>;
  [[nodiscard]] auto find_object(std::string_view name, object_type const& type, bool to_write) const -> result<void*>;
  void for_each_object(std::function<void(object_info const& object)> const& visit) const;

  [[nodiscard]] auto stage(commit_durability level) -> result<std::shared_ptr<staged_commit>>;
  [[nodiscard]] auto commit(commit_durability level) -> result<void>;
  [[nodiscard]] auto stage_commit(commit_durability level) -> result<flush_job>;
  [[nodiscard]] auto rollback() -> result<void>;
  [[nodiscard]] auto trim() -> result<std::size_t>;
  [[nodiscard]] auto snapshot(std::filesystem::path const& path) const -> result<void>;
  [[nodiscard]] auto check() const -> result<check_report>;
  [[nodiscard]] auto stats() const -> heap_stats;
  [[nodiscard]] auto close() -> result<void>;

  void begin_update();
  void end_update() noexcept;

  [[nodiscard]] inline auto resource() const noexcept -> heap_resource* { return resource_; }
  [[nodiscard]] inline auto path() const noexcept -> std::string_view { return store_->path(); }
  [[nodiscard]] inline auto storage() const noexcept -> std::span<std::byte const> {
    return {memory_.content(), memory_.size()};
  }
  [[nodiscard]] inline auto books() const noexcept -> alloc::allocator const& { return *allocator_; }
  [[nodiscard]] inline auto limit() const noexcept -> std::size_t { return store_->header().reserve; }

private:
  [[nodiscard]] static auto create_in(file backing, heap_memory memory, heap_options const& options) -> result<owned>;

  // A commit while it is staged.
  struct staging {
    std::shared_ptr<staged_commit> made;
    bool follows_the_last_commit;      // and not one that is only staged
    journal::line_masks staged_before; // that those before it have not brought to the journal
  };

  // Lines of the file that are not in place yet.
  using line_map = std::unordered_map<std::uint64_t, std::array<std::byte, journal::line_bytes>>;

  [[nodiscard]] auto grow_to(std::size_t size) -> result<void> override;
  [[nodiscard]] auto provide(std::size_t offset, std::size_t length) -> result<void> override;
  [[nodiscard]] auto withdraw(std::size_t offset, std::size_t length) -> result<void> override;

  [[nodiscard]] auto begin(std::uint64_t content) -> result<void>;
  [[nodiscard]] auto watch() -> result<void>;
  [[nodiscard]] auto format() -> result<void>;
  [[nodiscard]] auto load() -> result<void>;
  [[nodiscard]] auto put_blocks_behind(std::span<dirty::page_range const> used) -> result<void>;
  [[nodiscard]] auto refuse_changes() -> result<void>;
  // Puts what is committed and not in place into pages of the content, all or those of `where`, and returns what there is of
  // it of the books.
  [[nodiscard]] auto replay(std::span<dirty::page_range const> where, std::unique_lock<std::mutex> const& paused)
      -> line_map;
  // Of pages that have blocks behind them in the file, or may have none.
  [[nodiscard]] auto make_allocator(std::size_t size, bool is_provided) -> result<std::unique_ptr<alloc::allocator>>;
  [[nodiscard]] auto read_record(std::size_t chunk, line_map const& unapplied) const -> alloc::chunk_state;

  // With the lock of the objects held. `verb` is what is done with it, for errors.
  [[nodiscard]] auto look_up(std::string_view verb, std::string_view name, object_type const& type) const
      -> result<void*>;

  // What the system has given this process instead of the file's pages; nothing where it does not tell.
  [[nodiscard]] auto private_pages() const -> std::vector<dirty::page_range>;
  [[nodiscard]] auto private_bytes() const -> std::uint64_t;

  // All of this with everybody kept away who changes objects. Blocks of the file that are behind nothing since the last commit,
  // and their bytes; nothing may be staged.
  [[nodiscard]] auto trim_file() -> result<std::size_t>;
  // Memory that has what the file has, down to so many bytes.
  [[nodiscard]] auto trim_memory(std::size_t budget) -> result<void>;
  // Both, where there is much of it.
  void give_back_what_pays();

  [[nodiscard]] auto check_usable(std::string_view operation, bool to_write) const -> result<void>;
  [[nodiscard]] auto stage_quietly(commit_durability level) -> result<std::shared_ptr<staged_commit>>;
  // What a commit at this moment would have to bring to the file; whether it is sound or comes too late is not looked at.
  [[nodiscard]] auto gather_changes(commit_durability level) -> result<staging>;
  [[nodiscard]] auto return_to_last_commit() -> result<void>;
  auto end_half_way(std::error_code code, std::string_view hint) -> std::unexpected<error>;
  [[nodiscard]] auto check_gathered(staging const& gathered) -> result<void>;
  [[nodiscard]] auto check_pointers(staged_commit const& one) const -> result<void>;
  // Whether nothing has changed since it was gathered. What has is to be looked at by the next commit anew.
  [[nodiscard]] auto check_races(staging const& gathered) -> result<void>;
  [[nodiscard]] auto describe_escape(std::uint64_t offset, std::uintptr_t value, std::string_view target) const
      -> error;
  [[nodiscard]] auto describe_race(std::uint64_t offset) const -> error;
  [[nodiscard]] auto describe_place(std::uint64_t offset) const -> std::string;
  void add_books(staging& to, bool all);
  void add_record(staging& to, std::size_t chunk, heap_format::chunk_record const& record);
  // The pages of the content that may differ from the last staged commit.
  [[nodiscard]] auto collect_changed(bool all_of_it) -> result<std::vector<dirty::page_range>>;
  void add_content(staging& to, std::span<dirty::page_range const> changed);
  auto add_page(staging& to, std::byte const* at, std::uint64_t differing,
                std::function<bool(std::size_t offset)> const& is_fresh) -> bool;
  // Whether a page is free in the last commit, and nothing has been staged since.
  [[nodiscard]] auto tell_free_pages() -> std::function<bool(std::size_t offset)>;
  // Those of these lines of a page that differ from the last staged commit.
  [[nodiscard]] auto differing_lines(staging const& from, std::uint64_t page,
                                     std::span<std::byte const, journal::page_bytes> now, std::uint64_t lines) const
      -> std::uint64_t;
  [[nodiscard]] auto file_page_of(std::byte const* content) const noexcept -> std::uint64_t;
  [[nodiscard]] auto in_place(std::uint64_t page) const noexcept -> std::byte const*;
  [[nodiscard]] auto fail(errc code, std::string_view operation, std::string_view hint = {}) const
      -> std::unexpected<error>;
  [[nodiscard]] auto fail(int code, std::string_view operation) const -> std::unexpected<error>;

  std::shared_ptr<heap_store> store_;
  heap_memory memory_;
  mapping view_; // of the whole file, as it is in place
  bool const read_only_;
  bool const checks_pointers_;
  bool const checks_races_;
  int const process_;
  std::size_t const private_budget_;
  std::unique_ptr<dirty::detector> detector_;
  std::size_t watched_ = 0; // of the content, by the detector
  std::unique_ptr<alloc::allocator> allocator_;
  std::unordered_map<std::size_t, heap_format::chunk_record> exported_; // of the latest staged commit
  heap_resource* resource_ = nullptr;
  mutable std::mutex objects_mutex_;
  object_table objects_;
  std::mutex gate_; // passed by those that begin an update, kept by who waits for all to end
  std::shared_mutex updating_;
  bool has_lost_track_ = false;     // of what has changed: everything may have
  std::size_t freed_bytes_ = 0;     // at the last staging: free, with blocks in the file
  std::size_t untrimmed_bytes_ = 0; // of those, what could not be given back when it was last tried
  std::size_t private_bytes_ = 0;   // at most
  std::optional<error> broken_;     // why nothing can be done any more
};

} // namespace fmmap
