// SPDX-License-Identifier: MIT OR Apache-2.0
module;

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <mutex>

module fmmap.alloc;

namespace fmmap::alloc {

void misuse(void const* pointer, std::size_t size, std::size_t alignment, char const* what) {
  // NOLINTNEXTLINE(modernize-use-std-print): libstdc++ 12 has none
  std::fprintf(stderr, "fmmap: deallocate(%p, %zu, %zu): %s\n", pointer, size, alignment, what);
  std::fflush(stderr);
  std::abort();
}

void live_objects::add(std::size_t offset, request asked) {
  auto& shard = shard_of(offset);
  std::scoped_lock const lock{shard.mutex};
  shard.objects.insert_or_assign(offset, asked);
}

void live_objects::remove(std::size_t offset, request told, void const* pointer) {
  auto& shard = shard_of(offset);
  std::scoped_lock const lock{shard.mutex};
  auto const found = shard.objects.find(offset);
  if (found == shard.objects.end()) {
    misuse(pointer, told.size, told.alignment, "no object begins there: deallocated twice, or never allocated here");
  }
  if (found->second != told) {
    char sentence[128];
    std::snprintf(sentence, sizeof sentence, "the object was allocated with size %zu and alignment %zu",
                  found->second.size, found->second.alignment);
    misuse(pointer, told.size, told.alignment, sentence);
  }
  shard.objects.erase(found);
}

void live_objects::clear() noexcept {
  for (auto& shard : shards_) {
    std::scoped_lock const lock{shard.mutex};
    shard.objects.clear();
  }
}

void live_objects::lock() noexcept {
  for (auto& shard : shards_) {
    shard.mutex.lock();
  }
}

void live_objects::unlock() noexcept {
  for (auto& shard : shards_) {
    shard.mutex.unlock();
  }
}

} // namespace fmmap::alloc
