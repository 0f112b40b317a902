// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <filesystem>
#include <functional>
#include <memory>
#include <memory_resource>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <vector>

export module fmmap.pmr:persistent_heap;

import fmmap.core;
import :allocation_error;
import :flushable_resource;

namespace fmmap {

class heap_state; // defined in src/pmr/heap_state.cppm

struct heap_state_deleter {
  void operator()(heap_state* state) const noexcept;
};

// A type as the heap's file knows it.
struct object_type {
  std::string_view name;
  std::size_t size;
  std::size_t alignment;
};

template <class T>
auto object_type_of() noexcept -> object_type {
  return {.name = typeid(T).name(), .size = sizeof(T), .alignment = alignof(T)};
}

} // namespace fmmap

export namespace fmmap {

/// Opts a type in of which fmmap cannot see that it may live in a heap: one whose allocating members get the heap's resource
/// by its own doing, and that has no virtual functions and points to nothing outside the heap.
template <class T>
inline constexpr bool enable_persistent = false;

} // namespace fmmap

namespace fmmap {

template <class T>
struct is_persistent;

template <class T>
concept trivial_value = std::is_trivially_copyable_v<T>;

// A container, or an adaptor of one. std::uses_allocator alone is true of std::promise, too, whose state would be outside.
template <class T>
concept allocating_value = std::uses_allocator_v<T, std::pmr::polymorphic_allocator<>> &&
                           (requires { typename T::allocator_type; } || requires { typename T::container_type; });

// Of a container that allocates from the heap, the elements have to do so too, and what compares and hashes them.
template <class T>
constexpr auto parts_are_persistent() noexcept -> bool {
  bool all = true;
  if constexpr (requires { typename T::value_type; }) {
    all = all && is_persistent<typename T::value_type>::value;
  }
  if constexpr (requires { typename T::container_type; }) {
    all = all && is_persistent<typename T::container_type>::value;
    if constexpr (requires { typename T::value_compare; }) {
      all = all && is_persistent<typename T::value_compare>::value;
    }
  }
  if constexpr (requires { typename T::key_compare; }) {
    all = all && is_persistent<typename T::key_compare>::value;
  }
  if constexpr (requires { typename T::hasher; }) {
    all = all && is_persistent<typename T::hasher>::value && is_persistent<typename T::key_equal>::value;
  }
  return all;
}

template <class T>
struct is_persistent : std::bool_constant<std::is_object_v<T> && !std::is_polymorphic_v<T> &&
                                          (enable_persistent<std::remove_const_t<T>> || trivial_value<T> ||
                                           (allocating_value<T> && parts_are_persistent<T>()))> {};

template <class First, class Second>
struct is_persistent<std::pair<First, Second>>
    : std::bool_constant<is_persistent<First>::value && is_persistent<Second>::value> {};

// std::uses_allocator is true of every tuple.
template <class... Elements>
struct is_persistent<std::tuple<Elements...>> : std::bool_constant<(is_persistent<Elements>::value && ...)> {};

} // namespace fmmap

