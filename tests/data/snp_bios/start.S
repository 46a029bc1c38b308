/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A firmware of 64 KiB: from the reset vector to main() in long mode, running from RAM at 1 MiB,
 * with 4 GiB mapped as they are by pages of 2 MiB; and what a processor's faults are noted by.
 */
#define ROM(symbol) (symbol - 0x100000 + 0xffff0000)
#define TABLES 0x10000

	.section .start, "ax"
	.code16
start16:
	cli
	cld
	lgdtl %cs:(gdt_rom - 0x100000)
	movl %cr0, %eax
	orl $1, %eax
	movl %eax, %cr0
	ljmpl $8, $ROM(start32)
	.code32
start32:
	movw $16, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	movl $0xffff0000, %esi
	movl $0x100000, %edi
	movl $0x4000, %ecx
	rep movsl
	movl $ram32, %eax
	jmp *%eax
ram32:
	lgdtl gdt_ram
	movl $TABLES, %edi
	xorl %eax, %eax
	movl $0x1800, %ecx
	rep stosl
	movl $(TABLES + 0x1003), TABLES
	movl $(TABLES + 0x2003), TABLES + 0x1000
	movl $(TABLES + 0x3003), TABLES + 0x1008
	movl $(TABLES + 0x4003), TABLES + 0x1010
	movl $(TABLES + 0x5003), TABLES + 0x1018
	movl $(TABLES + 0x2000), %edi
	movl $0x83, %eax
1:	movl %eax, (%edi)
	addl $8, %edi
	addl $0x200000, %eax
	jnc 1b
	movl $0x620, %eax
	movl %eax, %cr4
	movl $TABLES, %eax
	movl %eax, %cr3
	movl $0xc0000080, %ecx
	xorl %edx, %edx
	movl $0x1100, %eax		/* SVME, LME */
	wrmsr
	movl $0x80010033, %eax
	movl %eax, %cr0
	ljmp $24, $start64
	.code64
start64:
	movw $16, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	movl $0x90000, %esp
	lidt idt_ram(%rip)
	call main
1:	hlt
	jmp 1b

	.align 8
gdt:	.quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff
gdt_rom: .word 31
	.long ROM(gdt)
gdt_ram: .word 31
	.long gdt
	.align 8
idt_ram: .word 0x1ff
	.quad idt

	.text
	.global ud, gp, pf
ud:	pushq $0
	pushq $6
	jmp note
gp:	pushq $13
	jmp note
pf:	pushq $14
/* Take down vector and error code, and go on where `recover` says. */
note:	pushq %rax
	movq 8(%rsp), %rax
	movq %rax, fault_vector(%rip)
	movq 16(%rsp), %rax
	movq %rax, fault_error(%rip)
	movq recover(%rip), %rax
	movq %rax, 24(%rsp)
	popq %rax
	addq $16, %rsp
	iretq

/* The guest: what it finds is in RBX and RBP when it exits. */
	.macro exit
	rep; vmmcall
	.endm
	.global guest0, guest1, guest2, guest3, guest4, interrupted, guests_end
guest0:
	xorl %ecx, %ecx			/* an interrupt has come with VMRUN: how often? */
	movl $0x9000, %eax
	movl $0x101, %edx
	.byte 0xf3, 0x0f, 0x01, 0xfe	/* rmpadjust: translations are flushed, CPUs stop for it */
	movl %eax, %ebx
	exit
	movq $0x40000000, %rax		/* a page of 2 MiB, validated as that */
	movl $1, %ecx
	movl $1, %edx
	.byte 0xf2, 0x0f, 0x01, 0xff	/* pvalidate */
	setc %bpl
	movl %eax, %ebx
	exit
	movq $0x40001000, %rax		/* 4 KiB of it */
	xorl %ecx, %ecx
	movl $1, %edx
	.byte 0xf2, 0x0f, 0x01, 0xff
	setc %bpl
	movl %eax, %ebx
	exit
	movq $0x40000000, %rax		/* 2 MiB that are 512 pages by now */
	movl $1, %ecx
	movl $1, %edx
	.byte 0xf2, 0x0f, 0x01, 0xff
	movl %eax, %ebx
	exit
	movq $0x40002000, %rax		/* VMPL1 may read it */
	xorl %ecx, %ecx
	movl $0x101, %edx
	.byte 0xf3, 0x0f, 0x01, 0xfe	/* rmpadjust */
	movl %eax, %ebx
	exit
	movq $0x40002000, %rax		/* nobody says what VMPL0 may do */
	xorl %ecx, %ecx
	movl $0x100, %edx
	.byte 0xf3, 0x0f, 0x01, 0xfe
	movl %eax, %ebx
	exit
	movq $0x40002000, %rax		/* what VMPL1 may do */
	movl $1, %edx
	.byte 0xf3, 0x0f, 0x01, 0xfd	/* rmpquery */
	movl %eax, %ebx
	movl %edx, %ebp
	exit
	hlt

guest1:					/* in VMPL1 */
	movq $0x40002000, %rax
	movl $1, %ecx
	xorl %ecx, %ecx
	movl $0x101, %edx
	.byte 0xf3, 0x0f, 0x01, 0xfe	/* its own permissions */
	movl %eax, %ebx
	exit
	movq $0x40002000, %rax
	xorl %ecx, %ecx
	movl $1, %edx
	.byte 0xf2, 0x0f, 0x01, 0xff
	movl %eax, %ebx
	exit
	movq 0x40002000, %rbx		/* it may read */
	exit
	movq %rax, 0x40002000		/* but not write */
	exit
	hlt

interrupted:
	incl %ebp
	iretq

guest2:					/* without SEV */
	movq %cr0, %rdi
	xorl $0x20, %edi
	movq %rdi, %cr0
	movq %cr0, %r9
	xorl $0x20, %r9d
	movq %r9, %cr0
	hlt
guest3:
	movq %cr3, %rdi
	movq %cr4, %r9
	movq %cr0, %rdi
	hlt
guest4:					/* what it reads is in RAX when it exits */
	movq 0x200000, %rax
	hlt
	movq $0xe7, 0x4008		/* another page by its own table */
	movq %cr3, %rdi
	movq %rdi, %cr3
	movq 0x200000, %rax
	hlt
guests_end:

	.section .reset, "ax"
	.code16
	jmp start16
	.fill 13, 1, 0

	.section .note.GNU-stack, "", @progbits
