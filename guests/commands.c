/* SPDX-License-Identifier: GPL-2.0-only */
/* What the mailbox's commands do; harness/vm/mailbox.py says their arguments and values. */
#include "guest.h"

static void load(struct command *c)
{
	u64 va = c->args[0];

	switch (c->args[1]) {
	case 1: c->values[0] = *(volatile u8 *)va; break;
	case 2: c->values[0] = *(volatile u16 *)va; break;
	case 4: c->values[0] = *(volatile u32 *)va; break;
	case 8: c->values[0] = *(volatile u64 *)va; break;
	default: c->status = STATUS_BAD_OP;
	}
}

static void store(struct command *c)
{
	u64 va = c->args[0];

	switch (c->args[1]) {
	case 1: *(volatile u8 *)va = (u8)c->args[2]; break;
	case 2: *(volatile u16 *)va = (u16)c->args[2]; break;
	case 4: *(volatile u32 *)va = (u32)c->args[2]; break;
	case 8: *(volatile u64 *)va = c->args[2]; break;
	default: c->status = STATUS_BAD_OP;
	}
}

static void fill(struct command *c)
{
	volatile u64 *word = (volatile u64 *)c->args[0];
	u64 value = c->args[2];

	for (u64 n = c->args[1] / 8; n; n--) {
		*word++ = value;
		value += c->args[3];
	}
}

static void checksum(struct command *c)
{
	volatile u64 *word = (volatile u64 *)c->args[0];
	u64 sum = 0, weighted = 0;

	for (u64 i = 1; i <= c->args[1] / 8; i++) {
		u64 value = *word++;

		sum += value;
		weighted += value * i;
	}
	c->values[0] = sum;
	c->values[1] = weighted;
}

static void verify(struct command *c)
{
	volatile u64 *word = (volatile u64 *)c->args[0];
	u64 expected = c->args[2];

	for (u64 i = 0; i < c->args[1] / 8; i++) {
		u64 value = word[i];

		if (value != expected && !c->values[0]++) {
			c->values[1] = i * 8;
			c->values[2] = value;
		}
		expected += c->args[3];
	}
}

static void copy(struct command *c)
{
	u64 to = c->args[0], from = c->args[1], n = c->args[2];

	for (; n >= 8; n -= 8, to += 8, from += 8)
		*(volatile u64 *)to = *(volatile u64 *)from;
	for (; n; n--, to++, from++)
		*(volatile u8 *)to = *(volatile u8 *)from;
}

static void port_in(struct command *c)
{
	u16 port = (u16)c->args[0];
	u32 value = 0;

	switch (c->args[1]) {
	case 1: __asm__ volatile("inb %w1, %b0" : "+a"(value) : "d"(port) : "memory"); break;
	case 2: __asm__ volatile("inw %w1, %w0" : "+a"(value) : "d"(port) : "memory"); break;
	case 4: __asm__ volatile("inl %w1, %0" : "+a"(value) : "d"(port) : "memory"); break;
	default: c->status = STATUS_BAD_OP;
	}
	c->values[0] = value;
}

static void port_out(struct command *c)
{
	u16 port = (u16)c->args[0];
	u32 value = (u32)c->args[2];

	switch (c->args[1]) {
	case 1: __asm__ volatile("outb %b0, %w1" : : "a"(value), "d"(port) : "memory"); break;
	case 2: __asm__ volatile("outw %w0, %w1" : : "a"(value), "d"(port) : "memory"); break;
	case 4: __asm__ volatile("outl %0, %w1" : : "a"(value), "d"(port) : "memory"); break;
	default: c->status = STATUS_BAD_OP;
	}
}

static void hypercall(struct command *c)
{
	u64 result;

	if (c->flags & 1)
		__asm__ volatile("vmcall" : "=a"(result)
				 : "a"(c->args[0]), "b"(c->args[1]), "c"(c->args[2]), "d"(c->args[3]), "S"(c->args[4])
				 : "memory");
	else
		__asm__ volatile("vmmcall" : "=a"(result)
				 : "a"(c->args[0]), "b"(c->args[1]), "c"(c->args[2]), "d"(c->args[3]), "S"(c->args[4])
				 : "memory");
	c->values[0] = result;
}

static void spin_until(struct command *c)
{
	volatile u64 *word = (volatile u64 *)c->args[0];

	for (;;) {
		c->values[0] = *word;
		if ((c->values[0] & c->args[2]) == c->args[1])
			return;
		if (c->values[1] == c->args[3]) {
			c->status = STATUS_LIMIT;
			return;
		}
		c->values[1]++;
		__asm__ volatile("pause");
	}
}

static void locked_add(struct command *c)
{
	for (u64 n = c->args[2]; n; n--) {
		u64 value = c->args[1];

		__asm__ volatile("lock; xaddq %0, %1" : "+r"(value), "+m"(*(volatile u64 *)c->args[0]) : : "memory");
		c->values[0] = value + c->args[1];
	}
}

static void store_loop(struct command *c)
{
	u64 offset = 0, value = c->args[1];

	for (u64 n = c->args[2]; n; n--) {
		*(volatile u64 *)(c->args[0] + offset) = value++;
		offset += c->args[3];
		if (offset >= c->args[4])
			offset = 0;
		c->values[0]++;
	}
}

