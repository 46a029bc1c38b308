// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a shell in a guest cannot do itself: requests to /dev/sev-guest, CPUID, MSRs, the guest's
 * termination, memory under pressure.  Prints lines NAME: VALUE.  Exit status: 0 done, 1 refused or failed (the lines say
 * how), 2 usage.
 */

#define _GNU_SOURCE	/* sched_setaffinity() */
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <linux/sev-guest.h>

#define FAILED 1
#define USAGE 2
#define NOT_OPEN 3
#define PAGE 4096UL
#define CERTS_LIMIT (1UL << 20)

static const char usage[] =
	"guestreq report     [data=HEX] [vmpl=N] [version=N] [device=FILE]\n"
	"guestreq ext-report [the same] [certs=BYTES]\n"
	"guestreq key        [root=N] [fields=N] [vmpl=N] [svn=N] [tcb=N] [version=N] [device=FILE]\n"
	"guestreq cpuid LEAF [SUBLEAF]\n"
	"guestreq msr NUMBER [CPU]\n"
	"guestreq terminate SET CODE      ask the host to end this guest, by the GHCB protocol\n"
	"guestreq memory MIB [SECONDS]    take, fill, check and free it, over and over\n"
	"Numbers are decimal, or 0x...\n";

static _Noreturn void fail(const char *what, const char *why)
{
	fprintf(stderr, "guestreq: %s: %s\n%s", what, why, usage);
	exit(USAGE);
}

static unsigned long long number(const char *text)
{
	char *end;
	unsigned long long value;

	errno = 0;
	value = strtoull(text, &end, 0);
	if (errno || end == text || *end || *text == '-')
		fail(text, "not a number");
	return value;
}

static unsigned int number32(const char *text)
{
	unsigned long long value = number(text);

	if (value > 0xffffffff)
		fail(text, "has more than 32 bits");
	return value;
}

/* The value of an argument NAME=VALUE, or otherwise. */
static const char *option(char **arguments, const char *name, const char *otherwise)
{
	size_t length = strlen(name);

	for (; *arguments; arguments++)
		if (!strncmp(*arguments, name, length) && (*arguments)[length] == '=')
			return *arguments + length + 1;
	return otherwise;
}

/* Names of options that are known, as "data vmpl version". */
static void check_options(char **arguments, const char *known)
{
	for (; *arguments; arguments++) {
		size_t length = strcspn(*arguments, "=");
		const char *at = known;

		while (*at && (strncmp(at, *arguments, length) || (at[length] && at[length] != ' '))) {
			at += strcspn(at, " ");
			at += *at == ' ';
		}
		if (!(*arguments)[length] || !length || !*at)
			fail(*arguments, "no option that is known");
	}
}

static int nibble(char letter)
{
	const char *digits = "0123456789abcdef";
	const char *at = letter ? strchr(digits, letter) : NULL;

	return at ? at - digits : -1;
}

static void from_hex(const char *text, unsigned char *data, size_t size)
{
	size_t length = strlen(text);

	if (length % 2 || length / 2 > size)
		fail(text, "wants pairs of hexadecimal digits, 64 at most");
	for (size_t i = 0; i < length; i += 2) {
		int high = nibble(text[i]), low = nibble(text[i + 1]);

		if (high < 0 || low < 0)
			fail(text, "has a letter that is none of 0-9a-f");
		data[i / 2] = high << 4 | low;
	}
}

static void print_hex(const char *name, const unsigned char *data, size_t size)
{
	printf("%s: ", name);
	for (size_t i = 0; i < size; i++)
		printf("%02x", data[i]);
	printf("\n");
}

/* Send a request; its errors are printed in any case.  NOT_OPEN: there was none. */
static int request(char **arguments, unsigned long code, void *asked, void *answer)
{
	const char *device = option(arguments, "device", "/dev/sev-guest");
	struct snp_guest_request_ioctl message = {
		.msg_version = number32(option(arguments, "version", "1")),
		.req_data = (unsigned long)asked,
		.resp_data = (unsigned long)answer,
		.exitinfo2 = ~0ULL,
	};
	int file = open(device, O_RDWR | O_CLOEXEC), error = 0;

	if (file < 0) {
		printf("open: %d %s\n", errno, strerror(errno));
		return NOT_OPEN;
	}
	if (ioctl(file, code, &message))
		error = errno;
	close(file);
	printf("errno: %d %s\n", error, error ? strerror(error) : "none");
	printf("fw_error: %#x\nvmm_error: %#x\n", message.fw_error, message.vmm_error);
	return error ? FAILED : 0;
}

