/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Entry of every vCPU, exception stubs, IDT, and the guarded call.
 *
 * A vCPU arrives in 64-bit mode with RSP at the top of its own page and RDI = its index.
 * The page of the running vCPU is always found by rounding RSP down.
 */
#include "layout.h"

	.section .entry, "ax"
	.globl entry
entry:
	cli
	cld
	xorl	%ebp, %ebp
	movl	%edi, %edi
	cmpl	$MAX_VCPUS, %edi
	jae	1f
	call	guest_main
1:	ud2

	/* int guarded_call(void (*fn)(struct command *), struct command *, u64 *recover_rsp) */
	.globl guarded_call
guarded_call:
	push	%rbx
	push	%rbp
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	push	%rdx
	mov	%rsp, (%rdx)
	mov	%rdi, %rax
	mov	%rsi, %rdi
	call	*%rax
	xorl	%eax, %eax
2:	pop	%rdx
	movq	$0, (%rdx)
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbp
	pop	%rbx
	ret

	/* void recover(u64 recover_rsp): leave the guarded call with 1 */
	.globl recover
recover:
	mov	%rdi, %rsp
	cld
	movl	$1, %eax
	jmp	2b

common:
	push	%rax
	push	%rcx
	push	%rdx
	push	%rbx
	push	%rbp
	push	%rsi
	push	%rdi
	push	%r8
	push	%r9
	push	%r10
	push	%r11
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	mov	%rsp, %rdi
	cld
	call	handle_exception
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%r11
	pop	%r10
	pop	%r9
	pop	%r8
	pop	%rdi
	pop	%rsi
	pop	%rbp
	pop	%rbx
	pop	%rdx
	pop	%rcx
	pop	%rax
	add	$16, %rsp
	iretq

	/* Sixteen bytes each; those whose exception has no error code push 0 for it. */
	.section .vectors, "ax"
	.set	vector, 0
	.rept	32
	.balign	16
	.if	((1 << vector) & 0x60227d00) == 0
	pushq	$0
	.endif
	pushq	$vector
	jmp	common
	.set	vector, vector + 1
	.endr

	.section .rodata
	.balign	16
	.globl	idt
idt:
	.set	vector, 0
	.rept	32
	.word	0x0800 + vector * 16
	.word	CODE_SELECTOR
	.byte	(vector == 8) & 1		/* #DF: interrupt stack 1 */
	.byte	0x8e
	.word	0x10
	.long	0, 0
	.set	vector, vector + 1
	.endr

	.section .note.GNU-stack, "", @progbits
