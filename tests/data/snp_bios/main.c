// SPDX-License-Identifier: GPL-2.0-only
/*
 * A host of one SNP guest without any operating system: it does to the RMP what no kernel has
 * a reason to do, and tells on the serial port what came of it, one "name value..." a line.
 *
 * Memory: each is one region of 2 MiB.
 */
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long u64;

#define LARGE	0x2000000UL	/* an RMP entry of 2 MiB, smashed later */
#define MIXED	0x2200000UL	/* one page of it is assigned */
#define LOW	0x2400000UL	/* the guest's memory from 0 on */
#define BIG	0x2600000UL	/* its page of 2 MiB at 1 GiB */
#define FREE	0x2800000UL	/* nobody's */
#define PLAIN	0x2a00000UL	/* memory of a guest without SEV */
#define ONE	0x2c00000UL	/* what that guest finds at 2 MiB, in turn */
#define TWO	0x2e00000UL
#define VMCB	0x300000UL
#define PLAIN_VMCB 0x302000UL
#define HSAVE	0x301000UL
#define HOST_PT	0x16000UL
#define NPT	0x20000UL	/* PML4, PDPT, PD, PT of LOW, PD and PT of BIG */
#define PLAIN_NPT 0x26000UL	/* PML4, PDPT, PD */
#define VMSA	(LOW + 0x10000)	/* of VMPL0, then of VMPL1 */
#define IDT	0x6000UL	/* the guest's, and its GDT */
#define GDT	0x6800UL
#define VECTOR	0x50UL		/* of the interrupt that VMRUN injects */

#define ASID	1UL
#define CBIT	(1UL << 51)
#define PAGE	0x1000UL
#define PAGES	512

extern char ud[], gp[], pf[], guest0[], guest1[], guest2[], guest3[], guest4[], interrupted[], guests_end[];
u64 idt[512] __attribute__((aligned(16)));
volatile u64 fault_vector, fault_error, recover;
static u64 rmp;

static void put(char c)
{
	asm volatile("outb %0, %1" :: "a"(c), "Nd"((unsigned short)0x3f8));
}

static void word(const char *s)
{
	while (*s)
		put(*s++);
}

static void number(u64 value)
{
	put(' ');
	for (int shift = 60; shift >= 0; shift -= 4)
		put("0123456789abcdef"[value >> shift & 15]);
}

static void tell(const char *name, u64 value)
{
	word(name);
	number(value);
	put('\n');
}

static void tell2(const char *name, u64 value, u64 other)
{
	word(name);
	number(value);
	number(other);
	put('\n');
}

/* Do it; vector and error code of the fault that it takes, else 0. */
#define FAULT(instruction, ...) ({						\
	fault_vector = fault_error = 0;						\
	asm volatile("lea 1f(%%rip), %%r11; mov %%r11, recover(%%rip)\n\t"	\
		     instruction "\n1:" :: __VA_ARGS__ : "r11", "memory");	\
	fault_vector << 32 | fault_error; })

static u64 store(u64 address)
{
	return FAULT("movq %0, (%0)", "r"(address));
}

static u64 load(u64 address)
{
	return FAULT("movq (%0), %%r11", "r"(address));
}

static u64 wrmsr(u32 msr, u64 value)
{
	return FAULT("wrmsr", "c"(msr), "a"((u32)value), "d"(value >> 32));
}

static u64 rdmsr(u32 msr)
{
	u32 low, high;

	asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
	return (u64)high << 32 | low;
}

struct state {
	u64 gpa;
	u8 assigned, large, immutable, reserved;
	u32 asid;
};

static u32 rmpupdate(u64 spa, u64 gpa, int large, int assigned)
{
	struct state state = { gpa, assigned, large, 0, 0, assigned ? ASID : 0 };
	u64 code;

	asm volatile(".byte 0xf2, 0x0f, 0x01, 0xfe" : "=a"(code) : "a"(spa), "c"(&state)
		     : "memory", "cc");
	return code;
}