static void print_report(const struct snp_report_resp *answer)
{
	const unsigned char *data = answer->data;
	unsigned int status, size;

	/* MSG_REPORT_RSP: STATUS, REPORT_SIZE, 24 reserved bytes, REPORT. */
	memcpy(&status, data, sizeof(status));
	memcpy(&size, data + 4, sizeof(size));
	printf("status: %#x\nsize: %u\n", status, size);
	if (size > sizeof(answer->data) - 32)
		size = sizeof(answer->data) - 32;
	print_hex("report", data + 32, size);
}

static void fill_report(char **arguments, struct snp_report_req *asked)
{
	from_hex(option(arguments, "data", ""), asked->user_data, sizeof(asked->user_data));
	asked->vmpl = number32(option(arguments, "vmpl", "0"));
}

static int get_report(char **arguments)
{
	static struct snp_report_resp answer;
	struct snp_report_req asked = {0};
	int status;

	check_options(arguments, "data vmpl version device");
	fill_report(arguments, &asked);
	status = request(arguments, SNP_GET_REPORT, &asked, &answer);
	if (!status)
		print_report(&answer);
	return status;
}

static int get_extended_report(char **arguments)
{
	static struct snp_report_resp answer;
	struct snp_ext_report_req asked = {0};
	unsigned long limit;
	unsigned char *certs;
	int status;

	check_options(arguments, "data vmpl version device certs");
	fill_report(arguments, &asked.data);
	limit = number32(option(arguments, "certs", "0x4000"));
	if (limit > CERTS_LIMIT)
		fail("certs", "more than 1 MiB");
	certs = aligned_alloc(PAGE, (limit / PAGE + 1) * PAGE);
	if (!certs)
		fail("certs", "no memory");
	memset(certs, 0, limit);
	asked.certs_address = limit ? (unsigned long)certs : 0;
	asked.certs_len = limit;
	status = request(arguments, SNP_GET_EXT_REPORT, &asked, &answer);
	/* What the host wants where it was too little. */
	if (status != NOT_OPEN)
		printf("certs_len: %u\n", asked.certs_len);
	if (!status) {
		print_report(&answer);
		print_hex("certs", certs, asked.certs_len < limit ? asked.certs_len : limit);
	}
	free(certs);
	return status;
}

static int get_key(char **arguments)
{
	static struct snp_derived_key_resp answer;
	struct snp_derived_key_req asked = {0};
	unsigned int result;
	int status;

	check_options(arguments, "root fields vmpl svn tcb version device");
	asked.root_key_select = number32(option(arguments, "root", "0"));
	asked.guest_field_select = number(option(arguments, "fields", "0"));
	asked.vmpl = number32(option(arguments, "vmpl", "0"));
	asked.guest_svn = number32(option(arguments, "svn", "0"));
	asked.tcb_version = number(option(arguments, "tcb", "0"));
	status = request(arguments, SNP_GET_DERIVED_KEY, &asked, &answer);
	if (status)
		return status;
	/* MSG_KEY_RSP: STATUS, 28 reserved bytes, DERIVED_KEY. */
	memcpy(&result, answer.data, sizeof(result));
	printf("status: %#x\n", result);
	print_hex("key", answer.data + 32, 32);
	return 0;
}

static int get_cpuid(char **arguments)
{
	unsigned int a, b, c, d;

	if (!arguments[0])
		fail("cpuid", "wants a leaf");
	__cpuid_count(number32(arguments[0]), arguments[1] ? number32(arguments[1]) : 0, a, b, c, d);
	printf("eax: 0x%08x\nebx: 0x%08x\necx: 0x%08x\nedx: 0x%08x\n", a, b, c, d);
	return 0;
}

