/* SPDX-License-Identifier: GPL-2.0-only */
/* What the sources of the test guest share. */
#ifndef GUEST_H
#define GUEST_H

#include "layout.h"

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

#define MSR_AMD64_SEV_ES_GHCB 0xc0010130

/* One record of the mailbox; harness/vm/mailbox.py describes it. */
struct command {
	u32 op;
	u32 flags;
	u64 args[MAILBOX_ARGS];
	u32 status;
	u32 vector;
	u64 error_code;
	u64 cr2;
	u64 rip;
	u64 values[MAILBOX_VALUES];
};

struct mailbox {
	u32 magic;
	u32 protocol;
	u32 count;
	u32 done;
	u32 boots;
	u32 batches;
	u64 sev_info;
	u64 registration;
	u32 fatal_vector;
	u32 index;
	u64 fatal_error;
	u64 fatal_rip;
	struct command records[MAILBOX_MAX_RECORDS];
};

_Static_assert(sizeof(struct command) == 192, "mailbox.py packs 192 bytes");
_Static_assert(sizeof(struct mailbox) == 4096, "the mailbox is one page");

/* Data of one vCPU, in its own page at CPU_DATA. */
struct cpu {
	u64 index;
	volatile struct mailbox *mailbox;
	u64 ghcb_gpa;
	u64 recover_rsp;	/* 0: no command is running */
	u64 cpuid_by_msr;	/* the #VC handler answers CPUID by the MSR protocol */
	u32 vector;
	u32 pad;
	u64 error_code;
	u64 cr2;
	u64 rip;
};

/* What the stubs push. */
struct frame {
	u64 r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
	u64 vector, error_code;
	u64 rip, cs, rflags, rsp, ss;
};

/* Registers that go into and come out of a GHCB exit. */
struct ghcb_regs {
	u64 rax, rbx, rcx, rdx, xcr0, rsi;
};

static inline struct cpu *this_cpu(void)
{
	u64 rsp;

	__asm__ volatile("mov %%rsp, %0" : "=r"(rsp));
	return (struct cpu *)(((rsp - 1) & ~(u64)(PAGE_SIZE - 1)) + CPU_DATA);
}

static inline void wrmsr(u32 index, u64 value)
{
	__asm__ volatile("wrmsr" : : "c"(index), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}

static inline u64 rdmsr(u32 index)
{
	u32 low, high;

	__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index) : "memory");
	return low | (u64)high << 32;
}

int guarded_call(void (*fn)(struct command *), struct command *command, u64 *recover_rsp);
void recover(u64 recover_rsp) __attribute__((noreturn));
void stop(u32 vector, u64 error_code, u64 rip) __attribute__((noreturn));
void run_command(struct command *command);
/* snp.c and vmsa.c (flavour snp) */
void run_snp_command(struct command *command);
void build_vmsa(struct command *command);
u64 rmpadjust(u64 va, u64 size, u64 attributes);

/* ghcb.c (flavour snp) */
u64 ghcb_msr_exchange(u64 value);
u64 ghcb_register(u64 gpa);
void ghcb_vmgexit(struct cpu *cpu, struct command *command);
void ghcb_vmgexit_raw(struct cpu *cpu, struct command *command);
void ghcb_psc(struct cpu *cpu, struct command *command);
int ghcb_out(struct cpu *cpu, u16 port, u32 value);
void terminate(u64 set, u64 code) __attribute__((noreturn));
int ghcb_exit(struct cpu *cpu, u64 code, u64 info1, u64 info2, u32 valid, struct ghcb_regs *regs);

/* vc.c (flavour snp): 1 when the instruction was emulated; 0: cpu->vector etc. say what is left */
int handle_vc(struct cpu *cpu, struct frame *frame);

#endif
