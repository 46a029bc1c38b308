/* SPDX-License-Identifier: GPL-2.0-only */
/* The mailbox's commands that only an SNP guest has: page states, permissions, raw exits. */
#include "guest.h"

/*
 * What a register may hold where only bit 0 counts: Linux passes a bool, whose upper bits are
 * whatever the compiler had there.
 */
#define RUBBISH 0xa5a5a5a5a5a5a500ul

static u64 pvalidate(u64 va, u64 size, u64 validate, u64 *carry)
{
	u64 code;
	u8 cf;

	__asm__ volatile(".byte 0xf2, 0x0f, 0x01, 0xff"
			 : "=a"(code), "=@ccc"(cf)
			 : "a"(va), "c"(size | RUBBISH), "d"(validate | RUBBISH)
			 : "memory");
	*carry = cf;
	return code;
}

u64 rmpadjust(u64 va, u64 size, u64 attributes)
{
	u64 code;

	__asm__ volatile(".byte 0xf3, 0x0f, 0x01, 0xfe"
			 : "=a"(code)
			 : "a"(va), "c"(size | RUBBISH), "d"(attributes)
			 : "memory", "cc");
	return code;
}

static void validate_range(struct command *c)
{
	u64 va = c->args[0];
	u64 step = c->args[1] ? PAGE_SIZE_2M : PAGE_SIZE;

	while (c->values[2] < c->args[3]) {
		u64 carry;

		c->values[0] = pvalidate(va, c->args[1], c->args[2], &carry);
		c->values[1] = carry;
		if (c->values[0])
			break;
		c->values[2]++;
		c->values[3] += !carry;
		va += step;
	}
}

static void adjust_range(struct command *c)
{
	u64 va = c->args[0];
	u64 step = c->args[1] ? PAGE_SIZE_2M : PAGE_SIZE;

	while (c->values[1] < c->args[3]) {
		c->values[0] = rmpadjust(va, c->args[1], c->args[2]);
		if (c->values[0])
			break;
		c->values[1]++;
		va += step;
	}
}

void run_snp_command(struct command *c)
{
	struct cpu *cpu = this_cpu();

	switch (c->op) {
	case OP_GHCB_REGISTER:
		c->values[0] = ghcb_register(c->args[0]);
		if (c->values[0] == ((c->args[0] & ~0xffful) | 0x13))
			cpu->ghcb_gpa = c->args[0] & ~0xffful;
		break;
	case OP_GHCB_MSR:
		c->values[0] = rdmsr(MSR_AMD64_SEV_ES_GHCB);
		wrmsr(MSR_AMD64_SEV_ES_GHCB, c->args[0]);
		break;
	case OP_VMGEXIT_MSR:
		c->values[0] = ghcb_msr_exchange(c->args[0]);
		break;
	case OP_VMGEXIT:
		ghcb_vmgexit(cpu, c);
		break;
	case OP_VMGEXIT_RAW:
		ghcb_vmgexit_raw(cpu, c);
		break;
	case OP_PSC:
		ghcb_psc(cpu, c);
		break;
	case OP_TERMINATE:
		terminate(c->args[0], c->args[1]);
	case OP_PVALIDATE:
		validate_range(c);
		break;
	case OP_RMPADJUST:
		adjust_range(c);
		break;
	case OP_RMPQUERY:
		__asm__ volatile(".byte 0xf3, 0x0f, 0x01, 0xfd"
				 : "=a"(c->values[0]), "=c"(c->values[1]), "=d"(c->values[2])
				 : "a"(c->args[0]), "c"(c->args[1]), "d"(c->args[2])
				 : "memory", "cc");
		break;
	case OP_BUILD_VMSA:
		build_vmsa(c);
		break;
	default:
		c->status = STATUS_BAD_OP;
	}
}