export namespace fmmap {

/// What `persistent_heap::construct` takes: types that are trivially copyable; that get the heap's resource by
/// uses-allocator construction, and their elements too; pairs and tuples of such; and what `enable_persistent` lets in. A
/// struct of `std::pmr` members without an `allocator_type` is none of them: its members would silently allocate elsewhere.
template <class T>
concept persistent_type = is_persistent<T>::value && !std::is_const_v<T>;

/// How much a commit has to survive. After a crash the heap is as one commit has left it, never between two.
enum class commit_durability : unsigned char {
  /// Nothing: it is what `rollback` returns to, and what the next commit of another level takes with it.
  none,
  /// The death of the process, at any moment. After a power failure the heap is as some commit has left it that is not older
  /// than the last of level `power`.
  process,
  /// A power failure.
  power,
};

struct heap_options {
  /// Of a heap that is created: bytes of address space, the most that it can ever hold. A multiple of 64 KiB, from 1 MiB to
  /// 32 TiB.
  std::size_t reserve = std::size_t{64} << 30;
  /// Of a heap that is created: where it lies in every process that opens it; a multiple of 2 MiB, with 2 MiB more than
  /// `reserve` free from there on. Chosen at random among what is free when null.
  std::byte* base = nullptr;
  /// Of a heap that is created: bytes of its journal, a multiple of 4096 from 64 KiB to 16 GiB. Opening reads
  /// all of it. A commit of more changes takes longer, see docs/heap.md.
  std::size_t journal_size = std::size_t{8} << 20;
  /// Of a file that is created.
  unsigned permissions = 0600;
  /// Bytes of memory of the process's own that the heap may keep for pages that are as the file is; 0 is a quarter of the
  /// machine's memory. A commit that finds more
  /// gives it back down to half, in any order; who reads such a page then reads the file's. What is in the journal only stays.
  std::size_t private_budget = 0;
  /// Looks through what every commit changes for pointers to memory that ends with the process, which make it fail with
  /// `errc::escaped_pointer`. A debug build of fmmap always does.
  bool check_pointers = false;
  /// Looks, when the changes of a commit have been taken, for what has been changed meanwhile: by a thread without an
  /// `update_scope`. It makes the commit fail with `errc::data_race`. A debug build of fmmap always does.
  bool check_races = false;
};

/// An object with a name. The views end with the next change of the heap's objects.
struct object_info {
  std::string_view name;
  /// As the compiler writes it; as the ABI has it, where it is nested deeply.
  std::string_view type;
  /// In bytes.
  std::size_t size = 0;
  void const* address = nullptr;
};

struct heap_stats {
  /// Since the heap was opened here.
  std::uint64_t commits = 0;
  /// Bytes written to the journal since then.
  std::uint64_t journal_bytes = 0;
  /// How often the journal was emptied since then.
  std::uint64_t checkpoints = 0;
  /// Bytes of memory that this process has of its own, as it has changed them. 0 where the system does not tell.
  std::uint64_t private_bytes = 0;
  /// How changes are found: "userfaultfd", "pagemap_scan", "pagemap" or "compare".
  std::string_view dirty_detector;
  std::size_t objects = 0;
  /// Bytes of pages that are allocated, and of those that are not.
  std::size_t used_bytes = 0;
  std::size_t free_bytes = 0;
  /// The most that the heap can hold.
  std::size_t reserved_bytes = 0;
};

struct check_report {
  /// What is wrong, one sentence each.
  std::vector<std::string> problems;
  /// What all that is allocated takes, in bytes of blocks and pages: one page where there are no objects.
  std::size_t allocated_bytes = 0;
};

/// A heap in a file, at the same addresses in every process that opens it: plain `std::pmr` containers live in it, with plain
/// pointers, and are there again when the file is opened.
///
/// The file changes by commits and by nothing else. Whatever ends the process or the machine, at any instant, the next open
/// gives exactly what the last commit that returned has left, or the one under way (docs/heap.md).
///
/// One process at a time has a heap open for writing, or any number for reading; who comes too late is told
/// `errc::in_use`. A process that has died is in nobody's way. What lives in the heap is as trustworthy as its file: opening,
/// `check` and allocation are safe whatever its bytes are, using the objects is not.
///
/// An error of a write or sync during a commit leaves it open whether the commit took place; every further one then is that
/// error, until the heap has been opened anew.
///
/// Thread safety: objects are the program's to order, as any memory. Threads may allocate, and find, construct and destroy
/// objects, at the same time. `commit`, `stage_commit`, `rollback`, `check` and `close` need that nobody does or changes objects
/// meanwhile: `update_scope` sees to it for the first two. Fork: the child may read the objects, and change its own copy of
/// them, until the parent commits again: pages that neither has changed then show what that commit brought, beside others that
/// do not. What allocates, commits, or runs what was staged is `errc::forked`. Exec, exit: what was not committed is gone.
/// Invalidates: closing ends all objects; `rollback` those that the last commit does not have.
class persistent_heap {
public:
  /// Makes a heap in a file that must not exist yet.
  ///
  /// Errors: as `file::create_new`; `errc::invalid_options`; `errc::address_in_use`, naming what is at `base`. A failed call
  /// leaves no file.
  [[nodiscard]] static auto create(std::filesystem::path const& path, heap_options options = {})
      -> result<persistent_heap>;

  /// Opens a heap, and completes what was committed.
  ///
  /// Errors: as `file::open`; `errc::not_a_heap`; `errc::incompatible`, naming what differs; `errc::damaged`; `errc::in_use` while
  /// another process has it; `errc::address_in_use`, naming what is where it has to be.
  [[nodiscard]] static auto open(std::filesystem::path const& path, heap_options options = {})
      -> result<persistent_heap>;

  /// Opens a heap, or makes one where there is no file. Errors: as `open` and `create`.
  [[nodiscard]] static auto open_or_create(std::filesystem::path const& path, heap_options options = {})
      -> result<persistent_heap>;

  /// Opens a heap for reading: nothing in the file is written, its last commit is what is seen. What is stored into it, by the
  /// program's mistake, is SIGSEGV. Errors: as `open`; `errc::in_use` while a process has it open for writing.
  [[nodiscard]] static auto open_read_only(std::filesystem::path const& path, heap_options options = {})
      -> result<persistent_heap>;

