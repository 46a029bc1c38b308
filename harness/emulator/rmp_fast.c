/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Bulk work on RMP entries, in one pass over memory: the operations of rmp_bulk.NumpyBulk.
 *
 * The table is cut at the boundaries of 2 MiB regions.  512 entries are 8 KiB, so what the check
 * of a region brings into the first-level cache is still there when the region is written.
 */
#include <stddef.h>
#include <stdint.h>

#define ASSIGNED	(1ULL << 0)
#define SIZE_2M		(1ULL << 1)
#define IMMUTABLE	(1ULL << 2)
#define ASID_SHIFT	51
#define ASID_MASK	0x3ffULL
#define VMSA		(1ULL << 61)
#define VALIDATED	(1ULL << 62)
#define HEAD_2M		(ASSIGNED | SIZE_2M)

#define REGION		512
#define PAGE_SIZE	4096ULL

struct entry {
	uint64_t lo, hi;
};

/* Two entries: lo, hi, lo, hi. */
typedef uint64_t pair __attribute__((vector_size(32), aligned(16), may_alias));

static size_t region_end(size_t index, size_t end)
{
	size_t next = (index | (REGION - 1)) + 1;

	return next < end ? next : end;
}

static uint64_t or_lo(const struct entry *e, size_t count)
{
	pair acc0 = { 0 }, acc1 = { 0 };
	size_t i = 0;

	for (; i + 4 <= count; i += 4) {
		acc0 |= *(const pair *)(e + i);
		acc1 |= *(const pair *)(e + i + 2);
	}
	acc0 |= acc1;
	uint64_t acc = acc0[0] | acc0[2];
	for (; i < count; i++)
		acc |= e[i].lo;
	return acc;
}

static void write_entries(struct entry *e, size_t count, uint64_t lo, uint64_t step, uint64_t hi)
{
	pair value = { lo, hi, lo + step, hi };
	const pair next = { 2 * step, 0, 2 * step, 0 };
	size_t i = 0;

	for (; i + 2 <= count; i += 2) {
		*(pair *)(e + i) = value;
		value += next;
	}
	if (i < count)
		e[i] = (struct entry){ lo + i * step, hi };
}

void rmp_fill(struct entry *table, size_t first, size_t count, uint64_t lo, uint64_t step,
	      uint64_t hi)
{
	write_entries(table + first, count, lo, step, hi);
}

/* Returns how many entries were written: up to the first immutable or overlapped one. */
size_t rmp_update(struct entry *table, size_t first, size_t count, uint64_t lo, uint64_t step,
		  uint64_t hi)
{
	size_t end = first + count, at = first;

	while (at < end) {
		size_t stop = region_end(at, end);

		if ((table[at & ~(size_t)(REGION - 1)].lo & HEAD_2M) == HEAD_2M)
			break;
		size_t good = stop - at;
		if (or_lo(table + at, good) & IMMUTABLE)
			for (good = 0; !(table[at + good].lo & IMMUTABLE);)
				good++;
		write_entries(table + at, good, lo, step, hi);
		lo += good * step;
		at += good;
		if (at < stop)
			break;
	}
	return at - first;
}

/* Returns how many entries look as expected and are now validated or not; *changed were not. */
size_t rmp_validate(struct entry *table, size_t first, size_t count, uint64_t lo, int validate,
		    size_t *changed)
{
	const uint64_t care = ~(VALIDATED | VMSA);
	const pair mask = { care, 0, care, 0 }, one = { 1, 0, 1, 0 };
	const pair flip = { VALIDATED, 0, VALIDATED, 0 };
	const pair set = validate ? flip : (pair){ 0 };
	const pair next = { 2 * PAGE_SIZE, 0, 2 * PAGE_SIZE, 0 };
	size_t end = first + count, at = first, before = 0;

	while (at < end) {
		size_t stop = region_end(at, end), good = stop - at, i = 0;
		struct entry *e = table + at;
		pair expected = { lo, 0, lo + PAGE_SIZE, 0 }, differ = { 0 }, valid = { 0 };

		for (; i + 2 <= good; i += 2) {
			pair now = *(const pair *)(e + i);

			differ |= (now ^ expected) & mask;
			valid += now >> 62 & one;
			expected += next;
		}
		uint64_t bad = differ[0] | differ[2], set_before = valid[0] + valid[2];
		if (i < good) {
			bad |= (e[i].lo ^ (lo + i * PAGE_SIZE)) & care;
			set_before += e[i].lo >> 62 & 1;
		}
		if (bad) {
			for (good = 0, set_before = 0; !((e[good].lo ^ (lo + good * PAGE_SIZE)) & care);
			     good++)
				set_before += e[good].lo >> 62 & 1;
		}
		for (i = 0; i + 2 <= good; i += 2)
			*(pair *)(e + i) = (*(const pair *)(e + i) & ~flip) | set;
		if (i < good)
			e[i].lo = (e[i].lo & ~VALIDATED) | set[0];
		before += set_before;
		lo += good * PAGE_SIZE;
		at += good;
		if (at < stop)
			break;
	}
	*changed = validate ? at - first - before : before;
	return at - first;
}

/* Returns the number of assigned entries; *pages those that entries of the ASID (0: any) cover. */
size_t rmp_count(const struct entry *table, size_t first, size_t count, uint64_t asid,
		 size_t *pages)
{
	size_t assigned = 0, covered = 0;

	for (const struct entry *e = table + first; e < table + first + count; e++) {
		uint64_t owner = e->lo >> ASID_SHIFT & ASID_MASK, is = e->lo & ASSIGNED;
		uint64_t match = is & (asid ? owner == asid : owner != 0);

		assigned += is;
		covered += match * (e->lo & SIZE_2M ? REGION : 1);
	}
	*pages = covered;
	return assigned;
}
