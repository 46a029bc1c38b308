// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tells where in physical memory the pages of a guest_memfd lie, so that a test can look at
 * their RMP entries from outside.  It reads the page cache and changes nothing.
 *
 * ioctl(/dev/snptest_gmem, SNPTEST_GMEM_PFN, &page): `fd` and `index` (a page of the file)
 * are given, `pfn` comes back; ENOENT where the file has no page there.
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/uaccess.h>

struct snptest_gmem_page {
	__s32 fd;
	__u32 reserved;
	__u64 index;
	__u64 pfn;
};

#define SNPTEST_GMEM_PFN _IOWR('S', 0x70, struct snptest_gmem_page)

static int find_page(struct snptest_gmem_page *page)
{
	struct file *file = fget(page->fd);
	struct folio *folio;

	if (!file)
		return -EBADF;
	folio = filemap_get_folio(file->f_mapping, page->index);
	if (!IS_ERR(folio)) {
		page->pfn = folio_pfn(folio) + (page->index - folio->index);
		folio_put(folio);
	}
	fput(file);
	return PTR_ERR_OR_ZERO(folio);
}

static long snptest_gmem_ioctl(struct file *file, unsigned int request, unsigned long argument)
{
	struct snptest_gmem_page __user *user = (void __user *)argument;
	struct snptest_gmem_page page;
	int ret;

	if (request != SNPTEST_GMEM_PFN)
		return -ENOTTY;
	if (copy_from_user(&page, user, sizeof(page)))
		return -EFAULT;
	ret = find_page(&page);
	if (!ret && copy_to_user(user, &page, sizeof(page)))
		ret = -EFAULT;
	return ret;
}

static const struct file_operations snptest_gmem_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = snptest_gmem_ioctl,
};

static struct miscdevice snptest_gmem = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "snptest_gmem",
	.fops = &snptest_gmem_fops,
	.mode = 0600,
};
module_misc_device(snptest_gmem);

MODULE_DESCRIPTION("Where the pages of a guest_memfd are");
MODULE_LICENSE("GPL");
