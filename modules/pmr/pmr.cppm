// SPDX-License-Identifier: MIT OR Apache-2.0
export module fmmap.pmr;

export import :allocation_error;
export import :flushable_resource;
export import :heap_inspection;
export import :mapped_resource;
export import :persistent_heap;
