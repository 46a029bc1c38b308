/* SPDX-License-Identifier: GPL-2.0-only */
/* The two protocols of the GHCB specification (AMD 56421): by MSR and by shared page. */
#include "guest.h"

/* Offsets of fields in the GHCB page, 56421 section 2.6. */
enum {
	GHCB_RAX = 0x1f8,
	GHCB_CPL = 0x0cb,
	GHCB_RCX = 0x308,
	GHCB_RDX = 0x310,
	GHCB_RBX = 0x318,
	GHCB_RSI = 0x330,
	GHCB_SW_EXITCODE = 0x390,
	GHCB_SW_EXITINFO1 = 0x398,
	GHCB_SW_EXITINFO2 = 0x3a0,
	GHCB_SW_SCRATCH = 0x3a8,
	GHCB_XCR0 = 0x3e8,
	GHCB_VALID_BITMAP = 0x3f0,
	GHCB_SHARED_BUFFER = 0x800,
	GHCB_VERSION = 0xffa,
	GHCB_USAGE = 0xffc,
};

static volatile u64 *field(u64 gpa, u64 offset)
{
	return (volatile u64 *)(SHARED_VIEW + gpa + offset);
}

static void set_valid(u64 gpa, u64 offset)
{
	*field(gpa, GHCB_VALID_BITMAP + (offset / 512) * 8) |= 1ul << (offset / 8 % 64);
}

static void set_field(u64 gpa, u64 offset, u64 value)
{
	*field(gpa, offset) = value;
	set_valid(gpa, offset);
}

static void vmgexit(void)
{
	__asm__ volatile("rep; vmmcall" : : : "memory");
}

u64 ghcb_msr_exchange(u64 value)
{
	u64 answer;

	wrmsr(MSR_AMD64_SEV_ES_GHCB, value);
	vmgexit();
	answer = rdmsr(MSR_AMD64_SEV_ES_GHCB);
	return answer;
}

u64 ghcb_register(u64 gpa)
{
	return ghcb_msr_exchange(gpa | 0x12);
}

void terminate(u64 set, u64 code)
{
	for (;;) {
		ghcb_msr_exchange(0x100 | (set & 0xf) << 12 | (code & 0xff) << 16);
		__asm__ volatile("hlt");
	}
}

static void begin(u64 gpa, u64 version, u64 usage)
{
	*field(gpa, GHCB_VALID_BITMAP) = 0;
	*field(gpa, GHCB_VALID_BITMAP + 8) = 0;
	*(volatile u16 *)field(gpa, GHCB_VERSION) = (u16)version;
	*(volatile u32 *)field(gpa, GHCB_USAGE) = (u32)usage;
}

static void set_regs(u64 gpa, u32 valid, const struct ghcb_regs *regs)
{
	if (valid & VMGEXIT_RAX)
		set_field(gpa, GHCB_RAX, regs->rax);
	if (valid & VMGEXIT_RBX)
		set_field(gpa, GHCB_RBX, regs->rbx);
	if (valid & VMGEXIT_RCX)
		set_field(gpa, GHCB_RCX, regs->rcx);
	if (valid & VMGEXIT_RDX)
		set_field(gpa, GHCB_RDX, regs->rdx);
	if (valid & VMGEXIT_XCR0)
		set_field(gpa, GHCB_XCR0, regs->xcr0);
}

/*
 * An exit on behalf of the #VC handler or the guest itself.  0: regs hold the answer.
 * Otherwise an exception is to be raised: cpu->vector and cpu->error_code name it.
 */
int ghcb_exit(struct cpu *cpu, u64 code, u64 info1, u64 info2, u32 valid, struct ghcb_regs *regs)
{
	u64 gpa = cpu->ghcb_gpa;
	u64 event;

	begin(gpa, 2, 0);
	set_regs(gpa, valid, regs);
	if (code == 0x81) {
		/* VMMCALL: the privilege level, and the registers of KVM's hypercalls. */
		*(volatile u8 *)(SHARED_VIEW + gpa + GHCB_CPL) = 0;
		set_valid(gpa, GHCB_CPL);
		set_field(gpa, GHCB_RSI, regs->rsi);
	}
	set_field(gpa, GHCB_SW_EXITCODE, code);
	set_field(gpa, GHCB_SW_EXITINFO1, info1);
	set_field(gpa, GHCB_SW_EXITINFO2, info2);
	wrmsr(MSR_AMD64_SEV_ES_GHCB, gpa);
	vmgexit();
	if ((u32)*field(gpa, GHCB_SW_EXITINFO1)) {
		/* 1: inject this event; else the hypervisor calls the exit malformed and says why. */
		event = *field(gpa, GHCB_SW_EXITINFO2);
		if ((u32)*field(gpa, GHCB_SW_EXITINFO1) == 1)
			cpu->vector = event & 0xff;
		else
			cpu->vector = REFUSED_VECTOR + (u32)event;
		cpu->error_code = event >> 32;
		return -1;
	}
	regs->rax = *field(gpa, GHCB_RAX);
	regs->rbx = *field(gpa, GHCB_RBX);
	regs->rcx = *field(gpa, GHCB_RCX);
	regs->rdx = *field(gpa, GHCB_RDX);
	return 0;
}

