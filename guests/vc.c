/* SPDX-License-Identifier: GPL-2.0-only */
/* The #VC handler: instructions that SEV-ES hands to the guest (APM volume 2, 15.35.5). */
#include "guest.h"

enum {
	VC_RDTSC = 0x6e,
	VC_RDPMC = 0x6f,
	VC_CPUID = 0x72,
	VC_INVD = 0x76,
	VC_HLT = 0x78,
	VC_IOIO = 0x7b,
	VC_MSR = 0x7c,
	VC_VMMCALL = 0x81,
	VC_RDTSCP = 0x87,
	VC_WBINVD = 0x89,
};

static int cpuid_by_msr(struct cpu *cpu, struct frame *frame)
{
	u32 out[4];

	for (u64 reg = 0; reg < 4; reg++) {
		u64 answer = ghcb_msr_exchange((u64)(u32)frame->rax << 32 | reg << 30 | 4);

		if ((answer & 0xfff) != 5) {
			/* What the hypervisor refuses is a general protection fault to the command. */
			cpu->vector = 13;
			cpu->error_code = 0;
			return -1;
		}
		out[reg] = answer >> 32;
	}
	frame->rax = out[0];
	frame->rbx = out[1];
	frame->rcx = out[2];
	frame->rdx = out[3];
	return 0;
}

static int cpuid(struct cpu *cpu, struct frame *frame)
{
	struct ghcb_regs regs = { .rax = (u32)frame->rax, .rcx = (u32)frame->rcx, .xcr0 = 1 };
	u32 valid = VMGEXIT_RAX | VMGEXIT_RCX;

	if (cpu->cpuid_by_msr)
		return cpuid_by_msr(cpu, frame);
	if ((u32)frame->rax == 0xd)
		valid |= VMGEXIT_XCR0;
	if (ghcb_exit(cpu, VC_CPUID, 0, 0, valid, &regs))
		return -1;
	frame->rax = (u32)regs.rax;
	frame->rbx = (u32)regs.rbx;
	frame->rcx = (u32)regs.rcx;
	frame->rdx = (u32)regs.rdx;
	return 0;
}

static int msr(struct cpu *cpu, struct frame *frame, int write)
{
	struct ghcb_regs regs = {
		.rax = (u32)frame->rax, .rcx = (u32)frame->rcx, .rdx = (u32)frame->rdx,
	};
	u32 valid = VMGEXIT_RCX | (write ? VMGEXIT_RAX | VMGEXIT_RDX : 0);

	if (ghcb_exit(cpu, VC_MSR, (u64)write, 0, valid, &regs))
		return -1;
	if (!write) {
		frame->rax = (u32)regs.rax;
		frame->rdx = (u32)regs.rdx;
	}
	return 0;
}

/* IN and OUT with immediate or DX, 8, 16 or 32 bits.  Length of the instruction, 0: another, < 0: fault */
static int ioio(struct cpu *cpu, struct frame *frame, const u8 *code)
{
	struct ghcb_regs regs = { .rax = 0 };
	int length = 1;
	u64 bytes = 4;
	u64 info, mask;
	u8 opcode;

	if (*code == 0x66) {
		bytes = 2;
		code++;
		length++;
	}
	opcode = *code;
	if ((opcode & 0xf4) != 0xe4)
		return 0;
	if (!(opcode & 1))
		bytes = 1;
	if (opcode & 8) {
		info = (frame->rdx & 0xffff) << 16;
	} else {
		info = (u64)code[1] << 16;
		length++;
	}
	mask = bytes == 4 ? 0xffffffff : (1ul << (bytes * 8)) - 1;
	info |= 1 << 9 | bytes << 4;
	if (opcode & 2)
		regs.rax = frame->rax & mask;
	else
		info |= 1;
	if (ghcb_exit(cpu, VC_IOIO, info, 0, opcode & 2 ? VMGEXIT_RAX : 0, &regs))
		return -1;
	if (!(opcode & 2))
		frame->rax = bytes == 4 ? regs.rax & mask : (frame->rax & ~mask) | (regs.rax & mask);
	return length;
}

static int vmmcall(struct cpu *cpu, struct frame *frame)
{
	struct ghcb_regs regs = {
		.rax = frame->rax, .rbx = frame->rbx, .rcx = frame->rcx, .rdx = frame->rdx, .rsi = frame->rsi,
	};

	if (ghcb_exit(cpu, VC_VMMCALL, 0, 0, VMGEXIT_RAX | VMGEXIT_RBX | VMGEXIT_RCX | VMGEXIT_RDX, &regs))
		return -1;
	frame->rax = regs.rax;
	return 0;
}

static int tsc(struct cpu *cpu, struct frame *frame, u64 code)
{
	struct ghcb_regs regs = { .rcx = frame->rcx };

	if (ghcb_exit(cpu, code, 0, 0, code == VC_RDPMC ? VMGEXIT_RCX : 0, &regs))
		return -1;
	frame->rax = (u32)regs.rax;
	frame->rdx = (u32)regs.rdx;
	if (code == VC_RDTSCP)
		frame->rcx = (u32)regs.rcx;
	return 0;
}

int handle_vc(struct cpu *cpu, struct frame *frame)
{
	const u8 *code = (const u8 *)frame->rip;
	struct ghcb_regs none = { .rax = 0 };
	int length = 2;
	int failed;

	switch (frame->error_code) {
	case VC_CPUID:
		failed = cpuid(cpu, frame);
		break;
	case VC_MSR:
		failed = msr(cpu, frame, code[1] == 0x30);
		break;
	case VC_IOIO:
		length = ioio(cpu, frame, code);
		failed = length <= 0;
		break;
	case VC_VMMCALL:
		length = 3;
		failed = vmmcall(cpu, frame);
		break;
	case VC_RDTSC:
	case VC_RDPMC:
		failed = tsc(cpu, frame, frame->error_code);
		break;
	case VC_RDTSCP:
		length = 3;
		failed = tsc(cpu, frame, frame->error_code);
		break;
	case VC_HLT:
		length = 1;
		failed = ghcb_exit(cpu, VC_HLT, 0, 0, 0, &none);
		break;
	case VC_INVD:
	case VC_WBINVD:
		failed = ghcb_exit(cpu, frame->error_code, 0, 0, 0, &none);
		break;
	default:
		failed = 1;
		break;
	}
	if (failed)
		return 0;
	frame->rip += (u64)length;
	return 1;
}
