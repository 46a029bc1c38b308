/* SPDX-License-Identifier: GPL-2.0-only */
/* A VMSA page for another vCPU, made by the guest itself (APM volume 2, table B-4). */
#include "guest.h"

struct segment {
	u16 selector;
	u16 attributes;
	u32 limit;
	u64 base;
};

static void set(u64 page, u64 offset, u64 value)
{
	*(volatile u64 *)(page + offset) = value;
}

static void set_segment(u64 page, u64 offset, u64 selector, u64 attributes, u64 limit)
{
	set(page, offset, selector | attributes << 16 | limit << 32);
	set(page, offset + 8, 0);
}

void build_vmsa(struct command *command)
{
	u64 page = command->args[0];
	u64 cr0, cr3, cr4;

	__asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
	__asm__ volatile("mov %%cr3, %0" : "=r"(cr3));
	__asm__ volatile("mov %%cr4, %0" : "=r"(cr4));
	for (u64 offset = 0; offset < PAGE_SIZE; offset += 8)
		set(page, offset, 0);

	set_segment(page, 0x00, DATA_SELECTOR, 0xc93, 0xffffffff);	/* ES */
	set_segment(page, 0x10, CODE_SELECTOR, 0xa9b, 0xffffffff);	/* CS: 64-bit */
	set_segment(page, 0x20, DATA_SELECTOR, 0xc93, 0xffffffff);	/* SS */
	set_segment(page, 0x30, DATA_SELECTOR, 0xc93, 0xffffffff);	/* DS */
	set_segment(page, 0x40, 0, 0x93, 0xffff);			/* FS */
	set_segment(page, 0x50, 0, 0x93, 0xffff);			/* GS */
	set_segment(page, 0x60, 0, 0, 0);				/* GDTR: the guest loads its own */
	set_segment(page, 0x70, 0, 0x82, 0xffff);			/* LDTR */
	set_segment(page, 0x80, 0, 0, 0);				/* IDTR */
	set_segment(page, 0x90, TSS_SELECTOR, 0x8b, 0x67);		/* TR */
	*(volatile u8 *)(page + 0xca) = (u8)command->args[5];		/* VMPL */
	set(page, 0xd0, 0x1500);		/* EFER: SVME LMA LME */
	set(page, 0x148, cr4);
	set(page, 0x150, command->args[6] ? command->args[6] : cr3);
	set(page, 0x158, cr0);
	set(page, 0x160, 0x400);		/* DR7 */
	set(page, 0x168, 0xffff0ff0);		/* DR6 */
	set(page, 0x170, 2);			/* RFLAGS */
	set(page, 0x178, command->args[1]);	/* RIP */
	set(page, 0x1d8, command->args[2]);	/* RSP */
	set(page, 0x268, 0x0007040600070406);	/* PAT */
	set(page, 0x338, command->args[3]);	/* RDI */
	set(page, 0x3b0, command->args[4]);	/* SEV_FEATURES */
	set(page, 0x3e8, 1);			/* XCR0 */
	set(page, 0x408, 0x1f80);		/* MXCSR, x87 tag word (abridged form) 0 */
	*(volatile u16 *)(page + 0x410) = 0x37f;	/* x87 control word */

	/* The VMSA bit is granted together with no permission for VMPL1. */
	if (!(command->flags & 1))
		command->values[0] = rmpadjust(page, 0, 1 | 1 << 16);
}
