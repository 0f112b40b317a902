// SPDX-License-Identifier: MIT OR Apache-2.0
//
// fmmap::persistent_heap beside databases that survive the same: SQLite and LMDB.

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <memory_resource>
#include <numeric>
#include <optional>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <benchmark/benchmark.h>
#include <lmdb.h>
#include <sqlite3.h>

#include <sys/mman.h>
#include <unistd.h>

#include "raw.hpp"
#include "support.hpp"

import fmmap.core;
import fmmap.pmr;

namespace {

using clock = std::chrono::steady_clock;
using seconds = std::chrono::duration<double>;

constexpr std::size_t mib = std::size_t{1} << 20;
constexpr std::size_t page_bytes = 4096;

auto page_count() -> std::size_t { return bench::sized(262'144, 4096); } // 1 GiB

// A file in the data folder, gone with this object, and what a database puts beside it too.
class data_file {
public:
  explicit data_file(char const* name) : path_{bench::current().folder / name} { remove(); }
  data_file(data_file const&) = delete;
  auto operator=(data_file const&) -> data_file& = delete;
  ~data_file() { remove(); }

  [[nodiscard]] auto path() const -> std::filesystem::path const& { return path_; }

private:
  void remove() const {
    for (auto const* suffix : {"", "-wal", "-shm", "-lock"}) {
      std::error_code ignored;
      std::filesystem::remove(path_.string() + suffix, ignored);
    }
  }

  std::filesystem::path path_;
};

// Which pages a commit changes, and to what: other ones each time, all different, in no order.
class random_changes {
public:
  // Chooses the next ones, which is not a part of a commit.
  void choose(std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      std::swap(all_[i], all_[std::uniform_int_distribution{i, all_.size() - 1}(random_)]);
    }
    chosen_ = count;
  }

  [[nodiscard]] auto pages() const -> std::span<std::size_t const> { return std::span{all_}.first(chosen_); }

  auto any_value() -> std::uint64_t { return random_(); }

private:
  static auto numbers() -> std::vector<std::size_t> {
    std::vector<std::size_t> made(page_count());
    std::iota(made.begin(), made.end(), 0);
    return made;
  }

  std::vector<std::size_t> all_ = numbers();
  std::size_t chosen_ = page_count();
  std::mt19937_64 random_{1};
};

// --- Ours -------------------------------------------------------------------------------------------------------------

// A vector of 1 GiB in a heap that was opened with it.
class heap_store : public random_changes {
public:
  explicit heap_store(fmmap::heap_options const& options = {}) {
    {
      auto made = fmmap::or_throw(fmmap::persistent_heap::create(file_.path(), options));
      fmmap::or_throw(made.construct<bytes>("bytes", page_count() * page_bytes, std::byte{1}));
      fmmap::or_throw(made.commit());
    }
    heap_ = fmmap::or_throw(fmmap::persistent_heap::open(file_.path(), options));
    bytes_ = *fmmap::or_throw(heap_->find<bytes>("bytes"));
    commit();
  }

  void change() {
    for (auto const page : pages()) {
      auto const value = any_value();
      std::memcpy(&bytes_[(page * page_bytes) + 64], &value, sizeof value);
    }
  }

  void commit() {
    change();
    fmmap::or_throw(heap_->commit());
  }

  void rest() {}

  auto heap() -> fmmap::persistent_heap& { return *heap_; }

private:
  using bytes = std::pmr::vector<std::byte>;

  data_file file_{"heap"};
  std::optional<fmmap::persistent_heap> heap_;
  std::span<std::byte> bytes_;
};

// Whose journal takes all commits of a row, as the peer's log does.
class long_heap_store : public heap_store {
public:
  long_heap_store() : heap_store{{.journal_size = bench::sized(512, 8) * mib}} {}
};

// --- SQLite -----------------------------------------------------------------------------------------------------------

// A row of 4 000 bytes for each page, which takes a page of the file; all of them in its cache.
class sqlite_store : public random_changes {
public:
  explicit sqlite_store(bool checkpoints_by_itself = false) {
    check(sqlite3_open(file_.path().c_str(), &database_));
    execute("PRAGMA page_size = 4096");
    execute("PRAGMA cache_size = 400000");
    execute("PRAGMA synchronous = OFF");
    execute("CREATE TABLE pages (number INTEGER PRIMARY KEY, bytes BLOB)");
    execute("WITH RECURSIVE each (number) AS (SELECT 0 UNION ALL SELECT number + 1 FROM each LIMIT " +
            std::to_string(page_count()) + ") INSERT INTO pages SELECT number, zeroblob(4000) FROM each");
    execute("PRAGMA journal_mode = WAL");
    execute("PRAGMA synchronous = FULL");
    execute(checkpoints_by_itself ? "PRAGMA wal_autocheckpoint = 1000" : "PRAGMA wal_autocheckpoint = 0");
    commit();
  }
  sqlite_store(sqlite_store const&) = delete;
  auto operator=(sqlite_store const&) -> sqlite_store& = delete;
  ~sqlite_store() { sqlite3_close(database_); }

  void commit() {
    execute("BEGIN IMMEDIATE");
    sqlite3_blob* blob = nullptr;
    for (auto const page : pages()) {
      auto const row = static_cast<sqlite3_int64>(page);
      check(blob == nullptr ? sqlite3_blob_open(database_, "main", "pages", "bytes", row, 1, &blob)
                            : sqlite3_blob_reopen(blob, row));
      auto const value = any_value();
      check(sqlite3_blob_write(blob, &value, sizeof value, 64));
    }
    check(sqlite3_blob_close(blob));
    execute("COMMIT");
  }

  // So that its log begins anew, in blocks that it has already.
  void rest() { execute("PRAGMA wal_checkpoint(RESTART)"); }

protected:
  void check(int code) const {
    if (code != SQLITE_OK) {
      throw std::runtime_error{std::string{"SQLite: "} + sqlite3_errmsg(database_)};
    }
  }

  void execute(std::string const& statement) {
    check(sqlite3_exec(database_, statement.c_str(), nullptr, nullptr, nullptr));
  }

  [[nodiscard]] auto path() const -> std::filesystem::path const& { return file_.path(); }

  sqlite3* database_ = nullptr;

private:
  data_file file_{"sqlite"};
};

// With its log checkpointed whenever it has 1 000 pages, which is its default.
class checkpointing_sqlite_store : public sqlite_store {
public:
  checkpointing_sqlite_store() : sqlite_store{true} {}
};

// --- LMDB -------------------------------------------------------------------------------------------------------------

// A value of 4 080 bytes for each page, which takes a page of the file.
class lmdb_store : public random_changes {
public:
  lmdb_store() {
    check(mdb_env_create(&environment_));
    check(mdb_env_set_mapsize(environment_, 4 * page_count() * page_bytes));
    check(mdb_env_open(environment_, file_.path().c_str(), MDB_NOSUBDIR, 0600));
    mdb_env_set_flags(environment_, MDB_NOSYNC, 1);
    auto* const filling = begin();
    check(mdb_dbi_open(filling, nullptr, MDB_INTEGERKEY, &pages_));
    for (std::size_t page = 0; page < page_count(); ++page) {
      put(filling, page, MDB_APPEND);
    }
    check(mdb_txn_commit(filling));
    mdb_env_set_flags(environment_, MDB_NOSYNC, 0);
    check(mdb_env_sync(environment_, 1));
    commit();
  }
  lmdb_store(lmdb_store const&) = delete;
  auto operator=(lmdb_store const&) -> lmdb_store& = delete;
  ~lmdb_store() { mdb_env_close(environment_); }

  void commit() {
    auto* const transaction = begin();
    for (auto const page : pages()) {
      auto const value = any_value();
      std::memcpy(&value_[64], &value, sizeof value);
      put(transaction, page, 0);
    }
    check(mdb_txn_commit(transaction));
  }

  void rest() {}

private:
  static void check(int code) {
    if (code != MDB_SUCCESS) {
      throw std::runtime_error{std::string{"LMDB: "} + mdb_strerror(code)};
    }
  }

  auto begin() -> MDB_txn* {
    MDB_txn* begun = nullptr;
    check(mdb_txn_begin(environment_, nullptr, 0, &begun));
    return begun;
  }

  void put(MDB_txn* transaction, std::size_t page, unsigned flags) {
    MDB_val key{sizeof page, &page};
    MDB_val value{value_.size(), value_.data()};
    check(mdb_put(transaction, pages_, &key, &value, flags));
  }

  data_file file_{"lmdb"};
  MDB_env* environment_ = nullptr;
  MDB_dbi pages_ = 0;
  std::array<std::byte, 4080> value_{};
};

// --- A mapping --------------------------------------------------------------------------------------------------------

// A shared mapping that is flushed: after a crash, any part of a change may be there.
class mapping_store : public random_changes {
public:
  mapping_store() {
    std::vector<std::byte> const block(page_bytes, std::byte{1}); // larger writes would make larger pieces in the cache
    for (std::size_t done = 0; done < size_; done += block.size()) {
      bench::checked(::write(mapped_.descriptor(), block.data(), block.size()), "write");
    }
    bench::checked(::fsync(mapped_.descriptor()), "sync");
    // Read ahead, the file would be in large pieces in the cache, and one byte of such a piece would take all of it along.
    bench::checked(::madvise(mapped_.data(), size_, MADV_RANDOM), "advise");
    commit();
  }

  void commit() {
    for (auto const page : pages()) {
      auto const value = any_value();
      std::memcpy(mapped_.data() + (page * page_bytes) + 64, &value, sizeof value);
    }
    bench::checked(::msync(mapped_.data(), size_, MS_SYNC), "flush");
  }

  void rest() {}

private:
  data_file file_{"mapping"};
  std::size_t size_ = page_count() * page_bytes;
  raw::growing_file mapped_{file_.path().c_str(), size_};
};

// --- The rows ---------------------------------------------------------------------------------------------------------

// Made once in a process: filling one takes longer than all its commits. All its pages have been changed once: each store has
// them in the memory in which it changes them.
template <class Store>
auto the() -> Store& {
  static Store made;
  return made;
}

// In seconds.
template <class Store>
auto timed_commit(Store& store, std::size_t changed) -> double {
  store.choose(changed);
  auto const start = clock::now();
  store.commit();
  return seconds{clock::now() - start}.count();
}

// Changes and commits; the median, and beside it what one in a hundred exceeds.
template <class Store, std::size_t Changed>
void commit(benchmark::State& state) {
  if (!bench::is_durable(state)) {
    return;
  }
  constexpr auto times = std::clamp(std::size_t{8192} / Changed, std::size_t{1}, std::size_t{64});
  auto& store = the<Store>();
  for ([[maybe_unused]] auto _ : state) {
    store.rest();
    bench::settle();
    std::vector<double> taken;
    for (std::size_t i = 0; i < bench::sized(times, 1); ++i) {
      taken.push_back(timed_commit(store, bench::sized(Changed, 16)));
    }
    std::ranges::sort(taken);
    state.SetIterationTime(taken[taken.size() / 2]);
    state.counters["p99_ns"] = taken[taken.size() * 99 / 100] * 1e9;
  }
}

// A commit of many in a row, with its share of what has to be done now and then.
template <class Store>
void sustained(benchmark::State& state, std::size_t commits) {
  auto& store = the<Store>();
  for ([[maybe_unused]] auto _ : state) {
    bench::settle();
    double taken = 0;
    for (std::size_t i = 0; i < commits; ++i) {
      taken += timed_commit(store, bench::sized(1024, 16));
    }
    state.SetIterationTime(taken / static_cast<double>(commits));
  }
  state.counters["commits"] = static_cast<double>(commits);
}

// How many commits there are from one checkpoint to the next.
auto commits_in_a_cycle() -> std::size_t {
  auto& store = the<heap_store>();
  auto const to_the_next = [&] {
    auto const before = store.heap().stats().checkpoints;
    std::size_t commits = 0;
    do {
      (void)timed_commit(store, bench::sized(1024, 16));
      ++commits;
    } while (!bench::current().smoke && store.heap().stats().checkpoints == before);
    return commits;
  };
  to_the_next();
  return to_the_next();
}

void sustained_ours(benchmark::State& state) {
  if (!bench::is_durable(state)) {
    return;
  }
  static auto const commits = commits_in_a_cycle();
  auto const before = the<heap_store>().heap().stats().checkpoints;
  sustained<heap_store>(state, commits);
  state.counters["checkpoints"] = static_cast<double>(the<heap_store>().heap().stats().checkpoints - before);
}

void sustained_sqlite(benchmark::State& state) {
  if (bench::is_durable(state)) {
    sustained<checkpointing_sqlite_store>(state, bench::sized(100, 2)); // each is longer than a cycle
  }
}

// A commit in two parts: nothing may change the heap during the first one.
void staged_commit(benchmark::State& state, bool whole) {
  if (!bench::is_durable(state)) {
    return;
  }
  auto& store = the<long_heap_store>();
  for ([[maybe_unused]] auto _ : state) {
    bench::settle();
    std::vector<double> taken;
    for (std::size_t i = 0; i < bench::sized(8, 1); ++i) {
      store.choose(bench::sized(1024, 16));
      store.change();
      auto const start = clock::now();
      auto job = fmmap::or_throw(store.heap().stage_commit());
      auto const staged = clock::now();
      fmmap::or_throw(job.run());
      taken.push_back(seconds{(whole ? clock::now() : staged) - start}.count());
    }
    std::ranges::sort(taken);
    state.SetIterationTime(taken[taken.size() / 2]);
  }
}

// --- Opening ----------------------------------------------------------------------------------------------------------

// Changes that a journal of 8 MiB holds: in so many commits of 1 024 pages.
constexpr std::size_t journaled_commits = 90;

// A heap that is closed, with a vector of so many MiB.
template <std::size_t Mib>
class closed_heap {
public:
  closed_heap() {
    auto made = fmmap::or_throw(fmmap::persistent_heap::create(file_.path()));
    fmmap::or_throw(made.construct<std::pmr::vector<std::byte>>("bytes", pages() * page_bytes, std::byte{1}));
    fmmap::or_throw(made.commit());
  }

  // Opens it and finds the object.
  auto open() -> std::pair<fmmap::persistent_heap, std::span<std::byte>> {
    auto heap = fmmap::or_throw(fmmap::persistent_heap::open(file_.path()));
    std::span<std::byte> const found = *fmmap::or_throw(heap.find<std::pmr::vector<std::byte>>("bytes"));
    return {std::move(heap), found};
  }

  // Closing writes nothing in place, so the journal is left as a crash would leave it.
  void fill_journal() {
    auto [heap, all] = open();
    for (std::size_t commit = 0; commit < bench::sized(journaled_commits, 2); ++commit) {
      for (std::size_t i = 0; i < bench::sized(1024, 16); ++i) {
        all[random_() % pages() * page_bytes] ^= std::byte{1};
      }
      fmmap::or_throw(heap.commit());
    }
  }

private:
  static auto pages() -> std::size_t { return bench::sized(Mib * mib / page_bytes, 1024); }

  data_file file_{("heap_of_" + std::to_string(Mib)).c_str()};
  std::mt19937_64 random_{1};
};

// The same, with as many pages in its log, or with none.
template <bool WithLog>
class closed_sqlite : public sqlite_store {
public:
  closed_sqlite() {
    for (std::size_t done = 0; WithLog && done < bench::sized(journaled_commits, 2); ++done) {
      choose(bench::sized(1024, 16));
      commit();
    }
    if (!WithLog) {
      execute("PRAGMA wal_checkpoint(TRUNCATE)");
    }
    close();
  }

  class connection {
  public:
    explicit connection(closed_sqlite& to) : to_{to} {}
    connection(connection const&) = delete;
    auto operator=(connection const&) -> connection& = delete;
    ~connection() { to_.close(); }

  private:
    closed_sqlite& to_;
  };

  // Opens it and finds a row.
  auto open() -> connection {
    check(sqlite3_open(path().c_str(), &database_));
    execute("SELECT bytes FROM pages WHERE number = 1");
    return connection{*this};
  }

  void fill_journal() {} // it is left as it was

private:
  void close() {
    sqlite3_db_config(database_, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
    sqlite3_close(std::exchange(database_, nullptr));
  }
};

template <class Closed, bool AfterCrash>
void reopen(benchmark::State& state) {
  if (!bench::is_durable(state)) {
    return;
  }
  auto& closed = the<Closed>();
  for ([[maybe_unused]] auto _ : state) {
    if (AfterCrash) {
      closed.fill_journal();
    }
    bench::settle();
    bench::stopwatch watch{state};
    auto const opened = closed.open();
    watch.stop();
  }
}

void staging(benchmark::State& state) { staged_commit(state, false); }
void staging_and_running(benchmark::State& state) { staged_commit(state, true); }

template <std::size_t Changed>
void add_commit_rows(std::string const& id) {
  bench::add_row(id + ".sqlite", bench::pace::slow,
                 {{"ours", commit<long_heap_store, Changed>},
                  {"peer", commit<sqlite_store, Changed>},
                  {"msync_not_atomic", commit<mapping_store, Changed>}});
  bench::add_row(id + ".lmdb", bench::pace::slow,
                 {{"ours", commit<long_heap_store, Changed>}, {"peer", commit<lmdb_store, Changed>}});
}

void add_rows() {
  add_commit_rows<16>("heap.commit_16");
  add_commit_rows<1024>("heap.commit_1k");
  add_commit_rows<65'536>("heap.commit_64k");
  bench::add_row("heap.sustained_1k.sqlite", bench::pace::slow, {{"ours", sustained_ours}, {"peer", sustained_sqlite}});
  bench::add_row("heap.stall_1k", bench::pace::slow, {{"ours", staging}, {"peer", staging_and_running}});
  bench::add_row("heap.open", bench::pace::slow,
                 {{"ours", reopen<closed_heap<1024>, false>},
                  {"peer", reopen<closed_sqlite<false>, false>},
                  {"of_256_MiB", reopen<closed_heap<256>, false>},
                  {"of_16_MiB", reopen<closed_heap<16>, false>}});
  bench::add_row("heap.recover", bench::pace::slow,
                 {{"ours", reopen<closed_heap<1024>, true>},
                  {"peer", reopen<closed_sqlite<true>, true>},
                  {"of_256_MiB", reopen<closed_heap<256>, true>},
                  {"of_16_MiB", reopen<closed_heap<16>, true>}});
}

} // namespace

auto main(int argc, char** argv) -> int { return bench::run(argc, argv, add_rows); }