  /// Gives a heap that nobody has open a journal of `bytes`, as `heap_options::journal_size`. The file is replaced by a copy in one
  /// step: a crash leaves the old one or the new one. Takes room for the whole length of both meanwhile; `trim` makes holes of what
  /// is free again.
  ///
  /// Errors: as `open`, and nothing is at its address for this; `errc::invalid_options`; as `replace_file`.
  [[nodiscard]] static auto resize_journal(std::filesystem::path const& path, std::size_t bytes) -> result<void>;

  persistent_heap(persistent_heap&& other) noexcept = default;
  auto operator=(persistent_heap&& other) noexcept -> persistent_heap& = default;
  /// Closes without a commit: what has not been committed is gone.
  ~persistent_heap() = default;

  /// Makes an object with a name, of `arguments` and, where its type takes one, the heap's resource.
  ///
  /// Errors: `errc::already_exists`; `errc::read_only`; those of `allocation_error`. What else the constructor throws passes. There
  /// is then no such object.
  template <persistent_type T, class... Arguments>
  [[nodiscard]] auto construct(std::string_view name, Arguments&&... arguments) -> result<T*> {
    auto const type = object_type_of<T>();
    auto place = allocate_object(name, type);
    if (!place) {
      return std::unexpected(std::move(place).error());
    }
    auto* const made = static_cast<T*>(*place);
    try {
      std::uninitialized_construct_using_allocator(made, std::pmr::polymorphic_allocator<>{resource()},
                                                   std::forward<Arguments>(arguments)...);
    } catch (allocation_error const& failed) {
      deallocate_object(made, type);
      return std::unexpected(failed.why());
    } catch (...) {
      deallocate_object(made, type);
      throw;
    }
    if (auto named = name_object(name, type, made); !named) {
      std::destroy_at(made);
      deallocate_object(made, type);
      return std::unexpected(std::move(named).error());
    }
    return made;
  }

  /// The object of that name. A `T const` can be had of a heap that is open for reading, too.
  ///
  /// Errors: `errc::not_found`; `errc::type_mismatch`, with the type it has; `errc::read_only`.
  template <class T>
    requires persistent_type<std::remove_const_t<T>>
  [[nodiscard]] auto find(std::string_view name) const -> result<T*> {
    auto const found = find_object(name, object_type_of<T>(), !std::is_const_v<T>);
    if (!found) {
      return std::unexpected(found.error());
    }
    return static_cast<T*>(*found);
  }

  /// The object of that name, made of `arguments` when there is none. Errors: as `find` and `construct`.
  template <persistent_type T, class... Arguments>
  [[nodiscard]] auto find_or_construct(std::string_view name, Arguments&&... arguments) -> result<T*> {
    auto found = find<T>(name);
    if (found || found.error() != errc::not_found) {
      return found;
    }
    auto made = construct<T>(name, std::forward<Arguments>(arguments)...);
    return !made && made.error() == errc::already_exists ? find<T>(name)
                                                         : std::move(made); // another thread's, meanwhile
  }

  /// Destroys the object of that name, and gives back what it was made of. Errors: as `find`.
  template <persistent_type T>
  [[nodiscard]] auto destroy(std::string_view name) -> result<void> {
    auto const type = object_type_of<T>();
    auto const taken = unname_object(name, type);
    if (!taken) {
      return std::unexpected(taken.error());
    }
    auto* const object = static_cast<T*>(*taken);
    std::destroy_at(object);
    deallocate_object(object, type);
    return {};
  }

  /// Calls `visit` with each object, in the order of their names. It may look for objects, and may not construct
  /// or destroy any.
  void for_each_object(std::function<void(object_info const& object)> const& visit) const;

  /// Calls `visit(name, object)` with each object that is of one of these types, a `T const&`, in the order of their names, and
  /// returns the names of the others. What a program exports in this way, another one can make a new heap of, that has other
  /// types or another standard library (docs/heap.md).
  template <persistent_type... Types, class Visit>
  [[nodiscard]] auto visit_objects(Visit visit) const -> std::vector<std::string> {
    std::vector<std::string> others;
    for_each_object([&](object_info const& one) {
      auto const is_visited = [&]<class T>(std::type_identity<T>) {
        auto const found = find<T const>(one.name);
        if (found) {
          visit(one.name, **found);
        }
        return found.has_value();
      };
      if (!(is_visited(std::type_identity<Types>{}) || ...)) {
        others.emplace_back(one.name);
      }
    });
    return others;
  }