static u32 psmash(u64 spa)
{
	u64 code;

	asm volatile(".byte 0xf3, 0x0f, 0x01, 0xff" : "=a"(code) : "a"(spa) : "memory", "cc");
	return code;
}

static volatile u64 *entry(u64 spa)
{
	return (volatile u64 *)(rmp + 0x4000 + spa / PAGE * 16);
}

static void fill(u64 address, u64 words)
{
	while (words--)
		*(volatile u64 *)(address + 8 * words) = 0;
}

#define AT(base, offset) (*(volatile u64 *)((base) + (offset)))

static void gate(int vector, char *handler)
{
	u64 at = (u64)handler;

	idt[2 * vector] = (at & 0xffff) | 24UL << 16 | 0x8eUL << 40 | at >> 16 << 48;
	idt[2 * vector + 1] = at >> 32;
}

/* A save area, of a VMSA or VMCB: long mode, interrupts off, a stack below 0x8000. */
static void begin_at(u64 save, u64 cr3, u64 rip)
{
	for (int segment = 0; segment < 6; segment++)
		AT(save, 16 * segment) = 0xffffffff00000010 | 0xc93 << 16;
	AT(save, 0x10) = 0xffffffff00000008 | 0x29b << 16;
	AT(save, 0x90) = 0x6700000000 | 0x8b << 16;
	AT(save, 0xd0) = 0x1500;
	AT(save, 0x148) = 0x620;
	AT(save, 0x150) = cr3;
	AT(save, 0x158) = 0x80010033;
	AT(save, 0x160) = 0x400;
	AT(save, 0x168) = 0xffff0ff0;
	AT(save, 0x170) = 2;
	AT(save, 0x178) = rip;
	AT(save, 0x1d8) = 0x8000;
	AT(save, 0x268) = 0x7040600070406;
}

/* The guest's memory, its tables, NPT and VMSAs; before SNP is on, for then it can't be done. */
static void make_guest(void)
{
	fill(LOW, 0x200000 / 8);
	fill(NPT, 6 * 512);
	fill(VMCB, 1024);
	for (char *from = guest0; from < guests_end; from++)
		*(char *)(LOW + PAGE + (from - guest0)) = *from;
	AT(LOW, 0x2000) = 0x3007 | CBIT;
	AT(LOW, 0x3000) = 0x4007 | CBIT;
	AT(LOW, 0x3008) = 0x5007 | CBIT;
	AT(LOW, 0x4000) = 0xe7 | CBIT;
	AT(LOW, 0x5000) = 0x400000e7 | CBIT;
	AT(LOW, IDT + 16 * VECTOR) =
		(PAGE + (interrupted - guest0)) | 8UL << 16 | 0x8eUL << 40;
	AT(LOW, GDT + 0x08) = 0x00af9b000000ffff;
	AT(LOW, GDT + 0x10) = 0x00cf93000000ffff;
	AT(NPT, 0) = (NPT + 0x1000) | 7;
	AT(NPT, 0x1000) = (NPT + 0x2000) | 7;
	AT(NPT, 0x1008) = (NPT + 0x4000) | 7;
	AT(NPT, 0x2000) = (NPT + 0x3000) | 7;
	AT(NPT, 0x4000) = BIG | 0xe7;
	for (u64 n = 0; n < PAGES; n++) {
		AT(NPT, 0x3000 + 8 * n) = (LOW + n * PAGE) | 0x67;
		AT(NPT, 0x5000 + 8 * n) = (BIG + n * PAGE) | 0x67;
		/* assigned and validated; all permissions for VMPL0 and VMPL1 */
		entry(LOW)[2 * n] = 1 | 1UL << 62 | n * PAGE | ASID << 51;
		entry(LOW)[2 * n + 1] = 0x0f0f;
	}
	for (u64 vmpl = 0; vmpl < 2; vmpl++) {
		u64 vmsa = VMSA + vmpl * PAGE;

		entry(vmsa)[0] |= 1UL << 61;
		begin_at(vmsa, 0x2000 | CBIT, PAGE + (vmpl ? guest1 - guest0 : 0));
		AT(vmsa, 0x60) = 0x1700000000;
		AT(vmsa, 0x68) = GDT;
		AT(vmsa, 0x80) = 0xfff00000000;
		AT(vmsa, 0x88) = IDT;
		*(volatile u8 *)(vmsa + 0xca) = vmpl;
		AT(vmsa, 0x3b0) = 1;
		AT(vmsa, 0x3e8) = 1;
		AT(vmsa, 0x408) = 0x1f80;
		AT(vmsa, 0x410) = 0x37f;
	}
	AT(VMCB, 0x08) = 0;
	*(volatile u32 *)(VMCB + 0x0c) = 1 << 24 | 1 << 31;	/* HLT, SHUTDOWN */
	*(volatile u32 *)(VMCB + 0x10) = 1;			/* VMRUN */
	*(volatile u32 *)(VMCB + 0x58) = ASID;
	AT(VMCB, 0x90) = 7;					/* NPT, SEV, SEV-ES */
	AT(VMCB, 0xb0) = NPT;
}