static void load_loop(struct command *c)
{
	volatile u64 *word = (volatile u64 *)c->args[0];

	c->values[0] = c->values[2] = *word;
	for (u64 n = c->args[1]; n; n--) {
		u64 value = *word;

		if (value != c->values[0])
			c->values[1]++;
		c->values[0] = value;
	}
}

#define ALL_XMM(x) x(0) x(1) x(2) x(3) x(4) x(5) x(6) x(7) x(8) x(9) x(10) x(11) x(12) x(13) x(14) x(15)
#define XMM_LOAD(n) "movdqu " #n "*16(%0), %%xmm" #n "\n\t"
#define XMM_STORE(n) "movdqu %%xmm" #n ", " #n "*16(%0)\n\t"

static void state(struct command *c)
{
	u64 *v = c->values;

	__asm__ volatile("mov %%cr0, %0" : "=r"(v[0]));
	__asm__ volatile("mov %%cr3, %0" : "=r"(v[1]));
	__asm__ volatile("mov %%cr4, %0" : "=r"(v[2]));
	__asm__ volatile("pushfq; pop %0" : "=r"(v[3]));
	__asm__ volatile("mov %%rsp, %0" : "=r"(v[4]));
	__asm__ volatile("mov %%cs, %0" : "=r"(v[5]));
	__asm__ volatile("str %0" : "=r"(v[6]));
	v[7] = this_cpu()->index;
}

static void triple_fault(void)
{
	const struct __attribute__((packed)) {
		u16 limit;
		u64 base;
	} none = { 0, 0 };

	__asm__ volatile("lidt %0; ud2" : : "m"(none));
}

/* Commands that only make sense with a GHCB and an RMP. */
#define SNP_OPS (1ul << OP_PVALIDATE | 1ul << OP_RMPADJUST | 1ul << OP_RMPQUERY | \
		 1ul << OP_GHCB_REGISTER | 1ul << OP_GHCB_MSR | 1ul << OP_VMGEXIT_MSR | \
		 1ul << OP_VMGEXIT | 1ul << OP_VMGEXIT_RAW | 1ul << OP_PSC | \
		 1ul << OP_TERMINATE | 1ul << OP_BUILD_VMSA)

void run_command(struct command *c)
{
	u64 *v = c->values;

	if (c->op < 64 && SNP_OPS >> c->op & 1) {
#ifdef SNP
		run_snp_command(c);
#else
		c->status = STATUS_UNSUPPORTED;
#endif
		return;
	}
	switch (c->op) {
	case OP_NOP:
		for (int i = 0; i < MAILBOX_VALUES; i++)
			v[i] = c->args[i];
		break;
	case OP_LOAD:
		load(c);
		break;
	case OP_STORE:
		store(c);
		break;
	case OP_FILL:
		fill(c);
		break;
	case OP_CHECKSUM:
		checksum(c);
		break;
	case OP_VERIFY:
		verify(c);
		break;
	case OP_COPY:
		copy(c);
		break;
	case OP_CPUID:
		this_cpu()->cpuid_by_msr = c->flags & 1;
		__asm__ volatile("cpuid" : "=a"(v[0]), "=b"(v[1]), "=c"(v[2]), "=d"(v[3])
				 : "a"(c->args[0]), "c"(c->args[1]) : "memory");
		break;
	case OP_RDMSR:
		v[0] = rdmsr((u32)c->args[0]);
		break;
	case OP_WRMSR:
		wrmsr((u32)c->args[0], c->args[1]);
		break;
	case OP_IN:
		port_in(c);
		break;
	case OP_OUT:
		port_out(c);
		break;
	case OP_HLT:
		__asm__ volatile("hlt" : : : "memory");
		break;
	case OP_HYPERCALL:
		hypercall(c);
		break;
	case OP_SPIN_UNTIL:
		spin_until(c);
		break;
	case OP_LOCKED_ADD:
		locked_add(c);
		break;
	case OP_STORE_LOOP:
		store_loop(c);
		break;
	case OP_LOAD_LOOP:
		load_loop(c);
		break;
	case OP_RDTSC: {
		u32 low, high;

		__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
		v[0] = low | (u64)high << 32;
		break;
	}
	case OP_XMM_SET:
		__asm__ volatile(ALL_XMM(XMM_LOAD) : : "r"(c->args[0]) : "memory");
		break;
	case OP_XMM_GET:
		__asm__ volatile(ALL_XMM(XMM_STORE) : : "r"(c->args[0]) : "memory");
		break;
	case OP_EXECUTE:
		v[0] = ((u64(*)(u64, u64, u64))c->args[0])(c->args[1], c->args[2], c->args[3]);
		break;
	case OP_TRIPLE_FAULT:
		triple_fault();
		break;
	case OP_STATE:
		state(c);
		break;
	case OP_XCHG:
		v[0] = c->args[1];
		__asm__ volatile("xchgq %0, %1" : "+r"(v[0]), "+m"(*(volatile u64 *)c->args[0]) : : "memory");
		break;
	default:
		c->status = STATUS_BAD_OP;
	}
}