  /// Makes what the heap holds what it will hold after any crash, or fails. Blocks until that is so. A heap in which nothing
  /// has changed writes nothing.
  ///
  /// Errors: `errc::read_only`, `errc::closed`, `errc::forked`, `errc::escaped_pointer`, `errc::data_race`: nothing was committed, and
  /// more can be.
  /// `std::errc::no_space_on_device` or `file_too_large` for changes larger than the journal: likewise. What else the system
  /// reports: it was committed or not, see above.
  [[nodiscard]] auto commit(commit_durability level = commit_durability::power) -> result<void>;

  /// Takes what the heap holds for a commit, which running the job completes, on any thread; from here on the heap may change
  /// again. Jobs take effect in the order of their staging: running one runs those before it. One that is dropped, or fails
  /// before anything was written, leaves its changes to the next commit.
  ///
  /// A job outlives the heap, which stays locked until then. Errors: as `commit`, in part when it is run.
  [[nodiscard]] auto stage_commit(commit_durability level = commit_durability::power) -> result<flush_job>;

  /// Makes the heap hold what the last commit has left. Pointers to objects that were there then stay valid.
  ///
  /// Errors: `errc::in_use` while a staged commit has neither run nor been dropped; `errc::read_only`, `errc::closed`,
  /// `errc::forked`; what the system reports: nothing has changed. The error of a commit that may have taken place. `errc::damaged` when the last commit holds what can be no
  /// heap, and `std::errc::not_enough_memory`: it is done in part, and every call is that error until the heap is opened anew.
  [[nodiscard]] auto rollback() -> result<void>;

  /// Gives back what the last commit does not need: blocks of the file behind what is free as a whole chunk of 64 KiB, and
  /// memory that has what the file has. Blocks while the journal is emptied and threads that change objects are waited for.
  /// Commits do the same by themselves where 64 MiB have been freed, and as `heap_options::private_budget` says.
  ///
  /// Returns how many bytes of the file were given back: what had been already counts once more. Errors: `errc::in_use` while a
  /// staged commit has neither run nor been dropped; `errc::read_only`, `errc::closed`, `errc::forked`;
  /// `std::errc::operation_not_supported` where the file system makes no holes; what the system reports.
  [[nodiscard]] auto trim() -> result<std::size_t>;

  /// Held by a thread while it changes objects: `commit` and `stage_commit` wait until nobody holds one, and keep new ones
  /// waiting meanwhile. A thread that holds one may not commit, nor take a second one.
  class update_scope {
  public:
    explicit update_scope(persistent_heap& heap);
    update_scope(update_scope const&) = delete;
    auto operator=(update_scope const&) -> update_scope& = delete;
    ~update_scope();

  private:
    heap_state* state_; // null of a heap that is closed
  };

  /// From which everything in the heap is allocated. Its address is the same in every process. Its `flush` is a commit of level
  /// `power`; a flush of a part is `std::errc::operation_not_supported`.
  [[nodiscard]] auto resource() const noexcept -> flushable_resource*;

  [[nodiscard]] auto stats() const -> heap_stats;

  /// Looks whether the table of objects is sound and what it names is allocated, and counts what is. The books are looked at
  /// when the heap is opened; what the objects hold is not looked at.
  [[nodiscard]] auto check() const -> result<check_report>;

  /// Makes a heap in a new file that holds what the last commit has left. Opened, it lies at the same addresses as this one: not
  /// in the same process while this is open.
  ///
  /// Errors: as `file::clone_to`; `errc::closed`, `errc::forked`; what the system reports.
  [[nodiscard]] auto snapshot(std::filesystem::path const& path) const -> result<void>;

  [[nodiscard]] auto path() const noexcept -> std::string_view;
  [[nodiscard]] auto is_open() const noexcept -> bool { return state_ != nullptr; }

  /// Closes without a commit, and reports what a destructor could not. Errors: what close(2) and munmap(2) report; it is closed
  /// all the same.
  [[nodiscard]] auto close() -> result<void>;

private:
  using owned_state = std::unique_ptr<heap_state, heap_state_deleter>;
  explicit persistent_heap(owned_state state) noexcept;

  [[nodiscard]] auto allocate_object(std::string_view name, object_type const& type) -> result<void*>;
  void deallocate_object(void* object, object_type const& type) noexcept;
  [[nodiscard]] auto name_object(std::string_view name, object_type const& type, void* object) -> result<void>;
  [[nodiscard]] auto unname_object(std::string_view name, object_type const& type) -> result<void*>;
  [[nodiscard]] auto find_object(std::string_view name, object_type const& type, bool to_write) const -> result<void*>;

  owned_state state_;
};

} // namespace fmmap