/* A guest without SEV, which exits where it moves to CR0 what changes more than TS and MP. */
static void make_plain_guest(void)
{
	fill(PLAIN, 0x200000 / 8);
	fill(PLAIN_NPT, 3 * 512);
	fill(PLAIN_VMCB, 512);
	for (char *from = guest2; from < guests_end; from++)
		*(char *)(PLAIN + PAGE + (from - guest2)) = *from;
	AT(PLAIN, 0x2000) = 0x3007;
	AT(PLAIN, 0x3000) = 0x4007;
	AT(PLAIN, 0x4000) = 0xe7;
	AT(PLAIN, 0x4008) = 0x2000e7;
	AT(ONE, 0) = 1;
	AT(TWO, 0) = 2;
	AT(PLAIN, 0) = 3;
	AT(PLAIN_NPT, 0) = (PLAIN_NPT + 0x1000) | 7;
	AT(PLAIN_NPT, 0x1000) = (PLAIN_NPT + 0x2000) | 7;
	AT(PLAIN_NPT, 0x2000) = PLAIN | 0xe7;
	begin_at(PLAIN_VMCB + 0x400, 0x2000, PAGE);
	*(volatile u32 *)(PLAIN_VMCB + 0x0c) = 1 << 5 | 1 << 24 | 1 << 31; /* CR0, HLT, SHUTDOWN */
	*(volatile u32 *)(PLAIN_VMCB + 0x10) = 1;			/* VMRUN */
	*(volatile u32 *)(PLAIN_VMCB + 0x58) = ASID + 200;
	AT(PLAIN_VMCB, 0x90) = 1;					/* NPT */
	AT(PLAIN_VMCB, 0xb0) = PLAIN_NPT;
}

static u64 vmrun(u64 vmcb)
{
	fault_vector = fault_error = 0;
	asm volatile("push %%rbp; lea 1f(%%rip), %%rbx; mov %%rbx, recover(%%rip)\n\t"
		     "vmrun\n1:\tpop %%rbp"
		     :: "a"(vmcb)
		     : "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
		       "r14", "r15", "memory", "cc");
	return fault_vector << 32 | fault_error;
}