static int get_msr(char **arguments)
{
	unsigned long long value;
	char path[64];
	int file;

	if (!arguments[0])
		fail("msr", "wants a number");
	snprintf(path, sizeof(path), "/dev/cpu/%u/msr", arguments[1] ? number32(arguments[1]) : 0);
	file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0 || pread(file, &value, 8, number32(arguments[0])) != 8) {
		printf("%s: %d %s\n", file < 0 ? "open" : "errno", errno, strerror(errno));
		return FAILED;
	}
	printf("value: 0x%016llx\n", value);
	close(file);
	return 0;
}

#define GHCB_MSR 0xc0010130
#define TERMINATION_REQUEST 0x100ULL
#define TRIES 1000

/*
 * GHCB specification 2.3.1: the request is in the MSR when VMGEXIT is executed, which needs no
 * privilege.  The kernel writes the MSR for each exit of its own: where one comes between, the
 * host finds the kernel's page there, without a request, and lets us try again.
 */
static int terminate(char **arguments)
{
	unsigned long long value, before;
	cpu_set_t first;
	int file;

	if (!arguments[0] || !arguments[1])
		fail("terminate", "wants a set and a code");
	value = TERMINATION_REQUEST | (number32(arguments[0]) & 0xf) << 12 |
		(number32(arguments[1]) & 0xff) << 16;
	CPU_ZERO(&first);
	CPU_SET(0, &first);
	if (sched_setaffinity(0, sizeof(first), &first)) {
		printf("errno: %d %s\n", errno, strerror(errno));
		return FAILED;
	}
	file = open("/dev/cpu/0/msr", O_RDWR | O_CLOEXEC);
	if (file < 0 || pread(file, &before, 8, GHCB_MSR) != 8) {
		printf("%s: %d %s\n", file < 0 ? "open" : "errno", errno, strerror(errno));
		return FAILED;
	}
	for (int i = 0; i < TRIES; i++) {
		if (pwrite(file, &value, 8, GHCB_MSR) != 8) {
			printf("errno: %d %s\n", errno, strerror(errno));
			return FAILED;
		}
		__asm__ volatile("rep; vmmcall" ::: "memory");
	}
	printf("tries: %d\n", TRIES);
	return FAILED;
}

static unsigned long pattern(unsigned long round, unsigned long page)
{
	return (round << 48 ^ page) * 0x9e3779b97f4a7c15UL | 1;
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec * 1e-9;
}

static int stress_memory(char **arguments)
{
	unsigned long pages, rounds = 0, wrong = 0;
	double until;

	if (!arguments[0])
		fail("memory", "wants a number of MiB");
	pages = number32(arguments[0]) * (1UL << 20) / PAGE;
	until = now() + (arguments[1] ? number32(arguments[1]) : 0);
	if (!pages)
		fail("memory", "wants 1 MiB at least");
	do {
		unsigned char *memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
					     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (memory == MAP_FAILED) {
			printf("errno: %d %s\nrounds: %lu\n", errno, strerror(errno), rounds);
			return FAILED;
		}
		for (unsigned long page = 0; page < pages; page++)
			for (unsigned long at = 0; at < PAGE; at += PAGE / 4)
				*(unsigned long *)(memory + page * PAGE + at) = pattern(rounds, page) + at;
		for (unsigned long page = 0; page < pages; page++)
			for (unsigned long at = 0; at < PAGE; at += PAGE / 4)
				wrong += *(unsigned long *)(memory + page * PAGE + at) !=
					 pattern(rounds, page) + at;
		munmap(memory, pages * PAGE);
		rounds++;
	} while (now() < until);
	printf("pages: %lu\nrounds: %lu\nwrong: %lu\n", pages, rounds, wrong);
	return wrong ? FAILED : 0;
}

int main(int count, char **arguments)
{
	static const struct {
		const char *name;
		int (*run)(char **arguments);
	} commands[] = {
		{ "report", get_report },
		{ "ext-report", get_extended_report },
		{ "key", get_key },
		{ "cpuid", get_cpuid },
		{ "msr", get_msr },
		{ "terminate", terminate },
		{ "memory", stress_memory },
	};

	for (size_t i = 0; count > 1 && i < sizeof(commands) / sizeof(*commands); i++)
		if (!strcmp(arguments[1], commands[i].name))
			return commands[i].run(arguments + 2) ? FAILED : 0;
	fputs(usage, stderr);
	return USAGE;
}
