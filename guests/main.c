/* SPDX-License-Identifier: GPL-2.0-only */
/* Set-up of a vCPU, its exceptions, and the loop that runs batches from its mailbox. */
#include "guest.h"

struct __attribute__((packed)) table_pointer {
	u16 limit;
	u64 base;
};

extern const u64 idt[64];

static void load_tables(u64 page)
{
	u64 *gdt = (u64 *)page;
	u64 tss = page + CPU_TSS;
	struct table_pointer gdtr = { 5 * 8 - 1, page };
	struct table_pointer idtr = { 32 * 16 - 1, (u64)idt };

	for (u64 *word = (u64 *)tss; word < (u64 *)(page + CPU_DATA); word++)
		*word = 0;
	*(volatile u32 *)(tss + 0x24) = (u32)(page + CPU_IST_TOP);	/* IST1 */
	*(volatile u16 *)(tss + 0x66) = 0x68;				/* no I/O bitmap */

	gdt[0] = 0;
	gdt[CODE_SELECTOR / 8] = 0x00af9b000000ffff;
	gdt[DATA_SELECTOR / 8] = 0x00cf93000000ffff;
	gdt[TSS_SELECTOR / 8] = 0x67 | (tss & 0xffffff) << 16 | 0x89ull << 40 | (tss >> 24 & 0xff) << 56;
	gdt[TSS_SELECTOR / 8 + 1] = tss >> 32;

	__asm__ volatile("lgdt %0\n\t"
			 "lidt %1\n\t"
			 "ltr %w2\n\t"
			 "mov %w3, %%ds\n\t"
			 "mov %w3, %%es\n\t"
			 "mov %w3, %%ss\n\t"
			 "pushq %4\n\t"
			 "leaq 1f(%%rip), %%rax\n\t"
			 "pushq %%rax\n\t"
			 "lretq\n"
			 "1:"
			 :
			 : "m"(gdtr), "m"(idtr), "r"(TSS_SELECTOR), "r"(DATA_SELECTOR), "i"(CODE_SELECTOR)
			 : "rax", "memory");
}

static void notify(struct cpu *cpu, u32 done)
{
#ifdef SNP
	/* Nobody to tell when even this fails. */
	if (ghcb_out(cpu, NOTIFY_PORT, done))
		terminate(5, 0xfe);
#else
	(void)cpu;
	__asm__ volatile("outl %0, %w1" : : "a"(done), "d"(NOTIFY_PORT) : "memory");
#endif
}

void stop(u32 vector, u64 error_code, u64 rip)
{
	volatile struct mailbox *mailbox = this_cpu()->mailbox;

	mailbox->fatal_error = error_code;
	mailbox->fatal_rip = rip;
	mailbox->fatal_vector = vector + 1;
#ifdef SNP
	terminate(5, vector);
#else
	for (;;)
		__asm__ volatile("outl %0, %w1; hlt" : : "a"(~0u), "d"(NOTIFY_PORT) : "memory");
#endif
}

void handle_exception(struct frame *frame)
{
	struct cpu *cpu = this_cpu();

	__asm__ volatile("mov %%cr2, %0" : "=r"(cpu->cr2));
	cpu->vector = (u32)frame->vector;
	cpu->error_code = frame->error_code;
	cpu->rip = frame->rip;
#ifdef SNP
	if (frame->vector == 29 && handle_vc(cpu, frame))
		return;
#endif
	if (!cpu->recover_rsp)
		stop(cpu->vector, cpu->error_code, cpu->rip);
	recover(cpu->recover_rsp);
}

static void run_record(struct cpu *cpu, volatile struct command *record)
{
	struct command command;

	/* Fetched once: the other side may write to the page at any time. */
	command.op = record->op;
	command.flags = record->flags;
	for (int i = 0; i < MAILBOX_ARGS; i++)
		command.args[i] = record->args[i];
	for (int i = 0; i < MAILBOX_VALUES; i++)
		command.values[i] = 0;
	command.status = STATUS_OK;
	cpu->vector = 0;
	cpu->error_code = cpu->cr2 = cpu->rip = 0;

	if (guarded_call(run_command, &command, &cpu->recover_rsp)) {
		command.status = STATUS_FAULT;
		record->vector = cpu->vector;
		record->error_code = cpu->error_code;
		record->cr2 = cpu->cr2;
		record->rip = cpu->rip;
	}
	cpu->cpuid_by_msr = 0;
	for (int i = 0; i < MAILBOX_VALUES; i++)
		record->values[i] = command.values[i];
	record->status = command.status;
}

void guest_main(u64 index)
{
	struct cpu *cpu = this_cpu();
	volatile struct mailbox *mailbox =
		(volatile struct mailbox *)(SHARED_VIEW + MAILBOX_GPA + index * PAGE_SIZE);

	cpu->index = index;
	cpu->mailbox = mailbox;
	cpu->recover_rsp = 0;
	cpu->cpuid_by_msr = 0;
	cpu->ghcb_gpa = GHCB_GPA + index * PAGE_SIZE;
	load_tables((u64)cpu - CPU_DATA);
	mailbox->index = (u32)index;
	mailbox->fatal_vector = 0;
#ifdef SNP
	mailbox->sev_info = ghcb_msr_exchange(2);
	mailbox->registration = ghcb_register(cpu->ghcb_gpa);
	if (mailbox->registration != (cpu->ghcb_gpa | 0x13))
		terminate(5, 0xff);
#endif
	mailbox->protocol = MAILBOX_PROTOCOL;
	mailbox->boots++;
	mailbox->magic = MAILBOX_MAGIC;

	for (;;) {
		u32 count = mailbox->count;
		u32 done = 0;

		if (count > MAILBOX_MAX_RECORDS)
			count = 0;
		for (; done < count; done++) {
			run_record(cpu, &mailbox->records[done]);
			mailbox->done = done + 1;
		}
		mailbox->count = 0;
		mailbox->batches++;
		notify(cpu, done);
	}
}