/* Run a VMPL until it exits; exit code, EXITINFO1, and RBX and RBP of VMGEXITs. */
static void run(const char *name, int vmpl)
{
	u64 vmsa = VMSA + vmpl * PAGE;
	u64 fault;

	/* what #VMEXIT loads for the host (APM vol. 2, 15.35.8) */
	AT(HSAVE, 0x400 + 0x3e8) = 1;
	AT(VMCB, 0x108) = vmsa;
	*(volatile u32 *)(VMCB + 0x5c) = 1;
	asm volatile("mov %%rsp, %0; mov %%rbp, %1" : "=m"(AT(HSAVE, 0x400 + 0x1d8)),
		     "=m"(AT(HSAVE, 0x400 + 0x328)));
	fault = vmrun(VMCB);
	word(name);
	number(fault);
	number(AT(VMCB, 0x70));
	number(AT(VMCB, 0x78));
	number(AT(vmsa, 0x318));
	number(AT(vmsa, 0x328));
	put('\n');
}

/* Run the guest without SEV until it exits; exit code and EXITINFO1; it goes on at NEXT_RIP. */
static void run_plain(const char *name)
{
	u64 fault;

	*(volatile u32 *)(PLAIN_VMCB + 0x5c) = 1;
	fault = vmrun(PLAIN_VMCB);
	word(name);
	number(fault);
	number(AT(PLAIN_VMCB, 0x70));
	number(AT(PLAIN_VMCB, 0x78));
	put('\n');
	AT(PLAIN_VMCB, 0x578) = AT(PLAIN_VMCB, 0xc8);
}

static void host(void)
{
	tell("update-2m", rmpupdate(LARGE, 0x40000000, 1, 1));
	tell("update-2m-misaligned", rmpupdate(FREE + PAGE, 0x40000000, 1, 1));
	tell("update-2m-gpa-misaligned", rmpupdate(FREE, 0x40001000, 1, 1));
	tell("update-4k-in-2m", rmpupdate(LARGE + PAGE, 0x40001000, 0, 1));
	tell("update-4k", rmpupdate(MIXED + 5 * PAGE, 0x5000, 0, 1));
	tell("update-2m-over-4k", rmpupdate(MIXED, 0x40000000, 1, 1));
	tell("write-in-2m", store(LARGE + 7 * PAGE));
	tell("read-in-2m", load(LARGE + 7 * PAGE));
	tell2("entry-2m", entry(LARGE)[0], entry(LARGE + 7 * PAGE)[0]);
	tell("smash-inside", psmash(LARGE + PAGE));
	tell("smash", psmash(LARGE));
	tell2("entry-smashed", entry(LARGE)[0], entry(LARGE + 7 * PAGE)[0]);
	tell("smash-again", psmash(LARGE));
	tell("smash-nobodys", psmash(FREE));

	/* A large mapping of the host with somebody's page in it; and then a table of its own. */
	tell("write-beside-by-2m", store(MIXED + 6 * PAGE));
	for (u64 n = 0; n < PAGES; n++)
		AT(HOST_PT, 8 * n) = (MIXED + n * PAGE) | 3;
	AT(0x12000, MIXED / 0x200000 * 8) = HOST_PT | 3;
	asm volatile("mov %%cr3, %%rax; mov %%rax, %%cr3" ::: "rax", "memory");
	tell("write-beside-by-4k", store(MIXED + 6 * PAGE));
	tell("write-it-by-4k", store(MIXED + 5 * PAGE));
	tell("write-nobodys", store(FREE));
	tell("update-written", rmpupdate(FREE, 0x6000, 0, 1));
	tell("write-taken", store(FREE));
	tell("update-again", rmpupdate(FREE, 0, 0, 0));
	tell("write-given-back", store(FREE));
	tell("write-rmp", store((u64)entry(FREE)));

	tell("hsave-assigned", wrmsr(0xc0010117, MIXED + 5 * PAGE));
	tell("vmsave-assigned", FAULT("vmsave", "a"(MIXED + 5 * PAGE)));
	tell("vmsave", FAULT("vmsave", "a"(FREE)));
	tell("vmrun-without-hsave", vmrun(VMCB));
	tell("hsave", wrmsr(0xc0010117, HSAVE));
	tell("vmrun-assigned", vmrun(MIXED + 5 * PAGE));
}