int ghcb_out(struct cpu *cpu, u16 port, u32 value)
{
	struct ghcb_regs regs = { .rax = value };

	/* 56421 section 4.1.2: port, 64-bit addresses, 32 bits of data, OUT */
	return ghcb_exit(cpu, 0x7b, (u64)port << 16 | 1 << 9 | 1 << 6, 0, VMGEXIT_RAX, &regs);
}

void ghcb_vmgexit_raw(struct cpu *cpu, struct command *command)
{
	u64 gpa = cpu->ghcb_gpa;

	if (!(command->flags & VMGEXIT_KEEP_MSR))
		wrmsr(MSR_AMD64_SEV_ES_GHCB, gpa);
	vmgexit();
	command->values[0] = *field(gpa, GHCB_SW_EXITINFO1);
	command->values[1] = *field(gpa, GHCB_SW_EXITINFO2);
	command->values[2] = *field(gpa, GHCB_RAX);
	command->values[3] = *field(gpa, GHCB_RBX);
	command->values[4] = *field(gpa, GHCB_RCX);
	command->values[5] = *field(gpa, GHCB_RDX);
	command->values[6] = *field(gpa, GHCB_VALID_BITMAP);
	command->values[7] = *field(gpa, GHCB_VALID_BITMAP + 8);
}

void ghcb_vmgexit(struct cpu *cpu, struct command *command)
{
	const u64 *args = command->args;
	struct ghcb_regs regs = {
		.rax = args[4], .rbx = args[5], .rcx = args[6], .rdx = args[7], .xcr0 = args[8],
	};
	u32 flags = command->flags;
	u64 gpa = cpu->ghcb_gpa;

	begin(gpa, flags & VMGEXIT_VERSION ? args[9] : 2, flags & VMGEXIT_USAGE ? args[10] : 0);
	set_regs(gpa, flags, &regs);
	*field(gpa, GHCB_SW_EXITCODE) = args[0];
	*field(gpa, GHCB_SW_EXITINFO1) = args[1];
	*field(gpa, GHCB_SW_EXITINFO2) = args[2];
	if (!(flags & VMGEXIT_NO_EXIT_CODE))
		set_valid(gpa, GHCB_SW_EXITCODE);
	if (!(flags & VMGEXIT_NO_INFO1))
		set_valid(gpa, GHCB_SW_EXITINFO1);
	if (!(flags & VMGEXIT_NO_INFO2))
		set_valid(gpa, GHCB_SW_EXITINFO2);
	if (flags & VMGEXIT_SCRATCH)
		set_field(gpa, GHCB_SW_SCRATCH, args[3]);
	ghcb_vmgexit_raw(cpu, command);
}

/* 56421 section 4.1.6: the hypervisor may return early, the guest goes on where it stopped. */
void ghcb_psc(struct cpu *cpu, struct command *command)
{
	u64 gpa = cpu->ghcb_gpa;
	volatile u16 *entries = (volatile u16 *)field(gpa, GHCB_SHARED_BUFFER);
	u64 exits = 0;

	while (entries[0] <= entries[1]) {
		if (exits == command->args[0]) {
			command->status = STATUS_LIMIT;
			break;
		}
		begin(gpa, 2, 0);
		set_field(gpa, GHCB_SW_EXITCODE, 0x80000010);
		set_field(gpa, GHCB_SW_EXITINFO1, command->args[1]);
		set_field(gpa, GHCB_SW_EXITINFO2, command->args[2]);
		set_field(gpa, GHCB_SW_SCRATCH, gpa + GHCB_SHARED_BUFFER);
		ghcb_vmgexit_raw(cpu, command);
		exits++;
		if ((u32)command->values[0] || command->values[1])
			break;
	}
	command->values[2] = exits;
	command->values[3] = entries[0];
	command->values[4] = entries[1];
	command->values[5] = command->values[6] = command->values[7] = 0;
}