static void plain_guest(void)
{
	run_plain("cr0-from-rdi");
	run_plain("cr0-from-r9");
	*(volatile u32 *)(PLAIN_VMCB + 0x0c) = 1 << 24 | 1 << 31;
	*(volatile u32 *)PLAIN_VMCB = 1 << 16;				/* any write of CR0 */
	AT(PLAIN_VMCB, 0x578) = PAGE;
	run_plain("cr0-any-from-rdi");
	run_plain("cr0-any-from-r9");
	run_plain("hlt");
	*(volatile u32 *)PLAIN_VMCB = 1 << 4 | 1 << 0;			/* reads of CR4 and CR0 */
	AT(PLAIN_VMCB, 0x578) = PAGE + (guest3 - guest2);
	run_plain("cr4-to-r9");
	run_plain("cr0-to-rdi");
	run_plain("hlt-behind-reads");
}

/* Run the guest without SEV, which reads at 2 MiB, by a mapping and TLB_CONTROL; what it read. */
static void run_reading(const char *name, u64 at, u32 asid, u8 control)
{
	AT(PLAIN_NPT, 0x2008) = at | 0xe7;
	AT(PLAIN_VMCB, 0x578) = PAGE + (guest4 - guest2);
	*(volatile u32 *)(PLAIN_VMCB + 0x58) = asid;
	*(volatile u32 *)(PLAIN_VMCB + 0x5c) = control;
	vmrun(PLAIN_VMCB);
	tell(name, AT(PLAIN_VMCB, 0x5f8));
}

static void tlb_of_guest(void)
{
	u32 asid = ASID + 200;

	*(volatile u32 *)PLAIN_VMCB = 0;
	run_reading("tlb-of-another-asid", ONE, asid + 1, 0);
	run_reading("tlb-kept", TWO, asid + 1, 0);
	run_reading("tlb-flush-asid", TWO, asid + 1, 3);
	run_reading("tlb-flush-all", ONE, asid + 1, 1);
	run_reading("tlb-flush-not-global", TWO, asid + 1, 7);
	run_reading("tlb-of-the-first-asid", ONE, asid, 0);
	AT(PLAIN_VMCB, 0x578) = AT(PLAIN_VMCB, 0xc8);
	vmrun(PLAIN_VMCB);
	tell("tlb-guest-loads-cr3", AT(PLAIN_VMCB, 0x5f8));
}

static void guest(void)
{
	AT(VMCB, 0xa8) = 1UL << 31 | VECTOR;	/* EVENTINJ: valid, an interrupt */
	run("interrupt-once", 0);
	tell("guest-2m", rmpupdate(BIG, 0x40000000, 1, 1));
	run("validate-2m", 0);
	run("validate-4k-of-2m", 0);
	tell("guest-smash", psmash(BIG));
	run("validate-4k-npt-2m", 0);
	AT(NPT, 0x4000) = (NPT + 0x5000) | 7;
	run("validate-4k", 0);
	run("validate-2m-of-4k", 0);
	run("adjust-vmpl1", 0);
	run("adjust-vmpl0", 0);
	run("query-vmpl1", 0);
	run("vmpl1-adjusts-itself", 1);
	run("vmpl1-validates", 1);
	run("vmpl1-reads", 1);
	run("vmpl1-writes", 1);
}

void main(void)
{
	gate(6, ud);
	gate(13, gp);
	gate(14, pf);
	rmp = rdmsr(0xc0010132);
	fill(rmp, (rdmsr(0xc0010133) + 1 - rmp) / 8);
	make_guest();
	make_plain_guest();
	wrmsr(0xc0010010, rdmsr(0xc0010010) | 7UL << 23);
	tell("syscfg", rdmsr(0xc0010010));
	host();
	guest();
	plain_guest();
	tlb_of_guest();
	word("end\n");
	asm volatile("outb %0, %1" :: "a"((u8)6), "Nd"((unsigned short)0xcf9));
}
